"""Short cuts from the bytes of the usual CSV replies to numbers, without a Python object a cell where that
can be.

Each returns None where the careful way must decide: text, quotes, blank lines, a header, another number of
rows.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa

from asyncbatch.codec.arrow import Array
from asyncbatch.codec.arrow import compute as pc
from asyncbatch.codec.kinds import MAX_EXACT_INTEGER
from asyncbatch.codec.layout import ReplyLayout
from asyncbatch.model import Values

ShortCut: TypeAlias = "Callable[[bytes, int], Values | None]"
_FLOAT64 = pa.float64()
_FEW = 16
"""So few values are looked at one by one sooner than by numpy."""
_VECTOR = pa.list_(pa.float64())
_COMMA, _LINE_END, _QUOTE, _BRACKET, _U, _S = b',\n"[us'
"""As numbers: looking for a byte string in another begins with an exception, half a microsecond each."""


def short_cut(layout: ReplyLayout) -> "ShortCut | None":
    """The short cut for replies of this layout, if there is one."""
    field = layout.fields[0]
    if layout.named or layout.unwrap or layout.header:
        return None
    if layout.form == "csv-lines" and field.type == _FLOAT64:
        return _numbers_by_line
    if layout.form == "csv-line" and field.type == _FLOAT64:
        return _numbers_on_a_line
    if layout.form == "csv-lines" and field.type == _VECTOR and field.width is not None:
        width = field.width
        return lambda body, rows: _vectors_by_line(body, rows, width)
    return None


def _numbers_by_line(body: bytes, rows: int) -> "Values | None":
    text = body.rstrip(b"\n")
    if text.count(b"\n") != rows - 1 or _COMMA in text:
        return None
    return _numbers(text.replace(b"\n", b","), rows)


def _numbers_on_a_line(body: bytes, rows: int) -> "Values | None":
    text = body.rstrip(b"\n")
    return None if _LINE_END in text else _numbers(text, rows)


def _numbers(text: bytes, rows: int) -> "Values | None":
    if _has_booleans(text) or _QUOTE in text:
        return None
    try:
        values = orjson.loads(b"[" + text + b"]")
    except ValueError:
        return _with_nan(text, rows)  # perhaps nan or inf, which Arrow reads
    if len(values) != rows:
        return None
    try:
        numbers = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    if numbers.ndim != 1:
        return None
    whole = text.count(b".") < rows  # some of them: a number has one point at most
    return None if whole and _is_rounded(values, numbers) else numbers


def _is_rounded(values: list[float], numbers: "np.ndarray[Any, Any]") -> bool:
    """Whether numpy has rounded whole numbers that no float is; the careful way says so."""
    if len(values) > _FEW and np.abs(numbers).max() <= MAX_EXACT_INTEGER:
        return False
    return any(type(value) is int and abs(value) > MAX_EXACT_INTEGER for value in values)


def _has_booleans(text: bytes) -> bool:
    """Or nulls. pyarrow and numpy take true for 1. Looked for by a letter of each word that no number has."""
    return _U in text or _S in text


def _with_nan(text: bytes, rows: int) -> Array | None:
    try:
        cells = text.decode("ascii").split(",")
        if len(cells) != rows:
            return None
        numbers: Array = pa.array(cells, pa.string()).cast(_FLOAT64)
    except ValueError:
        return None
    largest = pc.max(pc.abs(numbers.filter(pc.is_finite(numbers)))).as_py()
    return numbers if largest is None or largest <= MAX_EXACT_INTEGER else None  # Arrow rounds whole numbers


def _vectors_by_line(body: bytes, rows: int, width: int) -> Array | None:
    text = body.rstrip(b"\n")
    if text.count(b"\n") != rows - 1 or _has_booleans(text) or _BRACKET in text:
        return None
    try:
        vectors = pa.array(orjson.loads(b"[[" + text.replace(b"\n", b"],[") + b"]]"), _VECTOR)
    except (ValueError, TypeError, OverflowError):
        return None
    return vectors if pc.all(pc.equal(pc.list_value_length(vectors), width)).as_py() else None
