"""From text to typed values: inference over samples, conversion with its rejects, the names of `--types`.

A null is an empty field, or in a column that is not text one of `NULL_SPELLINGS`. Numbers may have blanks
around them. Whole numbers are int64; `NaN`, `inf` and their like are float64 values, not nulls. Numbers with
leading zeros (`00123`), a plus sign, or more digits than int64 holds are text when inferred: they are names
of things. Once a column is int64, `007` in a row that was not sampled is the number 7.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asyncbatch.errors import InputError

Text: TypeAlias = "pa.Array[pa.StringScalar] | pa.ChunkedArray[pa.StringScalar]"

NULL_SPELLINGS = ("", "NA", "N/A", "#N/A", "NULL", "null", "None", "\\N")
TRUE_SPELLINGS = ("true", "True", "TRUE")
FALSE_SPELLINGS = ("false", "False", "FALSE")
"""`--types a=bool` takes 1 and 0 too."""

_PATTERNS = (
    ("integer", r"^[ \t]*-?(0|[1-9][0-9]*)[ \t]*$"),
    ("float", r"^[ \t]*-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*$"),
    ("float", r"^[ \t]*[+-]?(?i:nan|inf|infinity)[ \t]*$"),
    ("bool", "^(" + "|".join((*TRUE_SPELLINGS, *FALSE_SPELLINGS)) + ")$"),
)
_BLANKS = " \t"


def infer_type(samples: Iterable[Text]) -> pa.DataType:
    """The narrowest of int64, float64, bool and string that reads every sample; string if all are null."""
    kinds: set[str] = set()
    for values in samples:
        kinds |= _kinds(pc.unique(values))
        if "string" in kinds:
            return pa.string()
    if kinds == {"integer"}:
        return pa.int64()
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"huge"} or kinds == {"huge", "integer"} or not kinds or "bool" in kinds:
        return pa.string()
    return pa.float64()


def _kinds(values: Text) -> set[str]:
    """What the distinct values look like; stops at the first text."""
    null = pc.is_in(values, value_set=pa.array([*NULL_SPELLINGS, None], pa.string()))
    values = values.filter(pc.invert(null))
    found: set[str] = set()
    for kind, pattern in _PATTERNS:
        matching = pc.match_substring_regex(values, pattern)
        if pc.any(matching).as_py():
            found |= _integer_kinds(values.filter(matching)) if kind == "integer" else {kind}
            values = values.filter(pc.invert(matching))
    if len(values):
        found.add("string")
    return found


def _integer_kinds(values: Text) -> set[str]:
    """Whether whole numbers fit int64, do not (`huge`), or some do."""
    _, failed = convert(values, pa.int64())
    kinds = {"huge"} if failed else set()
    return kinds | {"integer"} if len(failed) < len(values) else kinds


def convert(values: Text, dtype: pa.DataType) -> tuple["pa.Array[pa.Scalar[pa.DataType]]", list[int]]:
    """Text as `dtype`; the positions of values that are no such thing are null, and listed ascending."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_string(dtype):
        return array, []
    if pa.types.is_large_string(dtype):
        return array.cast(dtype), []
    array = pc.utf8_trim(array, characters=_BLANKS)
    null = pc.is_in(array, value_set=pa.array(NULL_SPELLINGS))
    array = pc.if_else(null, pa.scalar(None, pa.string()), array)
    if pa.types.is_boolean(dtype):
        true = pc.is_in(array, value_set=pa.array([*TRUE_SPELLINGS, "1"]))
        false = pc.is_in(array, value_set=pa.array([*FALSE_SPELLINGS, "0"]))
        known = pc.or_(true, false)
        failed: Any = pc.and_not(pc.is_valid(array), known)
        positions = np.flatnonzero(failed.to_numpy(zero_copy_only=False)).tolist()
        return pc.if_else(known, true, pa.scalar(None, pa.bool_())), positions
    return _cast(array, dtype)


def _cast(
    array: "pa.Array[pa.StringScalar]", dtype: pa.DataType
) -> tuple["pa.Array[pa.Scalar[pa.DataType]]", list[int]]:
    """Cast; on failure halve, until what cannot be cast stands alone."""
    try:
        return array.cast(dtype), []
    except pa.ArrowInvalid:
        if len(array) == 1:
            return cast(Any, pa.nulls)(1, dtype), [0]
    middle = len(array) // 2
    low, low_failed = _cast(array[:middle], dtype)
    high, high_failed = _cast(array[middle:], dtype)
    return pa.concat_arrays([low, high]), low_failed + [middle + each for each in high_failed]


def parse_type(name: str, *, column: str) -> pa.DataType:
    """An Arrow type by its name: `int64`, `float64`, `timestamp[us, UTC]`, `decimal128(12, 2)` …

    Raises:
        InputError: no such type, or one that text cannot be read as; the hint names the nearest.
    """
    text = name.strip()
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([A-Za-z0-9_+:/\-]+)\]", text):
        return pa.timestamp(cast("Literal['us']", match[1]), tz=match[2])
    if match := re.fullmatch(r"decimal(?:128)?\((\d{1,2}),\s*(\d{1,2})\)", text):
        try:
            return pa.decimal128(int(match[1]), int(match[2]))
        except ValueError as error:
            raise InputError(
                f"--types {column}={name}: no such decimal", hint="precision is 1 to 38"
            ) from error
    try:
        found: pa.DataType | None = _type_for_alias(_ALIASES.get(text, text))
    except ValueError:
        found = None
    if found is None or not _readable(found):
        near = difflib.get_close_matches(text.lower(), TYPE_NAMES, n=1)
        raise InputError(
            f"--types {column}={name}: {name!r} is not a type that text can be read as",
            hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(TYPE_NAMES)}",
        )
    return found


_NUMBERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "float64", "float32")
_OTHERS = (
    "bool",
    "string",
    "large_string",
    "date32",
    "timestamp[us]",
    "timestamp[us, UTC]",
    "decimal128(12, 2)",
)
TYPE_NAMES = _NUMBERS + _OTHERS
_type_for_alias: Callable[[str], pa.DataType] = cast(Any, pa.type_for_alias)  # the stubs list literals only
_ALIASES = {"int": "int64", "integer": "int64", "long": "int64", "text": "string"}


def _readable(dtype: pa.DataType) -> bool:
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_date,
        pa.types.is_timestamp,
    )
    return any(kind(dtype) for kind in kinds)


def type_name(dtype: pa.DataType) -> str:
    """The name of a type as `--types` takes it."""
    return {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(dtype), str(dtype))


def given_types(types: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, pa.DataType]:
    """`--types` by column.

    Raises:
        InputError: a column that is not in the input, one given twice, or an unknown type.
    """
    from asyncbatch.source.columns import nearest

    found: dict[str, pa.DataType] = {}
    for column, name in types:
        if column not in names:
            raise InputError(f"column {column!r} in --types is not in the input", hint=nearest(column, names))
        if column in found:
            raise InputError(f"column {column!r} is given twice in --types", hint="name each column once")
        found[column] = parse_type(name, column=column)
    return found
