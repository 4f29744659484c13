"""Every container dialect through `run`: each row gets what the model itself says to it, whatever the form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background
from asyncbatch.server.models.echo import EchoModel
from asyncbatch.server.simulation import poison_mask

Serve = Callable[[ServeConfig], Background]
LABELS = ("spam", "ham", "größer")
MODELS = {
    "scalar": SimulationConfig(),
    "vector": SimulationConfig(outputs=3),
    "labels": SimulationConfig(labels=LABELS),
    "embedding": SimulationConfig(outputs=768),
}
NUMBERS = ("scalar", "vector", "embedding")
EVERY = ("scalar", "vector", "labels", "embedding")
CSV: dict[str, Any] = {}
V2_MATRIX = '{"inputs":[{"name":"x","shape":[$n,4],"datatype":"FP64","data":$rows}]}'
FORMS: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("xgboost", "csv", NUMBERS, CSV),
    ("xgboost", "csv to json", NUMBERS, {"accept": "application/json"}),
    ("sklearn", "csv to json", EVERY, CSV),
    ("sklearn", "csv to csv", EVERY, {"accept": "text/csv"}),
    ("sklearn", "json", EVERY, {"body": "json", "template": "$rows"}),
    ("sklearn", "npy", NUMBERS, {"body": "npy", "accept": "application/x-npy"}),
    ("huggingface", "json", ("labels", "vector", "embedding"), {"body": "json", "template": "inputs"}),
    ("huggingface", "json to npy", ("vector", "embedding"),
     {"body": "json", "template": "inputs", "accept": "application/x-npy"}),
    ("v2", "a tensor a column", EVERY, {"body": "json", "template": "v2"}),
    ("v2", "one tensor", EVERY, {"body": "json", "template": V2_MATRIX}),
    ("mlflow", "csv", EVERY, {"body": "csv-header"}),
    ("mlflow", "split", EVERY, {"body": "json", "template": "split"}),
    ("mlflow", "records", EVERY, {"body": "json", "template": "records"}),
    ("mlflow", "instances", EVERY, {"body": "json"}),
    ("mlflow", "parquet", EVERY, {"body": "parquet", "content_type": "application/vnd.apache.parquet"}),
]  # fmt: skip
CASES = [
    pytest.param(dialect, model, options, id=f"{dialect}-{form}-{model}")
    for dialect, form, models, options in FORMS
    for model in models
]


def rows_of(count: int) -> pa.Table:
    rng = np.random.default_rng(count)
    return pa.table(
        {"id": [f"r{row}" for row in range(count)]}
        | {f"x{index}": rng.normal(size=count) for index in range(4)}
    )


def scored(tmp_path: Path, table: pa.Table, server: Background, **options: Any) -> pa.Table:
    pq.write_table(table, tmp_path / "in.parquet")
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint=server.invocations_url,
        keep="id",
        **options,
    )
    assert report.exit_code == 0
    found = pq.read_table(tmp_path / "out")
    assert found["id"].to_pylist() == table["id"].to_pylist()
    assert found["error"].null_count == table.num_rows
    return found


def answers(table: pa.Table) -> list[Any]:
    """What replies with fields of their own (a score, a label) say, as if they had none."""
    names = [name for name in table.column_names if name not in ("id", "error")]
    return table[
        next(name for name in names if name in ("prediction", "label") or names == ["score"])
    ].to_pylist()


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
@pytest.mark.parametrize(("dialect", "model", "options"), CASES)
def test_each_row_gets_the_models_own_answer(
    dialect: str, model: str, options: dict[str, Any], rows: int, tmp_path: Path, serve: Serve
) -> None:
    table = rows_of(rows)
    server = serve(ServeConfig(model="simulated", dialect=dialect, simulation=MODELS[model]))
    simulation = MODELS[model]
    own = EchoModel(outputs=simulation.outputs, labels=simulation.labels).predict(table.select(["x0"]))
    expected = own.tolist() if isinstance(own, np.ndarray) else own
    # Requests of any size, odd ones, one row alone and bisected halves are read by the one layout.
    found = scored(tmp_path, table, server, no_send="id", chunk_rows="1:64", block_rows=300, **options)
    assert answers(found) == expected


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
@pytest.mark.parametrize("model", ["labels", "embedding"])
@pytest.mark.parametrize(
    "body",
    [{"body": "json", "template": "inputs", "row": "value"}, {"body": "csv-header"}],
    ids=["json", "csv"],
)
def test_texts_to_labels_and_embeddings(
    body: dict[str, Any], model: str, rows: int, tmp_path: Path, serve: Serve
) -> None:
    texts = pa.table(
        {
            "id": [f"r{row}" for row in range(rows)],
            "inputs": [f'"{row}", a text\nof lines, größer' for row in range(rows)],
        }
    )
    server = serve(ServeConfig(model="simulated", dialect="huggingface", simulation=MODELS[model]))
    found = scored(tmp_path, texts, server, send="inputs", **body)
    own = EchoModel(outputs=MODELS[model].outputs, labels=MODELS[model].labels).predict(
        texts.select(["inputs"])
    )
    assert answers(found) == (own.tolist() if isinstance(own, np.ndarray) else own)
    if model == "labels":
        assert found["score"].to_pylist() == [1.0] * rows


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_prompts_are_answered_one_a_request(rows: int, tmp_path: Path, serve: Serve) -> None:
    texts = pa.table(
        {"id": [f"r{row}" for row in range(rows)], "prompt": [f'say "{row}"\n§' for row in range(rows)]}
    )
    server = serve(ServeConfig(model="simulated", dialect="tgi"))
    before = server.stats()
    found = scored(
        tmp_path, texts, server, send="prompt", body="raw",
        template='{"inputs": $row, "parameters": {"max_new_tokens": 20}}',
    )  # fmt: skip
    assert found["generated_text"].to_pylist() == texts["prompt"].to_pylist()
    assert server.stats()["requests"] - before["requests"] >= rows


@pytest.mark.parametrize("rows", [1, 2, 7, 61, 601])
def test_a_container_that_cannot_take_one_row_rejects_none(rows: int, tmp_path: Path, serve: Serve) -> None:
    """Chunks of ten, blocks of sixty: the last one is a single row."""
    server = serve(
        ServeConfig(model="simulated", dialect="sklearn", features=4, simulation=SimulationConfig())
    )
    table = rows_of(rows)
    found = scored(tmp_path, table, server, no_send="id", chunk_rows=10, block_rows=60)
    assert answers(found) == table["x0"].to_pylist()


def test_a_container_that_takes_one_feature_too_few_is_not_asked_to_judge(
    tmp_path: Path, serve: Serve
) -> None:
    """The built-in XGBoost says nothing: the plan shows what is sent, and that is all that can be done."""
    server = serve(
        ServeConfig(model="simulated", dialect="xgboost", features=5, simulation=SimulationConfig())
    )
    table = rows_of(50)
    assert answers(scored(tmp_path, table, server, no_send="id")) == table["x0"].to_pylist()


@pytest.mark.parametrize(
    ("dialect", "options"),
    [
        ("xgboost", {}),
        ("xgboost", {"accept": "application/json"}),
        ("sklearn", {}),
        ("v2", {"body": "json", "template": "v2"}),
    ],
    ids=["xgboost", "xgboost json", "sklearn", "v2"],
)
def test_what_bisecting_leaves_over_is_read_by_the_same_layout(
    dialect: str, options: dict[str, Any], tmp_path: Path, serve: Serve
) -> None:
    """Halves of any size down to one row, three numbers each: `[a, b, c]` must never pass for three rows."""
    simulation = SimulationConfig(outputs=3, poison_share=0.03, seed=3)
    server = serve(ServeConfig(model="simulated", dialect=dialect, simulation=simulation))
    table = rows_of(600)
    pq.write_table(table, tmp_path / "in.parquet")
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id", keep="id",
        chunk_rows=40, **options,
    )  # fmt: skip
    x = table["x0"].to_numpy()
    poison = poison_mask(x, share=0.03, seed=3)
    assert 5 < poison.sum() < 40
    assert report.exit_code == 3
    found = pq.read_table(tmp_path / "out")
    assert [value is not None for value in found["error"].to_pylist()] == poison.tolist()
    expected = [
        None if bad else [value, value + 1, value + 2] for value, bad in zip(x.tolist(), poison, strict=True)
    ]
    assert found.column(1).to_pylist() == expected
