"""Rows as CSV and as JSON Lines, the dialect of every text output.

Both: UTF-8, one line a row, `\\n` at its end. Floats are written with the fewest digits that read back as the
same value. Dates, times and timestamps are text such as `2026-01-02 03:04:05.000000Z`, decimals are text,
durations are whole numbers of their unit, binary values are Base64.

CSV (RFC 4180): a header line; every value of a text column is quoted, and a quote in it doubled; null is an
empty field and empty text is `""`; nan and infinities are `nan`, `inf`, `-inf`; lists, structs and maps are
JSON in a text field.

JSON Lines: null, nan and infinities are `null`, because JSON has no other word for them.
"""

import base64
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

JSON_SLAB_ROWS = 4096
"""Rows turned into Python objects at a time: some MB, and at most some tens of ms without letting other
threads run."""


def write_jsonl(table: "pa.Table | pa.RecordBatch", file: BinaryIO) -> None:
    """One JSON object a row."""
    ready = _plain(_as_table(table))
    for start in range(0, ready.num_rows, JSON_SLAB_ROWS):
        rows = ready.slice(start, JSON_SLAB_ROWS).to_pylist()
        file.write(b"".join([_dumps(row) + b"\n" for row in rows]))


def write_csv(table: "pa.Table | pa.RecordBatch", file: BinaryIO, *, header: bool) -> None:
    """The rows, after a line of column names if `header`."""
    import pyarrow as pa
    from pyarrow import csv

    ready = _flat(_as_table(table))
    buffer = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=header, quoting_style="needed")
    csv.write_csv(ready, buffer, write_options=options)
    file.write(buffer.getvalue())


def _as_table(table: "pa.Table | pa.RecordBatch") -> "pa.Table":
    import pyarrow as pa

    return table if isinstance(table, pa.Table) else pa.Table.from_batches([table])


def _dumps(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value, default=_fallback)


def _fallback(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return list(value)
    return str(value)


def _plain(table: "pa.Table") -> "pa.Table":
    """The same rows in types that become JSON values by themselves."""
    import pyarrow as pa

    arrays = [column.cast(_plain_type(column.type)) for column in table.columns]
    return pa.Table.from_arrays(arrays, names=table.column_names)


def _plain_type(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_duration(kind):
        return pa.int64()
    if types.is_temporal(kind) or types.is_decimal(kind):
        return pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(each.name, _plain_type(each.type)) for each in kind])
    return kind


def _flat(table: "pa.Table") -> "pa.Table":
    """The same rows in types that fill one CSV field each."""
    import pyarrow as pa
    import pyarrow.types as types

    plain = _plain(table)
    arrays: list[Any] = []
    for given, column in zip(table.columns, plain.columns, strict=True):
        kind = given.type
        if types.is_nested(kind) or types.is_binary(column.type) or types.is_large_binary(column.type):
            texts = [None if value is None else _field(value) for value in column.to_pylist()]
            arrays.append(pa.array(texts, pa.string()))
        elif (types.is_temporal(kind) and not types.is_duration(kind)) or types.is_decimal(kind):
            arrays.append(given)  # the writer makes the same text of them, without quotes
        else:
            arrays.append(column)
    return pa.Table.from_arrays(arrays, names=table.column_names)


def _field(value: object) -> str:
    return str(_fallback(value)) if isinstance(value, bytes) else _dumps(value).decode()
