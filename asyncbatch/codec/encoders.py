"""Encoders whose rows become streams of bytes: CSV, JSON Lines, JSON envelopes, npy, raw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.arrow import Array, Text, bytes_of, numbers, single
from asyncbatch.codec.arrow import compute as pc
from asyncbatch.codec.blocks import Segment, Slab, StreamBlock
from asyncbatch.codec.cells import cells, concat, is_binary, is_list, is_text
from asyncbatch.codec.rows import RowForm, row_parts, row_texts, text_slab
from asyncbatch.codec.template import Template, Variable
from asyncbatch.errors import ConfigError

SLAB_BYTES = 2**20
"""About so much Arrow data becomes one slab: the unit in which answered bytes are freed."""
MAX_EXACT_INTEGER = 2**53

SlabEncoder = Callable[[list[Array]], list[Slab]]
"""Encodes the columns of some rows (at least one) into one slab a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEncoder:
    """An Encoder made of a function that encodes slabs and the segments that stand around them."""

    content_type: str
    encode_slab: SlabEncoder
    segments: tuple[Segment, ...]
    separator_bytes: int
    one_row: bool = False

    def encode(self, table: pa.Table) -> StreamBlock:
        """Encode all rows. Blocking: runs in a thread; holds the interpreter for some milliseconds at a time.

        Raises:
            ConfigError: a value that the body cannot carry exactly.
        """
        return StreamBlock(
            slabs=[self.encode_slab(columns) for columns in _cut(table)],
            segments=self.segments,
            separator_bytes=self.separator_bytes,
            one_row=self.one_row,
            content_type=self.content_type,
        )


def _cut(table: pa.Table) -> Iterator[list[Array]]:
    """The columns of one slab after the other, each as one contiguous array."""
    if not table.num_rows:
        return
    step = max(1, int(SLAB_BYTES * table.num_rows / max(bytes_of(table), 1)))
    for start in range(0, table.num_rows, step):
        yield [single(column) for column in table.slice(start, step).columns]


def csv_encoder(schema: pa.Schema, *, header: bool, content_type: str) -> StreamEncoder:
    names = schema.names
    segments: tuple[Segment, ...] = (0,)
    if header:
        data, _ = text_slab(cells(pa.array(names, pa.string()), "csv", ","))
        segments = (bytes(data)[:-1] + b"\n", 0)
    return StreamEncoder(
        content_type=content_type,
        encode_slab=lambda columns: [text_slab(row_texts(columns, names, "csv", "\n"))],
        segments=segments,
        separator_bytes=1,
    )


def jsonl_encoder(
    schema: pa.Schema, template: Template | None, *, form: RowForm, content_type: str
) -> StreamEncoder:
    """One JSON text a line: the row itself, or the template with the row as `$row`."""
    names = schema.names
    parts = [] if template is None else _line_parts(template, names)

    def encode_slab(columns: list[Array]) -> list[Slab]:
        if template is None:
            return [text_slab(row_texts(columns, names, form, "\n"))]
        texts: list[Text | str] = [parts[0]]
        for after in parts[1:]:
            texts += row_parts(columns, names, form, after)
        return [text_slab(concat(*texts))]

    return StreamEncoder(content_type=content_type, encode_slab=encode_slab, segments=(0,), separator_bytes=1)


def _line_parts(template: Template, names: list[str]) -> list[str]:
    """The literals before, between and after the rows of a line."""
    parts = [""]
    for segment in template.segments:
        part = _line_part(segment, names)
        if part is None:
            parts.append("")
        else:
            parts[-1] += part
    parts[-1] += "\n"
    return parts


def _line_part(segment: str | Variable, names: list[str]) -> str | None:
    """None stands for the row."""
    match segment:
        case Variable.ROW:
            return None
        case Variable.N:
            return "1"
        case Variable.COLUMNS:
            return orjson.dumps(names).decode()
        case Variable():
            raise ConfigError(
                f"{segment.value} cannot stand in a template with --body jsonl",
                hint="a line holds one row: use $row, or --body json for one envelope a request",
            )
        case _:
            return segment


def json_encoder(schema: pa.Schema, template: Template, *, form: RowForm, content_type: str) -> StreamEncoder:
    """One JSON envelope a request."""
    names = schema.names
    segments: list[Segment] = []
    for segment in template.segments:
        match segment:
            case Variable.ROWS:
                segments += [b"[", 0, b"]"]
            case Variable.ROW:
                segments.append(0)
            case Variable.N:
                segments.append(_decimal)
            case Variable.COLUMNS:
                segments.append(orjson.dumps(names))
            case Variable.COLUMNAR:
                segments += _tensors(schema)
            case _:
                segments.append(segment.encode())
    columnar = template.has(Variable.COLUMNAR)

    def encode_slab(columns: list[Array]) -> list[Slab]:
        if columnar:
            return [text_slab(cells(column, "json", ",")) for column in columns]
        return [text_slab(row_texts(columns, names, form, ","))]

    return StreamEncoder(
        content_type=content_type,
        encode_slab=encode_slab,
        segments=_merged(segments),
        separator_bytes=1,
        one_row=template.has(Variable.ROW),
    )


def _decimal(rows: int) -> bytes:
    return b"%d" % rows


def _merged(segments: list[Segment]) -> tuple[Segment, ...]:
    """Neighbouring literals joined: fewer pieces a request."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and isinstance(segment, bytes) and isinstance(merged[-1], bytes):
            merged[-1] += segment
        else:
            merged.append(segment)
    return tuple(merged)


_V2_TYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "halffloat": "FP16", "float": "FP32", "double": "FP64",
}  # fmt: skip


def _tensors(schema: pa.Schema) -> list[Segment]:
    """V2 inference protocol: a tensor a column. A fixed-size list is a second axis."""
    segments: list[Segment] = []
    for index, field in enumerate(schema):
        type_, axes = field.type, b""
        while pt.is_fixed_size_list(type_):
            axes += b",%d" % type_.list_size
            type_ = type_.value_type
        if is_list(type_):
            raise ConfigError(
                f"column {field.name!r} holds lists of varying length, which a V2 tensor cannot carry",
                hint="use a fixed-size list, or --template instances",
            )
        if pt.is_dictionary(type_):
            type_ = type_.value_type
        datatype = _V2_TYPES.get(str(type_), "BYTES")
        segments += [
            (b"," if index else b"[") + b'{"name":' + orjson.dumps(field.name) + b',"shape":[',
            _decimal,
            axes + b'],"datatype":"' + datatype.encode() + b'","data":[',
            index,
            b"]}",
        ]
    return [*segments, b"]"]


def raw_encoder(schema: pa.Schema, *, content_type: str | None) -> StreamEncoder:
    """The one column's value is the body; a null is an empty body.

    Raises:
        ConfigError: not exactly one binary or string column.
    """
    field = only_column(schema, "--body raw")
    if not (is_binary(field.type) or is_text(field.type)):
        raise ConfigError(
            f"column {field.name!r} of type {field.type} cannot be a raw body",
            hint="--body raw sends one binary or string column; choose it with --send",
        )
    default = "application/octet-stream" if is_binary(field.type) else "text/plain"

    def encode_slab(columns: list[Array]) -> list[Slab]:
        values = columns[0].cast(pa.large_binary()).fill_null(b"")
        empty = pa.scalar(b"", pa.large_binary())
        return [
            text_slab(pc.binary_join_element_wise(values, empty, empty))
        ]  # copied: the input may be dropped

    return StreamEncoder(
        content_type=content_type or default,
        encode_slab=encode_slab,
        segments=(0,),
        separator_bytes=0,
        one_row=True,
    )


def only_column(schema: pa.Schema, what: str) -> "pa.Field[Any]":
    if len(schema) != 1:
        raise ConfigError(
            f"{what} sends one column, and {len(schema)} are to be sent",
            hint="choose it, such as --send text",
        )
    return schema.field(0)


def npy_encoder(schema: pa.Schema, *, content_type: str) -> StreamEncoder:
    """A 2-D C-order array in npy format 1.0; a single fixed-size list column is its rows.

    The element type is fixed by the columns' types alone, never by their values.

    Raises:
        ConfigError: a column that is no number.
    """
    dtype, width = _npy_shape(schema)

    def encode_slab(columns: list[Array]) -> list[Slab]:
        matrix = _matrix(columns, schema, dtype, width)
        return [
            (
                matrix.reshape(-1).view(np.uint8).data,
                np.arange(len(matrix) + 1) * (width * dtype.itemsize),
            )
        ]

    return StreamEncoder(
        content_type=content_type,
        encode_slab=encode_slab,
        segments=(lambda rows: npy_header(rows, width, dtype), 0),
        separator_bytes=0,
    )


@lru_cache(maxsize=256)
def npy_header(rows: int, width: int, dtype: "np.dtype[Any]") -> bytes:
    """The header of a (rows, width) array, as `numpy.save` writes it."""
    buffer = BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _npy_shape(schema: pa.Schema) -> "tuple[np.dtype[Any], int]":
    fields = list(schema)
    if len(fields) == 1 and pt.is_fixed_size_list(fields[0].type):
        element, nullable, width = (
            fields[0].type.value_type,
            fields[0].type.value_field.nullable,
            fields[0].type.list_size,
        )
        fields = [pa.field(fields[0].name, element, nullable=nullable or fields[0].nullable)]
    else:
        width = len(fields)
    for field in fields:
        if not (
            pt.is_integer(field.type)
            or pt.is_floating(field.type)
            or pt.is_boolean(field.type)
            or pt.is_null(field.type)
        ):
            raise ConfigError(
                f"column {field.name!r} of type {field.type} cannot be sent as npy, which holds numbers only",
                hint="leave it out with --no-send, or use another --body",
            )
    kinds = {field.type for field in fields}
    exact = len(kinds) == 1 and not any(field.nullable for field in fields) and not pt.is_null(fields[0].type)
    if exact:
        return np.dtype(fields[0].type.to_pandas_dtype()), width
    narrow = kinds <= {pa.float32(), pa.float16()}
    return np.dtype(np.float32 if narrow else np.float64), width


_TILE_BYTES = 2**18
"""Columns become rows so much at a time: what is written again for each column stays in the core's cache."""
_LEAST_TILE_ROWS = 256


def _matrix(
    columns: list[Array], schema: pa.Schema, dtype: "np.dtype[Any]", width: int
) -> "np.ndarray[Any, Any]":
    rows = len(columns[0])
    if pt.is_fixed_size_list(schema.field(0).type):
        columns = [_list_values(columns[0], width)]
    filled = []
    for index, column in enumerate(columns):
        if dtype.kind == "f":
            _check_exact(column, schema.field(index).name)
            column = column.cast(pa.float64(), safe=False) if not pt.is_floating(column.type) else column
        elif column.null_count:
            raise ConfigError(
                f"column {schema.field(index).name!r} is declared without nulls but holds one",
                hint="use --body csv or json, which carry nulls",
            )
        filled.append(numbers(column))
    matrix = np.empty((len(columns[0]), len(columns)), dtype)
    rows_at_a_time = max(_LEAST_TILE_ROWS, _TILE_BYTES // (len(columns) * dtype.itemsize))
    for start in range(0, len(matrix), rows_at_a_time):
        tile = slice(start, start + rows_at_a_time)
        for index, values in enumerate(filled):
            matrix[tile, index] = values[tile]
    return matrix.reshape(rows, width)


def _list_values(lists: Array, width: int) -> Array:
    """All values of a fixed-size list column, null lists giving null values."""
    if not lists.null_count:
        return lists.flatten()
    values = lists.values.slice(lists.offset * width, len(lists) * width)
    present = np.repeat(numbers(lists.is_valid()), width)
    return pc.if_else(pa.array(present), values, None)


def _check_exact(column: Array, name: str) -> None:
    if column.type not in (pa.int64(), pa.uint64()):
        return
    bounds = pc.min_max(column).as_py()
    if bounds["min"] is not None and max(-bounds["min"], bounds["max"]) > MAX_EXACT_INTEGER:
        raise ConfigError(
            f"column {name!r} holds whole numbers beyond 2^53, which a float64 npy body would round",
            hint="use --body csv or arrow, or leave the column out with --no-send",
        )
