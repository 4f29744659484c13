"""What is made of predictions before they are written: labels and rounded numbers. Arrow in, Arrow out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def label_type(labels: Sequence[str], *, argmax: bool) -> "pa.DataType":
    """Text with `labels`; without, 0 or 1 by a threshold and a position by the largest."""
    import pyarrow as pa

    if labels:
        return pa.string()
    return pa.int64() if argmax else pa.int8()


def label_above(values: Any, threshold: float, labels: Sequence[str]) -> Any:
    """Per number 1, or the second of `labels`, where it is above `threshold`, else 0 or the first; null where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    above = pc.greater(values, pa.scalar(threshold))
    return pc.if_else(above, labels[1], labels[0]) if labels else pc.cast(above, pa.int8())


def label_of_largest(vectors: Any, labels: Sequence[str]) -> Any:
    """Per list the position of its largest number, the first of equals, or the label there.

    Null where the list is null or empty, holds null or NaN, or is longer than the labels.
    """
    import pyarrow as pa

    whole: Any = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    position = np.full(len(whole), -1, np.int64)
    lengths = whole.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    numbers = whole.flatten().cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for width in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == width)
        matrix = numbers[starts[rows][:, None] + np.arange(width)]
        position[rows] = np.where(np.isnan(matrix).any(axis=1), -1, matrix.argmax(axis=1))
    if labels:
        position[position >= len(labels)] = -1
    found: Any = pa.array(position, mask=position < 0)
    return pa.array(list(labels), pa.string()).take(found) if labels else found


def rounded(values: Any, digits: int) -> Any:
    """Floats, in lists and structs too, with `digits` decimals, half to even; anything else as it is."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([rounded(chunk, digits) for chunk in values.chunks], values.type)
    type_ = values.type
    if pa.types.is_floating(type_):
        return _round_floats(values, digits)
    if pa.types.is_list(type_):
        items = rounded(values.values, digits)  # also what the lists do not use: offsets stay as they are
        return pa.Array.from_buffers(
            type_, len(values), values.buffers()[:2], values.null_count, values.offset, children=[items]
        )
    if pa.types.is_struct(type_):
        whole = values.flatten()
        mask = values.is_null() if values.null_count else None
        return pa.StructArray.from_arrays(
            [rounded(each, digits) for each in whole], fields=list(type_), mask=mask
        )
    return values


def _round_floats(values: Any, digits: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(values.type):  # no kernel for these
        return pc.round(values.cast(pa.float32()), digits).cast(values.type, safe=False)
    return pc.round(values, digits)
