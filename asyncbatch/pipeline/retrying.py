"""Scoring the rejects of a finished output again: the blocks that hold some, whole, with the plan of the run."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread

from asyncbatch.codec import ReplyLayout
from asyncbatch.config import PARTS, RunConfig
from asyncbatch.errors import AsyncBatchError, ConfigError, OutputError
from asyncbatch.observe.events import RunFinished
from asyncbatch.observe.report import RunReport
from asyncbatch.observe.report_file import write_report
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.growing import as_first_read
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.leasing import holding, when_free
from asyncbatch.pipeline.planned import as_planned
from asyncbatch.pipeline.resuming import check_resumable
from asyncbatch.pipeline.running import Run
from asyncbatch.pipeline.shards import refuse_shards
from asyncbatch.pipeline.storage import sink_access
from asyncbatch.pipeline.watching import ModelWatch
from asyncbatch.protocols import RunHook
from asyncbatch.sink import Plan
from asyncbatch.sink.existing import open_existing
from asyncbatch.sink.history import load_history
from asyncbatch.sink.lease import WHOLE
from asyncbatch.sink.retrying import Retry, open_retry


def retry_config(plan: Plan, given: Mapping[str, Any]) -> RunConfig:
    """The run's options again: what decides what a part holds from the plan, the rest from `given`. Pure.

    Without an endpoint in `given` it is the one of the plan, by its name.

    Raises:
        ConfigError: an unknown option or a bad value.
    """
    planned = {name: value for name, value in plan.options.items() if value not in (None, [], ())}
    if "types" in planned:
        planned["types"] = dict(planned["types"])
    name, region = plan.endpoint.get("name"), plan.endpoint.get("region")
    if name:
        planned["endpoint"] = name
    if region and region != "unknown":
        planned["region"] = region
    known = {option for part in PARTS.values() for option in part.__dataclass_fields__}
    return RunConfig.from_options({name: planned[name] for name in planned if name in known} | dict(given))


def make_retry_job(
    spec: str, given: Mapping[str, Any], *, hooks: Sequence[RunHook] = (), session: object = None
) -> Job:
    """The job that scores the rejects of the output `spec` again; nothing is touched yet.

    Raises:
        OutputError: nothing was planned there.
        ConfigError: an unknown option or a bad value.
    """
    existing = open_existing(spec, access=sink_access(RunConfig.from_options(given), session))
    history = load_history(existing.state)
    plan = replace(
        existing.plan,
        options=history.now("options.", existing.plan.options),
        endpoint=history.now("endpoint.", existing.plan.endpoint),
    )
    if plan.source.startswith("<"):
        raise OutputError(
            f"the input of {spec} was in memory and cannot be read again",
            hint="score it again, into another output",
        )
    config = retry_config(plan, given)
    if config.input.reprocess:
        raise ConfigError(
            "--reprocess is for files that changed, and a retry is for rejects",
            hint="give it to the run's own command",
        )
    refuse_shards(config, "a retry is done by one process", hint="ask for more with --concurrency")
    return Job(config, plan.source, sink=spec, hooks=hooks, session=session)


async def retry_to_sink(job: Job, spec: str) -> RunReport:
    """Score the blocks with rejects again and put them in their places.

    Raises:
        AsyncBatchError: what ended it; the output is as it was, or partly renewed, and the same command goes
            on from there.
    """
    try:
        report = await job.attended(lambda: when_free(job, spec, WHOLE, lambda: _retry(job, spec)))
    except AsyncBatchError as error:
        _tell(job, job.ended_by(error))
        raise
    _tell(job, report)
    return report


def _tell(job: Job, report: RunReport) -> None:
    if job.config.output.report is not None:
        write_report(report, job.config.output.report)
    job.emit(RunFinished(report=report))


async def _retry(job: Job, spec: str) -> RunReport:
    async with AsyncExitStack() as stack:
        retry = await anyio.to_thread.run_sync(
            lambda: open_retry(spec, file_size=job.config.output.file_size, access=job.sink_access)
        )
        stack.push_async_callback(_close, retry)
        await stack.enter_async_context(holding(retry, job.stop))
        job.job_id = retry.plan.job_id
        total = sum(file.rows or 0 for file in retry.plan.current)
        if not retry.wanted:
            job.tools.metrics.planned(rows_total=total, rows_resumed=total)
            return job.done()
        source, endpoint = await job.open(stack)
        source = await as_first_read(job, stack, source, retry.plan)
        history = await anyio.to_thread.run_sync(load_history, retry.state)
        check_resumable(retry.plan, job.config, source, endpoint, spec, history=history)
        source = as_planned(source, retry.plan.current)
        watch = ModelWatch(endpoint, emit=job.emit, allowed="model" in job.config.failure.allow_change)
        await anyio.to_thread.run_sync(retry.begin)
        left = await anyio.to_thread.run_sync(retry.rows_left)
        done = await anyio.to_thread.run_sync(retry.done_by_file)
        kept = sum(stop - start for ranges in done.values() for start, stop, _ in ranges)
        if left:
            prepared = await watch.beside(job.prepare(source, endpoint, retry.plan))
            await watch.keep(retry.state)
            job.announce(prepared, rows=kept + left, resumed=kept, shared=watch.shared)
            sink = retry.sink
            run = Run(
                config=job.config,
                prepared=prepared,
                sink=sink,
                tools=job.tools,
                done=done,
                rows_left=left,
                finished_rows=kept,
                on_empty_file=lambda file: sink.end_file(file.number, rows=0, size_bytes=file.size_bytes),
            )
            job.on_stop = run.stop
            with flattened():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch.run)
                    await run.run()
                    await watch.look_again()
                    tasks.cancel_scope.cancel()
        else:
            job.tools.metrics.planned(rows_total=kept, rows_resumed=kept)
        with anyio.CancelScope(shield=True):  # replacing is not interrupted half-way if it can be helped
            manifest = await anyio.to_thread.run_sync(
                lambda: retry.finish(
                    job.done().to_dict(),
                    answered=len(ReplyLayout.from_json(retry.plan.reply).fields),
                )
            )
            report = job.done(rejected_before=manifest.rejects > 0)
            await anyio.to_thread.run_sync(retry.write_report, report.to_dict())
        return report


async def _close(retry: Retry) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(retry.close)
