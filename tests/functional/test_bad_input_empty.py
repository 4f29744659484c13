"""Zero rows in is zero rows out, one row in is one row out: every format, every sink."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

Command = Callable[..., Any]
MODEL = """
def score(batch):
    assert batch.num_rows
    return [0.5] * batch.num_rows
"""
ENDPOINT = ("-e", "python:half_model:score")
SOURCES = ["in.parquet", "in.csv", "in.csv.gz", "in.jsonl", "in.arrow", "in.arrows"]
SINKS = ["out", "out.parquet", "out.csv", "out.jsonl", "-"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "half_model.py").write_text(MODEL)
    return tmp_path


def write(path: Path, rows: int) -> None:
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "x": pa.array([1.5] * rows, pa.float64())})
    text = "id,x\n" + "".join(f"{n},1.5\n" for n in range(rows))
    match "".join(path.suffixes):
        case ".parquet":
            pq.write_table(table, path)
        case ".csv":
            path.write_text(text)
        case ".csv.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        case ".arrow":
            pyarrow.feather.write_feather(table, str(path))
        case ".arrows":
            with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)


def rows_of(folder: Path, sink: str, stdout: str) -> list[dict[str, Any]]:
    if sink in ("out", "out.parquet"):
        rows: list[dict[str, Any]] = pq.read_table(folder / sink).to_pylist()
        return rows
    if sink == "out.csv":
        assert (folder / sink).read_text().startswith(('"id",', '"prediction",'))
        return list(pyarrow.csv.read_csv(folder / sink).to_pylist())
    text = stdout if sink == "-" else (folder / sink).read_text()
    return [json.loads(line) for line in text.splitlines()]


# JSON Lines without a row are an empty file, which is another case: it has no columns.
@pytest.mark.parametrize(
    ("source", "count"),
    [(source, count) for source in SOURCES for count in (0, 1) if (source, count) != ("in.jsonl", 0)],
)
@pytest.mark.parametrize("sink", SINKS)
def test_no_row_and_one_row(command: Command, folder: Path, source: str, sink: str, count: int) -> None:
    write(folder / source, count)
    done = command("run", source, sink, *ENDPOINT)
    assert done.code == 0, done.stderr
    found = rows_of(folder, sink, done.stdout)
    assert len(found) == count
    if count:
        assert found[0]["id"] == 0
        assert found[0]["prediction"] == 0.5


@pytest.mark.parametrize("source", ["in/*.csv", "in", "empty.csv", "empty.jsonl"])
@pytest.mark.parametrize("sink", SINKS)
def test_no_file_where_that_is_allowed(command: Command, folder: Path, source: str, sink: str) -> None:
    (folder / "in").mkdir()
    for name in ("empty.csv", "empty.jsonl"):
        (folder / name).touch()
    done = command("run", source, sink, *ENDPOINT, "--allow-empty")
    assert done.code == 0, done.stderr
    assert rows_of(folder, sink, done.stdout) == []
    if sink != "-":
        again = command("run", source, sink, *ENDPOINT, "--allow-empty")
        assert again.code == 0, again.stderr


def test_empty_files_beside_full_ones_where_that_is_allowed(command: Command, folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a.csv").touch()
    write(folder / "in" / "b.csv", 3)
    write(folder / "in" / "c.csv", 0)
    done = command("run", "in", "out", *ENDPOINT, "--allow-empty")
    assert done.code == 0, done.stderr
    assert pq.read_table(folder / "out").num_rows == 3


def test_a_plan_without_rows(command: Command, folder: Path) -> None:
    write(folder / "in.csv", 0)
    done = command("plan", "in.csv", "out", *ENDPOINT)
    assert done.code == 0, done.stderr
    assert "the input has no rows" in done.stdout
    done = command("plan", "in/*.csv", *ENDPOINT, "--allow-empty")
    assert done.code == 0, done.stderr
    assert not (folder / "out").exists()


def test_an_http_endpoint_is_not_asked_about_no_rows(command: Command, folder: Path) -> None:
    write(folder / "in.csv", 0)
    done = command("run", "in.csv", "out", "-e", "http://127.0.0.1:9/invocations")
    assert done.code == 0, done.stderr
    assert pq.read_table(folder / "out").column_names == ["id", "x", "prediction", "error"]
