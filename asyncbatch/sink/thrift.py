"""Thrift's compact protocol, read into values and written back, whatever the fields mean.

Nothing is known of any schema here, so a field that a later version of a format added is kept as it is.
Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import struct
from typing import Any, Final

TRUE: Final = 1
FALSE: Final = 2
BYTE: Final = 3
I16: Final = 4
I32: Final = 5
I64: Final = 6
DOUBLE: Final = 7
BINARY: Final = 8
LIST: Final = 9
SET: Final = 10
MAP: Final = 11
STRUCT: Final = 12
UUID: Final = 13

_INTEGERS = frozenset({I16, I32, I64})
_SHORT_LIST = 15
_DEEPEST = 64


class ThriftError(ValueError):
    """The bytes are no value of the compact protocol."""


class Struct:
    """Fields by id, in the order read: type and value. Lists are `(element type, values)`."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: dict[int, tuple[int, Any]] = {}

    def get(self, field: int, default: Any = None) -> Any:
        """The value of a field; a list's values without their type."""
        found = self.fields.get(field)
        if found is None:
            return default
        return found[1][1] if found[0] in (LIST, SET) else found[1]

    def set(self, field: int, kind: int, value: Any) -> None:
        """Set a field, of a list as `(element type, values)`."""
        self.fields[field] = (kind, value)

    def shift(self, field: int, by: int) -> None:
        """Add to an integer field, if it is there."""
        found = self.fields.get(field)
        if found is not None:
            self.fields[field] = (found[0], found[1] + by)

    def drop(self, *fields: int) -> None:
        for field in fields:
            self.fields.pop(field, None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Struct) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # it changes


def read_struct(data: bytes | bytearray | memoryview, start: int = 0) -> tuple[Struct, int]:
    """The struct that begins at `start`, and where it ends.

    Raises:
        ThriftError: there is none, or it goes beyond the end of `data`.
    """
    try:
        return _struct(data, start, 0)
    except (IndexError, struct.error) as error:
        raise ThriftError("the bytes end within a value") from error


def write_struct(value: Struct) -> bytes:
    """The bytes that `read_struct` reads as `value`."""
    out = bytearray()
    _put_struct(out, value)
    return bytes(out)


# -- reading -------------------------------------------------------------------------------------------------


def _struct(data: Any, at: int, depth: int) -> tuple[Struct, int]:
    if depth > _DEEPEST:
        raise ThriftError("values are nested too deeply")
    found = Struct()
    fields = found.fields
    last = 0
    while True:
        head = data[at]
        at += 1
        kind = head & 15
        if head == 0:
            return found, at
        if head >> 4:
            last += head >> 4
        else:
            last, at = _zigzag(data, at)
        # The usual cases are written out: calls would take longer than what they do.
        if kind in _INTEGERS:
            byte = data[at]
            at += 1
            if byte < 128:
                fields[last] = (kind, (byte >> 1) ^ -(byte & 1))
                continue
            number, at = _zigzag(data, at - 1)
            fields[last] = (kind, number)
        elif kind == BINARY and data[at] < 128:
            stop = at + 1 + data[at]
            if stop > len(data):
                raise ThriftError("text goes beyond the end")
            fields[last] = (kind, bytes(data[at + 1 : stop]))
            at = stop
        elif kind == STRUCT:
            inner, at = _struct(data, at, depth + 1)
            fields[last] = (kind, inner)
        elif kind in (TRUE, FALSE):
            fields[last] = (TRUE, kind == TRUE)
        else:
            value, at = _value(data, at, kind, depth)
            fields[last] = (kind, value)


def _value(data: Any, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _zigzag(data, at)
    if kind == BINARY:
        length, at = _varint(data, at)
        stop = at + length
        if stop > len(data):
            raise ThriftError("text goes beyond the end")
        return bytes(data[at:stop]), stop
    if kind == STRUCT:
        return _struct(data, at, depth + 1)
    if kind in (LIST, SET):
        return _list(data, at, depth + 1)
    if kind == DOUBLE:
        return bytes(data[at : at + 8]), at + 8
    if kind == BYTE:
        return data[at], at + 1
    if kind in (TRUE, FALSE):  # within a list, a byte each
        return data[at], at + 1
    if kind == MAP:
        return _map(data, at, depth + 1)
    if kind == UUID:
        return bytes(data[at : at + 16]), at + 16
    raise ThriftError(f"there is no type {kind}")


def _list(data: Any, at: int, depth: int) -> tuple[tuple[int, list[Any]], int]:
    head = data[at]
    at += 1
    size, kind = head >> 4, head & 15
    if size == _SHORT_LIST:
        size, at = _varint(data, at)
    if size > len(data):  # every element takes a byte at least
        raise ThriftError("a list goes beyond the end")
    values: list[Any] = []
    if kind == STRUCT:
        for _ in range(size):
            each, at = _struct(data, at, depth + 1)
            values.append(each)
        return (kind, values), at
    for _ in range(size):
        value, at = _value(data, at, kind, depth)
        values.append(value)
    return (kind, values), at


def _map(data: Any, at: int, depth: int) -> tuple[tuple[int, int, list[tuple[Any, Any]]], int]:
    size, at = _varint(data, at)
    if size == 0:
        return (0, 0, []), at
    if size > len(data):
        raise ThriftError("a map goes beyond the end")
    kinds = data[at]
    at += 1
    pairs = []
    for _ in range(size):
        key, at = _value(data, at, kinds >> 4, depth)
        value, at = _value(data, at, kinds & 15, depth)
        pairs.append((key, value))
    return (kinds >> 4, kinds & 15, pairs), at


def _varint(data: Any, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 128:
        return byte, at
    value, shift = byte & 127, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ThriftError("a number is too long")


def _zigzag(data: Any, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


# -- writing -------------------------------------------------------------------------------------------------


def _put_struct(out: bytearray, value: Struct) -> None:
    fields = value.fields
    last = 0
    for field in sorted(fields):
        kind, content = fields[field]
        written = (TRUE if content else FALSE) if kind == TRUE else kind
        if 0 < field - last <= 15:
            out.append((field - last) << 4 | written)
        else:
            out.append(written)
            _put_zigzag(out, field)
        last = field
        if kind in _INTEGERS:  # written out, as in `_struct`
            number = content << 1 if content >= 0 else (-content << 1) - 1
            while number > 127:
                out.append(number & 127 | 128)
                number >>= 7
            out.append(number)
        elif kind == STRUCT:
            _put_struct(out, content)
        elif kind != TRUE:
            _put(out, kind, content)
    out.append(0)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if kind in _INTEGERS:
        _put_zigzag(out, value)
    elif kind == BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _put_struct(out, value)
    elif kind in (LIST, SET):
        element, values = value
        if len(values) < _SHORT_LIST:
            out.append(len(values) << 4 | element)
        else:
            out.append(_SHORT_LIST << 4 | element)
            _put_varint(out, len(values))
        for each in values:
            _put(out, element, each)
    elif kind in (DOUBLE, UUID):
        out += value
    elif kind in (BYTE, TRUE, FALSE):
        out.append(value)
    elif kind == MAP:
        key_kind, value_kind, pairs = value
        _put_varint(out, len(pairs))
        if pairs:
            out.append(key_kind << 4 | value_kind)
            for key, each in pairs:
                _put(out, key_kind, key)
                _put(out, value_kind, each)
    else:
        raise ThriftError(f"there is no type {kind}")


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _put_zigzag(out: bytearray, value: int) -> None:
    _put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
