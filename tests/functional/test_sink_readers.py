"""The output folder as pyarrow, pandas, polars and DuckDB see it: while it grows, and when it is whole."""

import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink import Plan, open_sink

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("when", pa.timestamp("us", "UTC")),
        ("prediction", pa.list_(pa.float64())),
        ("predicted_label", pa.int8()),
        ("nothing", pa.null()),
        ("error", pa.string()),
    ]
)
BLOCK_ROWS = 20

Reader = Callable[[Path], list[int]]
FOLDERS: dict[str, Reader] = {
    "pyarrow.parquet": lambda path: pq.read_table(path).column("id").to_pylist(),
    "pyarrow.dataset": lambda path: ds.dataset(path).to_table().column("id").to_pylist(),
    "pandas": lambda path: pd.read_parquet(path)["id"].tolist(),
    "polars": lambda path: pl.scan_parquet(path).collect()["id"].to_list(),
    "polars glob": lambda path: pl.read_parquet(f"{path}/**/*.parquet")["id"].to_list(),
    "duckdb": lambda path: _duck(f"{path}/*.parquet"),
    "duckdb glob": lambda path: _duck(f"{path}/**/*.parquet"),
    "duckdb folder glob": lambda path: _duck(f"{path}/**"),
}


def _duck(pattern: str) -> list[int]:
    with duckdb.connect() as connection:
        return [row[0] for row in connection.execute(f"SELECT id FROM read_parquet('{pattern}')").fetchall()]


def plan(rows: int) -> Plan:
    file = InputFile(number=0, path="a.parquet", size_bytes=9, rows=rows, fingerprint={})
    return Plan(
        files=(file,), block_rows=BLOCK_ROWS, schema=SCHEMA, reply={}, options={}, endpoint={}, source="in"
    )


def blocks(rows: int) -> list[Block]:
    return [Block(file=0, start=at, stop=min(at + BLOCK_ROWS, rows)) for at in range(0, rows, BLOCK_ROWS)]


def table(block: Block) -> pa.Table:
    rows = range(block.start, block.stop)
    columns = {
        "id": list(rows),
        "text": [f"t{row}" for row in rows],
        "when": [row * 1000 for row in rows],
        "prediction": [None if row % 10 == 0 else [0.5, row / 3] for row in rows],
        "predicted_label": [None if row % 10 == 0 else row % 2 for row in rows],
        "nothing": [None] * block.rows,
        "error": ["rejected: no" if row % 10 == 0 else None for row in rows],
    }
    return pa.table(
        {name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA
    )


def write_all(spec: Path, rows: int, *, after_each: Callable[[], object] = lambda: None) -> None:
    with open_sink(str(spec)) as output:
        output.start(plan(rows))
        for block in reversed(blocks(rows)):
            rejected = [row for row in range(block.start, block.stop) if row % 10 == 0]
            output.sink.write(
                block,
                table(block),
                rejects=[Reject(row=row, code="rejected", message="no") for row in rejected],
                variants={},
                end_offset=None,
                last=block.stop == rows,
            )
            after_each()
        assert output.finish({}) is not None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    write_all(out, 130)
    return out


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("empty") / "out"
    write_all(out, 0)
    return out


@pytest.mark.parametrize("reader", FOLDERS)
def test_each_reads_every_row_in_order(whole: Path, reader: str) -> None:
    assert FOLDERS[reader](whole) == list(range(130))


@pytest.mark.parametrize("reader", FOLDERS)
def test_each_reads_an_output_without_rows(empty: Path, reader: str) -> None:
    assert FOLDERS[reader](empty) == []


def test_an_output_without_rows_has_its_columns(empty: Path) -> None:
    assert pq.read_table(empty).schema.equals(SCHEMA)
    assert pl.read_parquet(empty).columns == SCHEMA.names


def test_each_reads_what_is_there_while_it_grows(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        found = {name: reader(tmp_path / "out") for name, reader in FOLDERS.items()}
        there = found["pyarrow.parquet"]
        assert there == sorted(there)
        assert all(each == there for each in found.values()), found
        seen.append(len(there))

    write_all(tmp_path / "out", 130, after_each=look)
    assert seen == [10, 30, 50, 70, 90, 110, 130]


def test_a_reader_beside_the_writer_never_sees_half_a_part(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    over = threading.Event()
    problems: list[str] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        while not over.is_set():
            for path in sorted((tmp_path / "out").iterdir()):
                try:
                    ids = pq.read_table(path).column("id").to_pylist()
                    if len(ids) not in (10, BLOCK_ROWS):
                        problems.append(f"{path.name} has {len(ids)} rows")
                    looks += 1
                except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                    problems.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        write_all(tmp_path / "out", 410)
    finally:
        over.set()
        thread.join()
    assert problems == []
    assert looks > 0


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("rows", [130, 0])
def test_single_files_are_read_by_each(tmp_path: Path, name: str, rows: int) -> None:
    path = tmp_path / name
    write_all(path, rows)
    wanted = list(range(rows))
    with duckdb.connect() as connection:
        if name == "out.parquet":
            assert pl.read_parquet(path)["id"].to_list() == wanted
            assert pd.read_parquet(path)["id"].tolist() == wanted
            assert pq.read_table(path).schema.equals(SCHEMA)
            assert connection.execute(f"SELECT count(*) FROM '{path}'").fetchall() == [(rows,)]
        elif name == "out.csv":
            assert pl.read_csv(path)["id"].to_list() == wanted
            frame = pd.read_csv(path)
            assert frame["id"].tolist() == wanted
            assert list(frame.columns) == SCHEMA.names
            if rows:
                assert frame["prediction"][1] == "[0.5,0.3333333333333333]"
                assert pd.isna(frame["prediction"][0])
            assert connection.execute(
                f"SELECT count(*) FROM read_csv('{path}', header = true)"
            ).fetchall() == [(rows,)]
        elif rows:
            assert pl.read_ndjson(path)["id"].to_list() == wanted
            assert pd.read_json(path, lines=True)["id"].tolist() == wanted
            assert connection.execute(f"SELECT count(*) FROM '{path}'").fetchall() == [(rows,)]
        else:
            assert path.read_bytes() == b""
