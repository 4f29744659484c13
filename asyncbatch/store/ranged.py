"""A remote file as a file object: read by ranges, ahead of whoever reads, with bounded memory."""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

SEGMENT_BYTES = 4 * 2**20
HELD_BYTES = 64 * 2**20
"""Most bytes that one open file holds or has asked for."""
THREADS = 10
GAP_BYTES = 256 * 1024
"""Ranges with a gap up to this are fetched as one: a request costs as much as so many bytes."""
_LEAST_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `[start, stop)`."""

    start: int
    stop: int


def plain_segments(size: int, *, start: int = 0, step: int = SEGMENT_BYTES) -> list[Range]:
    """Equal ranges from `start` to the end, and one before `start`. Pure."""
    head = [Range(0, start)] if start else []
    return head + [Range(at, min(at + step, size)) for at in range(start, size, step)]


def chunk_segments(
    groups: Sequence[Sequence[Range]], *, held: int = HELD_BYTES, most: int = SEGMENT_BYTES
) -> list[Range]:
    """The ranges in which column chunks are fetched, in the order in which a reader needs them. Pure.

    Chunks that lie together are fetched together. Chunks too large for that are cut, and the cuts of a row group's
    columns alternate as a reader that goes row by row through all of them does.

    Args:
        groups: of each row group the column chunks that are read.
        held: bytes that the reader may hold; a group that fits into half of it is not cut for their sake, and of
            one that does not the steps of all columns fit into a quarter.
        most: of one request.
    """
    segments: list[Range] = []
    for chunks in groups:
        whole = sum(each.stop - each.start for each in chunks) <= held // 2
        step = most if whole else max(_LEAST_BYTES, min(most, held // (4 * max(1, len(chunks)))))
        placed: list[tuple[float, Range]] = []
        run: Range | None = None
        for chunk in sorted(chunks, key=lambda each: each.start):
            if chunk.stop - chunk.start > step:
                placed += [
                    ((at - chunk.start) / (chunk.stop - chunk.start), Range(at, min(at + step, chunk.stop)))
                    for at in range(chunk.start, chunk.stop, step)
                ]
            elif run is not None and chunk.start - run.stop <= GAP_BYTES and chunk.stop - run.start <= most:
                run = Range(run.start, max(run.stop, chunk.stop))
            else:
                if run is not None:
                    placed.append((0.0, run))
                run = chunk
        if run is not None:
            placed.append((0.0, run))
        segments += [each for _, each in sorted(placed, key=lambda item: (item[0], item[1].start))]
    return segments


class RangedFile(io.RawIOBase):
    """Read-only and seekable. What is asked for is fetched by whole segments, the next ones while it is used.

    Bytes outside of every segment are fetched as they are asked for. Not for use by two threads at once.

    Args:
        read: bytes `[start, stop)` of the file; called from several threads.
        size: of the file, in bytes.
        segments: in the order of their use; must not overlap.
        known: bytes at the end of the file that are here already.
        held: most bytes held or asked for.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        size: int,
        *,
        segments: Iterable[Range] = (),
        known: bytes = b"",
        held: int = HELD_BYTES,
    ) -> None:
        super().__init__()
        self._read = read
        self._size = size
        self._known = known
        self._held = held
        self._at = 0
        self._pool: ThreadPoolExecutor | None = None
        self._fetched: dict[int, Future[bytes]] = {}
        self.plan(segments)

    def plan(self, segments: Iterable[Range]) -> None:
        """Go by these segments from now on."""
        self._forget()
        self._segments = list(segments)
        self._by_start = sorted(range(len(self._segments)), key=lambda number: self._segments[number].start)
        self._starts = [self._segments[number].start for number in self._by_start]
        ordered = [self._segments[number] for number in self._by_start]
        if any(one.stop > other.start for one, other in pairwise(ordered)):
            raise ValueError("segments overlap")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        """In bytes."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted:
            piece = self._piece(self._at, self._at + wanted)
            pieces.append(piece)
            self._at += len(piece)
            wanted -= len(piece)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if not self.closed:
            self._forget()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _piece(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` on: up to `stop`, or to where another request begins."""
        known = self._size - len(self._known)
        if start >= known:
            return memoryview(self._known)[start - known : stop - known]
        stop = min(stop, known)
        place = bisect_right(self._starts, start) - 1
        if place >= 0 and start < self._segments[self._by_start[place]].stop:
            number = self._by_start[place]
            segment = self._segments[number]
            data = self._segment(number)
            return memoryview(data)[start - segment.start : min(stop, segment.stop) - segment.start]
        if place + 1 < len(self._starts):
            stop = min(stop, self._starts[place + 1])
        return memoryview(self._checked(start, stop))

    def _segment(self, number: int) -> bytes:
        future = self._fetched.get(number)
        if future is None:
            future = self._ask(number)
        self._read_ahead(number)
        self._drop(before=number)
        try:
            return future.result()
        except BaseException:
            self._fetched.pop(number, None)
            raise

    def _read_ahead(self, number: int) -> None:
        """Ask for what follows, as far as half of what may be held; the other half is what is in use."""
        budget = self._held // 2
        for following in range(number + 1, len(self._segments)):
            segment = self._segments[following]
            budget -= segment.stop - segment.start
            if budget < 0:
                return
            if following not in self._fetched:
                self._ask(following)

    def _ask(self, number: int) -> "Future[bytes]":
        segment = self._segments[number]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="asyncbatch-read")
        future = self._pool.submit(self._checked, segment.start, segment.stop)
        self._fetched[number] = future
        return future

    def _drop(self, *, before: int) -> None:
        """Forget what was wanted first: never what is wanted next, though nobody has touched it yet."""
        held = sum(self._segments[each].stop - self._segments[each].start for each in self._fetched)
        for number in sorted(self._fetched):
            if held <= self._held or number >= before:
                return
            self._fetched.pop(number).cancel()
            held -= self._segments[number].stop - self._segments[number].start

    def _checked(self, start: int, stop: int) -> bytes:
        data = self._read(start, stop)
        if len(data) != stop - start:
            raise OSError(f"{stop - start:,} bytes were asked for and {len(data):,} came")
        return data

    def _forget(self) -> None:
        for future in self._fetched.values():
            future.cancel()
        self._fetched.clear()
