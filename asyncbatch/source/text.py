"""Reading rows of text by byte ranges: slabs of whole rows, with their numbers, lines and offsets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np

from asyncbatch.errors import InputError
from asyncbatch.source import opening
from asyncbatch.source.blocks import Offsets
from asyncbatch.source.rowends import RowSpans

SLAB_BYTES = 1 << 20
MAX_ROW_BYTES = 16 << 20
"""A longer row is taken for an unclosed quote (CSV) or refused (JSON Lines)."""


class FindRows(Protocol):
    """`CsvRows.find` or `line_spans`."""

    def __call__(self, data: bytes, *, final: bool) -> RowSpans: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A text file as it is read: where its rows begin."""

    path: str
    compressed: bool
    data_offset: int
    """Of the first row, in uncompressed bytes: after byte order mark and header."""
    names: tuple[str, ...]
    """Its columns in its own order; empty for JSON Lines."""
    files: opening.Files = opening.LOCAL
    """Where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Whole consecutive rows of a text file."""

    data: bytes
    """The rows, with what is between them and may be around them."""
    first_row: int
    starts: Offsets
    """Of each row, within `data`."""
    stops: Offsets
    ends: Offsets
    """Byte offset after each row, within the file."""
    regular: bool
    line_at: Callable[[int], int]
    """The line, from 1, of a position within `data`. May read what is before a seek: ask for rejects only."""

    @property
    def rows(self) -> int:
        return len(self.starts)

    def slice(self, low: int, high: int) -> "Slab":
        """Rows `[low, high)` by position; shares the bytes."""
        return Slab(
            data=self.data,
            first_row=self.first_row + low,
            starts=self.starts[low:high],
            stops=self.stops[low:high],
            ends=self.ends[low:high],
            regular=self.regular,
            line_at=self.line_at,
        )

    def whole(self) -> memoryview:
        """The bytes of all rows with the line ends and blank lines between them."""
        return memoryview(self.data)[int(self.starts[0]) : int(self.stops[-1])]

    def row(self, position: int) -> bytes:
        return self.data[int(self.starts[position]) : int(self.stops[position])]


class TextCursor:
    """Goes forward through the rows of one text file; seeks where the file can.

    Holds one slab, or one row where that is longer.
    """

    def __init__(self, file: TextFile, *, find: FindRows, row: int = 0, offset: int | None = None) -> None:
        self._file, self._find = file, find
        self._row = row
        self._offset = file.data_offset if offset is None else offset
        """Where `_rest` begins in the file."""
        self._origin, self._lines_read = self._offset, 0
        self._origin_line: int | None = None
        self._rest = b""
        self._ended = False
        self._held: Slab | None = None
        self._stream = self._open(self._offset)

    def close(self) -> None:
        self._stream.close()

    def read(self, start: int, stop: int | None) -> Iterator[Slab]:
        """The rows `[start, stop)`, where `start` is not behind the cursor. Earlier rows are passed over."""
        while (slab := self._next()) is not None:
            low = max(0, start - slab.first_row)
            high = slab.rows if stop is None else min(slab.rows, stop - slab.first_row)
            if high < slab.rows:
                self._held = slab.slice(max(high, 0), slab.rows)
            if low < high:
                yield slab.slice(low, high)
            if self._held is not None:
                return
            if stop is not None and slab.first_row + slab.rows >= stop:
                return

    def _open(self, offset: int) -> IO[bytes]:
        if not self._file.compressed:
            return self._file.files.open_binary(self._file.path, offset=offset)
        stream = self._file.files.open_binary(self._file.path, compressed=True)
        try:
            opening.read_block(self._file.path, stream, offset)
        except InputError:
            stream.close()
            raise
        return stream

    def _next(self) -> Slab | None:
        if self._held is not None:
            slab, self._held = self._held, None
            return slab
        while True:
            if not self._ended:
                # A row longer than a slab: twice as much each time, so that finding its end stays linear.
                wanted = min(max(SLAB_BYTES, len(self._rest)), MAX_ROW_BYTES - len(self._rest))
                more = opening.read_block(self._file.path, self._stream, wanted)
                self._ended = len(more) < wanted
                self._rest += more
            if not self._rest:
                return None
            spans = self._find(self._rest, final=self._ended)
            if spans.consumed == 0 and (self._ended or len(self._rest) >= MAX_ROW_BYTES):
                spans = self._broken_row()
            if spans.consumed:
                slab = self._take(spans)
                if slab.rows:
                    return slab

    def _broken_row(self) -> RowSpans:
        """One row of the first line alone: its end was not found."""
        newline = self._rest.find(b"\n")
        if newline < 0 and not self._ended:
            line = self._line_of(self._offset)
            raise InputError(
                f"line {line} of {self._file.path} is longer than {MAX_ROW_BYTES >> 20} MiB",
                hint="it may not be text; check --input-format",
            )
        stop = newline if newline >= 0 else len(self._rest)
        end = min(stop + 1, len(self._rest))
        stop -= self._rest[stop - 1 : stop] == b"\r"
        one = np.array([0, stop, end], dtype=np.int64)
        return RowSpans(
            starts=one[0:1],
            stops=one[1:2],
            ends=one[2:3],
            consumed=end,
            lines=int(newline >= 0),
            regular=False,
        )

    def _take(self, spans: RowSpans) -> Slab:
        data, base = self._rest, self._lines_read
        slab = Slab(
            data=data,
            first_row=self._row,
            starts=spans.starts,
            stops=spans.stops,
            ends=spans.ends + self._offset,
            regular=spans.regular,
            line_at=lambda position: self._first_line() + base + data.count(b"\n", 0, position),
        )
        self._rest = self._rest[spans.consumed :]
        self._offset += spans.consumed
        self._row += slab.rows
        self._lines_read += spans.lines
        return slab

    def _line_of(self, offset: int) -> int:
        return count_lines(self._file, offset) + 1

    def _first_line(self) -> int:
        """The line of the byte where reading began. Counted when first asked for, by reading up to there."""
        if self._origin_line is None:
            self._origin_line = self._line_of(self._origin)
        return self._origin_line


def count_lines(file: TextFile, stop: int) -> int:
    """Line ends before byte `stop`."""
    count = 0
    with file.files.open_binary(file.path, compressed=file.compressed) as stream:
        while stop > 0 and (piece := opening.read_block(file.path, stream, min(stop, SLAB_BYTES))):
            count += piece.count(b"\n")
            stop -= len(piece)
    return count


def sample_slabs(
    file: TextFile, *, find: FindRows, size_bytes: int, spots: int, spot_bytes: int
) -> Iterator[Slab]:
    """Rows from head, tail and evenly between; a gzip file has its head only.

    Row numbers and lines are meaningless but at the head. A spot that begins inside a quoted value may give
    rows of a wrong number of fields; whoever judges them leaves those out.
    """
    if file.compressed:
        places = [(file.data_offset, spots * spot_bytes)]
    elif size_bytes - file.data_offset <= spots * spot_bytes or spots == 1:
        places = [(file.data_offset, max(spot_bytes, min(size_bytes - file.data_offset, spots * spot_bytes)))]
    else:
        last = size_bytes - spot_bytes
        step = (last - file.data_offset) / (spots - 1)
        places = [(file.data_offset + round(step * number), spot_bytes) for number in range(spots)]
    for start, length in places:
        slab = _slab_at(file, find, start, length, size_bytes)
        if slab is not None:
            yield slab


def _slab_at(file: TextFile, find: FindRows, start: int, length: int, size_bytes: int) -> Slab | None:
    data, ended = _read_spot(file, start, length, size_bytes)
    if start > file.data_offset:
        data = data[data.find(b"\n") + 1 :]
    spans = find(data, final=ended)
    while not spans.consumed and not ended and len(data) < MAX_ROW_BYTES and start == file.data_offset:
        length *= 4
        data, ended = _read_spot(file, start, length, size_bytes)
        spans = find(data, final=ended)
    if not len(spans.starts):
        return None
    return Slab(
        data=data[: spans.consumed],
        first_row=0,
        starts=spans.starts,
        stops=spans.stops,
        ends=spans.ends + start,
        regular=spans.regular,
        line_at=lambda position: 0,
    )


def _read_spot(file: TextFile, start: int, length: int, size_bytes: int) -> tuple[bytes, bool]:
    if file.compressed:
        with file.files.open_binary(file.path, compressed=True) as stream:
            opening.read_block(file.path, stream, start)
            data = opening.read_block(file.path, stream, length)
        return data, len(data) < length
    data = file.files.read_range(file.path, start, length)
    return data, start + len(data) >= size_bytes


def spread(total: int, count: int) -> Sequence[int]:
    """At most `count` of the numbers below `total`, evenly spread, first and last among them."""
    if total <= count:
        return range(total)
    if count == 1:
        return [0]
    return sorted({round(number * (total - 1) / (count - 1)) for number in range(count)})
