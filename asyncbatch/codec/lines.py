"""Which lines of a CSV file are, byte for byte, what a CSV body says of their values: those need no parsing.

A line is taken as it is only where that can be proved from its bytes. Per value of a column:

| type | passes | why the encoder writes the same |
|---|---|---|
| string | no quote, comma or line break in it; may be empty | the dialect quotes nothing else; an unquoted empty field is null |
| int64 | canonical digits, at most 16 bytes; may be empty | one text a number: no leading zero, plus, blank or `-0` |
| float64 | `d.d`, at most 16 bytes, no zero too many, nothing below 0.0001 but 0; `nan`, `inf`, empty | below |

A decimal of at most 15 significant digits survives the way to a float64 and back (C's DBL_DIG, IEEE 754): two
different ones never give the same float. So no shorter text reads back to the same float, and the shortest
one, which the encoder writes, is the text itself. `1.50`, `3` in a column of floats, exponents, and the 16
or 17 digits of unrounded floats are not proved; they are parsed and written anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from asyncbatch.codec.arrow import Array, Text, arrow
from asyncbatch.codec.arrow import compute as pc
from asyncbatch.codec.encoders import StreamEncoder
from asyncbatch.codec.rows import row_texts, text_slab

MOST_BYTES = 16
"""Of a number's text: 15 digits and the point; 16 digits fit int64."""
_CACHED_BYTES = 2**17
"""As much at a time as a core's cache holds several times."""
MOST_COLUMNS = 1000
"""More would make the pattern's automaton too large to be fast."""
_PATTERNS = {
    pa.string(): r'[^,"\r\n]*',
    pa.int64(): r"(?:0|-?[1-9][0-9]*)?",
    pa.float64(): r"(?:-?(?:0\.(?:0|0{0,3}[1-9](?:[0-9]*[1-9])?)|[1-9][0-9]*\.(?:0|[0-9]*[1-9]))|nan|-?inf)?",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvLines:
    """The lines of CSV files whose columns are all sent, in file order."""

    names: Sequence[str]
    pattern: str
    numbers: bool
    """Some column holds numbers, whose length is bounded."""

    def proved(self, data: memoryview, starts: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Whether each line is what `texts` gives for its values.

        Args:
            data: valid UTF-8; every line ends with `\\n`.
            starts: of each line within `data`, int64, the end last.
        """
        lines = arrow.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(starts) - 1, [None, arrow.py_buffer(starts), arrow.py_buffer(data)]
        )
        matching = pc.match_substring_regex(lines, self.pattern)
        found: np.ndarray[Any, Any] = matching.to_numpy(zero_copy_only=False)
        if self.numbers:
            ends = _long_values(np.frombuffer(data, np.uint8))
            if len(ends):
                found = found.copy()
                found[np.searchsorted(starts, ends, side="right") - 1] = False
        return found

    def texts(self, columns: "Sequence[pa.ChunkedArray[Any]]") -> Text:
        """The lines of a CSV body for these values. At least one row."""
        arrays: list[Array] = [_contiguous(column) for column in columns]
        return row_texts(arrays, list(self.names), "csv", "\n")


def csv_lines(schema: pa.Schema) -> CsvLines | None:
    """For the columns sent; None where nothing can be proved: a column of another type, or too many."""
    if not 0 < len(schema) <= MOST_COLUMNS or not all(field.type in _PATTERNS for field in schema):
        return None
    values = ",".join(_PATTERNS[field.type] for field in schema)
    lines = CsvLines(
        names=schema.names,
        pattern=rf"\A{values}\n\z",
        numbers=any(field.type != pa.string() for field in schema),
    )
    try:
        lines.proved(memoryview(b"\n"), np.array([0, 1]))
    except pa.ArrowInvalid:  # the pattern is too large for its compiler
        return None
    return lines


def lines_encoder(encoder: StreamEncoder) -> StreamEncoder:
    """The encoder of the same CSV bodies that takes tables of one column: the rows' lines, each with its `\\n`."""
    return replace(encoder, encode_slab=lambda columns: [text_slab(_from_zero(columns[0]))])


def _from_zero(lines: Text) -> Text:
    """The same texts in buffers that begin with them."""
    return pa.concat_arrays([lines, lines[:0]]) if lines.offset else lines


def _contiguous(column: "pa.ChunkedArray[Any]") -> Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _long_values(data: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Where values of more than `MOST_BYTES` bytes are: positions in them."""
    found = []
    for start in range(0, len(data), _CACHED_BYTES):
        piece = data[max(0, start - MOST_BYTES) : start + _CACHED_BYTES]
        run = (piece != ord(",")) & (piece != ord("\n"))
        width = 1
        while width <= MOST_BYTES:  # run[i]: the bytes i to i + width belong to one value
            step = min(width, MOST_BYTES + 1 - width)
            run = run[:-step] & run[step:]
            width += step
        found.append(np.flatnonzero(run) + max(0, start - MOST_BYTES))
    return np.concatenate(found) if found else np.empty(0, np.int64)
