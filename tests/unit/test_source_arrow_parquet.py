"""Parquet and Arrow IPC: pushed-down columns, skipped row groups, damaged files, schemas across files."""

import datetime as dt
import decimal
import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.source import arrow as arrow_module
from asyncbatch.source import open_source
from asyncbatch.source.blocks import Gap, find_gaps
from asyncbatch.source.parquet import groups_of

TYPED = pa.table(
    {
        "i": pa.array([1, None, 3], pa.int32()),
        "d": pa.array(["x", "y", "x"]).dictionary_encode(),
        "m": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.25")], pa.decimal128(9, 2)),
        "t": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 3, pa.timestamp("us", "UTC")),
        "l": pa.array(["a", "b", None], pa.large_string()),
        "n": pa.array([[1, 2], [], None], pa.list_(pa.int64())),
        "s": pa.array([{"a": 1, "b": "x"}, None, {"a": 2, "b": None}]),
        "a.b": [1, 2, 3],
        "f": pa.array([1.5, float("nan"), None], pa.float32()),
    }
)


def write(kind: str, table: pa.Table, path: Path, *, rows: int | None = None) -> Path:
    path = path.with_suffix({"parquet": ".parquet", "file": ".feather", "stream": ".arrows"}[kind])
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=rows)
    elif kind == "file":
        feather.write_feather(table, path, chunksize=rows)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path


def whole(source, **options) -> pa.Table:
    columns = options.pop("columns", source.schema.names)
    blocks = [
        block.table
        for file in source.files
        for block in source.blocks(file, columns=columns, block_rows=options.get("block_rows", 1000))
    ]
    return pa.concat_tables(blocks)


@pytest.fixture(params=["parquet", "file", "stream"])
def kind(request) -> str:
    return request.param


def test_types_are_preserved(kind, tmp_path):
    source = open_source(write(kind, TYPED, tmp_path / "x", rows=2), InputConfig())
    assert source.schema.types == TYPED.schema.types
    found = whole(source)
    assert found.schema.types == TYPED.schema.types
    assert str(found.to_pylist()) == str(TYPED.to_pylist())


def test_columns_are_taken_by_exact_name_in_the_order_asked(kind, tmp_path):
    table = pa.table({"a": [1], "a.b": [2], "c": [3]})
    source = open_source(write(kind, table, tmp_path / "x"), InputConfig())
    assert whole(source, columns=["c", "a"]).to_pydict() == {"c": [3], "a": [1]}
    assert whole(source, columns=["a.b"]).to_pydict() == {"a.b": [2]}


def test_row_counts_are_known_without_reading(tmp_path):
    table = pa.table({"a": range(10)})
    for kind, rows in (("parquet", 10), ("file", 10), ("stream", None)):
        assert open_source(write(kind, table, tmp_path / "x", rows=3), InputConfig()).files[0].rows == rows


def test_no_rows_are_no_blocks(kind, tmp_path):
    source = open_source(write(kind, TYPED.slice(0, 0), tmp_path / "x"), InputConfig())
    assert list(source.blocks(source.files[0], columns=["i"], block_rows=3)) == []
    assert source.sample(columns=["i"], rows=3).num_rows == 0


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_named(kind, tmp_path, keep):
    path = write(kind, pa.table({"a": range(10_000)}), tmp_path / "x", rows=5000)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(InputError) as caught:
        whole(open_source(path, InputConfig()))
    assert str(path) in caught.value.message
    assert "truncated" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_foreign_file_is_named(tmp_path, name):
    (tmp_path / name).write_text("hello, this is something else\n" * 10)
    with pytest.raises(InputError, match=f"{name} is no"):
        open_source(tmp_path / name, InputConfig())


def test_feather_version_1_is_named(tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1" + b"\0" * 100)
    with pytest.raises(InputError, match="Feather version 1"):
        open_source(tmp_path / "x.feather", InputConfig())


def test_damage_within_a_file_is_an_input_error(tmp_path):
    path = write("parquet", pa.table({"a": range(100_000)}), tmp_path / "x", rows=10_000)
    data = bytearray(path.read_bytes())
    data[1000:50_000] = b"\xff" * 49_000
    path.write_bytes(bytes(data))
    source = open_source(path, InputConfig())
    with pytest.raises(InputError, match="damaged"):
        whole(source)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (pa.table({"a": [1.5], "b": ["x"]}), "column 'a' is double in .*2.* but int64 in .*1"),
        (pa.table({"a": [1]}), "has no column 'b'"),
        (pa.table({"a": [1], "b": ["x"], "c": [1]}), "has a column 'c'"),
    ],
)
def test_schemas_that_differ_name_file_and_column(kind, tmp_path, other, sentence):
    write(kind, pa.table({"a": [1], "b": ["x"]}), tmp_path / "1")
    write(kind, other, tmp_path / "2")
    with pytest.raises(InputError, match=sentence):
        open_source(tmp_path, InputConfig())


def test_order_nullability_metadata_and_all_null_columns_may_differ(kind, tmp_path):
    first = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.null())], {"k": "v"})
    write(kind, pa.table({"a": [1], "b": [None]}, schema=first), tmp_path / "1")
    write(
        kind,
        pa.table({"b": ["x"], "a": [None]}, pa.schema([("b", pa.string()), ("a", pa.int64())])),
        tmp_path / "2",
    )
    source = open_source(tmp_path, InputConfig())
    assert source.schema.equals(pa.schema([("a", pa.int64()), ("b", pa.string())]), check_metadata=True)
    assert whole(source).to_pydict() == {"a": [1, None], "b": [None, "x"]}


def test_two_columns_of_one_name_are_an_error(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    for kind in ("parquet", "stream", "file"):
        with pytest.raises(InputError, match="two columns named 'a'"):
            open_source(_write_duplicates(kind, table, tmp_path), InputConfig())


def _write_duplicates(kind: str, table: pa.Table, folder: Path) -> Path:
    if kind != "file":
        return write(kind, table, folder / "x")
    with pa.ipc.new_file(folder / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    return folder / "x.arrow"


@pytest.mark.parametrize(("compression", "allocated"), [("uncompressed", 0), ("lz4", 8000), ("zstd", 8000)])
def test_a_large_batch_is_mapped_and_a_compressed_one_inflated_by_column(
    tmp_path, monkeypatch, compression, allocated
):
    path = tmp_path / "x.feather"
    feather.write_feather(pa.table({"a": range(1000), "b": range(1000)}), path, compression=compression)
    monkeypatch.setattr(arrow_module, "_MAPPED_BATCH_BYTES", 100)
    gc.collect()  # what earlier tests left must not be freed in between
    before = pa.total_allocated_bytes()
    source = open_source(path, InputConfig())
    blocks = source.blocks(source.files[0], columns=["a"], block_rows=10)
    first = next(blocks)
    assert allocated <= pa.total_allocated_bytes() - before < allocated + 4000
    assert first.table["a"].to_pylist() == list(range(10))
    blocks.close()
    assert first.table["a"].to_pylist() == list(range(10))


@pytest.mark.parametrize(
    ("start", "stop", "groups", "first"),
    [
        (0, None, [0, 2, 3], 0),
        (0, 10, [0], 0),
        (9, 11, [0, 2], 0),
        (10, 20, [2], 10),
        (15, None, [2, 3], 10),
        (20, 30, [3], 20),
    ],
)
def test_only_row_groups_with_wanted_rows_are_read(start, stop, groups, first):
    gap = Gap(start=start, stop=stop, offset=None, final=True)
    assert groups_of([10, 0, 10, 10], gap) == (groups, first)


@pytest.mark.parametrize(
    ("done", "rows", "limit", "expected"),
    [
        ([], None, None, [(0, None, None, True)]),
        ([], 10, None, [(0, 10, None, True)]),
        ([], 10, 4, [(0, 4, None, True)]),
        ([], None, 4, [(0, 4, None, True)]),
        ([(0, 3, 7)], None, None, [(3, None, 7, True)]),
        ([(3, 6, 9)], 10, None, [(0, 3, None, False), (6, 10, 9, True)]),
        ([(0, 3, 7), (3, 6, 9)], 6, None, []),
        ([(0, 3, None), (6, 9, 5)], 9, None, [(3, 6, None, False)]),
        ([(6, 9, 5)], 9, 4, [(0, 4, None, True)]),
        ([(0, 3, 7)], 10, 3, []),
        ([], 0, None, []),
    ],
)
def test_gaps_are_what_is_not_done(done, rows, limit, expected):
    found = find_gaps(done, rows=rows, max_rows=limit)
    assert [(gap.start, gap.stop, gap.offset, gap.final) for gap in found] == expected


def test_overlapping_ranges_are_a_programming_error():
    with pytest.raises(ValueError, match="overlap"):
        find_gaps([(0, 5, None), (3, 6, None)], rows=None, max_rows=None)
