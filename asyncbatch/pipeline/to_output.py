"""A job into a folder or a file: plan or resume, run, finish, tell."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import anyio.to_thread

from asyncbatch.errors import AsyncBatchError, OutputError, StoppedError, StorageError
from asyncbatch.observe.events import RunFinished, ShardDone, Warned
from asyncbatch.observe.report import RunReport
from asyncbatch.observe.report_file import write_report
from asyncbatch.pipeline.accepting import Accepted, check_same_table
from asyncbatch.pipeline.apart import check_apart
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.growing import (
    as_first_read,
    check_columns,
    grow,
    look_before,
    with_later_files,
    would_double,
)
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.leasing import holding, taken_over, when_free
from asyncbatch.pipeline.partitioned import check_partitioned_sink
from asyncbatch.pipeline.planned import as_planned
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.resuming import check_resumable, total_rows
from asyncbatch.pipeline.running import Run
from asyncbatch.pipeline.shards import (
    refuse_processes,
    refuse_shards,
    require_shared_source,
    rows_missing,
    shard_of,
    shard_work,
)
from asyncbatch.pipeline.to_stream import to_stream
from asyncbatch.pipeline.watching import ModelWatch
from asyncbatch.protocols import Endpoint, Source
from asyncbatch.sink import Output, locate, open_sink
from asyncbatch.sink.history import load_history, note_accepted
from asyncbatch.sink.lease import WHOLE, lease_name
from asyncbatch.sink.manifest import Manifest
from asyncbatch.sink.stream import ReaderGoneError

_FINISH_LOOK_S = 0.2
"""How often a shard looks whether the one that finishes the output has done so."""


async def run_to_sink(job: Job, sink: str) -> RunReport:
    """Run the whole input through the endpoint into `sink`, or go on where an earlier run stopped.

    Raises:
        AsyncBatchError: what ended it; parts committed so far stay, and the same command goes on from there.
    """
    try:
        refuse_processes(job.config)
        location = locate(sink, format=job.config.output.format)
        # Starting anew needs the output for itself alone.
        shard = WHOLE if job.config.failure.overwrite else lease_name(job.config.speed.shard)
        report = await job.attended(
            lambda: (
                to_stream(job)
                if location.kind == "stream"
                else when_free(job, sink, shard, lambda: _to_output(job, sink))
            )
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
        location = locate(sink, format=config.output.format, columns=config.output.partition_columns)
        if location.database is not None and location.database.system == "duckdb":
            refuse_shards(
                config,
                "one process at a time has a DuckDB file open",
                hint="write into PostgreSQL or a folder",
            )
        before = await look_before(job, location)
        source, endpoint = await job.open(stack, earlier=before.earlier, unread=before.unread)
        check_partitioned_sink(config, location)
        check_apart(job.source_spec, source.files, location, config.output.report)
        job.report_path = config.output.report
        require_shared_source(source, config)
        output = await anyio.to_thread.run_sync(
            lambda: open_sink(
                sink,
                format=config.output.format,
                overwrite=config.failure.overwrite,
                file_size=config.output.file_size,
                shard=lease_name(config.speed.shard),
                mode=config.output.mode,
                columns=config.output.partition_columns,
                access=job.sink_access,
            )
        )
        stack.push_async_callback(_in_thread, output.close)
        await stack.enter_async_context(holding(output, job.stop))
        if output.plan is not None:
            known = await as_first_read(job, stack, source, output.plan, opened_with=before.earlier)
            if await _begins_anew(job, output, known, endpoint):
                await anyio.to_thread.run_sync(output.set_aside)
            else:
                source = known
        planned = output.plan
        accepted: Accepted = []
        every = source
        if planned is not None:
            job.job_id = planned.job_id
            history = await anyio.to_thread.run_sync(load_history, output.state)
            accepted = check_resumable(
                planned,
                config,
                source,
                endpoint,
                location.spec,
                history=history,
                reprocess=config.input.reprocess,
            )
            check_columns(config, source, planned)
            planned = with_later_files(job, output, source, planned)
            if output.finished and planned is output.plan:
                rows = await anyio.to_thread.run_sync(output.finished_rows)
                job.tools.metrics.planned(rows_total=rows, rows_resumed=rows)
                return job.done()
            if source is before.unread:  # a part was removed
                every = await job.open_source(stack, before.earlier)
            source = as_planned(every, planned.current)
        watch = ModelWatch(endpoint, emit=job.emit, allowed="model" in config.failure.allow_change)
        prepared = await watch.beside(job.prepare(source, endpoint, planned))
        if planned is None:
            expected_bytes = _expected_bytes(prepared, config.input.limit)
            mine = prepared.as_plan(config, job.source_spec)
            plan = await anyio.to_thread.run_sync(lambda: output.start(mine, expected_bytes=expected_bytes))
            if (
                plan.job_id != mine.job_id
            ):  # another shard was faster, and has measured other block rows perhaps
                check_resumable(plan, config, source, endpoint, location.spec)
                source = as_planned(source, plan.current)
                prepared = await job.prepare(source, endpoint, plan)
        else:
            plan = planned
            if accepted:
                check_same_table(planned, prepared, config.failure.accept_changes)
                await anyio.to_thread.run_sync(note_accepted, output.state, accepted)
                for difference, _ in accepted:
                    job.emit(Warned(message=f"rows that are left are scored with another {difference}"))
            if planned is not output.plan:
                plan, source = await grow(output, planned, every)
                prepared = replace(prepared, source=source)
        job.job_id = plan.job_id
        return await _run_to_output(job, prepared, output, watch)


async def _begins_anew(job: Job, output: Output, source: Source, endpoint: Endpoint) -> bool:
    """Whether the command is another job into a table that a finished one has written: to append, or to replace."""
    if output.plan is None or not output.finished or job.config.output.mode == "fail":
        return False
    if would_double(job.config, source, output.plan):
        return False
    history = await anyio.to_thread.run_sync(load_history, output.state)
    try:
        check_resumable(output.plan, job.config, source, endpoint, output.location.spec, history=history)
    except OutputError:
        return output.location.is_table
    return False


def _expected_bytes(prepared: Prepared, limit: int | None) -> int:
    """A low guess at the output's size, so that a disk that is surely too small is refused at once; 0: not known."""
    rows = total_rows(prepared.source, limit) or 0
    return int(rows * (8 + prepared.row.kept / 4))


async def _run_to_output(job: Job, prepared: Prepared, output: Output, watch: ModelWatch) -> RunReport:
    sink = output.sink
    shard = shard_of(job.config)
    blocks: int | None = None
    if shard is None:
        done = await anyio.to_thread.run_sync(sink.done_by_file)
        resumed = sum(stop - start for ranges in done.values() for start, stop, _ in ranges)
        total = total_rows(prepared.source, job.config.input.limit)
    else:
        work = await anyio.to_thread.run_sync(
            lambda: shard_work(
                prepared.source,
                sink,
                shard,
                block_rows=prepared.block_rows,
                limit=job.config.input.limit,
            )
        )
        done, resumed, total, blocks = work.done, work.rows_done, work.rows, work.blocks
        if await anyio.to_thread.run_sync(output.finished_by_others):
            job.tools.metrics.planned(rows_total=total, rows_resumed=total)
            return job.done()
        prepared = replace(prepared, source=work.source)
    job.announce(prepared, rows=total, resumed=resumed, shared=watch.shared, shard_blocks=blocks)
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
                await watch.keep(output.state)
                tasks.start_soon(watch.run)
                await run.run()
                await watch.look_again()
                tasks.cancel_scope.cancel()
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            # A stop may have come too late to leave anything undone.
            stopped = isinstance(error, StoppedError)
            if not stopped or watch.changed or await anyio.to_thread.run_sync(lambda: bool(output.missing())):
                # Whoever takes this process for dead removes its unfinished files.
                if isinstance(error, StorageError) and not await anyio.to_thread.run_sync(output.heartbeat):
                    error = StoppedError(
                        taken_over(output), hint="the same command goes on when that has ended"
                    )
                report = job.ended_by(error)
                try:
                    await anyio.to_thread.run_sync(output.write_report, report.to_dict())
                except AsyncBatchError:
                    pass  # a full disk has ended the run already, and says so itself
                raise error
    manifest = await _finish(job, output)
    if manifest is None:
        missing = await anyio.to_thread.run_sync(output.missing)
        if shard is not None:
            job.emit(ShardDone(shard=str(shard), missing_rows=rows_missing(missing)))
            report = job.done()
            await anyio.to_thread.run_sync(output.write_report, report.to_dict())
            return report
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


async def _finish(job: Job, output: Output) -> Manifest | None:
    """The manifest, written by this process or by another shard meanwhile; None while rows are missing."""
    reasons: list[str] = []
    with anyio.CancelScope() as waiting:

        def stop(reason: str) -> None:
            reasons.append(reason)
            waiting.cancel()

        while await anyio.to_thread.run_sync(lambda: not output.missing() or output.finished_by_others()):
            if await anyio.to_thread.run_sync(output.may_finish):
                with anyio.CancelScope(shield=True):
                    return await anyio.to_thread.run_sync(output.finish, job.done().to_dict())
            job.on_stop = stop
            await anyio.sleep(_FINISH_LOOK_S)
        return None
    raise StoppedError(
        f"stopped while another process finishes the output: {reasons[0]}",
        hint="the same command looks again",
    )
