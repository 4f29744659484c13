"""Who may send now: the limit, the breaker, the controller's pacing and the user's rates, for every kind of request alike."""

from collections import deque

import anyio
from aiolimiter import AsyncLimiter

from asyncbatch.control.binding import Wait
from asyncbatch.control.breaker import Breaker
from asyncbatch.control.estimate import ROW_BURST_S
from asyncbatch.protocols import Controller

_REQUEST_BURST_S = 0.1
_FULL, _PACED = Wait.FULL, Wait.PACED
"""Reading a member from its class is a call into Python until 3.12."""


def _limiter(per_second: float | None, *, burst_s: float) -> AsyncLimiter | None:
    """A leaky bucket that lets through `per_second` a second, and at once as much as comes in `burst_s`.

    aiolimiter belongs to one event loop, so each run makes its own.
    """
    if per_second is None:
        return None
    capacity = max(1.0, per_second * burst_s)
    return AsyncLimiter(capacity, capacity / per_second)


class Signal:
    """Wakes idle workers, longest idle first. Nothing is lost: a worker looks for work before it waits."""

    def __init__(self) -> None:
        self._idle: deque[anyio.Event] = deque()

    def wake(self, workers: int = 1) -> None:
        while workers > 0 and self._idle:
            self._idle.popleft().set()
            workers -= 1

    def wake_all(self) -> None:
        self.wake(len(self._idle))

    async def wait(self, timeout_s: float | None) -> None:
        """Until woken, or `timeout_s` seconds."""
        event = anyio.Event()
        self._idle.append(event)
        if timeout_s is None:
            await event.wait()
            return
        with anyio.move_on_after(timeout_s):
            await event.wait()
        if not event.is_set():
            self._idle.remove(event)


class Gate:
    """Grants permits. `closed_for` decides synchronously; `pass_rate` awaits the user's own rate."""

    def __init__(
        self, *, controller: Controller, breaker: Breaker, rate: float | None, row_rate: float | None
    ) -> None:
        self._controller = controller
        self._breaker = breaker
        self._rate = _limiter(rate, burst_s=_REQUEST_BURST_S)
        self._row_rate = _limiter(row_rate, burst_s=ROW_BURST_S)
        self._at_rate = False
        self._at_row_rate = 0
        self.has_rate = rate is not None
        """Whether the user bounds the request rate."""
        self.rows_at_once = None if self._row_rate is None else max(1, int(self._row_rate.max_rate))
        """Largest chunk that the row rate lets through; None without one."""
        self.in_flight = 0
        self.limit = 0
        """How many may be in flight, as of the last request that asked."""
        self.waits = Wait.INPUT
        """What the last request that could not go waits for."""

    def closed_for(self, now_s: float) -> float | None:
        """0.0: send now (a pacing token is taken); seconds to wait; None: wait for an invocation to finish."""
        self.limit = limit = self._controller.concurrency()
        if self._at_rate or self.in_flight >= limit:
            self.waits = self.full
            return None
        if self._breaker.is_open:
            pause = self._breaker.pause(now_s=now_s, in_flight=self.in_flight)
            if pause is None or pause > 0:
                self.waits = Wait.OUTAGE
                return pause
        self.waits = _PACED
        return self._controller.send_delay()

    @property
    def full(self) -> Wait:
        """Why no more than what is in flight may be."""
        if self._at_rate:
            return Wait.RATE
        return Wait.ROW_RATE if self._at_row_rate else _FULL

    async def pass_rate(self) -> None:
        """Wait for the user's request rate. One waits at a time, so that no token is drawn for work that is gone."""
        if self._rate is not None:
            self._at_rate = True
            try:
                await self._rate.acquire()
            finally:
                self._at_rate = False

    async def pass_row_rate(self, rows: int) -> None:
        """Wait for the user's row rate."""
        if self._row_rate is not None:
            self._at_row_rate += 1
            try:
                await self._row_rate.acquire(min(rows, self._row_rate.max_rate))
            finally:
                self._at_row_rate -= 1
