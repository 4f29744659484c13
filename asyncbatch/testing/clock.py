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
        self.busy_threads: Callable[[], int] = lambda: 0

    def select(self, timeout: float | None = None) -> Any:
        ready = self._inner.select(0)
        if ready or timeout is None:
            return ready or self._inner.select(timeout)
        if timeout > 0 and self.busy_threads():
            return self._inner.select(0.05)
        self.now_s += max(0.0, timeout)
        return ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 s and jumps from timer to timer.

    Threads of anyio's default limiter work and take no virtual time. Sockets work, but timers may fire before a reply.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector(selectors.DefaultSelector())
        super().__init__(self._jumping)  # type: ignore[arg-type]  # has every method of a selector

    def time(self) -> float:
        return self._jumping.now_s

    def wait_for_threads(self, busy_threads: Callable[[], int]) -> None:
        """Do not jump while `busy_threads()` is above 0."""
        self._jumping.busy_threads = busy_threads

    def _run_once(self) -> None:
        # asyncio adds its clock resolution to "now"; without a nudge a timer could be missed for ever.
        self._jumping.now_s += 1e-9
        super()._run_once()  # type: ignore[misc]  # private in typeshed, there since Python 3.4


def run_with_virtual_clock(function: Callable[[], Awaitable[T]]) -> T:
    """Run `function` to its end under anyio, on a `VirtualClockLoop`."""
    import anyio
    import anyio.to_thread

    async def main() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        limiter = anyio.to_thread.current_default_thread_limiter()
        loop.wait_for_threads(lambda: int(limiter.borrowed_tokens))
        return await function()

    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": VirtualClockLoop})
