"""The Python API: `run`, `arun`, `stream`, `predict`. Keyword names are the option names of the command line with `_`."""

import asyncio
import importlib.util
import queue
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread

from asyncbatch.config import RunConfig
from asyncbatch.observe.report import RunReport
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.preview import PlanReport, plan_to_report
from asyncbatch.pipeline.retrying import make_retry_job, retry_to_sink
from asyncbatch.pipeline.signals import interrupt_calls
from asyncbatch.pipeline.to_output import run_to_sink
from asyncbatch.pipeline.to_stream import Taker, run_ordered
from asyncbatch.protocols import RunHook
from asyncbatch.sink.stream import ReaderGoneError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
Progress = bool | Callable[[object], None]
_BATCHES_AHEAD = 4


def run(
    source: object,
    sink: str,
    *,
    session: object = None,
    progress: Progress = False,
    hooks: Sequence[RunHook] = (),
    **options: Any,
) -> RunReport:
    """Run `source` through an endpoint into `sink`; the same call again goes on where an earlier one stopped.

    Blocking. Under a running event loop (a notebook) it works in a thread of its own; an interrupt finishes the open
    blocks and raises StoppedError.

    Args:
        source: path, folder, glob, or anything with `__arrow_c_stream__` (pyarrow, pandas, polars, DuckDB).
        sink: `out/`, `out.parquet`, `out.csv`, `out.jsonl` or `-`.
        session: a boto3 session, for SageMaker endpoints.
        progress: True for a progress line on stderr, or a function that takes the events of `asyncbatch.observe.events`.
        hooks: more of such functions.
        **options: `endpoint=`, `body=`, `chunk_rows=` …: the names of `asyncbatch run --help` with `_` for `-`.

    Raises:
        ConfigError: an unknown option or a bad value.
        AsyncBatchError: what ended the run; committed parts stay.
    """
    return run_job(
        RunConfig.from_options(options), source, sink, session=session, hooks=_hooks(progress, hooks)
    )


async def arun(
    source: object,
    sink: str,
    *,
    session: object = None,
    progress: Progress = False,
    hooks: Sequence[RunHook] = (),
    **options: Any,
) -> RunReport:
    """`run` for coroutines. Cancelling it leaves nothing half-committed and no task behind."""
    job = Job(
        RunConfig.from_options(options), source, sink=sink, hooks=_hooks(progress, hooks), session=session
    )
    return await run_to_sink(job, sink)


async def stream(
    source: object, *, session: object = None, hooks: Sequence[RunHook] = (), **options: Any
) -> "AsyncIterator[pa.RecordBatch]":
    """Score `source` and yield its rows with their predictions, in input order, as Arrow record batches.

    Reads no further ahead than the byte budget (`max_memory`) and 16 blocks allow. Closing the iterator early ends the run.

    Raises:
        AsyncBatchError: what ended the run.
    """
    job = Job(RunConfig.from_options(options), source, sink=None, hooks=hooks, session=session)
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[tuple[pa.Table, Callable[[], None]] | None] = asyncio.Queue()

    def start(prepared: Prepared) -> Taker:
        # Unbounded: what bounds it is that a block's memory is released only once it was taken out here.
        return lambda table, release: _call(loop, ready.put_nowait, (table, release))

    async def produce() -> None:
        try:
            await run_ordered(job, start)
        finally:
            ready.put_nowait(None)

    task = asyncio.create_task(produce())
    try:
        while (item := await ready.get()) is not None:
            table, release = item
            for batch in table.to_batches():
                yield batch
            release()
        await task
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(task, return_exceptions=True)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], argument: T) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError as error:  # the loop has ended
        raise ReaderGoneError("the reader of the stream closed it") from error


def predict(
    data: object, *, session: object = None, hooks: Sequence[RunHook] = (), **options: Any
) -> "pa.Table | pa.RecordBatchReader":
    """Score data in memory: a table gives a `pyarrow.Table`, a `pyarrow.RecordBatchReader` gives a reader of the results.

    Blocking; works under a running event loop. The reader is lazy: what is not read is not scored, bar what is read ahead.

    Raises:
        AsyncBatchError: what ended the run.
    """
    import pyarrow as pa

    job = Job(RunConfig.from_options(options), data, sink=None, hooks=hooks, session=session)
    if isinstance(data, pa.RecordBatchReader):
        return _predict_lazily(job)
    tables: list[pa.Table] = []
    schemas: list[pa.Schema] = []

    def start(prepared: Prepared) -> Taker:
        schemas.append(prepared.shape.schema)

        def take(table: pa.Table, release: Callable[[], None]) -> None:
            tables.append(table)
            release()

        return take

    _blocking(lambda: run_ordered(job, start), job)
    return pa.concat_tables(tables) if tables else schemas[0].empty_table()


def _predict_lazily(job: Job) -> "pa.RecordBatchReader":
    import pyarrow as pa

    ready: queue.Queue[Any] = queue.Queue(maxsize=_BATCHES_AHEAD)
    closed = threading.Event()
    cancel: list[Callable[[], object]] = []

    def close() -> None:
        closed.set()
        for each in cancel:
            each()

    def put(item: object) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
        raise ReaderGoneError("the reader of the stream closed it")

    def start(prepared: Prepared) -> Taker:
        put(prepared.shape.schema)

        def take(table: pa.Table, release: Callable[[], None]) -> None:
            put(table)
            release()

        return take

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            cancel.append(lambda: _call(loop, lambda _: scope.cancel(), None))
            if not closed.is_set():
                await run_ordered(job, start)

    def work() -> None:
        end: BaseException | None = None
        try:
            anyio.run(main, backend_options=backend_options())
        except BaseException as error:  # noqa: BLE001  # whatever it is, the reader waits for it
            end = error
        cancel.clear()
        try:
            put(end)
        except ReaderGoneError:
            pass  # nobody reads on: that is how it ends

    threading.Thread(target=work, name="asyncbatch-predict", daemon=True).start()

    def batches() -> "Iterator[pa.RecordBatch]":
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield from item.to_batches()
        finally:
            close()

    try:
        first = ready.get()
    except BaseException:
        close()
        raise
    if isinstance(first, BaseException):
        raise first
    found = batches()
    weakref.finalize(found, close)  # a generator that was never begun runs no `finally`
    return pa.RecordBatchReader.from_batches(first, found)


def run_job(
    config: RunConfig, source: object, sink: str, *, session: object = None, hooks: Sequence[RunHook] = ()
) -> RunReport:
    """`run` for options already parsed, such as those of the command line."""
    return run_to_end(Job(config, source, sink=sink, hooks=hooks, session=session), sink)


def run_to_end(job: Job, sink: str) -> RunReport:
    """`run` for a job that the caller wants to look into afterwards."""
    return _blocking(lambda: run_to_sink(job, sink), job)


def retry_job(
    sink: str, options: Mapping[str, Any], *, session: object = None, hooks: Sequence[RunHook] = ()
) -> RunReport:
    """Score the rejected rows of the finished output `sink` again; see `asyncbatch retry --help`.

    Args:
        options: by option name, what the plan does not say: how to connect, and how fast.

    Raises:
        AsyncBatchError: what ended it; the same call goes on.
    """
    job = make_retry_job(sink, options, hooks=hooks, session=session)
    return _blocking(lambda: retry_to_sink(job, sink), job)


def plan_job(
    config: RunConfig,
    source: object,
    sink: str | None = None,
    *,
    session: object = None,
    hooks: Sequence[RunHook] = (),
    show: int = 0,
) -> PlanReport:
    """What a run would do; nothing is written."""
    return anyio.run(
        lambda: plan_to_report(config, source, sink, hooks=hooks, session=session, show=show),
        backend_options=backend_options(),
    )


def backend_options() -> dict[str, Any]:
    """For `anyio.run`: uvloop where it is installed."""
    return {"use_uvloop": sys.platform != "win32" and importlib.util.find_spec("uvloop") is not None}


def _blocking(main: Callable[[], Awaitable[T]], job: Job) -> T:
    """Run `main` to its end: here, or in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        job.owns_process = True
        return anyio.run(main, backend_options=backend_options())
    with anyio.from_thread.start_blocking_portal(backend_options=backend_options()) as portal:
        future = portal.start_task_soon(main)
        with interrupt_calls(lambda: portal.start_task_soon(job.stop, "interrupted")):
            ended: queue.SimpleQueue[object] = queue.SimpleQueue()
            future.add_done_callback(ended.put)
            ended.get()  # unlike `future.result`, which is Python, a second interrupt cannot break it
        return future.result()


def _hooks(progress: Progress, hooks: Sequence[RunHook]) -> tuple[RunHook, ...]:
    if progress is False:
        return tuple(hooks)
    if progress is True:
        from asyncbatch.observe.progress import ProgressLine
        from asyncbatch.observe.terminal import Terminal

        return (ProgressLine(Terminal(sys.stderr)), *hooks)
    return (progress, *hooks)
