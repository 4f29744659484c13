"""Memory while the first block is stuck: the others flow until the budget is full, and nothing ever waits for ever.

The real reader, flow and budget on a virtual clock; only what is read and who answers is made up.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncbatch.control import FixedController
from asyncbatch.control.breaker import Breaker
from asyncbatch.control.budget import ByteBudget
from asyncbatch.control.cutting import RowFootprint
from asyncbatch.errors import InvocationError
from asyncbatch.model import (
    Block,
    BytesPayload,
    Failure,
    InputFile,
    Payload,
    Reply,
    SourceBlock,
    Transport,
    Values,
)
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.pipeline.flow import Flow, FlowOptions
from asyncbatch.pipeline.gate import Gate
from asyncbatch.pipeline.invoking import Invoker
from asyncbatch.pipeline.reading import Reader, ReadPlan
from asyncbatch.sink.stream import OrderedBlocks
from asyncbatch.testing.clock import run_with_virtual_clock

LATE_S = 10_000.0
WINDOW_BLOCKS = 16


@dataclass
class Encoded:
    """Rows are their own numbers; `nbytes` is what the test says."""

    first: int
    rows: int
    nbytes: int
    sliceable: bool = True

    def payload(self, start: int, stop: int) -> Payload:
        body = "".join(f"{self.first + row}\n" for row in range(start, stop)).encode()
        return BytesPayload(pieces=(body,), content_type="text/csv", nbytes=len(body))

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        return max(1, min(max_rows, self.rows - start))

    def release(self, start: int, stop: int) -> None: ...


@dataclass
class Encoder:
    """Gives each block the size that the test chose for it."""

    bytes_of: dict[int, int]
    content_type: str = "text/csv"

    def encode(self, table: pa.Table) -> Encoded:
        first = table["row"][0].as_py()
        return Encoded(first=first, rows=table.num_rows, nbytes=self.bytes_of[first])


class Decoder:
    fields = (pa.field("prediction", pa.float64()),)

    def decode(self, reply: Reply, rows: int) -> tuple[Values, ...]:
        return (np.array([float(line) for line in reply.body.split()]),)


@dataclass
class Source:
    """`blocks` blocks of `block_rows` rows in one file."""

    blocks_: int
    read: list[int] = field(default_factory=list)

    def blocks(
        self, file: InputFile, *, columns: Sequence[str], block_rows: int, done: Any, max_rows: int | None
    ) -> Iterator[SourceBlock]:
        for number in range(self.blocks_):
            start = number * block_rows
            self.read.append(number)
            yield SourceBlock(
                block=Block(file=0, start=start, stop=start + block_rows),
                table=pa.table({"row": range(start, start + block_rows)}),
                last=number == self.blocks_ - 1,
            )


@dataclass
class Endpoint:
    """Echoes rows at once; a request that holds row 0 is answered late, or times out `timeouts` times before."""

    timeouts: int
    name: str = "scripted"
    takes_batches: bool = False
    max_body_bytes: int = 2**20

    @property
    def identity(self) -> dict[str, str | None]:
        return {}

    async def open(self, *, concurrency: int) -> None: ...

    async def aclose(self) -> None: ...

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        body = b"".join(payload.pieces)
        if b"0" in body.split():
            await anyio.sleep(LATE_S / (self.timeouts + 1))
            if self.timeouts and anyio.current_time() < LATE_S * 0.9:
                raise InvocationError(Failure(transport=Transport.TIMEOUT))
        else:
            await anyio.sleep(0.05)
        return Reply(body=body, content_type="text/csv")


@dataclass
class Seen:
    """What a run did."""

    given: list[int] = field(default_factory=list)
    """Blocks in the order in which they were committed or given to the consumer."""
    given_before: int = 0
    """How many of them while block 0 was stuck."""
    read_before: int = 0
    most_open: int = 0
    peak_bytes: int = 0


def run(
    sizes: Sequence[int],
    *,
    estimate: int,
    capacity: int,
    concurrency: int,
    ordered: bool,
    timeouts: int = 0,
    block_rows: int = 6,
) -> Seen:
    """One run over blocks of `sizes` bytes, each of which is expected to take `estimate`."""
    seen = Seen()
    source = Source(len(sizes))
    budget = ByteBudget(capacity_bytes=capacity)
    consumed = 0
    order: OrderedBlocks[OpenBlock] = OrderedBlocks(files=[0])

    async def main() -> None:
        clock = anyio.current_time

        async def finish(block: OpenBlock) -> None:
            nonlocal consumed
            await anyio.sleep(0.01)
            ready = (
                order.add(block.block, block, last=block.source.last) if ordered else [(block.block, block)]
            )
            for _, each in ready:
                consumed += 1
                seen.given.append(each.number)
                reader.release(each.number)

        controller = FixedController(chunk_rows=2, chunk_bytes=2**20, concurrency=concurrency)
        breaker = Breaker(max_outage_s=2 * LATE_S, started_s=clock())
        encoder = Encoder({number * block_rows: size for number, size in enumerate(sizes)})
        flow = Flow(
            invoker=Invoker(
                endpoint=Endpoint(timeouts),
                encoder=encoder,
                decoder=Decoder(),
                timeout_s=10,
                clock=clock,
                good_rows=None,
            ),
            controller=controller,
            gate=Gate(controller=controller, breaker=breaker, rate=None, row_rate=None),
            breaker=breaker,
            options=FlowOptions(max_payload_bytes=2**20, max_retries=3, max_outage_s=2 * LATE_S),
            metrics=MetricsCollector(clock=clock),
            emit=lambda event: None,
            rejected=lambda rows, code, message: None,
            finish=finish,
            clock=clock,
            rng=random.Random(0),
        )

        def may_admit(admitted: int) -> bool:
            seen.most_open = max(seen.most_open, budget.statistics().blocks_open)
            return not ordered or admitted - consumed < WINDOW_BLOCKS

        reader = Reader(
            plan=ReadPlan(
                source=source,  # type: ignore[arg-type]  # the part of a source that is read here
                files=(InputFile(number=0, path="", size_bytes=0, rows=None, fingerprint={}),),
                send=("row",),
                keep=(),
                read=("row",),
                block_rows=block_rows,
            ),
            encoder=encoder,
            budget=budget,
            row=RowFootprint(sent=estimate / block_rows, kept=0.0, answered=0.0),
            on_block=flow.wake,
            on_empty_file=lambda file: None,
            may_admit=may_admit,
        )

        async def look() -> None:
            await anyio.sleep(LATE_S * 0.5)
            seen.given_before, seen.read_before = len(seen.given), len(source.read)

        send, receive = anyio.create_memory_object_stream[OpenBlock](2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(reader.run, send)
            tasks.start_soon(flow.run, receive)
        assert budget.statistics().reserved_bytes == 0
        assert budget.statistics().blocks_open == 0

    run_with_virtual_clock(main)
    seen.peak_bytes = budget.statistics().peak_bytes
    return seen


block_sizes = st.lists(st.integers(1, 300), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    sizes=block_sizes,
    estimate=st.integers(6, 200),
    capacity=st.integers(1, 1_000),
    concurrency=st.integers(2, 8),
    ordered=st.booleans(),
)
def test_a_stuck_first_block_deadlocks_nothing_and_memory_stays_within_the_budget_and_one_block(
    sizes: list[int], estimate: int, capacity: int, concurrency: int, ordered: bool
) -> None:
    seen = run(sizes, estimate=estimate, capacity=capacity, concurrency=concurrency, ordered=ordered)
    assert sorted(seen.given) == list(range(len(sizes)))
    assert not ordered or seen.given == sorted(seen.given)
    assert seen.peak_bytes <= capacity + max(*sizes, estimate)
    assert not ordered or seen.most_open <= WINDOW_BLOCKS


@settings(max_examples=25, deadline=None)
@given(
    sizes=block_sizes,
    estimate=st.integers(6, 200),
    capacity=st.integers(1, 1_000),
    timeouts=st.integers(0, 3),
)
def test_the_others_are_committed_while_the_first_block_is_stuck_as_long_as_there_is_room(
    sizes: list[int], estimate: int, capacity: int, timeouts: int
) -> None:
    seen = run(sizes, estimate=estimate, capacity=capacity, concurrency=6, ordered=False, timeouts=timeouts)
    room_beside_the_first = sizes[0] + estimate <= capacity
    assert seen.given_before == (len(sizes) - 1 if room_beside_the_first else 0)


@settings(max_examples=25, deadline=None)
@given(sizes=block_sizes, estimate=st.integers(6, 200), capacity=st.integers(1, 2_000))
@example(sizes=[6] * 30, estimate=6, capacity=2_000)
def test_a_stream_reads_ahead_until_the_budget_or_the_window_is_full(
    sizes: list[int], estimate: int, capacity: int
) -> None:
    seen = run(sizes, estimate=estimate, capacity=capacity, concurrency=6, ordered=True)
    reserved, fitting = sizes[0], 1
    for size in sizes[1:WINDOW_BLOCKS]:
        if reserved + estimate > capacity:
            break
        reserved += size
        fitting += 1
    assert seen.given_before == 0
    assert seen.read_before == fitting
