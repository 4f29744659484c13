"""What values look like, learned from examples: the type of a prediction before it is an Arrow type."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.arrow import arrow
from asyncbatch.errors import ConfigError

MAX_EXACT_INTEGER = 2**53

Name = Literal["null", "bool", "number", "big", "text", "list", "object", "arrow", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The kind of a value or of many values. `big` is a whole number that float64 would round."""

    name: Name
    item: "Kind | None" = None
    """Of a list's items."""
    width: int | None = None
    """The common length of the lists, None when they differ."""
    members: "dict[str, Kind]" = field(default_factory=dict)
    """Of an object, in order of appearance."""
    arrow: pa.DataType | None = None
    """The type of Arrow data, which is kept as it is."""


NULL, BOOL, NUMBER, TEXT = Kind(name="null"), Kind(name="bool"), Kind(name="number"), Kind(name="text")
_WORDS = {
    "null": "null",
    "bool": "true or false",
    "number": "a number",
    "big": "a whole number beyond 2^53",
    "text": "text",
    "object": "an object",
    "other": "an unknown kind of value",
}


class KindConflictError(Exception):
    """Two kinds that no common type holds; the message says which."""


def describe(kind: Kind) -> str:
    """For messages: `a list of 3 numbers`, never any value."""
    if kind.name == "arrow":
        return str(kind.arrow)
    if kind.name == "list":
        item = describe(kind.item) if kind.item is not None else "nothing"
        plural = {"a number": "numbers", "text": "texts", "an object": "objects"}.get(item, item)
        return f"a list of {kind.width} {plural}" if kind.width is not None else f"a list of {plural}"
    return _WORDS[kind.name]


def kind_of(value: Any) -> Kind:
    """The kind of one decoded value."""
    if value is None:
        return NULL
    if isinstance(value, (bool, np.bool_)):
        return BOOL
    if isinstance(value, (int, np.integer)):
        return NUMBER if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER else Kind(name="big")
    if isinstance(value, (float, np.floating)):
        return NUMBER
    if isinstance(value, str):
        return TEXT
    if isinstance(value, np.ndarray):
        return kind_of_array(value) if value.ndim else kind_of(value.item())
    if isinstance(value, (list, tuple)):
        return Kind(name="list", item=common_kind(value), width=len(value))
    if isinstance(value, dict):
        return Kind(name="object", members={str(key): kind_of(each) for key, each in value.items()})
    return Kind(name="other")


def kind_of_array(array: "np.ndarray[Any, Any]") -> Kind:
    """The kind of a whole array, its first axis included, as a list."""
    if array.dtype.kind == "O":
        return kind_of(array.tolist())
    leaf = {"b": BOOL, "f": NUMBER, "i": NUMBER, "u": NUMBER, "U": TEXT, "S": TEXT}.get(
        array.dtype.kind, Kind(name="other")
    )
    if (
        array.dtype.kind in "iu"
        and array.size
        and (array.max() > MAX_EXACT_INTEGER or array.min() < -MAX_EXACT_INTEGER)
    ):
        leaf = Kind(name="big")
    for length in reversed(array.shape):
        leaf = Kind(name="list", item=leaf, width=length)
    return leaf


def common_kind(values: Iterable[Any]) -> Kind:
    """The kind that holds all values.

    Raises:
        KindConflictError: there is none.
    """
    kind = NULL
    for value in values:
        kind = merge(kind, kind_of(value))
    return kind


def merge(left: Kind, right: Kind) -> Kind:
    """The kind that holds both. Null fits every kind; lists of different lengths give a list of any length.

    Raises:
        KindConflictError: there is none.
    """
    if left is right or right.name == "null":
        return left
    if left.name == "null":
        return right
    if {left.name, right.name} == {"number", "big"}:
        return Kind(name="big")
    if left.name != right.name or left.arrow != right.arrow:
        raise KindConflictError(f"{describe(left)} and {describe(right)}")
    if left.name == "list":
        assert left.item is not None
        assert right.item is not None
        width = left.width if left.width == right.width else None
        return Kind(name="list", item=merge(left.item, right.item), width=width)
    if left.name == "object":
        members = dict(left.members)
        for key, kind in right.members.items():
            members[key] = merge(members.get(key, NULL), kind)
        return Kind(name="object", members=members)
    return left


def arrow_type(kind: Kind) -> pa.DataType:
    """float64 for numbers (and for what was only ever null), lists of them for vectors.

    Raises:
        KindConflictError: a whole number beyond 2^53, or a value of no known kind.
    """
    match kind.name:
        case "null" | "number":
            return pa.float64()
        case "bool":
            return pa.bool_()
        case "text":
            return pa.string()
        case "list":
            assert kind.item is not None
            return pa.list_(arrow_type(kind.item))
        case "object":
            return pa.struct([pa.field(key, arrow_type(each)) for key, each in kind.members.items()])
        case "arrow":
            assert kind.arrow is not None
            return pa.float64() if pt.is_null(kind.arrow) else kind.arrow
        case _:
            raise KindConflictError(describe(kind))


def parse_type(text: str) -> pa.DataType:
    """The type that `--prediction-type` names: an Arrow alias such as `float32`, or `list<…>` of one.

    Raises:
        ConfigError: no such type.
    """
    match = re.fullmatch(r"\s*(?:large_)?list\s*<(?:\s*\w+\s*:)?(.*)>\s*", text)
    if match is not None:
        return pa.list_(parse_type(match[1]))
    try:
        alias: pa.DataType = arrow.type_for_alias(text.strip().lower())
        return alias
    except ValueError as error:
        raise ConfigError(
            f"--prediction-type {text!r} is no Arrow type",
            hint="such as float32, float64, int64, bool, string, date32, timestamp[us] or list<float32>",
        ) from error
