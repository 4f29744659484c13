"""A real XGBoost booster, answered by the two rules with which its SageMaker container writes replies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.server import ServeConfig
from asyncbatch.server.background import Background

xgboost = pytest.importorskip(
    "xgboost", reason="XGBoost is not installed; the test extra brings it where it has a small wheel"
)

Serve = Callable[[ServeConfig], Background]
ROWS = 2_003
MODULE = """
import sys
import numpy as np
import xgboost

def load(name):
    booster = xgboost.Booster()
    booster.load_model({folder!r} + "/" + name + ".ubj")
    booster.set_param("nthread", 1)
    return booster

binary, softprob = load("binary"), load("softprob")

def predict_binary(rows):
    return binary.predict(xgboost.DMatrix(rows), validate_features=False)

def predict_softprob(rows):
    return softprob.predict(xgboost.DMatrix(rows), validate_features=False)
"""


@dataclass(frozen=True, kw_only=True)
class Trained:
    rows: pa.Table
    predictions: dict[str, Any]
    """By objective, of the booster itself."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Two boosters, their own answers, and a module with which they are served."""
    folder = tmp_path_factory.mktemp("boosters")
    rng = np.random.default_rng(2)
    values = rng.normal(size=(ROWS, 5))
    values[rng.random(values.shape) < 0.05] = np.nan
    classes = np.digitize(np.nansum(values, axis=1), [-1.0, 1.0])
    predictions = {}
    for name, objective, target in (
        ("binary", {"objective": "binary:logistic"}, classes == 2),
        ("softprob", {"objective": "multi:softprob", "num_class": 3}, classes),
    ):
        booster = xgboost.train(
            {**objective, "nthread": 1, "max_depth": 3}, xgboost.DMatrix(values, target), num_boost_round=8
        )
        booster.save_model(folder / f"{name}.ubj")
        predictions[name] = booster.predict(xgboost.DMatrix(values)).tolist()
    (folder / "boosters_for_tests.py").write_text(MODULE.format(folder=str(folder)))
    names = [f"f{index}" for index in range(5)]
    table = pa.table({name: pa.array(values[:, index], from_pandas=True) for index, name in enumerate(names)})
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    yield Trained(rows=table, predictions=predictions)
    patch.undo()


@pytest.mark.parametrize("rows", [1, 2, 7, ROWS])
@pytest.mark.parametrize("accept", [None, "application/json"])
@pytest.mark.parametrize("objective", ["binary", "softprob"])
def test_the_boosters_own_predictions_come_out(
    objective: str, accept: str | None, rows: int, trained: Trained, tmp_path: Path, serve: Serve
) -> None:
    model = f"python:boosters_for_tests:predict_{objective}"
    server = serve(ServeConfig(model=model, dialect="xgboost", features=5))
    pq.write_table(trained.rows.slice(0, rows), tmp_path / "in.parquet")
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, accept=accept,
        keep="none", chunk_rows="1:100",
    )  # fmt: skip
    name = "prediction" if accept is None else "score"
    assert pq.read_table(tmp_path / "out")[name].to_pylist() == trained.predictions[objective][:rows]
