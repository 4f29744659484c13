"""A job whose tables are taken in row order: standard output and the Python API."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread

from asyncbatch.observe.events import Warned
from asyncbatch.observe.report import RunReport
from asyncbatch.pipeline.apart import check_apart
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.resuming import total_rows
from asyncbatch.pipeline.running import Run
from asyncbatch.pipeline.shards import refuse_shards
from asyncbatch.sink import StreamSink, TextWriter, locate

_STREAM_BLOCKS = 16
"""Blocks that may be open while a stream waits for the oldest."""


async def to_stream(job: Job) -> RunReport:
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
    refuse_shards(job.config, "one process gives all rows in order", hint="write into a folder or a file")
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
