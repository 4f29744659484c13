"""Cut what a reader yields into the blocks of the plan. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asyncbatch.errors import InputError
from asyncbatch.model import Block, Reject, SourceBlock

Offsets: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive rows of one file, as many as the reader found handy."""

    table: pa.Table
    rejects: Sequence[Reject] = ()
    """Ascending by row; rows are numbered within the file."""
    ends: Offsets | None = None
    """Byte offset after each row, for text that can seek."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A range of rows that is still to be read."""

    start: int
    stop: int | None
    """None: to the end of the file."""
    offset: int | None
    """Byte offset of `start`, where known."""
    final: bool
    """Nothing of the file follows it."""


def find_gaps(
    done: Sequence[tuple[int, int, int | None]], *, rows: int | None, max_rows: int | None
) -> list[Gap]:
    """What is left to read between the committed ranges, ascending; none is empty where `rows` is known.

    Args:
        done: committed `(start, stop, end_offset)` ranges, ascending.
        rows: rows of the file, where known.
        max_rows: rows beyond this many do not count.
    """
    limits = [limit for limit in (rows, max_rows) if limit is not None]
    end = min(limits) if limits else None
    found: list[Gap] = []
    at, offset = 0, None
    for start, stop, end_offset in done:
        if start < at:
            raise ValueError(f"done ranges overlap or are not ascending at row {start}")
        if end is not None and start >= end:
            break
        if start > at:
            found.append(Gap(start=at, stop=start, offset=offset, final=False))
        at, offset = stop, end_offset
    if end is None or at < end:
        found.append(Gap(start=at, stop=end, offset=offset, final=True))
    return found


def cut_blocks(
    pieces: Iterator[Piece], *, file: int, gap: Gap, block_rows: int, path: str
) -> Iterator[SourceBlock]:
    """Join and cut the rows of `gap` at multiples of `block_rows`. Holds one block and one piece.

    A block that reaches the gap's end is yielded at once; any other when a row after it, or the end of the
    file, has been seen: only then is it known whether it is the last. `pieces` must not go beyond `gap.stop`.

    Raises:
        InputError: the rows end before those that are committed: the file is not the one that was planned.
    """
    open_block = _OpenBlock(start=gap.start)
    for piece in pieces:
        at = 0
        while at < piece.table.num_rows:
            boundary = _boundary(open_block.start, block_rows, gap.stop)
            if open_block.stop == boundary:
                yield open_block.finish(file, last=False)
                open_block = _OpenBlock(start=boundary)
                continue
            at += open_block.take(piece, at, boundary)
        if open_block.rows and open_block.stop == gap.stop:
            yield open_block.finish(file, last=gap.final)
            return
    if not gap.final and open_block.stop != gap.stop:
        raise InputError(
            f"{path or 'the source'} ends at row {open_block.stop}, before rows that are committed",
            hint="it was changed since the run began; use the same input or another output",
        )
    if open_block.rows:
        yield open_block.finish(file, last=gap.final)


def _boundary(start: int, block_rows: int, stop: int | None) -> int:
    grid = (start // block_rows + 1) * block_rows
    return grid if stop is None else min(grid, stop)


class _OpenBlock:
    """A block that is being filled."""

    def __init__(self, *, start: int) -> None:
        self.start = start
        self.rows = 0
        self._tables: list[pa.Table] = []
        self._rejects: list[Reject] = []
        self._end_offset: int | None = None

    @property
    def stop(self) -> int:
        return self.start + self.rows

    def take(self, piece: Piece, at: int, boundary: int) -> int:
        """Take rows from position `at` of `piece` up to row `boundary`; how many."""
        count = min(boundary - self.stop, piece.table.num_rows - at)
        low, high = self.stop, self.stop + count
        self._tables.append(piece.table.slice(at, count))
        self._rejects += [reject for reject in piece.rejects if low <= reject.row < high]
        if piece.ends is not None:
            self._end_offset = int(piece.ends[at + count - 1])
        self.rows += count
        return count

    def finish(self, file: int, *, last: bool) -> SourceBlock:
        return SourceBlock(
            block=Block(file=file, start=self.start, stop=self.stop),
            table=pa.concat_tables(self._tables) if len(self._tables) > 1 else self._tables[0],
            rejects=tuple(self._rejects),
            end_offset=self._end_offset,
            last=last,
        )
