"""Labels, rounding and other names, through a whole run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]
ROWS = 1_500


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    rng = np.random.default_rng(4)
    found = pa.table({"x": rng.normal(size=ROWS), "y": rng.normal(size=ROWS), "label": ["z"] * ROWS})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


@pytest.fixture
def classes(serve: Serve) -> Background:
    """A row's vector: its own numbers, in the order sent."""
    return serve(ServeConfig(model="python:class_scores_for_tests:same", dialect="sklearn"))


@pytest.fixture(autouse=True, scope="session")
def model_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    (folder / "class_scores_for_tests.py").write_text("def same(rows):\n    return rows\n")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    yield
    patch.undo()


def run(tmp_path: Path, server: Background, **options: Any) -> pa.Table:
    asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint=server.invocations_url,
        block_rows=400,
        **options,
    )
    return pq.read_table(tmp_path / "out")


def test_the_largest_of_a_vector_by_name(tmp_path: Path, table: pa.Table, classes: Background) -> None:
    scored = run(tmp_path, classes, send="x,y", labels="first,second", keep="x,y", round=2)
    first = np.greater_equal(table["x"].to_numpy(), table["y"].to_numpy())
    assert scored.column_names == ["x", "y", "prediction", "predicted_label", "error"]
    assert scored["predicted_label"].to_pylist() == np.where(first, "first", "second").tolist()
    rounded = np.array(scored["prediction"].to_pylist())
    assert np.array_equal(
        rounded, np.round(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1), 2)
    )
    assert scored["x"].to_pylist() == table["x"].to_pylist()


def test_the_largest_of_a_vector_by_position(tmp_path: Path, table: pa.Table, classes: Background) -> None:
    scored = run(tmp_path, classes, send="x,y", argmax=True)
    assert (
        scored["predicted_label"].to_pylist()
        == np.less(table["x"].to_numpy(), table["y"].to_numpy()).astype(int).tolist()
    )


def test_two_labels_for_a_threshold_are_made_before_rounding(
    tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    scored = run(tmp_path, echo, send="x,y", threshold=0.4, labels="low,high", round=0)
    x = table["x"].to_numpy()
    assert scored["predicted_label"].to_pylist() == np.where(x > 0.4, "high", "low").tolist()
    assert scored["prediction"].to_pylist() == np.round(x).tolist()


def test_columns_get_other_names(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    names = "prediction=score,predicted_label=late,label=truth"
    scored = run(tmp_path, echo, send="x,y", threshold=0.0, rename=names)
    assert scored.column_names == ["x", "y", "truth", "score", "late", "error"]
    assert scored["score"].to_pylist() == table["x"].to_pylist()


def test_a_replys_field_can_make_way_for_an_input_column(
    tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    server = serve(
        ServeConfig(model="simulated", dialect="huggingface", simulation=SimulationConfig(labels=("a", "b")))
    )
    options: dict[str, Any] = {"send": "x,y", "body": "json", "template": "inputs"}
    with pytest.raises(ConfigError, match="'label'") as caught:
        run(tmp_path, server, **options)
    assert "--rename label=" in str(caught.value.hint)
    scored = run(tmp_path, server, rename={"label": "answer"}, **options)
    assert scored.column_names == ["x", "y", "label", "answer", "score", "error"]
    assert set(scored["answer"].to_pylist()) == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (
            {"send": "x,y", "labels": "a,b,c"},
            "--labels names 3, and each row has 2 numbers",
            "--labels 2 names",
        ),
        ({"send": "x,y", "threshold": 0.5}, "--threshold needs one number a row", "--argmax"),
        (
            {"send": "x,y", "rename": "predicton=p"},
            "--rename predicton=… names no output column",
            "'prediction'",
        ),
    ],
)
def test_what_cannot_be_labelled_or_renamed_is_refused_before_anything_is_written(
    options: dict[str, Any], said: str, hint: str, tmp_path: Path, table: pa.Table, classes: Background
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        run(tmp_path, classes, **options)
    assert hint in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_a_number_has_no_largest(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    for options in ({"argmax": True}, {"labels": "a,b"}):
        with pytest.raises(ConfigError, match="needs one vector of numbers a row") as caught:
            run(tmp_path, echo, send="x,y", **options)
        assert "--threshold" in str(caught.value.hint)
