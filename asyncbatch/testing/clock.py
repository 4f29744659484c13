"""An event loop on which waiting costs no time: a day of backoff is tested in milliseconds."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector:
    """Where the loop would block until a timer is due, the clock jumps there instead."""

    def __init__(self, inner: selectors.BaseSelector) -> None:
        self._inner = inner
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = self._inner.select(0)
        if ready or timeout is None:
            return ready or self._inner.select(timeout)
        self.now_s += max(0.0, timeout)
        return ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 s and jumps from timer to timer.

    Threads and sockets work, but take no virtual time: while they are busy, timers may fire early.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector(selectors.DefaultSelector())
        super().__init__(self._jumping)  # type: ignore[arg-type]  # has every method of a selector

    def time(self) -> float:
        return self._jumping.now_s

    def _run_once(self) -> None:
        # asyncio adds its clock resolution to "now"; without a nudge a timer could be missed for ever.
        self._jumping.now_s += 1e-9
        super()._run_once()  # type: ignore[misc]  # private in typeshed, there since Python 3.4


def run_with_virtual_clock(function: Callable[[], Awaitable[T]]) -> T:
    """Run `function` to its end under anyio, on a `VirtualClockLoop`."""
    import anyio

    return anyio.run(function, backend="asyncio", backend_options={"loop_factory": VirtualClockLoop})
