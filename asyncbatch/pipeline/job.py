"""One job from the command to the report: plan or resume, run, finish, tell."""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from asyncbatch.config import RunConfig, flag
from asyncbatch.endpoint import make_endpoint
from asyncbatch.errors import AsyncBatchError, ConfigError, OutputError, StoppedError
from asyncbatch.observe.events import Event, Explained, RunFinished, RunPlanned, Warned
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.report import RunReport, Status, done_status, make_report, write_report
from asyncbatch.pipeline.apart import check_apart
from asyncbatch.pipeline.controllers import concurrency_ceiling
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.planned import as_planned
from asyncbatch.pipeline.planning import Prepared, prepare
from asyncbatch.pipeline.probing import Watch
from asyncbatch.pipeline.running import Run, RunTools
from asyncbatch.pipeline.signals import stop_on_signals
from asyncbatch.protocols import Advises, Endpoint, RunHook, Source
from asyncbatch.sink import Output, Plan, StreamSink, TextWriter, locate, open_sink, plan_differences
from asyncbatch.sink.lease import HEARTBEAT_S
from asyncbatch.sink.stream import ReaderGoneError
from asyncbatch.source import open_source

T = TypeVar("T")
_STREAM_BLOCKS = 16
"""Blocks that may be open while a stream waits for the oldest."""


class Job:
    """What a run, a plan and the Python API share: opened source and endpoint, metrics, events, clock."""

    def __init__(
        self,
        config: RunConfig,
        source: object,
        *,
        sink: str | None,
        hooks: Sequence[RunHook] = (),
        session: object = None,
    ) -> None:
        self.config = config
        self.source_spec = source if isinstance(source, str) else f"<{type(source).__name__}>"
        self.sink_spec = sink
        self.job_id = ""
        self.warnings: list[str] = []
        self.report_path: str | None = None
        """Where `--report` goes, once it is known to be no input."""
        self.on_stop: Callable[[str], None] | None = None
        self.owns_process = False
        """The event loop was made for this job, so signals to the process are for it."""
        self.started_at = datetime.now(UTC)
        self._raw_source = source
        self._hooks = tuple(hooks)
        self._session = session
        self.tools = RunTools(
            clock=time.monotonic,
            rng=random.Random(),
            metrics=MetricsCollector(clock=time.monotonic),
            emit=self.emit,
        )

    def emit(self, event: Event) -> None:
        """Tell every hook; keep warnings for the report. A hook that raises is told nothing more: the run is not its."""
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  # what others wrote, and a night's work depends on none of it
                self._hooks = tuple(each for each in self._hooks if each is not hook)
                name = getattr(hook, "__qualname__", type(hook).__qualname__)
                self.emit(
                    Warned(message=f"hook {name} raised {type(error).__name__} and is told nothing more")
                )

    async def open(self, stack: AsyncExitStack) -> tuple[Source, Endpoint]:
        """Open source and endpoint; both are closed with `stack`, whatever happens."""
        if not self.config.endpoint.endpoint:
            raise ConfigError(
                "no endpoint is named",
                hint="-e NAME, -e http://host/invocations or -e python:module:function",
            )
        # In a thread: it imports its client library, which takes up to 200 ms.
        endpoint = await anyio.to_thread.run_sync(lambda: make_endpoint(self.config, session=self._session))
        source = await anyio.to_thread.run_sync(open_source, self._raw_source, self.config.input)
        stack.callback(source.close)
        stack.push_async_callback(_close, endpoint)
        await endpoint.open(concurrency=concurrency_ceiling(self.config))
        if isinstance(endpoint, Advises):
            for advice in endpoint.advice:
                self.emit(Warned(message=advice))
        return source, endpoint

    async def prepare(
        self,
        source: Source,
        endpoint: Endpoint,
        planned: Plan | None,
        *,
        watch: Watch | None = None,
        head: int = 0,
    ) -> Prepared:
        """See `planning.prepare`; probes are counted as requests of the run."""
        metrics = self.tools.metrics

        def record(sample: Any) -> None:
            metrics.started()
            metrics.finished(sample)

        return await prepare(
            self.config,
            source,
            endpoint,
            planned=planned,
            clock=self.tools.clock,
            rng=self.tools.rng,
            record=record,
            watch=watch,
            head=head,
        )

    def stop(self, reason: str) -> None:
        """End the job in order, on the loop it runs on: open blocks are finished; before the first there are none."""
        if self.on_stop is not None:
            self.on_stop(reason)

    async def attended(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run all of the job, so that `stop`, signals and cancellation of either kind reach it at any time, in order.

        In a task of its own: asyncio's own cancellation, unlike a scope's, breaks through shields and leaves threads at
        work whose results nobody takes, such as a lease just acquired; a task group turns the one into the other.
        """
        results: list[T] = []
        reasons: list[str] = []
        scope = anyio.CancelScope()

        def stop_early(reason: str) -> None:
            reasons.append(reason)
            scope.cancel()

        async def body() -> None:
            with scope:
                results.append(await function())

        self.on_stop = stop_early
        with flattened():
            async with AsyncExitStack() as stack:
                if self.owns_process:
                    await stack.enter_async_context(stop_on_signals(self.stop))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(body)
        if not results:
            raise StoppedError(
                f"stopped before the first block: {reasons[0]}", hint="the same command begins again"
            )
        return results[0]

    def announce(self, prepared: Prepared, *, rows: int | None, resumed: int) -> None:
        self.tools.metrics.planned(rows_total=rows, rows_resumed=resumed)
        self.emit(
            RunPlanned(
                job_id=self.job_id,
                endpoint=prepared.endpoint.name,
                rows=rows,
                resumed_rows=resumed,
                files=len(prepared.source.files),
                blocks=_blocks(prepared, self.config.input.limit),
                block_rows=prepared.block_rows,
                columns_sent=prepared.selection.send,
            )
        )

        for message in prepared.explained():
            self.emit(Explained(message=message))

    def report(self, status: Status, exit_code: int, *, reason: str = "") -> RunReport:
        return make_report(
            config=self.config,
            totals=self.tools.metrics.totals(),
            status=status,
            exit_code=exit_code,
            reason=reason,
            job_id=self.job_id,
            endpoint=self.config.endpoint.endpoint,
            source=self.source_spec,
            sink=self.sink_spec,
            started_at=self.started_at,
            warnings=self.warnings,
        )

    def done(self, *, rejected_before: bool = False) -> RunReport:
        """The report of a run that reached its end; `rejected_before`: parts of earlier runs hold rejects."""
        status, exit_code = done_status(
            self.config, self.tools.metrics.totals(), rejected_before=rejected_before
        )
        return self.report(status, exit_code)

    def ended_by(self, error: BaseException) -> RunReport:
        """The report of a run that `error` ended."""
        if not isinstance(error, AsyncBatchError):  # cancelled, or a defect: the same command goes on
            return self.report("stopped", 75, reason=type(error).__name__)
        return self.report(
            "stopped" if error.exit_code == 75 else "failed", error.exit_code, reason=error.message
        )


async def run_to_sink(job: Job, sink: str) -> RunReport:
    """Run the whole input through the endpoint into `sink`, or go on where an earlier run stopped.

    Raises:
        AsyncBatchError: what ended it; parts committed so far stay, and the same command goes on from there.
    """
    try:
        location = locate(sink, format=job.config.output.format)
        report = await job.attended(
            lambda: _to_stream(job) if location.kind == "stream" else _to_output(job, sink)
        )
    except ReaderGoneError:
        _tell(job, job.done())
        raise
    except AsyncBatchError as error:
        _tell(job, job.ended_by(error))
        raise
    _tell(job, report)
    return report


def _tell(job: Job, report: RunReport) -> None:
    if job.report_path is not None:
        write_report(report, job.report_path)
    job.emit(RunFinished(report=report))


async def _to_output(job: Job, sink: str) -> RunReport:
    config = job.config
    async with AsyncExitStack() as stack:
        # Bad input is said before anything is made on disk.
        source, endpoint = await job.open(stack)
        location = locate(sink, format=config.output.format)
        check_apart(job.source_spec, source.files, location, config.output.report)
        job.report_path = config.output.report
        output = await anyio.to_thread.run_sync(
            lambda: open_sink(
                sink,
                format=config.output.format,
                overwrite=config.failure.overwrite,
                file_size=config.output.file_size,
            )
        )
        stack.push_async_callback(_in_thread, output.close)
        planned = output.plan
        if planned is not None:
            job.job_id = planned.job_id
            check_resumable(planned, config, source, endpoint, sink)
            source = as_planned(source, planned.files)
            if output.finished:
                rows = await anyio.to_thread.run_sync(output.finished_rows)
                job.tools.metrics.planned(rows_total=rows, rows_resumed=rows)
                return job.done()
        prepared = await job.prepare(source, endpoint, planned)
        plan = prepared.as_plan(config, job.source_spec)
        if planned is None:
            expected_bytes = _expected_bytes(prepared, config.input.limit)
            plan = await anyio.to_thread.run_sync(lambda: output.start(plan, expected_bytes=expected_bytes))
        job.job_id = plan.job_id
        return await _run_to_output(job, prepared, output)


def _expected_bytes(prepared: Prepared, limit: int | None) -> int:
    """A low guess at the output's size, so that a disk that is surely too small is refused at once; 0: not known."""
    rows = total_rows(prepared.source, limit) or 0
    return int(rows * (8 + prepared.row.kept / 4))


async def _run_to_output(job: Job, prepared: Prepared, output: Output) -> RunReport:
    sink = output.sink
    done = await anyio.to_thread.run_sync(sink.done_by_file)
    resumed = sum(stop - start for ranges in done.values() for start, stop, _ in ranges)
    total = total_rows(prepared.source, job.config.input.limit)
    job.announce(prepared, rows=total, resumed=resumed)
    run = Run(
        config=job.config,
        prepared=prepared,
        sink=sink,
        tools=job.tools,
        done=done,
        rows_left=None if total is None else total - resumed,
        finished_rows=resumed,
        on_empty_file=lambda file: sink.end_file(file.number, rows=0, size_bytes=file.size_bytes),
    )
    job.on_stop = run.stop
    try:
        with flattened():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_keep_lease, output)
                await run.run()
                tasks.cancel_scope.cancel()
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            # A stop may have come too late to leave anything undone.
            stopped = isinstance(error, StoppedError)
            if not stopped or await anyio.to_thread.run_sync(lambda: bool(output.missing())):
                report = job.ended_by(error)
                try:
                    await anyio.to_thread.run_sync(output.write_report, report.to_dict())
                except AsyncBatchError:
                    pass  # a full disk has ended the run already, and says so itself
                raise
    manifest = await anyio.to_thread.run_sync(output.finish, job.done().to_dict())
    if manifest is None:
        missing = await anyio.to_thread.run_sync(output.missing)
        raise OutputError(
            f"{len(missing)} ranges of {output.location.spec} are missing at the end of the run",
            hint="the same command writes them",
        )
    report = job.done(rejected_before=manifest.rejects > 0)
    await anyio.to_thread.run_sync(output.write_report, report.to_dict())
    return report


async def _to_stream(job: Job) -> RunReport:
    """Standard output: in row order, nothing kept, so nothing to resume."""
    writers: list[TextWriter] = []
    form = locate("-", format=job.config.output.format).format
    job.emit(
        Warned(
            message="standard output cannot be resumed", hint="give a file or a folder as SINK to be able to"
        )
    )

    def start(prepared: Prepared) -> Taker:
        writer = TextWriter(sys.stdout.buffer, format=form, schema=prepared.shape.schema)
        writers.append(writer)

        def take(table: Any, release: Callable[[], None]) -> None:
            writer.write(table)
            release()

        return take

    await _ordered(job, start)
    await anyio.to_thread.run_sync(writers[0].finish)
    return job.done()


Taker = Callable[[Any, Callable[[], None]], None]
"""Takes a table and the function to call once its memory is free; called in a thread, in row order."""


async def run_ordered(job: Job, start: Callable[[Prepared], Taker]) -> None:
    """Run the whole input and give its tables, in row order, to what `start` returns.

    No more than 16 blocks are between reading and release, and no more bytes than the budget holds.
    """
    await job.attended(lambda: _ordered(job, start))


async def _ordered(job: Job, start: Callable[[Prepared], Taker]) -> None:
    async with AsyncExitStack() as stack:
        source, endpoint = await job.open(stack)
        check_apart(job.source_spec, source.files, None, job.config.output.report)
        job.report_path = job.config.output.report
        prepared = await job.prepare(source, endpoint, None)
        take = start(prepared)
        total = total_rows(source, job.config.input.limit)
        job.announce(prepared, rows=total, resumed=0)
        loop = asyncio.get_running_loop()
        given = 0

        def released() -> None:  # in row order, so the n-th to be released is block n
            nonlocal given
            run.consumed(given)
            given += 1

        def release() -> None:
            try:
                loop.call_soon_threadsafe(released)
            except RuntimeError:  # the loop has ended: nobody waits for memory any more
                pass

        sink = StreamSink(
            files=[file.number for file in source.files], emit=lambda table: take(table, release)
        )
        run = Run(
            config=job.config,
            prepared=prepared,
            sink=sink,
            tools=job.tools,
            done={},
            rows_left=total,
            on_empty_file=lambda file: sink.end_file(file.number),
            may_admit=lambda admitted: admitted - given < _STREAM_BLOCKS,
            consumed_later=True,
        )
        job.on_stop = run.stop
        await run.run()


def check_resumable(planned: Plan, config: RunConfig, source: Source, endpoint: Endpoint, sink: str) -> None:
    """Raises OutputError if the command differs from the plan in what a part holds."""
    if not source.resumable:
        raise OutputError(
            f"{sink} was begun before, and an in-memory input cannot be told to be the same",
            hint="choose another output, or --overwrite to start anew",
        )
    now = Plan(
        files=tuple(source.files),
        block_rows=planned.block_rows,
        schema=planned.schema,
        reply=planned.reply,
        options=config.semantic(),
        endpoint=dict(endpoint.identity),
        source=planned.source,
        min_rows=planned.min_rows,
    )
    differences = plan_differences(planned, now)
    if differences:
        listed = "; ".join(str(difference) for difference in differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise OutputError(
            f"{sink} belongs to a job that differs from this command: {listed}{more}",
            hint=f"give the same command to go on, choose another output, or {flag('overwrite')} to start anew",
        )


def total_rows(source: Source, limit: int | None) -> int | None:
    """Rows of the input within `limit`; None where only reading tells."""
    rows = [file.rows for file in source.files]
    if any(count is None for count in rows):
        return None
    total = sum(count for count in rows if count is not None)
    return total if limit is None else min(total, limit)


def _blocks(prepared: Prepared, limit: int | None) -> int | None:
    left = total_rows(prepared.source, limit)
    if left is None:
        return None
    blocks = 0
    for file in prepared.source.files:
        rows = min(left, file.rows or 0)
        blocks += -(-rows // prepared.block_rows)
        left -= rows
    return blocks


async def _close(endpoint: Endpoint) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(10):
        await endpoint.aclose()


async def _in_thread(function: Callable[[], object]) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(function)


async def _keep_lease(output: Output) -> None:
    while True:
        await anyio.sleep(HEARTBEAT_S)
        await anyio.to_thread.run_sync(output.heartbeat)
