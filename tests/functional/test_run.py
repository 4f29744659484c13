"""Whole runs against the embedded endpoint: sources, sinks, resume, rejects, limits."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError, InputError, OutputError, TooManyRejectsError
from asyncbatch.observe.events import RunPlanned
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]


def numbers(rows: int, columns: int = 3, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {f"x{index}": rng.normal(size=rows) for index in range(columns)}
        | {"id": [f"r{row}" for row in range(rows)]}
    )


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = numbers(20_000)
    pq.write_table(found, tmp_path / "in.parquet", row_group_size=6_000)
    return found


def read(path: Path) -> pa.Table:
    return pq.read_table(path)


def poison_of(table: pa.Table, config: SimulationConfig) -> np.ndarray[Any, Any]:
    from asyncbatch.server.simulation import poison_mask

    return poison_mask(table["x0"].to_numpy(), share=config.poison_share, seed=config.seed)


# -- sources and sinks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sagemaker", "http"])
@pytest.mark.parametrize("body", ["csv", "jsonl", "json", "npy", "arrow", "parquet"])
def test_every_body_over_every_protocol_gives_each_row_its_own_answer(
    kind: str, body: str, tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    where: dict[str, Any] = (
        {"endpoint": echo.name, "endpoint_url": echo.url}
        if kind == "sagemaker"
        else {"endpoint": echo.invocations_url}
    )
    if body == "parquet":
        where["accept"] = "text/csv"
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        no_send="id",
        body=body,
        block_rows=3_000,
        **where,
    )
    scored = read(tmp_path / "out")
    assert report.exit_code == 0
    assert report.metrics.rows_out == 20_000
    assert scored.column_names == ["x0", "x1", "x2", "id", "prediction", "error"]
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()
    assert scored["error"].null_count == 20_000


def test_a_callable_gives_the_same_as_an_endpoint(
    tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scoring_functions.py").write_text("def first(batch):\n    return batch.column(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint="python:scoring_functions:first",
        no_send="id",
    )
    assert read(tmp_path / "out")["prediction"].to_pylist() == table["x0"].to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz", "jsonl", "arrow"])
def test_every_source_format_keeps_order_and_values(suffix: str, tmp_path: Path, echo: Background) -> None:
    source = tmp_path / f"in.{suffix}"
    frame = numbers(5_000).to_pandas()
    if suffix.startswith("csv"):
        frame.to_csv(source, index=False)
    elif suffix == "jsonl":
        frame.to_json(source, orient="records", lines=True, double_precision=15)
    elif suffix == "arrow":
        with pa.ipc.new_file(source, pa.Schema.from_pandas(frame)) as writer:
            writer.write_table(pa.Table.from_pandas(frame, preserve_index=False))
    else:
        frame.to_parquet(source)
    report = asyncbatch.run(
        str(source), str(tmp_path / "out"), endpoint=echo.invocations_url, no_send="id", block_rows=700
    )
    scored = read(tmp_path / "out")
    assert report.metrics.rows_in == 5_000
    assert scored["id"].to_pylist() == frame["id"].tolist()
    assert np.allclose(scored["prediction"].to_numpy(), frame["x0"].to_numpy(), rtol=1e-14, atol=1e-14)


def test_a_folder_of_files_comes_out_in_natural_order(tmp_path: Path, echo: Background) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (10, 2, 1):
        pq.write_table(pa.table({"x": [float(number)] * 100}), folder / f"part-{number}.parquet")
    asyncbatch.run(str(folder), str(tmp_path / "out"), endpoint=echo.invocations_url)
    assert read(tmp_path / "out")["prediction"].to_pylist() == [1.0] * 100 + [2.0] * 100 + [10.0] * 100


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_single_file_holds_every_row(
    suffix: str, tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    out = tmp_path / f"out.{suffix}"
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(out), endpoint=echo.invocations_url, no_send="id", block_rows=3_000
    )
    if suffix == "parquet":
        predictions = read(out)["prediction"].to_pylist()
    elif suffix == "csv":
        predictions = pyarrow.csv.read_csv(out)["prediction"].to_pylist()
    else:
        predictions = [json.loads(line)["prediction"] for line in out.read_text().splitlines()]
    assert predictions == table["x0"].to_pylist()
    assert (tmp_path / f"out.{suffix}.asyncbatch" / "_SUCCESS").exists()
    assert not (tmp_path / f"out.{suffix}.asyncbatch" / "parts").exists()


def test_the_output_folder_is_read_by_everybody_as_it_is(
    tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    out = tmp_path / "out"
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(out), endpoint=echo.invocations_url, no_send="id", block_rows=3_000
    )
    expected = table["x0"].to_pylist()
    assert read(out)["prediction"].to_pylist() == expected
    assert pd.read_parquet(out)["prediction"].tolist() == expected
    assert pl.read_parquet(out)["prediction"].to_list() == expected
    assert pl.scan_parquet(out / "*.parquet").collect()["prediction"].to_list() == expected
    for pattern in (f"{out}/*.parquet", f"{out}/**/*.parquet", f"{out}/**"):
        found = duckdb.sql(f"SELECT prediction FROM read_parquet('{pattern}')").fetchall()
        assert [row[0] for row in found] == expected


def test_zero_rows_in_is_zero_rows_out(tmp_path: Path, echo: Background) -> None:
    pq.write_table(numbers(0), tmp_path / "in.parquet")
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=echo.invocations_url
    )
    assert (report.exit_code, report.metrics.rows_out) == (0, 0)
    scored = read(tmp_path / "out")
    assert scored.num_rows == 0
    assert scored.column_names[-2:] == ["prediction", "error"]


def test_a_csv_without_rows_is_zero_rows_out(tmp_path: Path, echo: Background) -> None:
    (tmp_path / "in.csv").write_text("a,b\n")
    report = asyncbatch.run(str(tmp_path / "in.csv"), str(tmp_path / "out"), endpoint=echo.invocations_url)
    assert (report.exit_code, report.metrics.rows_out) == (0, 0)


def test_the_limit_counts_over_files(tmp_path: Path, echo: Background) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        pq.write_table(pa.table({"x": [float(number)] * 100}), folder / f"{number}.parquet")
    report = asyncbatch.run(
        str(folder), str(tmp_path / "out"), endpoint=echo.invocations_url, limit=150, block_rows=40
    )
    assert report.metrics.rows_out == 150
    assert read(tmp_path / "out")["prediction"].to_pylist() == [0.0] * 100 + [1.0] * 50


# -- resume ------------------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    command: dict[str, Any] = {"endpoint": echo.invocations_url, "no_send": "id"}
    first = asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **command)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **command)
    assert (again.exit_code, again.metrics.requests, again.job_id) == (0, 0, first.job_id)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("source", ["in.parquet", "in.csv"])
def test_a_part_that_is_gone_is_scored_again_and_nothing_else(
    source: str, tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    table.to_pandas().to_csv(tmp_path / "in.csv", index=False)
    command: dict[str, Any] = {"endpoint": echo.invocations_url, "no_send": "id", "block_rows": 3_000}
    asyncbatch.run(str(tmp_path / source), str(tmp_path / "out"), **command)
    (tmp_path / "out" / "part-00000000-000000006000-000000009000.parquet").unlink()
    report = asyncbatch.run(str(tmp_path / source), str(tmp_path / "out"), **command)
    assert report.metrics.rows_in == 3_000
    assert report.metrics.rows_resumed == 17_000
    assert read(tmp_path / "out")["id"].to_pylist() == table["id"].to_pylist()


def test_a_changed_input_is_refused(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    command: dict[str, Any] = {"endpoint": echo.invocations_url, "no_send": "id"}
    asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **command)
    pq.write_table(numbers(20_000, seed=9), tmp_path / "in.parquet")
    with pytest.raises(OutputError, match=r"differs from this command: input .*in\.parquet"):
        asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **command)


@pytest.mark.parametrize("name", ["0", "1b", "3"])
def test_a_file_that_appears_later_waits_wherever_its_name_sorts(
    name: str, tmp_path: Path, echo: Background
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        pq.write_table(pa.table({"x": [float(number)] * 30}), folder / f"{number}.parquet")
    command: dict[str, Any] = {"endpoint": echo.invocations_url, "block_rows": 8}
    asyncbatch.run(str(folder), str(tmp_path / "out"), **command)
    for file in (0, 1):
        (tmp_path / "out" / f"part-{file:08}-000000000008-000000000016.parquet").unlink()
    pq.write_table(pa.table({"x": [9.0] * 30}), folder / f"{name}.parquet")
    report = asyncbatch.run(str(folder), str(tmp_path / "out"), **command)
    assert report.metrics.rows_in == 16
    assert read(tmp_path / "out")["prediction"].to_pylist() == [1.0] * 30 + [2.0] * 30


def test_another_option_that_changes_rows_is_refused_by_name(
    tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=echo.invocations_url, no_send="id"
    )
    with pytest.raises(OutputError, match="body"):
        asyncbatch.run(
            str(tmp_path / "in.parquet"),
            str(tmp_path / "out"),
            endpoint=echo.invocations_url,
            no_send="id",
            body="jsonl",
        )


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, serve: Serve) -> None:
    """A real SIGKILL in the middle; the same command again; every row once, in order."""
    table = numbers(30_000)
    pq.write_table(table, tmp_path / "in.parquet")
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(a=0.01, slots=4)))
    command = [
        sys.executable, "-m", "asyncbatch", "run", str(tmp_path / "in.parquet"), str(tmp_path / "out"),
        "-e", server.invocations_url, "--no-send", "id", "--block-rows", "500", "--chunk-rows", "50", "--concurrency", "4",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    out = tmp_path / "out"
    while not (out.exists() and len(list(out.iterdir())) >= 5):
        assert process.poll() is None
    process.kill()
    process.wait()
    done_before = len(list(out.iterdir()))
    assert 5 <= done_before < 60
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    scored = read(out)
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()


# -- rejects -----------------------------------------------------------------------------------------------------------


POISON = SimulationConfig(poison_share=0.01, seed=5)


def test_rejects_are_exactly_the_poison_rows(tmp_path: Path, table: pa.Table, serve: Serve) -> None:
    server = serve(ServeConfig(model="simulated", simulation=POISON))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        block_rows=3_000,
    )  # fmt: skip
    poison = poison_of(table, POISON)
    assert 100 < poison.sum() < 300
    scored = read(tmp_path / "out")
    assert scored["prediction"].is_null().to_numpy().tolist() == poison.tolist()
    assert scored["error"].is_valid().to_numpy().tolist() == poison.tolist()
    good = ~poison
    assert (
        scored["prediction"].to_numpy(zero_copy_only=False)[good].tolist()
        == table["x0"].to_numpy()[good].tolist()
    )
    assert report.exit_code == 3
    errors = pq.read_table(tmp_path / "out.asyncbatch" / "errors.parquet")
    assert errors["row"].to_pylist() == np.flatnonzero(poison).tolist()


def test_dropped_rejects_leave_the_rest_with_their_row_numbers(
    tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=POISON))
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        on_error="drop", block_rows=3_000,
    )  # fmt: skip
    good = np.flatnonzero(~poison_of(table, POISON))
    scored = read(tmp_path / "out")
    assert scored["_row"].to_pylist() == good.tolist()
    assert scored["prediction"].to_numpy().tolist() == table["x0"].to_numpy()[good].tolist()


def test_the_run_fails_at_the_first_reject_when_asked_to(
    tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=POISON))
    with pytest.raises(TooManyRejectsError, match="--on-error fail"):
        asyncbatch.run(
            str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
            on_error="fail",
        )  # fmt: skip


@pytest.mark.parametrize(("allowed", "code"), [("5%", 0), (1_000, 0)])
def test_rejects_within_the_allowed_number_are_a_success(
    allowed: str | int, code: int, tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=POISON))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        max_errors=allowed,
    )  # fmt: skip
    assert report.exit_code == code


@pytest.mark.parametrize("allowed", ["0.1%", 10])
def test_more_rejects_than_allowed_end_the_run(
    allowed: str | int, tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=POISON))
    with pytest.raises(TooManyRejectsError, match="--max-errors"):
        asyncbatch.run(
            str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
            max_errors=allowed, block_rows=2_000,
        )  # fmt: skip


def test_rows_that_cannot_be_read_are_rejects_with_their_line(tmp_path: Path, echo: Background) -> None:
    lines = [f"{row}.5,{row}" for row in range(2_000)]
    lines[700] = "oops,700"
    lines[1500] = "1.5"
    (tmp_path / "in.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    report = asyncbatch.run(
        str(tmp_path / "in.csv"), str(tmp_path / "out"), endpoint=echo.invocations_url, types="x=float64,y=int64",
        block_rows=300,
    )  # fmt: skip
    scored = read(tmp_path / "out")
    assert scored.num_rows == 2_000
    bad = [index for index, error in enumerate(scored["error"].to_pylist()) if error is not None]
    assert bad == [700, 1500]
    assert [row for row in scored["prediction"].to_pylist() if row is not None] == [
        row + 0.5 for row in range(2_000) if row not in bad
    ]
    assert report.exit_code == 3
    errors = pq.read_table(tmp_path / "out.asyncbatch" / "errors.parquet").to_pylist()
    assert [(error["row"], error["line"], error["code"]) for error in errors] == [
        (700, 702, "input"),
        (1500, 1502, "input"),
    ]
    assert "oops" not in errors[0]["message"]


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["400", "424", "429", "500", "503", "530", "reset", "truncated", "short"])
def test_one_request_in_ten_failing_changes_no_answer(kind: str, tmp_path: Path, serve: Serve) -> None:
    table = numbers(3_000)
    pq.write_table(table, tmp_path / "in.parquet")
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(errors={kind: 0.1}, seed=3)))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.name, endpoint_url=server.url,
        no_send="id", chunk_rows=50,
    )  # fmt: skip
    assert report.exit_code == 0
    assert read(tmp_path / "out")["prediction"].to_pylist() == table["x0"].to_pylist()


def test_an_endpoint_that_cannot_answer_one_row_rejects_none(tmp_path: Path, serve: Serve) -> None:
    table = numbers(1_001)
    pq.write_table(table, tmp_path / "in.parquet")
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(min_rows=2)))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        chunk_rows=10, block_rows=100,
    )  # fmt: skip
    assert report.exit_code == 0
    assert read(tmp_path / "out")["prediction"].to_pylist() == table["x0"].to_pylist()


def test_a_body_cap_is_learned(tmp_path: Path, table: pa.Table, serve: Serve) -> None:
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(cap_bytes=20_000)))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        chunk_rows=2_000,
    )  # fmt: skip
    assert read(tmp_path / "out")["prediction"].to_pylist() == table["x0"].to_pylist()
    assert report.metrics.requests_by_outcome["too_large"] < 50


# -- columns and collisions --------------------------------------------------------------------------------------------


def test_vectors_and_labels_and_meta(tmp_path: Path, table: pa.Table, serve: Serve) -> None:
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(outputs=3)))
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id", body="json",
        keep="id", meta="variant,scored-at",
    )  # fmt: skip
    scored = read(tmp_path / "out")
    assert scored.column_names == ["id", "prediction", "variant", "scored_at", "error"]
    first = table["x0"].to_numpy()
    assert np.array_equal(
        np.array(scored["prediction"].to_pylist()), np.stack([first, first + 1, first + 2], axis=1)
    )


def test_a_threshold_adds_a_label(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint=echo.invocations_url,
        no_send="id",
        threshold=0.5,
    )
    scored = read(tmp_path / "out")
    assert scored["predicted_label"].to_pylist() == [int(value > 0.5) for value in table["x0"].to_pylist()]


def test_a_name_collision_is_refused_before_anything_is_written(tmp_path: Path, echo: Background) -> None:
    pq.write_table(pa.table({"x": [1.0], "prediction": [2.0]}), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match="'prediction'") as caught:
        asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=echo.invocations_url)
    assert "--prediction-name" in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]


def test_an_unknown_column_names_the_nearest(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    with pytest.raises(InputError, match="'x00'") as caught:
        asyncbatch.run(
            str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=echo.invocations_url, send="x00"
        )
    assert "x0" in str(caught.value.hint)


# -- Python API --------------------------------------------------------------------------------------------------------


def test_a_table_in_gives_a_table_out(table: pa.Table, echo: Background) -> None:
    scored = asyncbatch.predict(table, endpoint=echo.invocations_url, no_send="id")
    assert isinstance(scored, pa.Table)
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()


@pytest.mark.parametrize("make", [pa.Table.to_pandas, pl.from_arrow], ids=["pandas", "polars"])
def test_frames_are_sources(make: Callable[[pa.Table], Any], table: pa.Table, echo: Background) -> None:
    scored = asyncbatch.predict(make(table), endpoint=echo.invocations_url, no_send="id")
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()


def test_a_reader_in_gives_a_lazy_reader_out(table: pa.Table, echo: Background) -> None:
    reader = asyncbatch.predict(
        table.to_reader(1_000), endpoint=echo.invocations_url, no_send="id", block_rows=500
    )
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_all()["prediction"].to_pylist() == table["x0"].to_pylist()


async def _collect(table: pa.Table, url: str) -> list[float]:
    found: list[float] = []
    async for batch in asyncbatch.stream(table, endpoint=url, no_send="id", block_rows=500):
        found.extend(batch["prediction"].to_pylist())
    return found


def test_a_stream_gives_batches_in_order(table: pa.Table, echo: Background) -> None:
    import anyio

    assert anyio.run(_collect, table, echo.invocations_url) == table["x0"].to_pylist()


def test_run_works_under_a_running_loop(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    import anyio

    async def notebook_cell() -> int:
        report = asyncbatch.run(
            str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=echo.invocations_url, no_send="id"
        )
        return report.metrics.rows_out

    assert anyio.run(notebook_cell) == 20_000


def test_hooks_see_the_run(tmp_path: Path, table: pa.Table, echo: Background) -> None:
    seen: list[object] = []
    asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint=echo.invocations_url,
        no_send="id",
        hooks=[seen.append],
    )
    planned = next(event for event in seen if isinstance(event, RunPlanned))
    assert (planned.rows, planned.columns_sent) == (20_000, ("x0", "x1", "x2"))


# -- guest -------------------------------------------------------------------------------------------------------------


def test_a_background_run_gives_the_same_answers_with_few_in_flight(
    tmp_path: Path, table: pa.Table, serve: Serve
) -> None:
    """In the mean, that is: one-row requests come at random times, so some moments see several at once."""
    slots = 2
    server = serve(
        ServeConfig(model="simulated", simulation=SimulationConfig(a=0.004, b=0.0001, slots=slots))
    )
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.invocations_url, no_send="id",
        background=True, chunk_rows="1:4", limit=1_000,
    )  # fmt: skip
    assert read(tmp_path / "out")["prediction"].to_pylist() == table["x0"].to_pylist()[:1_000]
    assert report.metrics.in_flight_mean <= slots
