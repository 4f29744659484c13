"""The dialect of CSV and JSON Lines outputs."""

import csv
import io
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.sink.text import write_csv, write_jsonl

TYPES: list[tuple[pa.DataType, Any, Any, str]] = [
    (pa.int64(), 2**62, 2**62, str(2**62)),
    (pa.uint64(), 2**64 - 1, 2**64 - 1, str(2**64 - 1)),
    (pa.bool_(), True, True, "true"),
    (pa.float64(), 0.1, 0.1, "0.1"),
    (pa.float32(), 0.5, 0.5, "0.5"),
    (pa.float16(), 0.5, 0.5, "0.5"),
    (pa.string(), 'a "b",\nc', 'a "b",\nc', '"a ""b"",\nc"'),
    (pa.string(), "", "", '""'),
    (pa.large_string(), "é", "é", '"é"'),
    (pa.date32(), date(2026, 1, 2), "2026-01-02", "2026-01-02"),
    (pa.timestamp("ms"), 1, "1970-01-01 00:00:00.001", "1970-01-01 00:00:00.001"),
    (pa.time64("us"), 1, "00:00:00.000001", "00:00:00.000001"),
    (
        pa.timestamp("ns", "UTC"),
        datetime(2026, 1, 2, tzinfo=UTC),
        "2026-01-02 00:00:00.000000000Z",
        "2026-01-02 00:00:00.000000000Z",
    ),
    (pa.decimal128(10, 2), Decimal("1.50"), "1.50", "1.50"),
    (pa.duration("s"), 90, 90, "90"),
    (pa.binary(), b"\x00\xff", "AP8=", '"AP8="'),
    (pa.dictionary(pa.int8(), pa.string()), "x", "x", '"x"'),
    (pa.list_(pa.float64()), [0.5, None], [0.5, None], '"[0.5,null]"'),
    (pa.list_(pa.float32(), 2), [0.5, 1.0], [0.5, 1.0], '"[0.5,1.0]"'),
    (pa.struct([("a", pa.string()), ("d", pa.date32())]), {"a": "x", "d": date(2026, 1, 2)},
     {"a": "x", "d": "2026-01-02"}, '"{""a"":""x"",""d"":""2026-01-02""}"'),
    (pa.list_(pa.timestamp("ms")), [1], ["1970-01-01 00:00:00.001"], '"[""1970-01-01 00:00:00.001""]"'),
    (pa.map_(pa.string(), pa.int64()), [("k", 1)], [["k", 1]], '"[[""k"",1]]"'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "as_json", "as_csv"), TYPES, ids=[str(each[0]) for each in TYPES])
def test_each_type_and_its_null(kind: pa.DataType, value: Any, as_json: Any, as_csv: str) -> None:
    table = pa.table({"v": pa.array([value, None], kind), "n": pa.array([1, 2])})
    lines, fields = io.BytesIO(), io.BytesIO()
    write_jsonl(table, lines)
    assert [json.loads(line) for line in lines.getvalue().splitlines()] == [
        {"v": as_json, "n": 1},
        {"v": None, "n": 2},
    ]
    write_csv(table, fields, header=True)
    assert fields.getvalue().decode() == f'"v","n"\n{as_csv},1\n,2\n'


def test_nan_and_infinities() -> None:
    table = pa.table({"v": [math.nan, math.inf, -math.inf]})
    lines, fields = io.BytesIO(), io.BytesIO()
    write_jsonl(table, lines)
    assert lines.getvalue() == b'{"v":null}\n' * 3
    write_csv(table, fields, header=False)
    assert fields.getvalue() == b"nan\ninf\n-inf\n"


def test_no_rows() -> None:
    table = pa.table({"v": pa.array([], pa.int64())})
    lines, fields = io.BytesIO(), io.BytesIO()
    write_jsonl(table, lines)
    write_csv(table, fields, header=True)
    assert (lines.getvalue(), fields.getvalue()) == (b"", b'"v"\n')


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=8)


@given(
    rows=st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), TEXTS | st.none()), max_size=20)
)
def test_python_reads_back_what_was_written(rows: list[tuple[float, str | None]]) -> None:
    table = pa.table(
        {"f": pa.array([f for f, _ in rows], pa.float64()), "s": pa.array([s for _, s in rows], pa.string())}
    )
    lines, fields = io.BytesIO(), io.BytesIO()
    write_jsonl(table, lines)
    found = [json.loads(line) for line in lines.getvalue().split(b"\n")[:-1]]
    assert [(each["f"], each["s"]) for each in found] == rows
    write_csv(table, fields, header=False)
    read = list(csv.reader(io.StringIO(fields.getvalue().decode(), newline="")))
    assert [(float(f), s) for f, s in read] == [(f, s or "") for f, s in rows]
