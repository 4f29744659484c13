"""`asyncbatch plan` in full: what it says comes true, and it says what it rests on."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.config import RunConfig
from asyncbatch.errors import OutputError
from asyncbatch.pipeline.preview import PlanReport, plan_to_report
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

ROOT = Path(__file__).resolve().parents[2]
ROWS = 4_000


@pytest.fixture
def slow(serve: Callable[[ServeConfig], Background]) -> Background:
    return serve(ServeConfig(model="simulated", simulation=SimulationConfig(a=0.02, b=0.0001, slots=64)))


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    table = pa.table({"x0": np.random.default_rng(1).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(table, tmp_path / "in.parquet")
    pacsv.write_csv(table, tmp_path / "in.csv")


def plan(source: Path, server: Background, *, sink: Path | None = None, **options: Any) -> PlanReport:
    given = {"endpoint": server.name, "endpoint_url": server.url, "no_send": "id", **options}
    config = RunConfig.from_options(given)
    return asyncio.run(plan_to_report(config, str(source), None if sink is None else str(sink)))


@pytest.mark.parametrize(
    ("options", "binds"),
    [
        ({"rate": 20.0, "chunk_rows": 100, "concurrency": 32}, "rate"),
        ({"row_rate": 2_000.0, "chunk_rows": 100, "concurrency": 32}, "row_rate"),
        ({"chunk_rows": 100, "concurrency": 1}, "concurrency"),
    ],
)
def test_a_run_takes_as_long_as_its_plan_says(
    options: dict[str, Any], binds: str, tmp_path: Path, slow: Background
) -> None:
    found = plan(tmp_path / "in.parquet", slow, **options).estimate
    assert found is not None
    assert found.binds == binds
    assert found.requests == 40
    assert found.seconds is not None
    began = time.monotonic()
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=slow.name, endpoint_url=slow.url, no_send="id",
        **options,
    )  # fmt: skip
    took = time.monotonic() - began
    assert report.exit_code == 0
    # A row rate lets through a second's rows at once, and probes are faster or slower than what follows.
    assert 0.5 * found.seconds - 1 < took < 2 * found.seconds + 3


def test_nothing_set_leaves_it_to_the_endpoint(tmp_path: Path, slow: Background) -> None:
    report = plan(tmp_path / "in.parquet", slow)
    assert report.estimate is not None
    assert report.estimate.binds == "endpoint"
    said = report.summary()
    assert "binds     the endpoint: how many requests it serves at once is found while running" in said
    assert "rests on  probes of 1, 2, 7, 300 rows, sent one at a time just now:" in said
    assert "not in it: what the endpoint does under load" in said
    assert "model     in-service (AllTraffic sha256:" in said


def test_rows_of_a_text_input_are_guessed_and_called_so(tmp_path: Path, slow: Background) -> None:
    report = plan(tmp_path / "in.csv", slow)
    assert report.rows is None
    assert report.estimate is not None
    assert report.estimate.rows_guessed
    assert report.estimate.rows == pytest.approx(ROWS, rel=0.05)
    assert "rows and bytes by the length of the first 1,000 rows" in report.summary()
    limited = plan(tmp_path / "in.csv", slow, limit=100).estimate
    assert limited is not None
    assert limited.rows == 100


def test_the_document_follows_its_schema(tmp_path: Path, slow: Background) -> None:
    schema = json.loads((ROOT / "docs" / "plan-schema.json").read_text(encoding="utf-8"))
    config = {"endpoint": slow.name, "endpoint_url": slow.url, "no_send": "id"}
    shown = asyncio.run(
        plan_to_report(RunConfig.from_options(config), str(tmp_path / "in.parquet"), None, show=3)
    )
    for report in (shown, plan(tmp_path / "in.csv", slow, rate=5)):
        document = json.loads(json.dumps(report.to_dict()))
        jsonschema.validate(document, schema)
        assert document["schema_version"] == schema["properties"]["schema_version"]["const"]


def test_of_an_output_that_was_begun_it_tells_what_is_left(tmp_path: Path, slow: Background) -> None:
    sink = tmp_path / "out"
    options: dict[str, Any] = {"block_rows": 1_000, "chunk_rows": 500}
    asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(sink),
        endpoint=slow.name,
        endpoint_url=slow.url,
        no_send="id",
        **options,
    )
    sorted(sink.iterdir())[1].unlink()
    report = plan(tmp_path / "in.parquet", slow, sink=sink, **options)
    assert report.rows_done == 3_000
    assert report.estimate is not None
    assert (report.estimate.rows, report.estimate.requests) == (1_000, 2)
    assert "resumes   3,000 rows were done before" in report.summary()
    with pytest.raises(OutputError, match=r"options\.keep"):
        plan(tmp_path / "in.parquet", slow, sink=sink, keep="none", **options)
    assert (
        plan(tmp_path / "in.parquet", slow, sink=sink, keep="none", overwrite=True, **options).rows_done == 0
    )


def test_a_shared_endpoint_is_pointed_out(tmp_path: Path, serve: Callable[[ServeConfig], Background]) -> None:
    shared = serve(ServeConfig(model="echo", variants=("blue", "green")))
    assert any("2 variants" in each for each in plan(tmp_path / "in.parquet", shared).advice)
    assert not any(
        "2 variants" in each for each in plan(tmp_path / "in.parquet", shared, background=True).advice
    )
