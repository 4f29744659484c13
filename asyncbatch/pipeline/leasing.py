"""Holding an output while a job is at work on it, and waiting for whoever else does."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from asyncbatch.errors import AsyncBatchError, BusyError
from asyncbatch.observe.events import Waiting
from asyncbatch.observe.report import RunReport
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.job import Job
from asyncbatch.sink.lease import HEARTBEAT_S, Holder
from asyncbatch.sink.output import blocked_by
from asyncbatch.sink.status import output_status
from asyncbatch.store.access import Access

T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""How often whoever waits looks whether the other is still at work."""
_COUNT_EVERY = 5
"""How many looks apart it counts the rows that the other has done."""


class Held(Protocol):
    """An output whose lease this process has."""

    def heartbeat(self) -> bool:
        """Renew it; False if another process has taken it."""
        ...

    @property
    def taken_by(self) -> Holder | None:
        """Who, after False."""
        ...


@asynccontextmanager
async def holding(held: Held, lost: Callable[[str], None]) -> AsyncIterator[None]:
    """Renew the lease while the block runs; `lost` is called with the reason, once, if another process has taken it.

    Then two are at work. No row can be lost or doubled by that, but both would score the same ones, so the one that was
    taken for dead has to give way.
    """
    with flattened():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep, held, lost)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()


async def _keep(held: Held, lost: Callable[[str], None]) -> None:
    while True:
        await anyio.sleep(HEARTBEAT_S)
        if not await anyio.to_thread.run_sync(held.heartbeat):
            lost(taken_over(held))
            return


def taken_over(held: Held) -> str:
    """One clause about who has taken the lease."""
    return f"{held.taken_by or 'another process'} took this one for dead and is at work on the output"


async def when_free(job: Job, sink: str, shard: str, go: Callable[[], Awaitable[RunReport]]) -> RunReport:
    """`go`, which may raise BusyError: then, as `--if-idle` and `--wait` say, an end without failure, or again later.

    Raises:
        BusyError: another process is at work on the output, and neither was asked for.
    """
    while True:
        try:
            return await go()
        except BusyError as error:
            if job.config.failure.if_idle:
                return job.report("stopped", 0, reason=error.message)
            if not job.config.failure.wait:
                raise
        await _until_free(job, sink, shard)


async def _until_free(job: Job, sink: str, shard: str) -> None:
    """Look now and then, and tell, until nobody is in the way."""
    began = job.tools.clock()
    looks = 0
    rows: tuple[int, int | None] | None = None
    while True:
        holder = await anyio.to_thread.run_sync(
            lambda: blocked_by(sink, format=job.config.output.format, shard=shard, access=job.sink_access)
        )
        if holder is None:
            return
        if looks % _COUNT_EVERY == 0:
            rows = await anyio.to_thread.run_sync(_rows_done, sink, job.sink_access)
        looks += 1
        job.emit(
            Waiting(
                holder=str(holder),
                waited_s=job.tools.clock() - began,
                rows_done=rows[0] if rows is not None else None,
                rows_total=rows[1] if rows is not None else None,
            )
        )
        await anyio.sleep(LOOK_EVERY_S)


def _rows_done(sink: str, access: Access) -> tuple[int, int | None] | None:
    """Rows in the output, and of how many; None while nothing is planned there."""
    try:
        found = output_status(sink, access=access)
    except AsyncBatchError:
        return None
    return found.rows_done, found.rows_total
