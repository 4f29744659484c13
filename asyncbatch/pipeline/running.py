"""The path of one run, wired: reader, queue, flow, assembly, sink. Ends in order, whatever ends it."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import anyio
import anyio.to_thread

from asyncbatch.config import RunConfig
from asyncbatch.control.binding import Wait
from asyncbatch.control.breaker import Breaker
from asyncbatch.control.budget import ByteBudget
from asyncbatch.errors import StoppedError, TooManyRejectsError
from asyncbatch.model import InputFile
from asyncbatch.observe.events import Event, Explained, PartCommitted, Progressed, RowsRejected, Stopping
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.pipeline.assembling import assemble
from asyncbatch.pipeline.binding import BindingWatch, Look
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.pipeline.controllers import bytes_in_flight
from asyncbatch.pipeline.flow import Flow, FlowOptions
from asyncbatch.pipeline.gate import Gate
from asyncbatch.pipeline.invoking import Invoker
from asyncbatch.pipeline.passing import pass_lines
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.reading import DoneRange, Reader, ReadPlan
from asyncbatch.pipeline.tuning import remember
from asyncbatch.protocols import BoundByMemory, Explains, Sink

_QUEUE_BLOCKS = 2
_WRITERS = 2
_TICK_S = 0.2


def release_unused_memory() -> None:
    """Give back what Arrow's allocator keeps after a block: 45 MB less at the peak of a 64 MB run, measured."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTools:
    """What a run is given from outside, so that tests can give something else."""

    clock: Callable[[], float]
    rng: random.Random
    metrics: MetricsCollector
    emit: Callable[[Event], None]


class Run:
    """One pass over the blocks that are not done. Not reusable."""

    def __init__(
        self,
        *,
        config: RunConfig,
        prepared: Prepared,
        sink: Sink,
        tools: RunTools,
        done: Mapping[int, Sequence[DoneRange]],
        rows_left: int | None,
        finished_rows: int = 0,
        on_empty_file: Callable[[InputFile], None],
        may_admit: Callable[[int], bool] | None = None,
        consumed_later: bool = False,
    ) -> None:
        """What is to be done with what.

        Args:
            rows_left: rows not done yet; None where only reading tells.
            finished_rows: rows that earlier runs committed.
            on_empty_file: told of an input file without rows; called in a thread.
            may_admit: a consumer's own bound on blocks, besides the bytes.
            consumed_later: a written block still holds its bytes; the consumer calls `consumed`.
        """
        self._config = config
        self._prepared = prepared
        self._sink = sink
        self._tools = tools
        self._finished_rows = finished_rows
        self._rejected_rows = 0
        self._writers = anyio.CapacityLimiter(_WRITERS)
        self._stop_reason: str | None = None
        self._scope = anyio.CancelScope()
        speed, failure = config.speed, config.failure
        controller = prepared.controller
        self._controller = controller
        breaker = Breaker(max_outage_s=failure.max_outage, started_s=tools.clock())
        self._budget = ByteBudget(capacity_bytes=speed.block_memory)
        self._flow = Flow(
            invoker=Invoker(
                endpoint=prepared.endpoint,
                encoder=prepared.encoder,
                decoder=prepared.decoder,
                timeout_s=failure.request_timeout,
                clock=tools.clock,
                good_rows=prepared.good_rows,
                names=prepared.selection.send,
            ),
            controller=controller,
            gate=Gate(controller=controller, breaker=breaker, rate=speed.rate, row_rate=speed.row_rate),
            breaker=breaker,
            options=FlowOptions(
                max_payload_bytes=min(speed.max_payload, prepared.endpoint.max_body_bytes),
                max_retries=failure.max_retries,
                max_outage_s=failure.max_outage,
                min_rows=prepared.min_rows,
                one_row_works=prepared.one_row_works,
            ),
            metrics=tools.metrics,
            emit=tools.emit,
            rejected=self._rejected,
            finish=self._finish,
            clock=tools.clock,
            rng=tools.rng,
            input_waits=self._input_waits,
        )
        most_bytes = bytes_in_flight(speed.block_memory, prepared.row)
        if isinstance(controller, BoundByMemory):
            controller.note_bytes_in_flight(most_bytes)
        self._binding = BindingWatch(
            config=config, controller=controller, most_bytes=most_bytes, block_rows=prepared.block_rows
        )
        self._writing = 0
        self._flow.note_unread_rows(rows_left)
        sizes = [file.size_bytes for file in prepared.source.files]
        self._bytes_before = dict(
            zip((file.number for file in prepared.source.files), accumulate(sizes, initial=0), strict=False)
        )
        self._bytes_total = sum(sizes)
        self._source_share = 0.0
        self._explained_s = -1.0
        plan = ReadPlan(
            source=prepared.source,
            files=tuple(prepared.source.files),
            send=prepared.selection.send,
            keep=prepared.selection.keep,
            read=prepared.selection.read,
            block_rows=prepared.block_rows,
            limit=config.input.limit,
            done={number: list(ranges) for number, ranges in done.items()},
            keep_sent=not prepared.one_row_works,
        )
        plan, encoder = pass_lines(plan, prepared.encoder, config.request)
        self._reader = Reader(
            plan=plan,
            encoder=encoder,
            budget=self._budget,
            row=prepared.row,
            on_block=self._flow.wake,
            on_empty_file=on_empty_file,
            may_admit=may_admit,
        )
        self._consumed_later = consumed_later

    # -- from outside ----------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Admit no further block; finish the open ones within the grace; then `run` raises StoppedError."""
        if self._stop_reason is not None:
            return
        self._stop_reason = reason
        self._tools.emit(Stopping(reason=reason))
        self._reader.stop()
        self._scope.deadline = anyio.current_time() + self._config.failure.grace

    def consumed(self, block: int) -> None:
        """A consumer took block number `block`: its bytes are free, and admission may go on."""
        self._reader.release(block)

    async def run(self) -> None:
        """Until every block is finished.

        Raises:
            StoppedError: stopped on purpose before the end; the same command goes on.
            AsyncBatchError: whatever ended the run; what is committed stays.
        """
        send, receive = anyio.create_memory_object_stream[OpenBlock](_QUEUE_BLOCKS)
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._tick)
                    if self._config.failure.deadline is not None:
                        tasks.start_soon(self._watch_deadline, self._config.failure.deadline)
                    async with anyio.create_task_group() as path:
                        path.start_soon(self._reader.run, send)
                        path.start_soon(self._flow.run, receive)
                    tasks.cancel_scope.cancel()
        finally:
            send.close()
            receive.close()
            self._tools.emit(self._progress())
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remember, self._prepared.tuning, self._controller)
        if self._reader.failure is not None:
            raise self._reader.failure
        if self._stop_reason is not None and not (self._reader.reached_end and self._flow.open_blocks == 0):
            raise StoppedError(
                f"stopped before the end: {self._stop_reason}", hint="the same command goes on from here"
            )

    # -- the last stage --------------------------------------------------------------------------------------------

    async def _finish(self, block: OpenBlock) -> None:
        self._writing += 1
        try:
            with anyio.CancelScope(shield=True):  # a commit is not interrupted half-way
                await anyio.to_thread.run_sync(self._write, block, limiter=self._writers)
        finally:
            self._writing -= 1
        rejected = len(block.rejects)
        rows_out = block.block.rows - (rejected if self._prepared.shape.drops else 0)
        self._finished_rows += block.block.rows
        self._tools.metrics.committed(rows_in=block.block.rows, rows_out=rows_out)
        if block.source.end_offset is not None and self._bytes_total:
            reached = self._bytes_before[block.block.file] + block.source.end_offset
            self._source_share = max(self._source_share, reached / self._bytes_total)
            self._tools.metrics.read(source_share=self._source_share)
        if block.source.rejects:
            code, message = block.source.rejects[0].code, block.source.rejects[0].message
            self._rejected(len(block.source.rejects), code, message)
        self._tools.emit(PartCommitted(block=block.block, rows_out=rows_out, rows_rejected=rejected))
        if not self._consumed_later:
            self._reader.release(block.number)

    def _write(self, block: OpenBlock) -> None:
        table, rejects = assemble(block, self._prepared.decoder, self._prepared.shape)
        block.results.clear()
        self._sink.write(
            block.block,
            table,
            rejects=rejects,
            variants=block.variants,
            end_offset=block.source.end_offset,
            last=block.source.last,
        )
        release_unused_memory()

    def _rejected(self, rows: int, code: str, message: str) -> None:
        self._rejected_rows += rows
        self._tools.metrics.rejected(rows, code=code)
        self._tools.emit(RowsRejected(count=rows, code=code, message=message))
        failure = self._config.failure
        if failure.on_error == "fail":
            raise TooManyRejectsError(
                f"a row was rejected under --on-error fail: {code}: {message}",
                hint="--on-error null keeps such rows with a null prediction; plan --show 1 prints a request",
            )
        if failure.max_errors is not None and failure.max_errors.exceeded(
            self._rejected_rows, max(self._finished_rows, self._rejected_rows)
        ):
            raise TooManyRejectsError(
                f"{self._rejected_rows:,} rows were rejected, more than --max-errors {failure.max_errors};"
                f" the last: {code}: {message}",
                hint="what is committed stays; raise --max-errors to go on from here",
            )

    # -- beside the path -------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            self._look()
            self._tools.emit(self._progress())
            self._explain()
            await anyio.sleep(_TICK_S)

    def _input_waits(self) -> Wait:
        """Why the flow has no further block."""
        waits = self._reader.waits
        return Wait.OUTPUT if waits is Wait.MEMORY and self._writing else waits

    def _look(self) -> None:
        """Find out what binds."""
        now_s = self._tools.clock()
        flow = self._flow
        found = self._binding.look(
            Look(
                now_s=now_s,
                waits=flow.waits.take(now_s),
                counts=self._tools.metrics.counts(),
                chunks=flow.chunks,
                capped=flow.capped,
                in_flight=flow.in_flight,
                chunk_rows=flow.chunk_rows,
            )
        )
        if found is not None:
            self._tools.emit(Explained(message=found))

    def _explain(self) -> None:
        """Pass on what the controller decided since the last time."""
        if not isinstance(self._controller, Explains):
            return
        for decision in self._controller.explain():
            if decision.time_s > self._explained_s:
                self._explained_s = decision.time_s
                self._tools.emit(Explained(message=f"{decision.what}: {decision.why}"))

    def _progress(self) -> Progressed:
        return Progressed(
            snapshot=self._tools.metrics.snapshot(
                limit=self._controller.concurrency(),
                chunk_rows=self._flow.chunk_rows,
                blocks_open=self._flow.open_blocks,
                bound=self._binding.bound,
            )
        )

    async def _watch_deadline(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self.stop(f"the deadline of {seconds:g} s is reached")
