"""Every encoder equals a slow reference encoder, for any rows and any slice of them."""

import base64
import datetime as dt
import io
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.codec import make_encoder
from asyncbatch.codec.encoders import StreamEncoder
from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError
from asyncbatch.model import BytesPayload

_text = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', ",", "\n", "\r\n", 'a"b', "é,\\", "null", ""]
)
_float = st.floats() | st.sampled_from(
    [0.1, -0.0, 1e16, 1e15, 5e-324, 1e-7, float("nan"), float("inf"), -float("inf")]
)
_day = dt.datetime(1000, 1, 1)  # noqa: DTZ001 - columns without a time zone hold naive times
_zoned = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
_TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.float64(), _float),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.string(), _text),
    (pa.large_string(), _text),
    (pa.dictionary(pa.int32(), pa.string()), _text),
    (pa.dictionary(pa.int8(), pa.float64()), st.sampled_from([0.1, -2.5, 3.0])),
    (pa.binary(), st.binary(max_size=5)),
    (pa.date32(), st.dates(dt.date(1000, 1, 1))),
    (pa.timestamp("us"), st.datetimes(_day)),
    (pa.timestamp("ms", "Europe/Berlin"), _zoned),
    (pa.time64("us"), st.times()),
    (pa.decimal128(10, 3), st.decimals(-9999, 9999, places=3)),
    (pa.null(), st.none()),
]
_small_struct = pa.struct([("x", pa.int64()), ('y"', pa.string())])
_NESTED: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.list_(pa.float64()), st.lists(st.none() | _float, max_size=3)),
    (pa.list_(pa.string()), st.lists(st.none() | _text, max_size=3)),
    (
        pa.list_(pa.list_(pa.int32())),
        st.lists(st.none() | st.lists(st.integers(0, 9), max_size=2), max_size=2),
    ),
    (pa.list_(pa.float32(), 2), st.lists(st.none() | st.floats(width=32), min_size=2, max_size=2)),
    (_small_struct, st.fixed_dictionaries({"x": st.integers(0, 9), 'y"': st.none() | _text})),
]


@st.composite
def tables(draw: st.DrawFn, types: list[tuple[pa.DataType, st.SearchStrategy[Any]]]) -> pa.Table:
    """Some rows of some columns, in one chunk or several, as a slice of something longer."""
    rows = draw(st.integers(1, 8))
    columns = {}
    for index in range(draw(st.integers(1, 4))):
        type_, values = draw(st.sampled_from(types))
        nulls = draw(st.booleans())
        data = draw(st.lists(st.none() | values if nulls else values, min_size=rows + 1, max_size=rows + 1))
        columns[f'c"{index}'] = pa.array(data, type_)
    table = pa.table(columns)
    if draw(st.booleans()):
        table = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    return table.slice(1)


def body(encoder: Any, table: pa.Table, start: int = 0, stop: int | None = None) -> bytes:
    payload = encoder.encode(table).payload(start, table.num_rows if stop is None else stop)
    assert isinstance(payload, BytesPayload)
    joined = b"".join(bytes(piece) for piece in payload.pieces)
    assert len(joined) == payload.nbytes
    return joined


def number_text(value: float, type_: pa.DataType) -> str:
    """Shortest digits: of the float32 where the column is one."""
    return orjson.dumps(value).decode() if type_ == pa.float64() else orjson.dumps(
        np.array([value], np.float32), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()  # fmt: skip


def plain_text(value: Any, type_: pa.DataType) -> str:
    """Dates, times, decimals and binary."""
    if pa.types.is_binary(type_):
        return base64.b64encode(value).decode()
    if pa.types.is_timestamp(type_):
        digits = {"us": 6, "ms": 3}[type_.unit]
        stamp = value.astimezone(dt.UTC) if type_.tz else value
        text = (
            f"{stamp.year:04d}"
            + stamp.strftime("-%m-%dT%H:%M:%S")
            + f".{stamp.microsecond:06d}"[: digits + 1]
        )
        return text + ("Z" if type_.tz else "")
    if pa.types.is_time(type_):
        return value.strftime("%H:%M:%S") + f".{value.microsecond:06d}"
    return str(value)


def csv_cell(value: Any, type_: pa.DataType) -> str:
    if value is None:
        return ""
    if pa.types.is_dictionary(type_):
        return csv_cell(value, type_.value_type)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return number_text(value, type_) if math.isfinite(value) else repr(value)
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, str):
        needed = value == "" or any(each in value for each in ',"\n\r')
        return '"' + value.replace('"', '""') + '"' if needed else value
    return plain_text(value, type_) or '""'


def json_text(value: Any, type_: pa.DataType) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if pa.types.is_dictionary(type_):
        return json_text(value, type_.value_type)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number_text(value, type_)
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, str):
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return "[" + ",".join(json_text(each, type_.value_type) for each in value) + "]"
    if isinstance(value, dict):
        members = (
            orjson.dumps(field.name).decode() + ":" + json_text(value[field.name], field.type)
            for field in type_
        )
        return "{" + ",".join(members) + "}"
    return orjson.dumps(plain_text(value, type_)).decode()


def csv_line(row: dict[str, Any], schema: pa.Schema) -> str:
    line = ",".join(csv_cell(row[field.name], field.type) for field in schema)
    return line or '""'


def json_row(row: dict[str, Any], schema: pa.Schema, form: str) -> str:
    texts = [json_text(row[field.name], field.type) for field in schema]
    if form == "value":
        return texts[0]
    if form == "object":
        return (
            "{"
            + ",".join(
                orjson.dumps(f.name).decode() + ":" + text for f, text in zip(schema, texts, strict=True)
            )
            + "}"
        )
    return "[" + ",".join(texts) + "]"


@settings(max_examples=100, deadline=None)
@given(table=tables(_TYPES), header=st.booleans())
def test_csv_bodies_equal_the_reference_line_by_line(table: pa.Table, header: bool) -> None:
    encoder = make_encoder(RequestConfig(body="csv-header" if header else "csv"), table.schema)
    lines = [csv_line(row, table.schema) for row in table.to_pylist()]
    if header:
        lines.insert(0, ",".join(csv_cell(name, pa.string()) for name in table.schema.names))
    assert body(encoder, table).decode() == "\n".join(lines)


@settings(max_examples=100, deadline=None)
@given(
    table=tables(_TYPES + _NESTED), form=st.sampled_from(["array", "object", "value"]), jsonl=st.booleans()
)
def test_json_bodies_equal_the_reference_row_by_row(table: pa.Table, form: str, jsonl: bool) -> None:
    if form == "value":
        table = table.select([0])
    encoder = make_encoder(RequestConfig(body="jsonl" if jsonl else "json", row=form), table.schema)
    rows = [json_row(row, table.schema, form) for row in table.to_pylist()]
    sent = body(encoder, table).decode()
    assert sent == ("\n".join(rows) if jsonl else '{"instances":[' + ",".join(rows) + "]}")
    for line in sent.split("\n") if jsonl else [sent]:
        json.loads(line)


_BODIES = [
    RequestConfig(body="csv"),
    RequestConfig(body="csv-header"),
    RequestConfig(body="jsonl", row="object"),
    RequestConfig(body="jsonl", template='{"features": $row, "k": $n}'),
    RequestConfig(body="json"),
    RequestConfig(body="json", template="v2"),
    RequestConfig(body="json", template='{"rows": $rows, "again": $rows, "count": $n, "names": $columns}'),
    RequestConfig(body="arrow"),
    RequestConfig(body="parquet"),
]


@settings(max_examples=80, deadline=None)
@given(table=tables(_TYPES), request=st.sampled_from(_BODIES), data=st.data())
def test_every_slice_equals_encoding_that_slice_alone(
    table: pa.Table, request: RequestConfig, data: st.DataObject
) -> None:
    encoder = make_encoder(request, table.schema)
    if isinstance(encoder, StreamEncoder):
        table = pa.concat_tables([table] * data.draw(st.integers(1, 3)))
    start = data.draw(st.integers(0, table.num_rows - 1))
    stop = data.draw(st.integers(start + 1, table.num_rows))
    cut, alone = body(encoder, table, start, stop), body(encoder, table.slice(start, stop - start))
    if request.body == "arrow":  # its padding is whatever is there
        cut, alone = (str(pa.ipc.open_stream(each).read_all().to_pydict()).encode() for each in (cut, alone))
    assert cut == alone


_json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab$rows "\\', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab$n", max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    table=tables(_TYPES), extra=_json_value, quoted=st.booleans(), form=st.sampled_from(["array", "object"])
)
def test_a_templates_body_is_json_equal_to_the_naive_construction(
    table: pa.Table, extra: Any, quoted: bool, form: str
) -> None:
    variable = '"$rows"' if quoted else "$rows"
    text = f'{{"a": {variable}, "x": {json.dumps(_without_variables(extra))}, "n": $n, "c": $columns}}'
    encoder = make_encoder(RequestConfig(body="json", template=text, row=form), table.schema)
    rows = [json.loads(json_row(row, table.schema, form)) for row in table.to_pylist()]
    assert json.loads(body(encoder, table)) == {
        "a": rows, "x": _without_variables(extra), "n": table.num_rows, "c": table.schema.names,
    }  # fmt: skip


def _without_variables(value: Any) -> Any:
    """A text that is a whole variable would be one."""
    if isinstance(value, str):
        return value + "." if value in ("$rows", "$row", "$n", "$columns", "$columnar") else value
    if isinstance(value, list):
        return [_without_variables(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_variables(each) for key, each in value.items()}
    return value


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    body_kind=st.sampled_from(["csv", "jsonl", "npy"]),
)
def test_floats_come_back_bit_for_bit(values: list[float], body_kind: str) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    sent = body(make_encoder(RequestConfig(body=body_kind, row="value"), table.schema), table)
    if body_kind == "npy":
        found = np.load(io.BytesIO(sent)).reshape(-1).tolist()
    else:
        found = [float(line) for line in sent.split(b"\n")]
        assert all(any(mark in line for mark in b".e") for line in sent.split(b"\n"))
    assert [value.hex() for value in found] == [value.hex() for value in values]


@settings(max_examples=60, deadline=None)
@given(
    table=tables(
        [
            (pa.float64(), _float),
            (pa.float32(), st.floats(width=32)),
            (pa.int16(), st.integers(-9, 9)),
            (pa.bool_(), st.booleans()),
        ]
    ),
    data=st.data(),
)
def test_npy_bodies_are_the_rows_as_an_array_with_nan_for_null(table: pa.Table, data: st.DataObject) -> None:
    encoder = make_encoder(RequestConfig(body="npy"), table.schema)
    start = data.draw(st.integers(0, table.num_rows - 1))
    stop = data.draw(st.integers(start + 1, table.num_rows))
    found = np.load(io.BytesIO(body(encoder, table, start, stop)), allow_pickle=False)
    wanted = [
        [float("nan") if value is None else float(value) for value in row.values()]
        for row in table.slice(start, stop - start).to_pylist()
    ]
    narrow = {field.type for field in table.schema} == {pa.float32()}
    assert found.dtype == (np.float32 if narrow else np.float64)
    np.testing.assert_array_equal(found, np.array(wanted, found.dtype))
    exact = io.BytesIO()
    np.save(exact, found)
    assert body(encoder, table, start, stop) == exact.getvalue()


@settings(max_examples=60, deadline=None)
@given(table=tables(_TYPES), limit=st.integers(1, 2000), request=st.sampled_from(_BODIES[:7]), data=st.data())
def test_fit_is_the_most_rows_within_the_limit(
    table: pa.Table, limit: int, request: RequestConfig, data: st.DataObject
) -> None:
    block = make_encoder(request, table.schema).encode(table)
    start = data.draw(st.integers(0, table.num_rows - 1))
    fitting = block.fit(start, table.num_rows, limit)
    sizes = [block.payload(start, stop).nbytes for stop in range(start + 1, table.num_rows + 1)]
    assert fitting == max(1, sum(size <= limit for size in sizes))


@settings(max_examples=20, deadline=None)
@given(table=tables(_NESTED))
def test_nested_columns_are_refused_in_csv_and_npy_by_name(table: pa.Table) -> None:
    for kind in ("csv", "npy"):
        if kind == "npy" and pa.types.is_fixed_size_list(table.schema.field(0).type):
            continue
        with pytest.raises(ConfigError, match="column 'c\"0'"):
            make_encoder(RequestConfig(body=kind), table.schema)
