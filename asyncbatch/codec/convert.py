"""Decoded values to Arrow arrays of the layout's type. Strict: another type is noticed, not converted."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.arrow import Array, single
from asyncbatch.codec.arrow import compute as pc
from asyncbatch.codec.kinds import (
    MAX_EXACT_INTEGER,
    Kind,
    KindConflictError,
    describe,
    kind_of,
    kind_of_array,
    merge,
)
from asyncbatch.codec.layout import LayoutField

_NULLS = frozenset({"", "null", "none", "na", "n/a"})


class TypeMismatchError(Exception):
    """A well-formed value of another type; the message says what was expected and found, and in which row."""


def to_array(column: Any, field: LayoutField, *, explicit: bool, booleans: bool = True) -> Array:
    """A column as an Arrow array of the field's type.

    Args:
        column: list, numpy array or Arrow data.
        explicit: the user named the type, so numbers may become text and text numbers.
        booleans: whether a list may hold some; if not, looking at each value is left out for numbers.

    Raises:
        TypeMismatchError: a value that is not of the type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = single(column)
    if isinstance(column, pa.Array):
        array = _from_arrow(column, field, explicit=explicit)
    elif isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        array = _from_numpy(column, field, explicit=explicit)
    else:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        array = _from_list(values, field, explicit=explicit, booleans=booleans)
    _check_width(array, field)
    return array


def text_number(cell: str) -> float | None:
    """A CSV cell as a number; blank, `null`, `None`, `NA` are null.

    Raises:
        ValueError: it is neither, or a whole number that float64 would round.
    """
    if "_" in cell:
        raise ValueError("not a number")  # Python would take 1_000
    word = cell.strip().lower()
    if word in _NULLS:
        return None
    number = float(word)
    if abs(number) > MAX_EXACT_INTEGER and word.lstrip("+-").isdigit() and int(word) != number:
        raise ValueError("not exact in float64")
    return number


def convert_cells(cells: Sequence[str], field: LayoutField) -> Array:
    """Text cells as the field's scalar type; blank cells are null.

    Raises:
        TypeMismatchError: a cell that is not of the type.
    """
    type_ = field.type
    if pt.is_string(type_) or pt.is_large_string(type_):
        return pa.array([cell if cell != "" else None for cell in cells], type_)
    convert: Callable[[str], Any]
    if pt.is_integer(type_):
        convert = _text_integer
    elif pt.is_boolean(type_):
        convert = _text_boolean
    elif pt.is_floating(type_):
        convert = text_number
    else:
        return _cast_text([cell or None for cell in cells], field)
    values = []
    for row, cell in enumerate(cells):
        try:
            values.append(convert(cell))
        except ValueError as error:
            raise _mismatch(field, "text", row, len(cells)) from error
    return _built(values, field)


def _text_integer(cell: str) -> int | None:
    try:
        return None if cell.strip().lower() in _NULLS else int(cell)
    except ValueError:
        number = text_number(cell)
        if number is None or not number.is_integer() or abs(number) > MAX_EXACT_INTEGER:
            raise ValueError("not a whole number") from None
        return int(number)


def _text_boolean(cell: str) -> bool | None:
    word = cell.strip().lower()
    if word in _NULLS:
        return None
    if word in ("true", "1", "1.0", "false", "0", "0.0"):
        return word in ("true", "1", "1.0")
    raise ValueError("not a boolean")


def _from_list(values: list[Any], field: LayoutField, *, explicit: bool, booleans: bool) -> Array:
    leaf, depth = field.type, 0
    while pt.is_list(leaf):
        leaf, depth = leaf.value_type, depth + 1
    if pt.is_struct(leaf):
        return _checked_list(values, field)
    if not booleans and not explicit and pt.is_floating(leaf):
        return _built(values, field)  # pyarrow takes true for 1, and refuses all else that is no number
    flat = values
    for _ in range(depth):
        flat = _flattened(flat, field)
    types = set(map(type, flat))
    types.discard(type(None))
    if pt.is_floating(leaf) and types <= {int, float}:
        return _built(values, field)
    if types <= {str} if pt.is_string(leaf) else pt.is_boolean(leaf) and types <= {bool}:
        return _built(values, field)
    if not explicit:
        return _checked_list(values, field)
    if depth:
        return _rewrapped(values, flat, field, leaf)
    return _explicit_scalars(values, field, types)


def _flattened(values: list[Any], field: LayoutField) -> list[Any]:
    try:
        return list(
            chain.from_iterable(
                value if value is not None else () for value in values if not isinstance(value, str)
            )
        )
    except TypeError:
        raise _first_mismatch(values, field) from None


def _rewrapped(values: list[Any], flat: list[Any], field: LayoutField, leaf: pa.DataType) -> Array:
    """Lists whose items need converting: convert them in one go, then put the lists around again."""
    if not pt.is_list(field.type) or pt.is_list(field.type.value_type):
        return _checked_list(values, field)
    if any(value is not None and not isinstance(value, (list, tuple)) for value in values):
        raise _first_mismatch(values, field)
    types = set(map(type, flat))
    types.discard(type(None))
    items = _explicit_scalars(flat, LayoutField(name=field.name, type=leaf), types)
    bounds = np.cumsum([0, *(len(value) if value is not None else 0 for value in values)])
    offsets = pa.array(bounds, pa.int32(), mask=np.array([*(value is None for value in values), False]))
    return pa.ListArray.from_arrays(offsets, items)


def _explicit_scalars(values: list[Any], field: LayoutField, types: set[type]) -> Array:
    type_ = field.type
    if list in types or dict in types or tuple in types:
        raise _first_mismatch(values, field)
    if pt.is_string(type_):
        return pa.array([_json_text(value) for value in values], type_)
    if types == {str}:
        return convert_cells(["" if value is None else value for value in values], field)
    if str in types:
        raise _first_mismatch(values, field)
    if pt.is_boolean(type_):
        if not set(values) <= {0, 1, None}:
            raise _first_mismatch(values, field)
        return pa.array([None if value is None else bool(value) for value in values], type_)
    if bool in types and not pt.is_integer(type_) and not pt.is_floating(type_):
        raise _first_mismatch(values, field)
    if pt.is_integer(type_) and float in types:
        for row, value in enumerate(values):
            if isinstance(value, float) and not value.is_integer():
                raise _mismatch(field, "a number that is not whole", row, len(values))
        values = [None if value is None else int(value) for value in values]
    return _built(values, field)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return str(value)


def _checked_list(values: list[Any], field: LayoutField) -> Array:
    """Nested values: pyarrow takes true for 1 and drops unknown keys, so kinds are compared first."""
    expected = kind_of_type(field.type)
    for row, value in enumerate(values):
        try:
            merge_into(expected, kind_of(value))
        except KindConflictError:
            raise _mismatch(field, describe_value(value), row, len(values)) from None
    return _built(values, field)


def merge_into(expected: Kind, found: Kind) -> None:
    """Whether a value of kind `found` may stand where `expected` is; unknown object keys may, and are left
    out.

    Raises:
        KindConflictError: it may not.
    """
    if expected.name == "object" and found.name == "object":
        if found.members and not expected.members.keys() & found.members.keys():
            raise KindConflictError("an object with other keys")
        for key, kind in expected.members.items():
            merge_into(kind, found.members.get(key, Kind(name="null")))
    elif expected.name == "list" and found.name == "list":
        assert expected.item is not None
        assert found.item is not None
        merge_into(expected.item, found.item)
    elif merge(expected, found).name != expected.name:
        raise KindConflictError(describe(found))


def kind_of_type(type_: pa.DataType) -> Kind:
    """The kind that values of an Arrow type are decoded from."""
    if pt.is_list(type_):
        return Kind(name="list", item=kind_of_type(type_.value_type))
    if pt.is_struct(type_):
        return Kind(name="object", members={each.name: kind_of_type(each.type) for each in type_})
    if pt.is_boolean(type_):
        return Kind(name="bool")
    if pt.is_string(type_) or pt.is_large_string(type_):
        return Kind(name="text")
    return Kind(name="number")


def _from_numpy(array: "np.ndarray[Any, Any]", field: LayoutField, *, explicit: bool) -> Array:
    leaf, depth = field.type, 0
    while pt.is_list(leaf):
        leaf, depth = leaf.value_type, depth + 1
    expected = kind_of_type(leaf).name
    found = kind_of_array(array[:0].reshape(-1)).item
    assert found is not None
    if array.ndim != depth + 1 or (found.name != expected and not explicit):
        raise _mismatch(field, describe(kind_of_array(array[0]) if array.ndim > 1 else found), 0, len(array))
    flat = array.reshape(-1)
    if explicit:
        values = _from_arrow(pa.array(flat), LayoutField(name=field.name, type=leaf), explicit=True)
    elif array.dtype.kind in "iu":
        if kind_of_array(flat).item == Kind(name="big"):
            raise _mismatch(field, "a whole number beyond 2^53", 0, len(array))
        values = pa.array(flat.astype(np.float64))
    else:
        values = pa.array(np.ascontiguousarray(flat, np.float64) if array.dtype.kind == "f" else flat)
    for length, count in zip(array.shape[:0:-1], _counts(array.shape), strict=True):
        values = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * length), values)
    return values


def _counts(shape: tuple[int, ...]) -> list[int]:
    """How many lists there are on each level, the innermost first."""
    return [int(np.prod(shape[:axis], dtype=np.int64)) for axis in range(len(shape) - 1, 0, -1)]


def _from_arrow(array: Array, field: LayoutField, *, explicit: bool) -> Array:
    if array.type == field.type:
        return array
    if not explicit and not pt.is_null(array.type):
        raise _mismatch(field, str(array.type), 0, len(array))
    try:
        return array.cast(field.type, safe=not pt.is_floating(field.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _mismatch(field, str(array.type), 0, len(array)) from error


def _built(values: list[Any], field: LayoutField) -> Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        raise _first_mismatch(values, field) from None


def _cast_text(cells: list[str | None], field: LayoutField) -> Array:
    try:
        return pa.array(cells, pa.string()).cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _mismatch(field, "text of another form", 0, len(cells)) from error


def _check_width(array: Array, field: LayoutField) -> None:
    if field.width is None or not pt.is_list(array.type):
        return
    lengths = pc.list_value_length(array)
    if pc.all(pc.equal(lengths, field.width)).as_py() is False:
        row = pc.index(pc.not_equal(lengths, field.width), True).as_py()
        raise _mismatch(field, f"a list of {lengths[row].as_py()}", row, len(array))


def _first_mismatch(values: list[Any], field: LayoutField) -> TypeMismatchError:
    expected = kind_of_type(field.type)
    for row, value in enumerate(values):
        try:
            merge_into(expected, kind_of(value))
        except KindConflictError:
            return _mismatch(field, describe_value(value), row, len(values))
    return _mismatch(field, "values out of its range", 0, len(values))


def describe_value(value: Any) -> str:
    """The kind of a value in words; never the value."""
    try:
        return describe(kind_of(value))
    except KindConflictError as error:
        return f"a list that mixes {error}"


def _mismatch(field: LayoutField, found: str, row: int, rows: int) -> TypeMismatchError:
    kind = kind_of_type(field.type)
    wanted = describe(kind)
    if field.width is not None:
        wanted = f"a list of {field.width}"
    elif kind.name == "number" and not pt.is_floating(field.type):
        wanted = str(field.type)
    return TypeMismatchError(
        f"expected {wanted} for {field.name!r}, found {found} in row {row + 1} of {rows}"
    )
