"""A block while it is open: what is unsent, what is answered, what is rejected. No I/O, no event loop."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncbatch.control.cutting import equal_cut
from asyncbatch.model import FIRST, Block, ChunkResult, Kind, Reject, SourceBlock, Values
from asyncbatch.protocols import EncodedBlock

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(slots=True, eq=False)
class RefusedHalves:
    """Two pieces of one that was refused for its rows. If both are answered, the refusal was none of theirs."""

    answered: int = 0


@dataclass(slots=True, eq=False)
class Work:
    """Rows to be sent: a new chunk, or a part of one that came back. Lives until answered or rejected."""

    block: "OpenBlock | None"
    """None for a control request with known-good rows only."""
    start: int
    stop: int
    kind: Kind
    chunk: int
    """Number of the chunk as first cut; its retries and halves keep it."""
    tries: int = 0
    """Failures that count against these rows."""
    waits: int = 0
    """Refusals that do not: throttled, unavailable, not ready."""
    logins: int = 0
    """Refusals of the credentials or the clock, one after the other."""
    padded: bool = False
    """Sent together with known-good rows, whose answers are dropped."""
    failed_s: float = 0.0
    """When these rows last failed."""
    in_doubt: bool = False
    """A row that failed alone while others failed too: it is sent again before it is rejected."""
    doubted: bool = False
    """It was in doubt once because of other chunks."""
    refused: bool = False
    """These rows were refused before, not merely failed."""
    half_of: RefusedHalves | None = None
    capped: bool = False
    """The largest body made it smaller than wanted."""

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def halves(self, kind: Kind) -> tuple["Work", "Work"]:
        middle = (self.start + self.stop) // 2
        both = RefusedHalves() if self.refused else None
        return (
            Work(block=self.block, start=self.start, stop=middle, kind=kind, chunk=self.chunk, half_of=both),
            Work(block=self.block, start=middle, stop=self.stop, kind=kind, chunk=self.chunk, half_of=both),
        )


@dataclass(slots=True, eq=False)
class OpenBlock:
    """One block between reading and commit. Row positions are among its *sendable* rows unless said otherwise."""

    number: int
    """Position in the run's order of blocks."""
    source: SourceBlock
    """Its table holds the kept columns only."""
    encoded: EncodedBlock
    positions: "np.ndarray[Any, Any] | None"
    """Row in the block of each sendable row; None when every row is sendable."""
    sent: "pa.Table | None" = None
    """The sent columns of the sendable rows, kept only while a row may have to be sent beside another."""
    results: list[ChunkResult] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    variants: dict[str, int] = field(default_factory=dict)
    unsent: int = 0
    unanswered: int = field(init=False)

    def __post_init__(self) -> None:
        self.unanswered = self.encoded.rows
        self.rejects.extend(self.source.rejects)

    @property
    def block(self) -> Block:
        return self.source.block

    @property
    def has_unsent(self) -> bool:
        return self.unsent < self.encoded.rows

    @property
    def unsent_rows(self) -> int:
        return self.encoded.rows - self.unsent

    def cut(self, *, wanted_rows: int, max_bytes: int, min_rows: int, chunk: int) -> Work:
        """Take the next chunk: equal cuts of what is unsent, within the byte cap, never leaving fewer than `min_rows`."""
        encoded, start = self.encoded, self.unsent
        left = encoded.rows - start
        equal = equal_cut(left, max(wanted_rows, min_rows))
        rows = encoded.fit(start, equal, max_bytes)
        capped = rows < equal
        if left - rows < min_rows and rows < left:
            rows = left if left <= wanted_rows + min_rows else max(1, rows - min_rows)
        self.unsent = stop = start + rows
        work = Work(self, start, stop, FIRST, chunk)
        work.capped = capped
        return work

    def fits(self, work: Work, max_bytes: int) -> bool:
        """Whether the body of `work` has at most `max_bytes`."""
        return self.encoded.fit(work.start, work.rows, max_bytes) >= work.rows

    def answer(self, work: Work, columns: tuple[Values, ...], variant: str) -> None:
        """Rows of `work` are answered; their body bytes are no longer needed."""
        start, stop = work.start, work.stop
        self.results.append(ChunkResult(start, stop, columns, variant))
        if variant:
            self.variants[variant] = self.variants.get(variant, 0) + stop - start
        self.encoded.release(start, stop)
        self.unanswered -= stop - start

    def reject(self, work: Work, *, code: str, message: str) -> None:
        """The one row of `work` cannot be answered."""
        position = work.start if self.positions is None else int(self.positions[work.start])
        self.rejects.append(
            Reject(row=self.block.start + position, code=code, message=message, attempts=max(1, work.tries))
        )
        self.encoded.release(work.start, work.stop)
        self.unanswered -= work.rows
