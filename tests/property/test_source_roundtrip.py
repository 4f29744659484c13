"""Any table comes back from any format, in any block size, whatever is committed already."""

import csv
import io
import json
import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbatch.config import InputConfig
from asyncbatch.source import open_source, text
from asyncbatch.testing.source import same_rows

TYPES = (("i", "int64"), ("f", "float64"), ("b", "bool"), ("s", "string"))
SCHEMA = pa.schema([("i", pa.int64()), ("f", pa.float64()), ("b", pa.bool_()), ("s", pa.string())])

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.text(
    'a",\n\r ;\\', max_size=6
)
rows = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(),
        "b": st.none() | st.booleans(),
        "s": st.none() | texts,
    }
)
tables = st.lists(rows, max_size=12).map(lambda found: pa.Table.from_pylist(found, SCHEMA))


def write_csv(table: pa.Table, path: Path) -> None:
    """By hand: null is an empty field, the empty string a quoted one."""

    def field(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return repr(value)

    lines = [",".join(field(value) for value in row.values()) for row in table.to_pylist()]
    path.write_text("i,f,b,s\n" + "".join(line + "\n" for line in lines), newline="")


def write_jsonl(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=5)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "x.csv": write_csv,
    "x.jsonl": write_jsonl,
    "x.parquet": write_parquet,
    "x.arrow": write_file,
    "x.arrows": write_stream,
}


@pytest.fixture(scope="module", params=WRITERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("roundtrip")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    table=tables, block_rows=st.integers(1, 13), data=st.data(), slab_bytes=st.sampled_from([16, 64, 1 << 20])
)
def test_any_table_comes_back_in_any_blocks(name, folder, table, block_rows, data, slab_bytes):
    path = folder / name
    WRITERS[name](table, path)
    original, text.SLAB_BYTES = text.SLAB_BYTES, slab_bytes
    try:
        check(path, table, block_rows, data)
    finally:
        text.SLAB_BYTES = original


def check(path: Path, table: pa.Table, block_rows: int, data: Any) -> None:
    types = TYPES if path.suffix == ".csv" else ()
    if path.suffix == ".jsonl":
        if not table.num_rows:
            return
        types = TYPES
    source = open_source(path, InputConfig(types=types))
    file = source.files[0]
    blocks = list(source.blocks(file, columns=SCHEMA.names, block_rows=block_rows))
    joined = pa.concat_tables([b.table for b in blocks]) if blocks else SCHEMA.empty_table()
    assert not [reject for b in blocks for reject in b.rejects]
    assert same_rows(joined, table)
    assert [b.block.start for b in blocks] == list(range(0, table.num_rows, block_rows))
    kept = data.draw(st.lists(st.booleans(), min_size=len(blocks), max_size=len(blocks)))
    offsets = data.draw(st.booleans())
    done = [
        (b.block.start, b.block.stop, b.end_offset if offsets else None)
        for b, keep in zip(blocks, kept, strict=True)
        if not keep
    ]
    again = list(source.blocks(file, columns=SCHEMA.names, block_rows=block_rows, done=done))
    expected = [b for b, keep in zip(blocks, kept, strict=True) if keep]
    assert [(b.block, b.end_offset, b.last) for b in again] == [
        (b.block, b.end_offset, b.last) for b in expected
    ]
    assert all(same_rows(one.table, other.table) for one, other in zip(again, expected, strict=True))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"])
)
def test_text_that_the_standard_library_wrote_is_lossless(folder, table, line_end):
    path = folder / "std.csv"
    out = io.StringIO()
    # A value that ends in a carriage return is left unquoted by `csv`, and then reads as a line end.
    returns = any("\r" in value for row in table for value in row)
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=line_end, quoting=quoting).writerows([["a", "b"], *table])
    path.write_text(out.getvalue(), newline="")
    source = open_source(path, InputConfig(types=(("a", "string"), ("b", "string"))))
    blocks = list(source.blocks(source.files[0], columns=["a", "b"], block_rows=3))
    found = [[row["a"] or "", row["b"] or ""] for b in blocks for row in b.table.to_pylist()]
    assert not [reject for b in blocks for reject in b.rejects]
    assert found == table


FIELDS = """
NA nan -inf 1 -7 1.5 .5 1e3 "" true False 0 x 2024-01-02 1, "1"x +1 007 0x1F é 9223372036854775808
"""
fields = st.sampled_from([*FIELDS.split(), "", " 3", "\t8", '" 9"', " 2024-01-02", "2024-01-02 03:04:05"])
cells = fields | st.text(string.digits + ".-e ", max_size=6)


@settings(max_examples=120, deadline=None)
@given(
    values=st.lists(cells, min_size=1, max_size=6),
    dtype=st.sampled_from(
        ["int64", "float64", "bool", "string", "timestamp[us]", "date32", "int8", "float32"]
    ),
)
def test_every_way_of_reading_csv_agrees(folder, values, dtype):
    """Each row by itself takes the fastest way that works; beside a broken row all take the exact one."""

    def read(lines: list[str]) -> list[Any]:
        path = folder / "ways.csv"
        path.write_text("a,b\n" + "".join(line + "\n" for line in lines))
        source = open_source(path, InputConfig(types=(("a", dtype), ("b", "string"))))
        blocks = list(source.blocks(source.files[0], columns=["a", "b"], block_rows=100))
        bad = {reject.row for b in blocks for reject in b.rejects}
        found = [row for b in blocks for row in b.table.to_pylist()]
        return [(repr(row), number in bad) for number, row in enumerate(found)]

    lines = [f"{value},z" for value in values]
    alone = [read([line])[0] for line in lines]
    assert read(lines) == alone
    assert read([*lines, "1,2,3"])[:-1] == alone
    assert read([*lines, '"1"x,z'])[:-1] == alone
    assert read([*lines, '"never closed,z'])[:-1] == alone


json_values = st.sampled_from(
    [1, -7, 1.5, 1e300, True, None, "x", "", "1", [1, 2], [], [1.5, None], {"k": 1}, 2**63, math.inf]
)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(json_values, min_size=1, max_size=6),
    dtype=st.sampled_from(["int64", "float64", "bool", "string", None]),
)
def test_both_ways_of_reading_json_agree(folder, values, dtype):
    def read(lines: list[str]) -> list[Any]:
        path = folder / "ways.jsonl"
        path.write_text("\n".join(lines) + "\n")
        types = () if dtype is None else (("a", dtype),)
        source = open_source(path, InputConfig(types=types))
        blocks = list(source.blocks(source.files[0], columns=["a"], block_rows=100))
        bad = {reject.row for b in blocks for reject in b.rejects}
        return [(repr(row), number in bad) for b in blocks for number, row in enumerate(b.table.to_pylist())]

    lines = [json.dumps({"a": value}) for value in values]
    assert read([*lines, "broken"])[:-1] == read(lines)
