"""SIGINT and SIGTERM: once ends the run in order, twice at once."""

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import anyio
from anyio.abc import TaskStatus

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LEAVE_NOW = 130
"""Exit code after a second signal."""


@asynccontextmanager
async def stop_on_signals(stop: Callable[[str], None]) -> AsyncIterator[None]:
    """Call `stop("SIGTERM received")` at the first signal; leave the process at the second.

    Nothing committed is lost by leaving: parts are durable before they are visible. Outside the main thread (a notebook,
    a worker) signals belong to somebody else and nothing is installed. Works as process 1, for which the kernel has no
    default action. Afterwards the handlers are those from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_watch, stop)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)


@contextmanager
def interrupt_calls(function: Callable[[], object]) -> Iterator[None]:
    """At the first SIGINT `function` is called where KeyboardInterrupt would be raised; at the second it is raised.

    For a main thread that waits for another one: KeyboardInterrupt may come between any two instructions, also where a
    lock of `threading` is about to be taken back, and then ends as RuntimeError. Handlers of somebody else stay.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


async def _watch(
    stop: Callable[[str], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        task_status.started()
        seen = 0
        async for number in signals:
            seen += 1
            if seen > 1:
                if sys.stderr.isatty():
                    sys.stderr.write("\n")  # below the progress line
                    sys.stderr.flush()
                os._exit(LEAVE_NOW)
            stop(f"{signal.Signals(number).name} received")
