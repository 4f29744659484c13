"""Names for Arrow data where pyarrow's third-party stubs are narrower than pyarrow.

They lack the methods of each array type and refuse scalars in kernels, so arrays and kernels are `Any` here,
by these names.
"""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute

Array: TypeAlias = Any
"""A pyarrow.Array of any type."""
Text: TypeAlias = Any
"""A pyarrow.LargeStringArray: one text a row."""
DataType: TypeAlias = Any
"""A pyarrow.DataType."""
compute: Any = pyarrow.compute
"""The kernels; they do not hold the interpreter while they run."""
arrow: Any = pa
"""pyarrow itself, where the stubs lack or refuse something."""


def single(column: "pa.ChunkedArray[Any]") -> Array:
    """The column as one contiguous array, without a copy where it is one already."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if isinstance(column.type, pa.DictionaryType):
        column = column.unify_dictionaries()
    combined: Any = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def view(buffer: Any, dtype: Any) -> "np.ndarray[Any, Any]":
    """A numpy view of an Arrow buffer."""
    return np.frombuffer(buffer, dtype)


def numbers(array: Array) -> "np.ndarray[Any, Any]":
    """Floats, integers or truth values as numpy, read only, without a copy where they lie so; a null is NaN.

    Not `Array.to_numpy`, which imports pandas where it is installed: a quarter of a second before the first request.
    """
    kind = array.type
    if pa.types.is_boolean(kind):
        return numbers(array.cast(pa.uint8())).view(np.bool_)
    if array.null_count:
        if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            array = array.cast(pa.float64(), safe=False)
        array = array.fill_null(np.nan)
    dtype: np.dtype[Any] = np.dtype(array.type.to_pandas_dtype())
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def large_text(offsets: "np.ndarray[Any, Any]", data: "np.ndarray[Any, Any]") -> Text:
    """Texts from int64 offsets and UTF-8 bytes, without a copy."""
    return arrow.LargeStringArray.from_buffers(
        len(offsets) - 1, arrow.py_buffer(offsets), arrow.py_buffer(data)
    )


def bytes_of(table: pa.Table) -> int:
    """Bytes of the rows of `table`; of its whole buffers where pyarrow cannot tell (view types before 23)."""
    try:
        return table.nbytes
    except pa.ArrowTypeError:
        return table.get_total_buffer_size()
