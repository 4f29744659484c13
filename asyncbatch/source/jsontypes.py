"""From JSON values to Arrow columns: inference over samples, and which value fits which type. Pure.

Types are taken as JSON has them: true/false is bool, whole numbers int64, other numbers float64, strings
string, arrays lists of one such type, objects structs of the keys sampled. Where a column holds several kinds
it is text: a sent column has its strings as they are and anything else as JSON; a column that is only kept
has JSON throughout, so nothing is lost. A string column always takes anything, as JSON where it is no string.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from asyncbatch.source.texttypes import convert


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonColumn:
    """How one column is read."""

    dtype: pa.DataType
    json_text: bool = False
    """Every value is written as JSON, strings too."""


def infer_column(values: Iterable[Any], *, sent: bool) -> JsonColumn:
    """The column that holds all sampled `values`; missing ones are None. All null is string."""
    dtype = _common(values)
    if dtype is None:
        return JsonColumn(dtype=pa.string(), json_text=not sent)
    return JsonColumn(dtype=pa.string() if pa.types.is_null(dtype) else dtype)


def _common(values: Iterable[Any]) -> pa.DataType | None:
    """The one type of `values`, null when all are None; None when there is no one type."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if not kinds:
        return pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return pa.int64()
    if kinds <= {int, float} and (float in kinds):
        return pa.float64()
    if kinds == {str}:
        return pa.string()
    if kinds == {list}:
        element = _common(each for value in present for each in value)
        return None if element is None else pa.list_(_not_null(element))
    if kinds == {dict}:
        names = dict.fromkeys(name for value in present for name in value)
        members = {name: _common(value.get(name) for value in present) for name in names}
        if not members or None in members.values():
            return None
        return pa.struct(
            [(name, _not_null(member)) for name, member in members.items() if member is not None]
        )
    return None


def _not_null(dtype: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(dtype) else dtype


def fits(value: Any, dtype: pa.DataType) -> bool:
    """Whether a JSON value reads as `dtype` without loss; null reads as anything."""
    if value is None:
        return True
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        return isinstance(value, str)
    if pa.types.is_boolean(dtype):
        return isinstance(value, bool)
    if pa.types.is_integer(dtype):
        low, high = _integer_range(dtype)
        return type(value) is int and low <= value <= high
    if pa.types.is_floating(dtype):
        return type(value) in (int, float)
    if pa.types.is_list(dtype):
        return isinstance(value, list) and all(fits(each, dtype.value_type) for each in value)
    if pa.types.is_struct(dtype):
        members = {dtype.field(number).name: dtype.field(number).type for number in range(dtype.num_fields)}
        return isinstance(value, dict) and all(
            name in members and fits(each, members[name]) for name, each in value.items()
        )
    return False


def _integer_range(dtype: pa.DataType) -> tuple[int, int]:
    bits = dtype.bit_width
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(dtype) else (0, 2**bits - 1)
    )


def build(values: list[Any], column: JsonColumn) -> tuple["pa.Array[Any]", list[int]]:
    """The Arrow column of `values`; positions of values that do not fit are null, and listed ascending."""
    dtype = column.dtype
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        return pa.array([_text(value, column) for value in values], dtype), []
    if pa.types.is_timestamp(dtype) or pa.types.is_date(dtype) or pa.types.is_decimal(dtype):
        failed = [
            position
            for position, value in enumerate(values)
            if value is not None and not isinstance(value, str)
        ]
        texts = [value if isinstance(value, str) else None for value in values]
        array, unread = convert(pa.array(texts, pa.string()), dtype)
        return array, sorted({*failed, *unread})
    failed = [position for position, value in enumerate(values) if not fits(value, dtype)]
    for position in failed:
        values[position] = None
    if pa.types.is_floating(dtype):
        values = [value if value is None else float(value) for value in values]
    return pa.array(values, dtype), failed


def _text(value: Any, column: JsonColumn) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and not column.json_text:
        return value
    return orjson.dumps(value).decode()


def direct(columns: Mapping[str, JsonColumn]) -> bool:
    """Whether pyarrow reads these columns exactly as `build` does."""
    return all(not column.json_text and _plain(column.dtype) for column in columns.values())


def _plain(dtype: pa.DataType) -> bool:
    if pa.types.is_list(dtype):
        return _plain(dtype.value_type)
    return dtype in (pa.int64(), pa.float64(), pa.bool_(), pa.string())
