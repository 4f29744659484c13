"""The first stage: a thread reads a block, splits off what cannot be sent, and encodes the rest once."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectSendStream

from asyncbatch.control.binding import Wait
from asyncbatch.control.budget import ByteBudget
from asyncbatch.control.cutting import RowFootprint
from asyncbatch.errors import InputError, SourceError
from asyncbatch.model import InputFile, SourceBlock
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.protocols import Encoder, Source

if TYPE_CHECKING:
    pass

DoneRange = tuple[int, int, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What is to be read, settled before the first block."""

    source: Source
    files: tuple[InputFile, ...]
    send: tuple[str, ...]
    keep: tuple[str, ...]
    read: tuple[str, ...]
    block_rows: int
    limit: int | None = None
    """Rows of the whole input, at most."""
    done: dict[int, list[DoneRange]] = field(default_factory=dict)
    """By file number: committed ranges, ascending."""
    keep_sent: bool = False
    """Keep the sent columns while a block is open: rows may have to be sent beside a known-good row."""


def read_blocks(
    plan: ReadPlan, encoder: Encoder, on_empty_file: Callable[[InputFile], None]
) -> Generator[OpenBlock, None, None]:
    """Read and encode the blocks that are not done, in row order. Blocking: each step runs in a thread."""
    number = 0
    left = plan.limit
    for file in plan.files:
        if left is not None and left <= 0:
            return
        done = plan.done.get(file.number, [])
        seen = 0
        for source_block in plan.source.blocks(
            file, columns=plan.read, block_rows=plan.block_rows, done=done, max_rows=left
        ):
            seen = max(seen, source_block.block.stop)
            yield _open(plan, encoder, source_block, number)
            number += 1
        if seen == 0 and not done:
            on_empty_file(file)
        if left is not None:
            left -= max([seen, *(stop for _, stop, _ in done)])


def _open(plan: ReadPlan, encoder: Encoder, source_block: SourceBlock, number: int) -> OpenBlock:
    table = source_block.table
    positions = None
    sent = table.select(list(plan.send))
    if source_block.rejects:
        import numpy as np
        import pyarrow as pa

        sendable = np.ones(source_block.block.rows, dtype=bool)
        sendable[[reject.row - source_block.block.start for reject in source_block.rejects]] = False
        positions = np.flatnonzero(sendable)
        sent = sent.filter(pa.array(sendable))
    return OpenBlock(
        number=number,
        source=SourceBlock(
            block=source_block.block,
            table=table.select(list(plan.keep)),
            rejects=source_block.rejects,
            end_offset=source_block.end_offset,
            last=source_block.last,
        ),
        encoded=encoder.encode(sent),
        positions=positions,
        sent=sent if plan.keep_sent else None,
    )


def _next(blocks: Generator[OpenBlock, None, None]) -> OpenBlock | None:
    """The next block; None at the end. What is wrong with the input now is no usage error: the run has begun."""
    try:
        return next(blocks, None)
    except InputError as error:
        raise SourceError(
            error.message, hint=f"{error.hint or 'see the input'}; what is committed stays"
        ) from error


class Reader:
    """Feeds open blocks into a bounded queue while their bytes fit the budget.

    Bytes are reserved before a block is read, by the footprint of a row, and corrected once it is.
    """

    def __init__(
        self,
        *,
        plan: ReadPlan,
        encoder: Encoder,
        budget: ByteBudget,
        row: RowFootprint,
        on_block: Callable[[], None],
        on_empty_file: Callable[[InputFile], None],
        may_admit: Callable[[int], bool] | None = None,
    ) -> None:
        """`may_admit(admitted)`: a consumer's own bound, besides the bytes; `on_empty_file` is called in a thread."""
        self._plan = plan
        self._encoder = encoder
        self._budget = budget
        self._row = row
        self._on_block = on_block
        self._on_empty_file = on_empty_file
        self._may_admit = may_admit
        self._room = anyio.Event()
        self._stopping = False
        self.waits: Wait = Wait.INPUT
        """Why the next block is not there: it is read, there is no memory, or whoever takes the tables is slow."""
        self.blocks_read = 0
        self.reached_end = False
        self.failure: SourceError | None = None
        """Why reading ended early. The blocks read before it are good, and are finished."""

    def release(self, block: int) -> None:
        """Block number `block` is committed or consumed: its bytes are free."""
        self._budget.release(block)
        self.look_again()

    def stop(self) -> None:
        """Admit no further block."""
        self._stopping = True
        self.look_again()

    def look_again(self) -> None:
        """There may be room for a block now."""
        self._room.set()

    async def run(self, queue: MemoryObjectSendStream[OpenBlock]) -> None:
        """Read until the end of the input or `stop()`; closes the queue. One thread hop a block."""
        blocks = read_blocks(self._plan, self._encoder, self._on_empty_file)
        async with queue:
            try:
                while await self._admitted():
                    try:
                        block = await anyio.to_thread.run_sync(_next, blocks)
                    except SourceError as error:
                        self.failure, block = error, None
                    if block is None:
                        self.reached_end = self.failure is None
                        self._budget.release(self.blocks_read)
                        break
                    self._budget.correct(block.number, self._bytes_of(block))
                    self.blocks_read += 1
                    await queue.send(block)
                    self._on_block()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(blocks.close)
        self._on_block()

    async def _admitted(self) -> bool:
        needed_bytes = int(self._row.total * self._plan.block_rows)
        while not self._stopping:
            welcome = self._may_admit is None or self._may_admit(self.blocks_read)
            if welcome and self._budget.admit(self.blocks_read, needed_bytes):
                self.waits = Wait.INPUT
                return True
            self.waits = Wait.MEMORY if welcome else Wait.CONSUMER
            self._room = anyio.Event()
            await self._room.wait()
        return False

    def _bytes_of(self, block: OpenBlock) -> int:
        estimate = (
            block.encoded.nbytes + 2 * block.source.table.nbytes + self._row.answered * block.encoded.rows
        )
        return max(1, int(estimate))
