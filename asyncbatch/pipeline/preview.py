"""What `asyncbatch plan` tells: what a run would do, from the same preparation, with nothing written."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import anyio.to_thread

from asyncbatch.config import RunConfig
from asyncbatch.endpoint.description import describe_in_short
from asyncbatch.errors import AsyncBatchError, OutputError
from asyncbatch.observe import text
from asyncbatch.pipeline.apart import check_apart
from asyncbatch.pipeline.expecting import Expectation, expect, guess_rows
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planned import as_planned
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.probing import SAMPLE_ROWS, Exchange
from asyncbatch.pipeline.resuming import check_resumable, total_blocks, total_rows
from asyncbatch.pipeline.shards import describe_shards, own_rows, refuse_shards
from asyncbatch.pipeline.showing import (
    LARGEST_SHOWN,
    ShownColumn,
    ShownExchange,
    chosen,
    column_lines,
    shown_columns,
    shown_exchange,
)
from asyncbatch.pipeline.watching import ModelWatch
from asyncbatch.protocols import Endpoint, RunHook, Source
from asyncbatch.sink import Plan, locate
from asyncbatch.sink.existing import open_existing
from asyncbatch.sink.history import load_history
from asyncbatch.sink.status import output_status

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a run would do."""

    schema_version: int = SCHEMA_VERSION
    endpoint: str
    source: str
    sink: str | None
    files: int
    rows: int | None
    """None where only reading to the end tells (CSV, JSON Lines)."""
    input_bytes: int
    columns_sent: Sequence[str]
    columns_kept: Sequence[str]
    body: str
    body_bytes_per_row: float
    reply: str
    """How replies are read, in words."""
    reply_bytes_per_row: float
    output: Mapping[str, str]
    """Output column to Arrow type, in order."""
    block_rows: int
    blocks: int | None
    min_rows: int
    probe_latency_s: Mapping[str, float]
    """Seconds of each answered probe, by its rows."""
    seconds_per_row: float
    """Marginal seconds of one more row in one slot."""
    rows_done: int
    """Rows that SINK holds already, where it was begun before."""
    estimate: Expectation | None
    """Of the rows that are left; None where there was nothing to ask the endpoint."""
    model: str
    """What stands behind the endpoint's name, where that can be asked."""
    resumable: bool
    shards: Sequence[str] = ()
    """With `--shard` or `--processes`: what each process does."""
    advice: Sequence[str] = ()
    """What to look at although the endpoint answered, with the option that changes it."""
    columns: Sequence[ShownColumn] = ()
    """With `--show`: the columns sent or kept, and their bytes."""
    shown: ShownExchange | None = None
    """With `--show`: one request and its reply."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    def summary(self) -> str:
        """Lines for people, without a final line end."""
        rows = "rows unknown until read" if self.rows is None else text.plural(self.rows, "row")
        blocks = "" if self.blocks is None else f" = {text.plural(self.blocks, 'block')}"
        latency = " · ".join(
            f"{text.plural(int(rows), 'row')} {text.latency(seconds)}"
            for rows, seconds in self.probe_latency_s.items()
        )
        lines = [
            f"source    {self.source}: {text.plural(self.files, 'file')}, {rows}, {text.size(self.input_bytes)}",
            f"send      {_names(self.columns_sent)} as {self.body}, {self.body_bytes_per_row:,.0f} bytes a row",
            f"endpoint  {self.endpoint}: {latency or 'not asked, the input has no rows'}",
            f"reply     {self.reply}, {self.reply_bytes_per_row:,.0f} bytes a row",
            f"blocks    {self.block_rows:,} rows each{blocks}",
            f"output    {self.sink or 'no SINK given'}: "
            + ", ".join(f"{name} {kind}" for name, kind in self.output.items()),
        ]
        if self.min_rows > 1:
            lines.append(
                f"note      the endpoint cannot answer fewer than {self.min_rows} rows: such requests are padded"
            )
        lines += [f"check     {advice}" for advice in self.advice]
        if self.model:
            lines.insert(3, f"model     {self.model}")
        lines += [f"shards    {each}" for each in self.shards]
        if self.rows_done:
            lines.append(f"resumes   {text.plural(self.rows_done, 'row')} were done before")
        if self.estimate is not None:
            lines += self.estimate.lines()
        if self.columns:
            lines += ["", *column_lines(self.columns)]
        if self.shown is not None:
            lines += ["", *self.shown.lines()]
        return "\n".join(lines)


def _names(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more columns" if len(names) > most else shown


async def plan_to_report(
    config: RunConfig,
    source: object,
    sink: str | None,
    *,
    hooks: Sequence[RunHook] = (),
    session: object = None,
    show: int = 0,
) -> PlanReport:
    """Prepare a run and describe it; nothing is written.

    Args:
        show: with a request of so many rows and its reply; 0 shows none.

    Raises:
        AsyncBatchError: what would keep the run from starting. With `show`, its notes are the request that failed.
    """
    job = Job(config, source, sink=sink, hooks=hooks, session=session)
    if sink is not None:
        await anyio.to_thread.run_sync(lambda: locate(sink, format=config.output.format))
    with flattened():
        async with AsyncExitStack() as stack:
            opened, endpoint = await job.open(stack)
            location = None if sink is None else locate(sink, format=config.output.format)
            check_apart(job.source_spec, opened.files, location, config.output.report)
            if location is not None and location.kind == "stream":
                refuse_shards(
                    config, "one process gives all rows in order", hint="write into a folder or a file"
                )
            planned, done = await anyio.to_thread.run_sync(_begun, job, opened, endpoint, sink)
            if planned is not None:
                opened = as_planned(opened, planned.current)
            watch = ModelWatch(endpoint, emit=job.emit, allowed=True)
            exchanges: list[Exchange] = []
            try:
                prepared = await watch.beside(
                    job.prepare(
                        opened,
                        endpoint,
                        planned,
                        watch=exchanges.append if show else None,
                        head=min(show, LARGEST_SHOWN),
                    )
                )
            except AsyncBatchError as error:
                if (failed := chosen(exchanges, show)) is not None:
                    error.add_note("\n".join(shown_exchange(failed, endpoint, None).lines()))
                raise
            rows = total_rows(opened, config.input.limit)
            guessed = None
            if rows is None:
                guessed = await anyio.to_thread.run_sync(guess_rows, opened, prepared, config.input.limit)
            report = _report(job, prepared, rows, guessed, done, watch)
            return await _with_exchange(report, prepared, exchanges, show, config) if show else report


def _begun(job: Job, source: Source, endpoint: Endpoint, sink: str | None) -> tuple[Plan | None, int]:
    """The plan of a job that was begun in `sink`, and the rows that are done; None and 0 for a new one.

    Raises:
        OutputError: it was begun with another command; `--overwrite` would start anew.
    """
    if sink is None or job.config.failure.overwrite or locate(sink).kind not in ("folder", "file"):
        return None, 0
    try:
        existing = open_existing(sink)
    except OutputError:
        return None, 0
    history = load_history(existing.state)
    check_resumable(
        existing.plan,
        job.config,
        source,
        endpoint,
        sink,
        history=history,
        reprocess=job.config.input.reprocess,
    )
    return existing.plan, output_status(sink).rows_done


async def _with_exchange(
    report: PlanReport, prepared: Prepared, exchanges: Sequence[Exchange], show: int, config: RunConfig
) -> PlanReport:
    selection = prepared.selection
    rows = min(SAMPLE_ROWS, config.input.limit or SAMPLE_ROWS)
    sample = await anyio.to_thread.run_sync(lambda: prepared.source.sample(columns=selection.read, rows=rows))
    exchange = chosen(exchanges, show)
    return replace(
        report,
        columns=shown_columns(
            sample,
            sent=selection.send,
            kept=selection.keep,
            body="arrow" if prepared.endpoint.takes_batches else report.body,
        ),
        shown=None if exchange is None else shown_exchange(exchange, prepared.endpoint, prepared.decoder),
    )


def _report(
    job: Job, prepared: Prepared, rows: int | None, guessed: int | None, done: int, watch: ModelWatch
) -> PlanReport:
    probes, source = prepared.probes, prepared.source
    about = rows if rows is not None else guessed
    left = None if about is None else own_rows(job.config, max(0, about - done))
    advice = [advice.sentence() for advice in prepared.advice]
    if watch.shared and not job.config.speed.background:
        advice.append(
            f"others may be using the endpoint ({watch.shared}): --background takes only what they leave"
        )
    return PlanReport(
        endpoint=prepared.endpoint.name,
        source=job.source_spec,
        sink=job.sink_spec,
        files=len(source.files),
        rows=rows,
        rows_done=done,
        input_bytes=sum(file.size_bytes for file in source.files),
        columns_sent=prepared.selection.send,
        columns_kept=prepared.selection.keep,
        body=job.config.request.body,
        body_bytes_per_row=probes.body_bytes_per_row,
        reply=prepared.layout.describe(),
        reply_bytes_per_row=probes.reply_bytes_per_row,
        output={field.name: str(field.type) for field in prepared.shape.schema},
        block_rows=prepared.block_rows,
        blocks=total_blocks(source, prepared.block_rows, job.config.input.limit),
        min_rows=prepared.min_rows,
        probe_latency_s={str(answer.rows): answer.seconds for answer in probes.answers},
        seconds_per_row=probes.seconds_per_row,
        estimate=expect(job.config, prepared, left, guessed=guessed is not None),
        model=describe_in_short(watch.last) if watch.last is not None else "",
        resumable=source.resumable,
        shards=describe_shards(job.config, source, block_rows=prepared.block_rows),
        advice=advice,
    )
