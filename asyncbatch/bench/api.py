"""`bench` from outside a loop: source and endpoint opened and closed, signals, and the blocking call."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import anyio.to_thread

from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.learning import save_tuning
from asyncbatch.bench.load import CpuReading, Loaded
from asyncbatch.bench.result import BenchResult, Point
from asyncbatch.bench.session import Bench, Listener, Tools
from asyncbatch.bench.sweep import MOST_IN_FLIGHT, ceiling
from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError, InputError
from asyncbatch.pipeline.api import backend_options
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.signals import stop_on_signals
from asyncbatch.protocols import RunHook
from asyncbatch.units import IntRange

_OTHER_FILES = 100


def bench_job(
    config: RunConfig,
    load: LoadConfig,
    source: object,
    *,
    command: Sequence[str],
    listener: Listener,
    hooks: Sequence[RunHook] = (),
    session: object = None,
    keep: Callable[[Point, Loaded], None] | None = None,
) -> BenchResult:
    """Measure the endpoint of `config` with the rows of `source`; Ctrl-C ends it with what was measured.

    Args:
        hooks: told of warnings before the load.
        keep: is given every request of every point.

    Raises:
        AsyncBatchError: the endpoint cannot be reached or answers no probe, the input has no rows, an option is wrong, or
            asks for more connections than the system allows.
    """
    own = replace(
        config,
        speed=replace(
            config.speed, concurrency=IntRange(1, min(ceiling(load), most_connections())), chunk_rows=None
        ),
    )
    if not load.is_open and ceiling(load) > most_connections():
        raise ConfigError(
            f"--concurrency {ceiling(load):,} takes more connections than this process may open ({most_connections():,})",
            hint=f"ulimit -n {ceiling(load) + _OTHER_FILES} allows it",
        )
    job = Job(own, source, sink=None, hooks=hooks, session=session)
    return anyio.run(
        lambda: _bench(job, config, load, command=command, listener=listener, keep=keep),
        backend_options=backend_options(),
    )


async def _bench(
    job: Job,
    config: RunConfig,
    load: LoadConfig,
    *,
    command: Sequence[str],
    listener: Listener,
    keep: Callable[[Point, Loaded], None] | None,
) -> BenchResult:
    # Not the event loop's clock: uvloop's has a grain of a millisecond.
    tools = Tools(
        clock=time.monotonic,
        meter=read_cpu,
        most_in_flight=min(MOST_IN_FLIGHT, most_connections()),
        keep=keep,
    )
    price = load.price
    bench = Bench(
        config=config,
        load=load,
        source_spec=job.source_spec,
        command=command,
        listener=listener,
        tools=tools,
        dollars_per_s=price.per_hour * price.instances / 3600
        if price is not None and price.per_hour
        else None,
    )
    scope = anyio.CancelScope()

    def stop(reason: str) -> None:
        bench.stop(reason)
        if not bench.has_begun:
            scope.cancel()

    with flattened():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stop_on_signals(stop))
            with scope:
                opened, endpoint = await job.open(stack)
                prepared = await job.prepare(opened, endpoint, None)
                if not prepared.probes.answers:
                    raise InputError(
                        f"{job.source_spec} has no rows, so there is nothing to send",
                        hint="name a source with rows",
                    )
                result = await bench.run(prepared)
                if load.save_tuning and result.best is not None:
                    best, warn = result.points[result.best], listener.warned
                    await anyio.to_thread.run_sync(
                        lambda: save_tuning(best, result.points, prepared, config, warn=warn)
                    )
                return result
    raise KeyboardInterrupt  # before the first request of the load


def most_connections() -> int:
    """How many sockets this process may have open, files and libraries apart."""
    try:
        import resource
    except ImportError:  # Windows, where the limit is another
        return MOST_IN_FLIGHT
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IN_FLIGHT if soft == resource.RLIM_INFINITY else max(1, soft - _OTHER_FILES)


def read_cpu() -> CpuReading:
    """Of this process, and of the thread that asks."""
    return CpuReading(at_s=time.monotonic(), process_s=time.process_time(), loop_s=time.thread_time())
