"""A job into a folder or a file: plan or resume, run, finish, tell."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread

from asyncbatch.errors import AsyncBatchError, OutputError, StoppedError
from asyncbatch.observe.events import RunFinished
from asyncbatch.observe.report import RunReport, write_report
from asyncbatch.pipeline.apart import check_apart
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planned import as_planned
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.resuming import check_resumable, total_rows
from asyncbatch.pipeline.running import Run
from asyncbatch.pipeline.to_stream import to_stream
from asyncbatch.sink import Output, locate, open_sink
from asyncbatch.sink.lease import HEARTBEAT_S
from asyncbatch.sink.stream import ReaderGoneError


async def run_to_sink(job: Job, sink: str) -> RunReport:
    """Run the whole input through the endpoint into `sink`, or go on where an earlier run stopped.

    Raises:
        AsyncBatchError: what ended it; parts committed so far stay, and the same command goes on from there.
    """
    try:
        location = locate(sink, format=job.config.output.format)
        report = await job.attended(
            lambda: to_stream(job) if location.kind == "stream" else _to_output(job, sink)
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


async def _in_thread(function: Callable[[], object]) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(function)


async def _keep_lease(output: Output) -> None:
    while True:
        await anyio.sleep(HEARTBEAT_S)
        await anyio.to_thread.run_sync(output.heartbeat)
