"""What is sent next. Decides synchronously; the workers await around it."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable

from asyncbatch.model import ChunkTarget, Kind
from asyncbatch.pipeline.blocks import OpenBlock, Work


class WorkQueue:
    """Retries that are due come first, then the oldest block's unsent rows: memory is freed in row order."""

    def __init__(self) -> None:
        self._ready: deque[Work] = deque()
        self._delayed: list[tuple[float, int, Work]] = []
        self._blocks: deque[OpenBlock] = deque()
        self._unsent_rows = 0
        self._numbers = itertools.count()
        self._chunks = itertools.count()

    def add_block(self, block: OpenBlock) -> None:
        """Queue a block behind the others; blocks are added in row order."""
        self._blocks.append(block)
        self._unsent_rows += block.unsent_rows

    def put(self, work: Work) -> None:
        """Send `work` before anything new."""
        self._ready.append(work)

    def put_halves(self, work: Work, kind: Kind) -> None:
        """Send the two halves of `work` before anything else."""
        first, second = work.halves(kind)
        self._ready.appendleft(second)
        self._ready.appendleft(first)

    def put_later(self, work: Work, due_s: float) -> None:
        """Send `work` again once the clock shows `due_s`. It holds no place in flight meanwhile."""
        heapq.heappush(self._delayed, (due_s, next(self._numbers), work))

    def has_work(self, now_s: float) -> bool:
        return bool(self._ready or self._blocks or (self._delayed and self._delayed[0][0] <= now_s))

    def next_due_s(self) -> float | None:
        """When the next delayed piece is due; None if there is none."""
        return self._delayed[0][0] if self._delayed else None

    def take(
        self, now_s: float, *, target: Callable[[], ChunkTarget], max_bytes: int, min_rows: int
    ) -> Work | None:
        """The next piece to send, cut now; None if there is nothing to send now. Asks for `target` only to cut."""
        while self._delayed and self._delayed[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._delayed)[2])
        while self._ready:
            work = self._ready.popleft()
            if work.rows == 1 or work.block is None or work.block.fits(work, max_bytes):
                return work
            self.put_halves(
                work, Kind.RETRY if work.kind is Kind.FIRST else work.kind
            )  # the cap was learned meanwhile
        if not self._blocks:
            return None
        block = self._blocks[0]
        wanted = target()
        work = block.cut(
            wanted_rows=wanted.rows,
            max_bytes=min(wanted.bytes, max_bytes),
            min_rows=min_rows,
            chunk=next(self._chunks),
        )
        self._unsent_rows -= work.stop - work.start
        if not block.has_unsent:
            self._blocks.popleft()
        return work

    def unsent_rows(self) -> int:
        """Rows of open blocks never sent yet."""
        return self._unsent_rows
