"""Every source keeps the contract that third parties' sources are held to."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.protocols import Source
from asyncbatch.source import open_source
from asyncbatch.testing import check_source

TABLE = pa.table(
    {
        "id": range(100),
        "x": [None if number % 7 == 0 else number / 3 for number in range(100)],
        "s": [f'{number}"\n,' if number % 3 else "" for number in range(100)],
    }
)
BAD_CSV = (
    b'id,x,s\r\n1,1.5,"a\nb"\r\n\r\n2,NA,\r\n3,zz,"q ""x"""\r\n4,1\r\n5,2,"\xff"\r\n6,3, 007 \r\n"7",4,"open'
)
BAD_JSONL = b'{"a": 1}\n\n{"a": "x"}\n{"a": 2\n{"a": 3, "b": [1]}\r\n{"a": 4}'


def csv_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


def parquet(path: Path) -> None:
    pq.write_table(TABLE, path / "x.parquet", row_group_size=17)


def csv(path: Path) -> None:
    (path / "x.csv").write_bytes(csv_bytes(TABLE))


def csv_gz(path: Path) -> None:
    (path / "x.csv.gz").write_bytes(gzip.compress(csv_bytes(TABLE)))


def jsonl(path: Path) -> None:
    TABLE.to_pandas().to_json(path / "x.jsonl", orient="records", lines=True)


def jsonl_gz(path: Path) -> None:
    TABLE.to_pandas().to_json(path / "x.jsonl.gz", orient="records", lines=True)


def arrow_file(path: Path) -> None:
    feather.write_feather(TABLE, path / "x.feather", chunksize=13)


def arrow_stream(path: Path) -> None:
    with pa.ipc.new_stream(path / "x.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=13)


def folder(path: Path) -> None:
    for number in range(3):
        pq.write_table(TABLE.slice(number * 10, 10 * number), path / f"part-{number}.parquet")


def hive(path: Path) -> None:
    for year in (2023, 2024):
        (path / f"year={year}").mkdir()
        (path / f"year={year}" / "x.csv").write_bytes(csv_bytes(TABLE.slice(year - 2023, 9)))


def bad_csv(path: Path) -> None:
    (path / "x.csv").write_bytes(BAD_CSV)


def bad_jsonl(path: Path) -> None:
    (path / "x.jsonl").write_bytes(BAD_JSONL)


def header_only(path: Path) -> None:
    (path / "x.csv").write_text("a,b\n")


WRITERS = [
    parquet,
    csv,
    csv_gz,
    jsonl,
    jsonl_gz,
    arrow_file,
    arrow_stream,
    folder,
    hive,
    bad_csv,
    bad_jsonl,
    header_only,
]
OPTIONS = {"bad_csv": {"types": (("x", "float64"),)}, "bad_jsonl": {"types": (("a", "int64"),)}}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_files(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    config = InputConfig(**OPTIONS.get(write.__name__, {}))
    check_source(
        lambda: open_source(tmp_path, config),
        block_rows=(1, 7, 32, 100, 1000) if "bad" in write.__name__ else (9, 50, 1000),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: TABLE,
        lambda: TABLE.to_reader(max_chunksize=13),
        lambda: iter(TABLE.to_batches(max_chunksize=13)),
    ],
    ids=["table", "reader", "generator"],
)
def test_arrow_data(make: Callable[[], object]) -> None:
    check_source(lambda: open_source(make(), InputConfig()), block_rows=(9, 50, 1000))


def test_no_files(tmp_path: Path) -> None:
    check_source(lambda: open_source(tmp_path, InputConfig(allow_empty=True)))


class _Broken:
    """A source with one fault."""

    def __init__(self, source: Source, *, fault: str) -> None:
        self._source, self._fault = source, fault

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    schema = property(lambda self: self._source.schema)
    files = property(lambda self: self._source.files)
    partition_columns = property(lambda self: self._source.partition_columns)
    resumable = property(lambda self: self._source.resumable)

    def blocks(self, file, *, columns, block_rows, done=(), max_rows=None):
        if self._fault == "ignores done":
            done = ()
        if self._fault == "ignores max_rows":
            max_rows = None
        if self._fault == "file order":
            columns = self._source.schema.names
        for block in self._source.blocks(
            file, columns=columns, block_rows=block_rows, done=done, max_rows=max_rows
        ):
            if self._fault == "drops last":
                block = type(block)(
                    block=block.block, table=block.table, rejects=block.rejects, end_offset=block.end_offset
                )
            if self._fault == "loses a row" and block_rows == 9:
                block = type(block)(block=block.block, table=block.table.slice(1), last=block.last)
            yield block

    def sample(self, *, columns, rows):
        return self._source.sample(columns=columns, rows=rows + (self._fault == "samples too much"))

    def close(self) -> None:
        self._source.close()


@pytest.mark.parametrize(
    "fault",
    ["ignores done", "ignores max_rows", "file order", "drops last", "loses a row", "samples too much"],
)
def test_the_suite_notices(fault: str) -> None:
    with pytest.raises(AssertionError):
        check_source(lambda: _Broken(open_source(TABLE, InputConfig()), fault=fault), block_rows=(9, 50))


def test_the_suite_has_nothing_against_a_wrapper() -> None:
    check_source(lambda: _Broken(open_source(TABLE, InputConfig()), fault="none"), block_rows=(9, 50))
