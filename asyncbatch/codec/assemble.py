"""The values of a block's chunks, in row order, as one column."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from asyncbatch.codec.arrow import Array
from asyncbatch.codec.convert import TypeMismatchError, to_array
from asyncbatch.codec.layout import LayoutField
from asyncbatch.errors import ReplyMismatchError
from asyncbatch.model import Values


def assemble_values(parts: Sequence[Values], field: "pa.Field[Any]") -> "pa.ChunkedArray[Any]":
    """The parts one after the other as `field.type`. NaN stays NaN, None is null; Arrow parts are not copied.

    Raises:
        ReplyMismatchError: a part is of another type.
    """
    return pa.chunked_array([_as_array(part, field) for part in _joined(parts)], field.type)


def _joined(parts: Sequence[Values]) -> Iterator[Values]:
    """Neighbouring numpy vectors of one type as one: a block of one-row requests is one array, not thousands."""
    together: list[np.ndarray[Any, Any]] = []
    for part in parts:
        vector = part if isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind == "f" else None
        if together and (vector is None or vector.dtype != together[0].dtype):
            yield np.concatenate(together)
            together = []
        if vector is not None:
            together.append(vector)
        else:
            yield part
    if together:
        yield np.concatenate(together)


def null_values(rows: int, field: "pa.Field[Any]") -> Array:
    """`rows` nulls of the field's type, for rows without an answer."""
    return pa.nulls(rows, field.type)


def _as_array(part: Values, field: "pa.Field[Any]") -> Array:
    if isinstance(part, pa.Array) and part.type == field.type:
        return part
    if isinstance(part, np.ndarray) and part.dtype.kind == "O":
        part = part.tolist()
    try:
        return to_array(part, LayoutField(name=field.name, type=field.type), explicit=True)
    except TypeMismatchError as error:
        raise ReplyMismatchError(str(error), kind="type") from error
