"""`asyncbatch status`, `verify` and `retry` on real outputs: rejects first, then an endpoint that has mended."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.cli.main import main
from asyncbatch.errors import OutputError, StoppedError
from asyncbatch.pipeline.api import retry_job
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background
from asyncbatch.sink import retrying
from asyncbatch.sink.manifest import Manifest
from asyncbatch.sink.retry_attempt import Attempt, Fresh
from asyncbatch.sink.retrying import open_retry
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output

ROOT = Path(__file__).resolve().parents[2]
ROWS = 2_000
BLOCK_ROWS = 100
BAD = (13, 777, 1_999)
MODEL = """
import pathlib, time
import pyarrow as pa
import pyarrow.compute as pc

def mended():
    return pathlib.Path("mended").exists()

def score(batch):
    if not mended() and any(x in (13.0, 777.0, 1999.0) for x in batch["x"].to_pylist()):
        raise ValueError("refused")
    return pc.multiply(batch["x"], 2 if not mended() else 3)

def slow(batch):
    if mended():
        time.sleep(0.02)
    return score(batch)
"""
EXPECTED = [
    3.0 * row if row // BLOCK_ROWS in {bad // BLOCK_ROWS for bad in BAD} else 2.0 * row for row in range(ROWS)
]
"""Blocks with rejects are answered by the mended model, the others as before."""
SINKS = ["out", "out.parquet", "out.csv", "out.jsonl"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "retry_model.py").write_text(MODEL)
    table = pa.table({"x": [float(row) for row in range(ROWS)], "t": [f'a "{row}"\n' for row in range(ROWS)]})
    pq.write_table(table, tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text("x,t\n" + "".join(f"{row}.0,t{row}\n" for row in range(ROWS)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("retry_model", None)


def score(sink: str, *, source: str = "in.parquet", function: str = "score", **more: Any) -> int:
    report = asyncbatch.run(
        source, sink, endpoint=f"python:retry_model:{function}", send="x", block_rows=BLOCK_ROWS, **more
    )
    return report.exit_code


def read(sink: str) -> pa.Table:
    if sink.endswith(".csv"):
        return pyarrow.csv.read_csv(
            sink, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
        )  # fmt: skip
    if sink.endswith(".jsonl"):
        rows = [json.loads(line) for line in Path(sink).read_text().splitlines()]
        return pa.Table.from_pylist(rows)
    return pq.read_table(sink)


def errors(sink: str) -> list[int]:
    rows: list[int] = pq.read_table(f"{sink}.asyncbatch/errors.parquet")["row"].to_pylist()
    return rows


@pytest.mark.parametrize("sink", SINKS)
def test_only_blocks_with_rejects_are_scored_again(sink: str, folder: Path) -> None:
    assert score(sink) == 3
    assert errors(sink) == list(BAD)
    (folder / "mended").touch()
    report = retry_job(sink, {})
    assert report.exit_code == 0
    assert report.metrics.rows_in == 3 * BLOCK_ROWS
    table = read(sink)
    assert table["prediction"].to_pylist() == EXPECTED
    assert table["t"].to_pylist() == [f'a "{row}"\n' for row in range(ROWS)]
    assert table["error"].null_count == ROWS
    assert errors(sink) == []
    assert verify_output(sink).problems == ()
    state = folder / f"{sink}.asyncbatch"
    assert (state / "_SUCCESS").exists()
    assert sorted(path.name for path in state.iterdir() if path.name.startswith("retry")) == []
    assert list((state / "rejects").iterdir()) == []
    assert score(sink) == 0, "the run's command finds nothing left to do"


@pytest.mark.parametrize("sink", SINKS)
def test_what_is_still_refused_stays_a_reject(sink: str, folder: Path) -> None:
    score(sink)
    before = read(sink)
    report = retry_job(sink, {})
    assert report.exit_code == 3
    assert errors(sink) == list(BAD)
    assert read(sink).equals(before)
    assert verify_output(sink).problems == ()


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_dropped_rows_come_back(sink: str, folder: Path) -> None:
    score(sink, on_error="drop")
    assert read(sink).num_rows == ROWS - len(BAD)
    (folder / "mended").touch()
    assert retry_job(sink, {}).exit_code == 0
    assert read(sink)["_row"].to_pylist() == list(range(ROWS))
    assert read(sink)["prediction"].to_pylist() == EXPECTED
    assert verify_output(sink).problems == ()


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_text_inputs_are_read_where_the_blocks_are(sink: str, folder: Path) -> None:
    score(sink, source="in.csv", limit=1_000)
    (folder / "mended").touch()
    assert retry_job(sink, {}).metrics.rows_in == 2 * BLOCK_ROWS
    assert read(sink)["prediction"].to_pylist() == EXPECTED[:1_000]
    assert verify_output(sink).problems == ()


def test_nothing_to_retry_is_a_success(folder: Path) -> None:
    (folder / "mended").touch()
    assert score("out") == 0
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert main(["retry", "out"]) == 0
    assert main(["retry", "out", "--send", "x", "--block-rows", str(BLOCK_ROWS)]) == 0  # as in the run
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == files


def test_an_output_that_is_not_finished_is_not_retried(folder: Path) -> None:
    score("out")
    next((folder / "out").iterdir()).unlink()
    with pytest.raises(OutputError, match="out is not finished"):
        retry_job("out", {})


def test_only_connection_options_may_differ(folder: Path) -> None:
    score("out")
    with pytest.raises(OutputError, match="differs from this command"):
        retry_job("out", {"on_error": "drop"})
    with pytest.raises(OutputError, match="differs from this command"):
        retry_job("out", {"endpoint": "python:retry_model:slow"})
    assert retry_job("out", {"concurrency": "2", "chunk_rows": "10"}).exit_code == 3


def test_a_changed_input_is_refused(folder: Path) -> None:
    score("out")
    pq.write_table(pa.table({"x": [1.0] * ROWS, "t": [""] * ROWS}), folder / "in.parquet")
    with pytest.raises(OutputError, match=r"input .*in\.parquet"):
        retry_job("out", {})


@pytest.mark.parametrize("sink", ["out.parquet", "out.csv"])
def test_a_file_that_others_write_while_it_is_retried_is_left(
    sink: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(sink)
    (folder / "mended").touch()
    finish = retrying.finish_file

    def after_another(attempt: Attempt, fresh: Fresh) -> Manifest:
        if sink == "out.csv":
            with Path(sink).open("a") as file:
                file.write("1,,2,\n")
        else:  # another tool, which keeps what the footer says of the job
            said, table = pq.read_metadata(sink).metadata, pq.read_table(sink).slice(1)
            with pq.ParquetWriter(sink, table.schema) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata(said)
        return finish(attempt, fresh)

    monkeypatch.setattr(retrying, "finish_file", after_another)
    with pytest.raises(OutputError, match=f"{sink} was changed while it was retried"):
        retry_job(sink, {})
    theirs = Path(sink).read_bytes()
    with pytest.raises(OutputError, match=f"{sink} was changed after it was finished"):
        retry_job(sink, {})
    assert Path(sink).read_bytes() == theirs
    assert read(sink).num_rows == ROWS + (1 if sink == "out.csv" else -1)


def test_two_retries_at_once_are_refused(folder: Path) -> None:
    score("out")
    first = open_retry("out")
    try:
        with pytest.raises(StoppedError, match="is at work"):
            retry_job("out", {})
    finally:
        first.close()


def test_an_endpoint_with_poison_and_then_without(
    tmp_path: Path, serve: Callable[[ServeConfig], Background]
) -> None:
    table = pa.table({"x": [float(row) for row in range(5_000)]})
    pq.write_table(table, tmp_path / "in.parquet")
    out = str(tmp_path / "out")
    sick = serve(ServeConfig(model="simulated", simulation=SimulationConfig(poison_share=0.005, seed=5)))
    well = serve(ServeConfig(model="simulated", simulation=SimulationConfig(seed=5)))
    assert sick.name == well.name
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"), out, endpoint=sick.name, endpoint_url=sick.url, block_rows=200
    )
    assert report.exit_code == 3
    held = {part.name: part.stat().st_mtime_ns for part in Path(out).iterdir()}
    bad = {row // 200 for row in pq.read_table(f"{out}.asyncbatch/errors.parquet")["row"].to_pylist()}
    again = retry_job(out, {"endpoint_url": well.url})
    assert again.exit_code == 0
    assert again.metrics.rows_in == 200 * len(bad)
    assert pq.read_table(out)["prediction"].to_pylist() == table["x"].to_pylist()
    touched = {part.name for part in Path(out).iterdir() if part.stat().st_mtime_ns != held[part.name]}
    assert len(touched) == len(bad)
    assert verify_output(out).problems == ()


# -- status and verify -------------------------------------------------------------------------------------------------


def test_status_of_a_finished_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("out")
    assert main(["status", "out"]) == 0
    said = capsys.readouterr().out
    assert "out: finished" in said
    assert "2,000 of 2,000 rows in 20 parts" in said
    assert "3 rows rejected" in said
    assert main(["status", "out/", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["rows_done"], found["rejects"], found["missing"]) == (
        "finished",
        2_000,
        3,
        [],
    )
    assert found["rows_per_s"] > 0


@pytest.mark.parametrize("sink", SINKS[1:])
def test_status_of_a_single_file(sink: str, folder: Path) -> None:
    score(sink)
    found = output_status(sink)
    assert (found.state, found.rows_done, found.parts, found.rejects) == ("finished", ROWS, 20, 3)
    assert found.bytes == Path(sink).stat().st_size


def test_status_names_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("out")
    for path in sorted((folder / "out").iterdir())[3:5]:
        path.unlink()
    found = output_status("out")
    assert (found.state, found.rows_done, found.rejects) == ("stopped", 1_800, None)
    assert [(gap.start, gap.stop) for gap in found.missing] == [(300, 500)]
    assert main(["status", "out"]) == 0
    assert "missing: rows 300 to 500 of file 0" in capsys.readouterr().out


def test_status_names_who_is_at_work(folder: Path) -> None:
    score("out")
    retry = open_retry("out")
    found = output_status("out")
    retry.close()
    assert found.state == "at work"
    assert [(holder.pid, holder.alive) for holder in found.holders] == [(os.getpid(), True)]


def test_what_is_no_output_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "verify", "retry"):
        assert main([command, "nothing"]) == 2
        assert "nothing is no output of asyncbatch" in capsys.readouterr().err


def a_part(folder: Path) -> Path:
    return sorted((folder / "out").iterdir())[7]


def zero_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = len(content) // 3
    content[start : start + 64] = bytes(64)
    path.write_bytes(content)


def other_content(path: Path) -> None:
    pq.write_table(pq.read_table(path.parent / min(path.parent.iterdir())), path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "page": (lambda folder: zero_a_page(a_part(folder)), "is damaged"),
    "truncated": (lambda folder: os.truncate(a_part(folder), 100), "footer cannot be read"),
    "foreign": (lambda folder: other_content(a_part(folder)), "was not written by asyncbatch"),
    "removed": (lambda folder: a_part(folder).unlink(), "rows 700 to 800"),
    "renamed": (
        lambda folder: a_part(folder).rename(
            folder / "out" / "part-00000000-000000000700-000000000799.parquet"
        ),
        "rows of another range",
    ),
    "twice": (
        lambda folder: os.link(
            a_part(folder), folder / "out" / "part-00000000-000000000750-000000000850.parquet"
        ),
        "hold the same rows",
    ),
    "rejects": (
        lambda folder: next((folder / "out.asyncbatch" / "rejects").iterdir()).unlink(),
        "rejects file",
    ),
    "errors": (lambda folder: (folder / "out.asyncbatch" / "errors.parquet").unlink(), "errors.parquet"),
    "manifest": (
        lambda folder: (folder / "out.asyncbatch" / "manifest.json").write_text("{}"),
        "manifest.json",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_names_what_is_wrong(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("out")
    assert main(["verify", "out"]) == 0
    assert "whole and undamaged: 2,000 rows in 20 files" in capsys.readouterr().out
    damage, said = DAMAGE[kind]
    name = a_part(folder).name
    damage(folder)
    assert main(["verify", "out", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["sound"]
    messages = [f"{each['file']}: {each['message']}" for each in found["problems"]]
    assert any(said in message for message in messages), messages
    if kind in ("page", "truncated", "foreign"):
        assert any(name in message for message in messages), messages


@pytest.mark.parametrize("sink", SINKS[1:])
def test_verify_notices_a_damaged_single_file(sink: str, folder: Path) -> None:
    score(sink)
    content = bytearray(Path(sink).read_bytes())
    if sink == "out.parquet":
        zero_a_page(Path(sink))
    else:
        Path(sink).write_bytes(content[: len(content) // 2])
    assert not verify_output(sink).sound


def test_verify_of_an_unfinished_output_says_so(folder: Path) -> None:
    score("out")
    a_part(folder).unlink()
    (folder / "out.asyncbatch" / "_SUCCESS").unlink()
    found = verify_output("out")
    assert not found.finished
    assert [problem.message.partition(" of ")[0] for problem in found.problems] == ["rows 700 to 800"]


# -- killed ------------------------------------------------------------------------------------------------------------


def copy(old: Path, new: Path) -> None:
    if old.is_dir():
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(old, new)
    else:
        shutil.copy2(old, new)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.csv"])
def test_a_retry_that_is_killed_again_and_again_goes_on(sink: str, folder: Path) -> None:
    """Killed while it scores and while it replaces; readers of a folder see whole parts, old or new."""
    score(sink, function="slow")
    (folder / "mended").touch()
    state = folder / f"{sink}.asyncbatch"
    before = folder / "before"
    before.mkdir()
    for name in (sink, state.name):
        copy(folder / name, before / name)
    rng = random.Random(3)
    command = [
        sys.executable,
        "-m",
        "asyncbatch",
        "retry",
        sink,
        "--chunk-rows",
        "20",
        "--concurrency",
        "1",
        "-q",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    kills = interrupted = 0
    while kills < 10:
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not (state / "retry.json").exists():
            time.sleep(0.002)
        try:
            process.wait(rng.random() * 0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
        interrupted += (state / "retry.json").exists()
        if sink == "out":
            got = pl.read_parquet(folder / "out" / "*.parquet")["prediction"].to_list()
            assert len(got) == ROWS
            for row, value in enumerate(got):
                assert value in (None if row in BAD else 2.0 * row, EXPECTED[row])
        if process.returncode == 0:  # not killed: it begins anew, so that every phase is met
            assert read(sink)["prediction"].to_pylist() == EXPECTED
            for name in (sink, state.name):
                copy(before / name, folder / name)
    assert interrupted >= 5
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == 0
    assert read(sink)["prediction"].to_pylist() == EXPECTED
    assert verify_output(sink).problems == ()
    assert errors(sink) == []
    assert not (state / "retry.json").exists()
