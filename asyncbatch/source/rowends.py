"""Where the rows of text begin and end. Pure: bytes in, positions out.

Rows end at `\\n` or `\\r\\n`; a lone `\\r` is data. Blank lines are no rows (nor for pandas, R and pyarrow).
In CSV a line end between quotes belongs to the value. A quote opens a value only at the value's beginning
(RFC 4180); elsewhere it is data.
"""

import re
from dataclasses import dataclass

import numpy as np

from asyncbatch.source.blocks import Offsets

_LF, _CR = 10, 13


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpans:
    """The complete rows of a piece of text, blank lines left out."""

    starts: Offsets
    stops: Offsets
    """After the row's last byte, before its line end."""
    ends: Offsets
    """After its line end."""
    consumed: int
    """Bytes that belong to complete rows and blank lines; the rest begins a row."""
    lines: int
    """Line ends among them."""
    regular: bool
    """False when quotes or lone carriage returns need the exact parser."""


def line_spans(data: bytes, *, final: bool) -> RowSpans:
    """Every line that is not blank is a row.

    Args:
        data: text that begins at the beginning of a line.
        final: nothing follows, so that the last line needs no line end.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    line_ends = np.flatnonzero(buffer == _LF) + 1
    return _spans(buffer, line_ends, line_ends, final=final, regular=True)


def _spans(
    buffer: np.ndarray[tuple[int], np.dtype[np.uint8]],
    ends: Offsets,
    line_ends: Offsets,
    *,
    final: bool,
    regular: bool,
) -> RowSpans:
    """`ends`: of rows and blank lines. `line_ends`: after each `\\n`, also those within values."""
    if final and len(buffer) and (not len(ends) or ends[-1] < len(buffer)):
        ends = np.append(ends, len(buffer))
    if not len(ends):
        return RowSpans(starts=ends, stops=ends, ends=ends, consumed=0, lines=0, regular=regular)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    stops = ends - (buffer[ends - 1] == _LF)
    stops = stops - ((stops > starts) & (buffer[stops - 1] == _CR))
    full = stops > starts
    consumed = int(ends[-1])
    if not full.all():
        starts, stops, ends = starts[full], stops[full], ends[full]
    lines = int(np.searchsorted(line_ends, consumed, side="right"))
    return RowSpans(starts=starts, stops=stops, ends=ends, consumed=consumed, lines=lines, regular=regular)


def _no_lone_return(data: bytes, ends: Offsets, *, final: bool) -> bool:
    if b"\r" not in data:
        return True
    stop = len(data) if final or not len(ends) else int(ends[-1])
    return data.count(b"\r", 0, stop) == data.count(b"\r\n", 0, stop)


class CsvRows:
    """Finds and splits the rows of one CSV dialect: one-byte delimiter and quote, doubled inside quotes."""

    def __init__(self, *, delimiter: str, quote: str) -> None:
        self._delimiter, self._quote = delimiter.encode(), quote.encode()
        q, d = re.escape(self._quote), re.escape(self._delimiter)
        # Possessive: an unclosed quote must fail, never be read as an unquoted value.
        inside = b"(?:[^%s]++|%s%s)*+" % (q, q, q)
        plain = b"[^%s\n]*+" % d
        self._field = re.compile(b"%s(%s)%s(%s)|((?!%s)%s)" % (q, inside, q, plain, q, plain))
        field = b"(?:%s%s%s%s|(?!%s)%s)" % (q, inside, q, plain, q, plain)
        self._row = re.compile(b"(?:%s%s)*+%s" % (field, d, field))

    def find(self, data: bytes, *, final: bool) -> RowSpans:
        """The complete rows of `data`, which begins at the beginning of a row.

        A row whose quotes are still open at the end of `data` is not complete, even when `final`.
        """
        buffer = np.frombuffer(data, dtype=np.uint8)
        line_ends = np.flatnonzero(buffer == _LF) + 1
        if self._quote not in data:
            regular = _no_lone_return(data, line_ends, final=final)
            return _spans(buffer, line_ends, line_ends, final=final, regular=regular)
        quotes = np.flatnonzero(buffer == self._quote[0])
        if not self._well_quoted(buffer, quotes):
            return self._find_exact(data, buffer, line_ends, final=final)
        ends = line_ends[np.searchsorted(quotes, line_ends - 1) % 2 == 0]
        final = final and len(quotes) % 2 == 0
        regular = _no_lone_return(data, ends, final=final)
        return _spans(buffer, ends, line_ends, final=final, regular=regular)

    def _well_quoted(self, buffer: np.ndarray[tuple[int], np.dtype[np.uint8]], quotes: Offsets) -> bool:
        """Every odd quote opens a value (or is the second of a pair) and every even one closes it.

        Then a line end is inside a value exactly when an odd number of quotes precedes it.
        """
        opening, closing = quotes[0::2], quotes[1::2]
        before = buffer[np.maximum(opening - 1, 0)]
        after = buffer[np.minimum(closing + 1, len(buffer) - 1)]
        around = np.frombuffer(self._delimiter + self._quote + b"\n\r", dtype=np.uint8)
        opens = np.isin(before, around[:3]) | (opening == 0)
        closes = np.isin(after, around) | (closing == len(buffer) - 1)
        return bool(opens.all() and closes.all())

    def _find_exact(
        self,
        data: bytes,
        buffer: np.ndarray[tuple[int], np.dtype[np.uint8]],
        line_ends: Offsets,
        *,
        final: bool,
    ) -> RowSpans:
        """One row after the other; for text whose quoting is not regular."""
        ends: list[int] = []
        at = 0
        while at < len(data):
            match = self._row.match(data, at)
            stop = match.end() if match else at
            if stop >= len(data):
                break
            if data[stop] != _LF:  # a quote opened after `stop` is not closed within `data`
                return _spans(buffer, np.array(ends, dtype=np.int64), line_ends, final=False, regular=False)
            at = stop + 1
            ends.append(at)
        return _spans(buffer, np.array(ends, dtype=np.int64), line_ends, final=final, regular=False)

    def split(self, row: bytes) -> list[tuple[bytes, bool]] | None:
        """The values of one row with whether each was quoted; None when its quoting is wrong.

        Wrong is a quote that is not closed, or text after a closing quote.
        """
        values, at = [], 0
        while True:
            match = self._field.match(row, at)
            if match is None or match[2]:
                return None
            if match[1] is None:
                values.append((match[3], False))
            else:
                values.append((match[1].replace(self._quote * 2, self._quote), True))
            at = match.end()
            if at == len(row):
                return values
            if row[at : at + 1] != self._delimiter:
                return None
            at += 1
