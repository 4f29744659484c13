"""Files of any schema joined by moving their row groups: every reader sees the same rows as in the pieces."""

import datetime as dt
import decimal
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbatch.errors import OutputError
from asyncbatch.sink import join
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.rowgroups import ParquetBytes
from asyncbatch.sink.thrift import (
    BINARY,
    BYTE,
    DOUBLE,
    I16,
    I64,
    LIST,
    MAP,
    STRUCT,
    TRUE,
    Struct,
    read_struct,
    write_struct,
)
from asyncbatch.store.local import LocalStore

MAKERS: dict[str, tuple[pa.DataType, Callable[[random.Random], Any]]] = {
    "int8": (pa.int8(), lambda rng: rng.randint(-128, 127)),
    "uint64": (pa.uint64(), lambda rng: rng.randint(0, 2**64 - 1)),
    "float16": (pa.float16(), lambda rng: float(rng.randint(-1000, 1000)) / 8),
    "float32": (pa.float32(), lambda rng: float(rng.randint(-1000, 1000)) / 8),
    "float64": (pa.float64(), lambda rng: rng.choice([rng.random(), float("inf"), -0.0])),
    "bool": (pa.bool_(), lambda rng: rng.random() < 0.5),
    "string": (pa.string(), lambda rng: "ä" * rng.randint(0, 3) + str(rng.randint(0, 5))),
    "large_string": (pa.large_string(), lambda rng: str(rng.random())),
    "binary": (pa.binary(), lambda rng: rng.randbytes(rng.randint(0, 9))),
    "fixed": (pa.binary(3), lambda rng: rng.randbytes(3)),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), lambda rng: rng.choice("abc")),
    "date": (pa.date32(), lambda rng: dt.date(2020, 1, 1) + dt.timedelta(rng.randint(0, 999))),
    "time": (pa.time64("us"), lambda rng: dt.time(rng.randint(0, 23), 5)),
    "utc": (
        pa.timestamp("us", tz="UTC"),
        lambda rng: dt.datetime(2026, 1, rng.randint(1, 28), tzinfo=dt.UTC),
    ),
    "local": (pa.timestamp("ns"), lambda rng: rng.randint(0, 10**18)),
    "duration": (pa.duration("ms"), lambda rng: dt.timedelta(milliseconds=rng.randint(0, 10**6))),
    "decimal": (pa.decimal128(12, 2), lambda rng: decimal.Decimal(rng.randint(-999, 999)) / 100),
    "list": (pa.list_(pa.float32()), lambda rng: [float(n) for n in range(rng.randint(0, 3))]),
    "vector": (pa.list_(pa.int16(), 2), lambda rng: [rng.randint(0, 9), rng.randint(0, 9)]),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
        lambda rng: {"a": rng.randint(0, 9), "b": ["x"] * rng.randint(0, 2)},
    ),
    "map": (pa.map_(pa.string(), pa.int32()), lambda rng: [("k", rng.randint(0, 9))]),
}
NOT_BY_POLARS = {"map", "duration", "float16", "vector"}
NOT_BY_DUCKDB = {"duration", "float16", "vector", "map"}


def table_of(kinds: list[str], rows: int, rng: random.Random) -> pa.Table:
    columns = {
        f"{number}_{kind}": pa.array(
            [None if rng.random() < 0.2 else MAKERS[kind][1](rng) for _ in range(rows)], MAKERS[kind][0]
        )
        for number, kind in enumerate(kinds)
    }
    return pa.table(columns)


@st.composite
def writings(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "row_group_size": draw(st.sampled_from([3, 7, 1000])),
        "compression": draw(st.sampled_from(["snappy", "zstd", "none"])),
        "use_dictionary": draw(st.booleans()),
        "write_page_index": draw(st.booleans()),
        "write_page_checksum": True,
        "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
        "data_page_size": draw(st.sampled_from([64, 10**6])),
        "write_batch_size": draw(st.sampled_from([2, 1024])),
        "version": "2.6",
    }


def joined(folder: Path, pieces: list[Piece], schema: pa.Schema) -> Path:
    out = folder / "joined.parquet"
    with out.open("wb") as file:
        join_parquet(file, pieces, schema=schema, key_values={"asyncbatch.job_id": "j"})
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("join")


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=6),
    rows=st.lists(st.integers(0, 23), min_size=1, max_size=5),
    writing=st.lists(writings(), min_size=5, max_size=5),
    cuts=st.lists(st.tuples(st.integers(0, 8), st.integers(9, 30)), min_size=5, max_size=5),
    move_rows=st.sampled_from([1, 5, 7, 50_000]),
    seed=st.integers(0, 10**6),
)
def test_any_reader_sees_the_rows_of_the_pieces(
    kinds: list[str], rows: list[int], writing: list[dict[str, Any]], cuts: list[tuple[int, int]], move_rows: int,
    seed: int, folder: Path,
) -> None:  # fmt: skip
    rng = random.Random(seed)
    store = LocalStore(folder, folder)
    tables, pieces = [], []
    for number, (count, options, (start, stop)) in enumerate(zip(rows, writing, cuts, strict=False)):
        table = table_of(kinds, count, rng)
        pq.write_table(table, folder / f"{number}.parquet", **options)
        whole = rng.random() < 0.7
        tables.append(table if whole else table.slice(start, stop - start))
        span = {} if whole else {"start": start, "stop": stop}
        span["check"] = rng.random() < 0.5
        pieces.append(Piece(store=store, name=f"{number}.parquet", **span))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "MOVE_ROWS", move_rows)
        patch.setattr(join, "GROUP_ROWS", 10)
        out = joined(folder, pieces, tables[0].schema)
    expected = pa.concat_tables(tables)
    file = pq.ParquetFile(io.BytesIO(out.read_bytes()), page_checksum_verification=True)
    got = file.read()
    assert got.schema.equals(expected.schema)
    assert got.to_pylist() == expected.to_pylist()
    fresh = io.BytesIO()
    pq.write_table(expected, fresh)
    assert file.schema.equals(pq.ParquetFile(fresh).schema), (
        "logical types are those of a file written at once"
    )
    assert file.metadata.metadata is not None
    assert b"ARROW:schema" in file.metadata.metadata
    assert file.metadata.metadata[b"asyncbatch.job_id"] == b"j"
    check_statistics(file)
    if not NOT_BY_POLARS & set(kinds) and expected.num_rows:
        frame = pl.read_parquet(out, use_pyarrow=False)
        assert frame.equals(pl.DataFrame(pl.from_arrow(expected)))
    names = [
        name for name, kind in zip(expected.column_names, kinds, strict=True) if kind not in NOT_BY_DUCKDB
    ]
    if names:
        columns = ", ".join(f'"{name}"' for name in names)
        found = duckdb.sql(f"select {columns} from '{out}'").to_arrow_table().to_pylist()
        plain = duckdb.from_arrow(expected.select(names)).to_arrow_table().to_pylist()
        assert found == plain


def check_statistics(file: pq.ParquetFile) -> None:
    """Of each group they are those of its rows."""
    for number in range(file.num_row_groups):
        table = file.read_row_group(number)
        group = file.metadata.row_group(number)
        assert group.num_rows == table.num_rows
        for index in range(group.num_columns):
            chunk = group.column(index)
            if "." not in chunk.path_in_schema and chunk.statistics is not None:
                column = table.column(chunk.path_in_schema)
                if chunk.statistics.has_null_count:
                    assert chunk.statistics.null_count == column.null_count


@pytest.mark.parametrize("move_rows", [1, 50_000])
def test_small_groups_become_large_ones_and_large_ones_stay(
    move_rows: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "MOVE_ROWS", move_rows)
    store = LocalStore(folder, folder)
    for number in range(30):
        pq.write_table(pa.table({"x": [number] * 100}), folder / f"s{number}.parquet")
    pieces = [Piece(store=store, name=f"s{number}.parquet") for number in range(30)]
    out = joined(folder, pieces, pa.schema([("x", pa.int64())]))
    assert pq.read_metadata(out).num_row_groups == (30 if move_rows == 1 else 1)


def test_bloom_filters_of_other_writers_come_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    store = LocalStore(folder, folder)
    for number in range(2):
        duckdb.sql(f"select (i % 50 + {number * 100})::bigint as x from range(5000) t(i)").write_parquet(
            str(folder / f"d{number}.parquet")
        )
    pieces = [Piece(store=store, name=f"d{number}.parquet") for number in range(2)]
    with (folder / "d0.parquet").open("rb") as file:
        like = ParquetBytes(file, "d0")
        monkeypatch.setattr(join, "_encoded", lambda schema, batches: like)
        out = joined(folder, pieces, pa.schema([("x", pa.int64())]))
    probe = "select bloom_filter_excludes from parquet_bloom_probe('{}', 'x', {}) order by row_group_id"
    assert duckdb.sql(probe.format(out, 7)).fetchall() == [(False,), (True,)]
    assert duckdb.sql(probe.format(out, 107)).fetchall() == [(True,), (False,)]
    total = duckdb.sql(f"select count(*)::bigint as n, sum(x)::bigint as s from '{out}'").to_arrow_table()
    assert total.to_pylist() == [{"n": 10_000, "s": 2 * 5000 * 49 // 2 + 500_000}]


def test_page_indexes_are_right_after_the_move(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    store = LocalStore(folder, folder)
    for number in range(3):
        table = pa.table({"x": list(range(number * 1000, number * 1000 + 1000))})
        pq.write_table(table, folder / f"i{number}.parquet", write_page_index=True, data_page_size=64,
                       write_batch_size=16, use_dictionary=False, write_page_checksum=True)  # fmt: skip
    pieces = [Piece(store=store, name=f"i{number}.parquet") for number in range(3)]
    out = joined(folder, pieces, pa.schema([("x", pa.int64())]))
    with out.open("rb") as opened:
        source = ParquetBytes(opened, "joined")
        for number, group in enumerate(source.groups()):
            chunk = group.values.get(1)[0]
            index = read_struct(source.read(chunk.get(4), chunk.get(5)))[0]
            pages = index.get(1)
            assert len(pages) > 10
            assert pages[0].get(1) == chunk.get(3).get(9), "the first page is where the chunk begins"
            for page in pages:
                header = read_struct(source.read(page.get(1), page.get(2)))[0]
                assert header.get(1) == 0, "a data page begins there"
            columns = read_struct(source.read(chunk.get(6), chunk.get(7)))[0]
            assert columns.get(2)[0] == (number * 1000).to_bytes(8, "little")
    assert pl.scan_parquet(out).filter(pl.col("x") == 2345).collect().height == 1


def test_what_a_later_format_adds_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    path = folder / "u.parquet"
    pq.write_table(pa.table({"x": [1, 2, 3]}), path)
    inner = Struct()
    inner.set(3, DOUBLE, b"12345678")

    def add_fields(metadata: Struct) -> None:
        group = metadata.get(4)[0]
        for owner in (metadata, group, group.get(1)[0], group.get(1)[0].get(3)):
            owner.set(90, STRUCT, inner)
            owner.set(91, MAP, (BINARY, I64, [(b"k", -5)]))
            owner.set(92, I64, -(2**40))
            owner.set(120, LIST, (TRUE, [1, 2]))
            owner.set(121, BYTE, 200)
            owner.set(122, TRUE, False)

    edit_footer(path, add_fields)
    store = LocalStore(folder, folder)
    out = joined(folder, [Piece(store=store, name="u.parquet")] * 2, pa.schema([("x", pa.int64())]))
    with out.open("rb") as file:
        got = ParquetBytes(file, "out")
    assert len(got.groups()) == 2
    for owner in (got.metadata, got.groups()[1].values, got.groups()[1].values.get(1)[0].get(3)):
        assert owner.get(90) == inner
        assert owner.get(91) == (BINARY, I64, [(b"k", -5)])
        assert owner.get(92) == -(2**40)
        assert (owner.get(120), owner.get(121), owner.get(122)) == ([1, 2], 200, False)
    assert pq.read_table(out)["x"].to_pylist() == [1, 2, 3] * 2


def test_pieces_written_in_another_way_are_not_moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first version of the format keeps uint32 as int64: pages of the one are no pages of the other."""
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    table = pa.table({"x": pa.array([1, 2, 2**32 - 1], pa.uint32())})
    for number, version in enumerate(["2.6", "1.0", "2.6"]):
        pq.write_table(table, folder / f"v{number}.parquet", version=version)  # type: ignore[arg-type]
    store = LocalStore(folder, folder)
    pieces = [Piece(store=store, name=f"v{number}.parquet") for number in range(3)]
    out = joined(folder, pieces, table.schema)
    assert pq.read_table(out)["x"].to_pylist() == table["x"].to_pylist() * 3


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("move_rows", [1, 50_000])
def test_a_damaged_page_is_noticed_and_named(
    move_rows: int, pieces: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "MOVE_ROWS", move_rows)
    path = folder / "hurt.parquet"
    rng = random.Random(1)
    store = LocalStore(folder, folder)
    schema = pa.schema([("x", pa.float64())])
    noticed = 0
    for _ in range(20):
        table = pa.table({"x": [rng.random() for _ in range(5000)]}, schema=schema)
        pq.write_table(table, path, write_page_checksum=True, use_dictionary=False)
        content = bytearray(path.read_bytes())
        at = rng.randrange(4, 40_000 - 512)
        content[at : at + 512] = bytes(512)
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"hurt\.parquet is damaged"):
            joined(folder, [Piece(store=store, name=path.name)] * pieces, schema)
        noticed += 1
    assert noticed == 20


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, 0.99])
def test_a_truncated_piece_is_noticed(kept: float, folder: Path) -> None:
    path = folder / "short.parquet"
    pq.write_table(pa.table({"x": list(range(1000))}), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(OutputError, match=r"short\.parquet is damaged"):
        joined(
            folder, [Piece(store=LocalStore(folder, folder), name=path.name)], pa.schema([("x", pa.int64())])
        )


def test_fastparquet_reads_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that shares no code with the others: its Thrift and its decoders are its own."""
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    rng = random.Random(2)
    kinds = ["int8", "uint64", "float32", "float64", "bool", "string", "binary", "utc", "date", "dictionary"]
    tables = [table_of(kinds, 500, rng) for _ in range(3)]
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"f{number}.parquet", write_page_checksum=True)
    store = LocalStore(folder, folder)
    pieces = [Piece(store=store, name=f"f{number}.parquet", check=number == 1) for number in range(3)]
    out = joined(folder, pieces, tables[0].schema)
    expected = pa.concat_tables(tables)
    pq.write_table(expected, folder / "plain.parquet", row_group_size=500)
    with out.open("rb") as file, (folder / "plain.parquet").open("rb") as plain_file:
        found, plain = fastparquet.ParquetFile(file), fastparquet.ParquetFile(plain_file)
        frame = found.to_pandas()
        assert found.count() == len(frame) == 1500
        for each in ("min", "max", "null_count"):
            assert found.statistics[each] == plain.statistics[each], each
    for name in expected.column_names:
        got = [None if pd.isna(value) else value for value in frame[name].tolist()]
        assert got == [as_pandas(value) for value in expected[name].to_pylist()], name


def as_pandas(value: Any) -> Any:
    if isinstance(value, dt.date):
        return pd.Timestamp(value).tz_localize(None)  # without the schema of pandas it gives no zones
    return value


def edit_footer(path: Path, change: Callable[[Struct], None]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    metadata = read_struct(content[-8 - length : -8])[0]
    change(metadata)
    footer = write_struct(metadata)
    path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def number_groups(metadata: Struct) -> None:
    for number, group in enumerate(metadata.get(4)):
        group.set(7, I16, number)


def test_groups_say_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number and first byte of each row group, which some readers go by; gaps are for whole pages only."""
    monkeypatch.setattr(join, "MOVE_ROWS", 1)
    store = LocalStore(folder, folder)
    rng = random.Random(3)
    for number in range(3):
        table = pa.table({"x": [rng.random() for _ in range(60_000)]})
        pq.write_table(table, folder / f"g{number}.parquet", use_dictionary=False, row_group_size=40_000)
        edit_footer(folder / f"g{number}.parquet", number_groups)
    pieces = [Piece(store=store, name=f"g{number}.parquet", check=number == 1) for number in range(3)]
    out = joined(folder, pieces, pa.schema([("x", pa.float64())]))
    sources = [folder / f"g{number}.parquet" for number in range(3)]
    with out.open("rb") as opened:
        groups = ParquetBytes(opened, "joined").groups()
        assert [group.values.get(7) for group in groups] == list(range(6))
        end = 4
        for number, group in enumerate(groups):
            meta = group.values.get(1)[0].get(3)
            assert group.values.get(5) == meta.get(9), "the group begins with its first page"
            assert 0 <= meta.get(9) - end < 4096
            end = meta.get(9) + meta.get(7)
            with sources[number // 2].open("rb") as source:
                there = ParquetBytes(source, "piece").groups()[number % 2].values.get(1)[0].get(3)
            if number // 2 != 1:
                assert (meta.get(9) - there.get(9)) % 4096 == 0, "moved by whole pages"


@given(data=st.binary(max_size=200))
def test_no_bytes_break_the_thrift_reader(data: bytes) -> None:
    try:
        value, used = read_struct(data)
    except ValueError:
        return
    assert used <= len(data)
    assert read_struct(write_struct(value))[0] == value
