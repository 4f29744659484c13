"""An encoded block from which a request for any row range is cut without touching its rows.

The bytes lie in slabs of some thousand rows: a slab is dropped as soon as all its rows are answered.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from asyncbatch.model import Buffer, BytesPayload

Segment: TypeAlias = bytes | int | Callable[[int], bytes]
"""A part of a body: literal bytes; the rows of stream number i; or bytes that depend on the number of rows.

The length of the last kind must not shrink as the number of rows grows.
"""
Slab: TypeAlias = "tuple[Buffer, np.ndarray[Any, Any]]"
"""The bytes of some rows, and where each row starts in them, the end last."""


class StreamBlock:
    """Rows encoded as one or more streams of bytes (one for whole rows, one a column for columnar bodies).

    `payload` takes time in the number of slabs it covers, not of rows. Not for use from two threads at once.
    """

    sliceable = True

    def __init__(
        self,
        *,
        slabs: Sequence[Sequence[Slab]],
        segments: Sequence[Segment],
        separator_bytes: int,
        one_row: bool,
        content_type: str,
    ) -> None:
        """`slabs[k][i]` is the k-th slab of stream i; all streams have the same row bounds.

        Args:
            separator_bytes: how many bytes end each row; left out after a request's last row.
            one_row: every request holds exactly one row.
        """
        self._bytes: list[list[memoryview] | None] = [
            [memoryview(data) for data, _ in slab] for slab in slabs
        ]
        self._starts = [0]  # first row of each slab, the end last
        for slab in slabs:
            self._starts.append(self._starts[-1] + len(slab[0][1]) - 1)
        self._segments = tuple(segments)
        self._separator = separator_bytes
        self._one_row = one_row
        self._content_type = content_type
        streams = 1 + max(segment for segment in self._segments if isinstance(segment, int))
        self._offsets = [_cumulated([slab[stream][1] for slab in slabs]) for stream in range(streams)]
        used = [segment for segment in self._segments if isinstance(segment, int)]
        self._sizes = (
            self._offsets[0] if used == [0] else np.sum([self._offsets[each] for each in used], axis=0)
        )
        self.rows = self._starts[-1]
        self._answered = bytearray(self.rows)
        self._unanswered = [stop - start for start, stop in pairwise(self._starts)]
        self._held = sum(view.nbytes for views in self._bytes for view in views or ())
        self._index_bytes = sum(each.nbytes for each in self._offsets) + len(self._answered)
        if self._sizes is not self._offsets[0]:
            self._index_bytes += self._sizes.nbytes
        # Views of the same numbers: a single one is read five times as fast as from numpy.
        self._size_at = self._sizes.data
        self._offset_at = [each.data for each in self._offsets]

    @property
    def nbytes(self) -> int:
        return self._held + self._index_bytes

    def payload(self, start: int, stop: int) -> BytesPayload:
        """The body for rows `[start, stop)`.

        Raises:
            ValueError: an empty range, one outside the block or released, or several rows where a body
                holds one.
        """
        if not 0 <= start < stop <= self.rows:
            raise ValueError(f"rows [{start}, {stop}) are not within [0, {self.rows})")
        if self._one_row and stop - start != 1:
            raise ValueError(f"a request holds one row here, not {stop - start}")
        pieces: list[Buffer] = []
        for segment in self._segments:
            if isinstance(segment, int):
                self._cut(segment, start, stop, pieces)
            elif isinstance(segment, bytes):
                pieces.append(segment)
            else:
                pieces.append(segment(stop - start))
        return BytesPayload(tuple(pieces), self._content_type, sum(map(len, pieces)))

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        """The most rows from `start` within both limits; one row even if it alone is over `max_bytes`."""
        if self._one_row:
            return 1
        most = max(1, min(max_rows, self.rows - start))
        sizes = self._size_at
        budget = sizes[start] + max_bytes - self._around(most)
        if most == 1 or sizes[start + most] <= budget:
            return most
        stop = int(np.searchsorted(self._sizes[start : start + most + 1], budget, side="right")) - 1
        return max(1, stop)

    def release(self, start: int, stop: int) -> None:
        """Mark rows as answered; a slab whose rows all are is dropped."""
        slab = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[slab + 1])
            self._unanswered[slab] -= self._answered.count(0, start, end)
            self._answered[start:end] = b"\1" * (end - start)
            views = self._bytes[slab]
            if not self._unanswered[slab] and views is not None:
                self._held -= sum(view.nbytes for view in views)
                self._bytes[slab] = None
            start, slab = end, slab + 1

    def _around(self, rows: int) -> int:
        """Bytes of a body besides its rows."""
        total = 0
        for segment in self._segments:
            if isinstance(segment, bytes):
                total += len(segment)
            elif isinstance(segment, int):
                total -= self._separator
            else:
                total += len(segment(rows))
        return total

    def _cut(self, stream: int, start: int, stop: int, pieces: list[Buffer]) -> None:
        offsets, starts = self._offset_at[stream], self._starts
        slab = bisect_right(starts, start) - 1
        while start < stop:
            views = self._bytes[slab]
            if views is None:
                raise ValueError(f"rows [{start}, {stop}) are released")
            base = offsets[starts[slab]]
            first, slab = offsets[start] - base, slab + 1
            if stop <= starts[slab]:
                pieces.append(views[stream][first : offsets[stop] - base - self._separator])
                return
            start = starts[slab]
            pieces.append(views[stream][first : offsets[start] - base])


def _cumulated(parts: "Sequence[np.ndarray[Any, Any]]") -> "np.ndarray[Any, Any]":
    """Slabs' row starts joined into those of the block."""
    rows = sum(len(part) - 1 for part in parts)
    joined = np.zeros(rows + 1, np.int64)
    row = base = 0
    for part in parts:
        joined[row : row + len(part)] = part
        joined[row : row + len(part)] += base
        row, base = row + len(part) - 1, int(joined[row + len(part) - 1])
    return joined
