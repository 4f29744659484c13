"""Lines of CSV files that are sent as they stand: only what is kept is parsed, and what cannot be proved.

The text of a row becomes one more column of the source, `LINE`: the row's own bytes where they are proved to
be what a CSV body says of its values, and otherwise what the encoder writes of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asyncbatch.model import Reject
from asyncbatch.source.blocks import Offsets, Piece
from asyncbatch.source.csvparse import CsvParser
from asyncbatch.source.text import Slab

LINE = "\n"
"""The column's name, which no sane header holds; one that does is read the ordinary way."""
_LEAST_PROVED = 0.75
_PATIENCE = 16


class Lines(Protocol):
    """What an encoder knows of its text."""

    def proved(self, data: memoryview, starts: Offsets) -> "np.ndarray[Any, Any]":
        """Whether each line (`\\n` at its end) is what `texts` gives for its values; `starts` has the end last."""
        ...

    def texts(self, columns: "Sequence[pa.ChunkedArray[Any]]") -> Any:
        """The lines for these values, a large_string array."""
        ...


class PassingParser:
    """Gives the kept columns and `LINE`."""

    def __init__(
        self,
        *,
        columns: Sequence[str],
        sent: Sequence[str],
        in_order: bool,
        make_parser: Callable[[Sequence[str]], CsvParser],
        lines: Lines,
    ) -> None:
        """`columns`: those wanted, `LINE` among them. `in_order`: the file has the columns `sent`, in this order."""
        self._columns, self._sent, self._in_order, self._lines = list(columns), list(sent), in_order, lines
        self._whole = make_parser(sent)
        kept = [name for name in columns if name != LINE]
        self._kept = make_parser(kept) if kept else None
        self._skip = 0
        """Slabs for which proof is not worth trying: too little of the last one was proved."""

    def parse(self, slab: Slab) -> Piece:
        """All rows of `slab`; the rejects, and all values, are those of a parser of the columns sent."""
        if self._skip:
            self._skip -= 1
            return self._written(slab)
        found = _own_lines(slab) if self._in_order else None
        if found is None:
            return self._written(slab)
        data, starts = found
        proved = self._lines.proved(data, starts)
        count = int(np.count_nonzero(proved))
        if count < _LEAST_PROVED * slab.rows:
            self._skip = _PATIENCE
            return self._written(slab)
        lines: Any = pa.LargeStringArray.from_buffers(
            slab.rows, pa.py_buffer(starts.data), pa.py_buffer(data)
        )
        rejects: tuple[Reject, ...] = ()
        if count < slab.rows:
            others = np.flatnonzero(~proved)
            rest = self._written(_picked(data, starts, others))
            lines = pc.replace_with_mask(lines, pa.array(~proved), rest.table.column(LINE).chunk(0))
            rejects = tuple(_moved(reject, slab, int(others[reject.row])) for reject in rest.rejects)
        if self._kept is None:
            table = pa.table({LINE: lines})
        else:
            table = self._kept.parse(slab).table.append_column(LINE, lines)
        return Piece(table=table.select(self._columns), rejects=rejects, ends=slab.ends)

    def _written(self, slab: Slab) -> Piece:
        """All values parsed, and written anew."""
        piece = self._whole.parse(slab)
        lines = self._lines.texts(piece.table.columns)
        table = piece.table.append_column(LINE, lines).select(self._columns)
        return Piece(table=table, rejects=piece.rejects, ends=piece.ends)


def _own_lines(slab: Slab) -> tuple[memoryview, Offsets] | None:
    """The rows as they stand, each ending in `\\n` alone, and their starts, the end last.

    None where rows and lines are not the same: quotes, lone carriage returns, blank lines, broken UTF-8.
    """
    if not slab.regular or b'"' in slab.data:
        return None
    first, stop = int(slab.starts[0]), int(slab.stops[-1])
    if not slab.data.isascii():
        try:
            str(slab.whole(), "utf-8")
        except UnicodeDecodeError:
            return None
    if (slab.stops[:-1] + 1 == slab.starts[1:]).all() and slab.data[stop : stop + 1] == b"\n":
        starts = np.append(slab.starts, stop + 1) - first
        return memoryview(slab.data)[first : stop + 1], starts
    data = bytes(slab.whole()).replace(b"\r\n", b"\n") + b"\n"
    starts = np.append(0, np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1)
    return (memoryview(data), starts) if len(starts) == slab.rows + 1 else None


def _picked(data: memoryview, starts: Offsets, rows: Offsets) -> Slab:
    """Some rows as a slab of their own, numbered from 0."""
    pieces = [data[low:high] for low, high in zip(starts[rows], starts[rows + 1], strict=True)]
    ends = np.cumsum([len(piece) for piece in pieces])
    return Slab(
        data=b"".join(pieces),
        first_row=0,
        starts=np.append(0, ends[:-1]),
        stops=ends - 1,
        ends=ends,
        regular=True,
        line_at=lambda position: 0,
    )


def _moved(reject: Reject, slab: Slab, position: int) -> Reject:
    """As a reject of the row at `position` of `slab`."""
    return replace(reject, row=slab.first_row + position, line=slab.line_at(int(slab.starts[position])))
