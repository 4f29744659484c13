"""How one value is written as text: the dialect of CSV and JSON bodies, defined here and nowhere else.

A *cell* is one value's text followed by one `end` byte, so that cells of a column lie one after the other in
one buffer and rows are joined without a separator argument. Numbers are written by orjson from one flat
array (0.02 to 0.07 µs a number; it holds the GIL, so some at a time), all else by Arrow's kernels, which do
not hold it.

| value | CSV | JSON |
|---|---|---|
| null | empty | `null` |
| NaN, inf, -inf | `nan`, `inf`, `-inf` | `null` (JSON has none) |
| boolean | `1`, `0` (numeric containers read `true` as NaN without a word) | `true`, `false` |
| float | shortest digits that read back to the same float, always with `.0` or an exponent | the same |
| date, time, timestamp | ISO 8601, in UTC with `Z` where a zone is known | the same, a JSON string |
| string | quoted only when needed; the empty string is `""` | JSON string |
| decimal | digits | digits, a JSON number |
| binary | base64 | base64 string |
"""

import base64
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.arrow import Array, DataType, Text, large_text, numbers, view
from asyncbatch.codec.arrow import compute as pc
from asyncbatch.errors import ConfigError

Style = Literal["csv", "json"]

NUMBERS_AT_A_TIME = 32_768
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_COMMA = 0x2C
_NULL_WORD = {"csv": "", "json": "null"}
_CSV_SPECIAL = '[",\\n\\r]'
_JSON_SPECIAL = '["\\\\\\x00-\\x1f]'


def check_column(field: "pa.Field[Any]", style: Style) -> None:
    """Refuse a column that the dialect cannot write.

    Raises:
        ConfigError: naming the column, its type and what to do.
    """
    if _writable(field.type, style):
        return
    nested = pt.is_nested(field.type)
    raise ConfigError(
        f"column {field.name!r} of type {field.type} cannot be written in a {style.upper()} body",
        hint="use --body json or jsonl, or leave the column out with --no-send"
        if nested and style == "csv"
        else "leave the column out with --no-send, or convert it to a number or text first",
    )


def _writable(type_: DataType, style: Style) -> bool:
    if pt.is_dictionary(type_):
        return _writable(type_.value_type, style)
    if isinstance(type_, pa.BaseExtensionType):
        return _writable(type_.storage_type, style)
    if is_list(type_):
        return style == "json" and _writable(type_.value_type, style)
    if pt.is_struct(type_):
        return style == "json" and all(_writable(each.type, style) for each in type_)
    return (
        pt.is_integer(type_)
        or pt.is_floating(type_)
        or pt.is_boolean(type_)
        or pt.is_null(type_)
        or is_text(type_)
        or is_binary(type_)
        or (pt.is_temporal(type_) and not (pt.is_duration(type_) or pt.is_interval(type_)))
        or pt.is_decimal(type_)
    )


def is_list(type_: "pa.DataType") -> bool:
    return pt.is_list(type_) or pt.is_large_list(type_) or pt.is_fixed_size_list(type_)


def is_text(type_: "pa.DataType") -> bool:
    return pt.is_string(type_) or pt.is_large_string(type_) or pt.is_string_view(type_)


def is_binary(type_: "pa.DataType") -> bool:
    return (
        pt.is_binary(type_)
        or pt.is_large_binary(type_)
        or pt.is_fixed_size_binary(type_)
        or pt.is_binary_view(type_)
    )


def dense_dtype(array: Array, style: Style) -> "np.dtype[Any] | None":
    """The numpy type in which this array can join a matrix of numbers, or None. Floats may hold nulls."""
    type_ = array.type
    if pt.is_floating(type_):
        return np.dtype(np.float64 if pt.is_float64(type_) else np.float32)
    if array.null_count:
        return None
    if pt.is_integer(type_):
        return np.dtype(type_.to_pandas_dtype())
    if pt.is_boolean(type_):
        return np.dtype(np.uint8 if style == "csv" else np.bool_)
    return None


def number_rows(columns: list[Array], dtype: "np.dtype[Any]", style: Style, end: str) -> Text:
    """Rows of numbers: the columns' cells separated by commas, each row ended by `end`.

    All columns must have `dense_dtype(...) == dtype` and be equally long, with at least one row.
    """
    if len(columns) == 1:
        flat = _numpy(columns[0], dtype)
    else:
        matrix = np.empty((len(columns[0]), len(columns)), dtype)
        for index, column in enumerate(columns):
            matrix[:, index] = _numpy(column, dtype)
        flat = matrix.reshape(-1)
    text = _dumped(flat)
    if style == "csv" and dtype.kind == "f" and not np.isfinite(flat).all():
        text = _with_missing_numbers(text, flat, columns)
    buffer = np.frombuffer(text, np.uint8)[
        1:
    ].copy()  # without `[`; the last byte, `]`, becomes the last row's end
    row_ends = np.flatnonzero(buffer == _COMMA)[len(columns) - 1 :: len(columns)]
    offsets = np.empty(len(columns[0]) + 1, np.int64)
    offsets[0], offsets[-1] = 0, len(buffer)
    offsets[1:-1] = row_ends + 1
    buffer[offsets[1:] - 1] = ord(end)
    return large_text(offsets, buffer)


def _dumped(flat: "np.ndarray[Any, Any]") -> bytes:
    """A JSON list of numbers, some at a time: orjson holds the interpreter for 0.7 to 2.5 ms each."""
    starts = range(0, len(flat), NUMBERS_AT_A_TIME)
    pieces = [orjson.dumps(flat[start : start + NUMBERS_AT_A_TIME], option=_NUMPY) for start in starts]
    return pieces[0] if len(pieces) == 1 else b"[" + b",".join(piece[1:-1] for piece in pieces) + b"]"


def cells(array: Array, style: Style, end: str) -> Text:
    """One cell a value, each ended by `end`. At least one value."""
    array = _plain(array)
    dtype = dense_dtype(array, style)
    if dtype is not None:
        return number_rows([array], dtype, style, end)
    if is_list(array.type):
        return _list_cells(array, end)
    if pt.is_struct(array.type):
        return _struct_cells(array, end)
    return concat(_words(array, style), end)


def concat(*parts: Text | str) -> Text:
    """Element-wise concatenation of arrays and literals."""
    large = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts]
    joined: Text = pc.binary_join_element_wise(*large, pa.scalar("", pa.large_string()))
    return joined


def _plain(array: Array) -> Array:
    """Without extension, view and large dictionary types; a small dictionary is kept for `_words`."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        small = len(array.dictionary) <= len(array) and not pt.is_nested(array.type.value_type)
        if not small or _is_number(array.type.value_type):
            array = array.dictionary_decode()
    if pt.is_string_view(array.type):
        return array.cast(pa.large_string())
    if pt.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array


def _is_number(type_: "pa.DataType") -> bool:
    return pt.is_integer(type_) or pt.is_floating(type_) or pt.is_boolean(type_)


def _numpy(array: Array, dtype: "np.dtype[Any]") -> "np.ndarray[Any, Any]":
    return numbers(array).astype(dtype, copy=False)


def _with_missing_numbers(text: bytes, flat: "np.ndarray[Any, Any]", columns: list[Array]) -> bytes:
    """orjson writes `null` for NaN, inf and nulls alike; CSV tells them apart."""
    missing = ~np.isfinite(flat)
    values = flat[missing]
    words = np.where(np.isnan(values), b"nan", np.where(values > 0, b"inf", b"-inf")).astype(object)
    if any(column.null_count for column in columns):
        nulls = np.stack([numbers(column.is_null()) for column in columns], axis=1)
        words[nulls.reshape(-1)[missing]] = b""
    if (words == words[0]).all():
        return text.replace(b"null", words[0])
    pieces = text.split(b"null")
    merged: list[bytes] = [b""] * (2 * len(pieces) - 1)
    merged[0::2] = pieces
    merged[1::2] = words.tolist()
    return b"".join(merged)


def _words(array: Array, style: Style) -> Text:
    """Values as text without an end; nulls as the dialect writes them."""
    type_ = array.type
    if isinstance(array, pa.DictionaryArray):
        if not len(array.dictionary):
            return pa.array([_NULL_WORD[style]] * len(array), pa.large_string())
        return _filled(_words(array.dictionary, style).take(array.indices), style)
    if pt.is_null(type_):
        return pa.array([_NULL_WORD[style]] * len(array), pa.large_string())
    if pt.is_boolean(type_):
        yes, no = ("1", "0") if style == "csv" else ("true", "false")
        return _filled(pc.if_else(array, yes, no).cast(pa.large_string()), style)
    if pt.is_integer(type_) or pt.is_decimal(type_):
        return _filled(array.cast(pa.large_string()), style)
    if is_text(type_):
        text = array.cast(pa.large_string())
        return _csv_strings(text) if style == "csv" else _json_strings(text)
    if is_binary(type_):
        words = [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]
        encoded = pa.array(words, pa.large_string())
        return _csv_strings(encoded) if style == "csv" else _quoted(encoded, style)
    return _quoted(_times(array), style)


def _times(array: Array) -> Text:
    type_ = array.type
    if not pt.is_timestamp(type_):
        return array.cast(pa.large_string())
    local = array.cast(pa.timestamp(type_.unit)).cast(pa.large_string())
    text: Text = pc.replace_substring(local, " ", "T", max_replacements=1)
    return concat(text, "Z") if type_.tz is not None else text


def _filled(text: Text, style: Style) -> Text:
    return text.fill_null(_NULL_WORD[style]) if text.null_count else text


def _quoted(text: Text, style: Style) -> Text:
    """Text that never needs escaping."""
    return _filled(text if style == "csv" else concat('"', text, '"'), style)


def _csv_strings(text: Text) -> Text:
    """RFC 4180: quoted if it holds a comma, quote or line break. The empty string is `""`, null nothing."""
    special = pc.or_(pc.match_substring_regex(text, _CSV_SPECIAL), pc.equal(text, ""))
    if pc.any(special).as_py():
        text = pc.if_else(special, concat('"', pc.replace_substring(text, '"', '""'), '"'), text)
    return _filled(text, "csv")


def _json_strings(text: Text) -> Text:
    special = pc.match_substring_regex(text, _JSON_SPECIAL).fill_null(False)
    quoted = concat('"', text, '"')
    if pc.any(special).as_py():
        escaped = [orjson.dumps(value).decode() for value in text.filter(special).to_pylist()]
        quoted = pc.replace_with_mask(quoted, special, pa.array(escaped, pa.large_string()))
    return _filled(quoted, "json")


def _list_cells(array: Array, end: str) -> Text:
    """`[a,b]`: the values' cells lie in a row, so a list is a range of them with its last comma changed."""
    lengths = numbers(pc.list_value_length(array).fill_null(0))
    bounds = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    values = array.flatten()  # leaves out what lies under null lists
    if not len(values):
        text = pa.array(["]"] * len(array), pa.large_string())
    else:
        joined = cells(values, "json", ",")
        starts = view(joined.buffers()[1], np.int64)
        data = view(joined.buffers()[2], np.uint8).copy()
        offsets = starts[bounds]
        data[offsets[1:][lengths > 0] - 1] = ord("]")
        text = large_text(offsets, data)
        if not lengths.all():
            text = pc.if_else(pa.array(lengths == 0), "]", text)
    text = concat("[", text, end)
    return pc.if_else(array.is_null(), "null" + end, text) if array.null_count else text


def _struct_cells(array: Array, end: str) -> Text:
    names = [field.name for field in array.type]
    if not names:
        text = pa.array(["{}" + end] * len(array), pa.large_string())
    else:
        text = concat(*object_parts(array.flatten(), names), end)
    return pc.if_else(array.is_null(), "null" + end, text) if array.null_count else text


def object_parts(columns: list[Array], names: list[str]) -> list[Text | str]:
    """The parts whose concatenation is a JSON object a row."""
    parts: list[Text | str] = []
    for index, (column, name) in enumerate(zip(columns, names, strict=True)):
        parts.append(("{" if index == 0 else "") + orjson.dumps(name).decode() + ":")
        parts.append(cells(column, "json", "}" if index == len(names) - 1 else ","))
    return parts
