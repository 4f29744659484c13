"""Applies load to an endpoint and notes every request: a fixed number in flight, or starts at times fixed beforehand.

The clock is an argument, and waiting is the event loop's: under a virtual clock a load of hours runs in seconds.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from asyncbatch.bench.records import Records
from asyncbatch.bench.result import StoppedBy
from asyncbatch.bench.schedule import Backlog, Window
from asyncbatch.pipeline.invoking import Answer, Refusal

REFUSED_PAUSE_S = 0.01
"""In closed loop, after a failure: a refusal comes at once, and asking again at once would be no load but a flood."""
_LEAST_TICK_S, _MOST_TICK_S, _TICKS = 0.25, 1.0, 40
_GRAIN_S = 0.001
"""Of timers; none starts a request early, so starts are up to this late, which is counted."""
_YIELD_EVERY = 32
_HOPELESS_REQUESTS, _HOPELESS_S = 20, 3.0
"""A point is given up when as many requests, or as long, brought failures alone."""


class Sender(Protocol):
    """Sends one request of so many rows, of the data that is cycled."""

    def __call__(self, rows: int) -> Awaitable[Answer | Refusal]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuReading:
    """CPU seconds so far."""

    at_s: float
    process_s: float
    loop_s: float
    """Of the event loop's thread."""


Meter = Callable[[], CpuReading]


@dataclass(slots=True, kw_only=True)
class Allowance:
    """Requests that all points together may send."""

    left: int

    def take(self) -> bool:
        """Whether one more may be sent; then it is spent."""
        if self.left <= 0:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a load lasts. Seconds from its start."""

    warmup_s: float
    measure_s: float
    cooldown_s: float
    requests: int | None = None
    """Measure so many requests instead of `measure_s` seconds."""


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What a load brought. Times are of the clock."""

    records: Records
    began_s: float
    window: Window
    """What is measured, by the clock."""
    started: int
    stopped_by: StoppedBy
    cpu: tuple[CpuReading, CpuReading] | None
    """At the window's ends; None where it is not metered."""
    most_in_flight: int
    words: str = ""
    """What the endpoint said in its first refusal, without row contents."""

    @property
    def unfinished(self) -> int:
        """Requests that had not ended when the load was cut off."""
        return self.started - len(self.records)


class Load:
    """One load. Not reusable."""

    def __init__(
        self,
        *,
        send: Sender,
        describe: Callable[[Refusal], str],
        rows: int,
        limits: Limits,
        allowance: Allowance,
        clock: Callable[[], float],
        meter: Meter | None = None,
        enough: Callable[[Records, Window], bool] | None = None,
        backlog: Backlog | None = None,
        on_tick: Callable[[float, int], None] | None = None,
    ) -> None:
        """What to apply.

        Args:
            describe: what messages may say of a refusal.
            rows: of each request.
            enough: asked while measuring whether the figures are good enough to end early.
            backlog: tells when requests pile up, which ends the load.
            on_tick: told the seconds since the start and the requests that ended, a few times a second.
        """
        self._send = send
        self._describe = describe
        self._rows = rows
        self._limits = limits
        self._allowance = allowance
        self._clock = clock
        self._meter = meter
        self._enough = enough
        self._backlog = backlog
        self._on_tick = on_tick
        self._records = Records()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._started = self._in_flight = self._most_in_flight = self._measured = 0
        self._failed = 0
        self._words = ""
        self._began_s = self._until_s = 0.0
        self._window = Window(start_s=0.0, stop_s=0.0)
        self._stopped_by: StoppedBy | None = None
        self._readings: list[CpuReading] = []

    def interrupt(self) -> None:
        """End at once: requests in flight are cancelled and count as unfinished."""
        self._end("interrupted", at_once=True)

    async def closed(self, concurrency: int) -> Loaded:
        """Keep `concurrency` requests in flight."""
        return await self._run(lambda tasks: self._start_workers(tasks, concurrency))

    async def open(self, starts: Iterator[float]) -> Loaded:
        """Start requests at `starts`, in seconds from the start, whatever becomes of those before."""

        def begin(tasks: TaskGroup) -> None:
            tasks.start_soon(self._dispatch, tasks, starts)

        return await self._run(begin)

    async def _run(self, begin: Callable[[TaskGroup], None]) -> Loaded:
        limits = self._limits
        self._began_s = began_s = self._clock()
        stop_s = began_s + limits.warmup_s + limits.measure_s
        self._window = Window(start_s=began_s + limits.warmup_s, stop_s=stop_s)
        self._until_s = stop_s + limits.cooldown_s
        with self._scope:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._conduct)
                async with anyio.create_task_group() as tasks:
                    begin(tasks)
                beside.cancel_scope.cancel()
        self._read_cpu(2)
        return Loaded(
            records=self._records,
            began_s=began_s,
            window=self._window,
            started=self._started,
            stopped_by=self._stopped_by or "duration",
            cpu=(self._readings[0], self._readings[1]) if len(self._readings) > 1 else None,
            most_in_flight=self._most_in_flight,
            words=self._words,
        )

    # -- requests --------------------------------------------------------------------------------------------------

    def _start_workers(self, tasks: TaskGroup, concurrency: int) -> None:
        for _ in range(concurrency):
            tasks.start_soon(self._work)

    async def _work(self) -> None:
        while (now_s := self._clock()) < self._until_s and self._may_start(now_s):
            if not await self._request(now_s):
                await anyio.sleep(REFUSED_PAUSE_S)

    async def _dispatch(self, tasks: TaskGroup, starts: Iterator[float]) -> None:
        for number, start_s in enumerate(starts):
            due_s = self._began_s + start_s
            # A timer may be early by half its grain, and the end may come nearer while it runs.
            while (wait_s := min(due_s, self._until_s) - self._clock()) > 0:  # noqa: ASYNC110  # a time is waited for, not an event
                await anyio.sleep(max(wait_s, _GRAIN_S))
            if due_s >= self._until_s or not self._may_start(due_s):
                return
            tasks.start_soon(self._request, due_s)
            if number % _YIELD_EVERY == 0:
                await (
                    anyio.lowlevel.checkpoint()
                )  # what is late starts at once, but not at the cost of replies

    def _may_start(self, intended_s: float) -> bool:
        window, most = self._window, self._limits.requests
        measured = window.start_s <= intended_s < window.stop_s
        if measured and most is not None and self._measured >= most:
            self._end("requests", stop_s=intended_s)
            measured = False
        if intended_s >= self._until_s:
            return False
        if not self._allowance.take():
            self._end("budget")
            return False
        self._measured += measured
        return True

    async def _request(self, intended_s: float) -> bool:
        """Send one request and note it; False if it failed."""
        self._started += 1
        self._in_flight += 1
        if self._in_flight > self._most_in_flight:
            self._most_in_flight = self._in_flight
        sent_s = self._clock()
        try:
            found = await self._send(self._rows)
        finally:
            self._in_flight -= 1
        sample = found.sample
        if isinstance(found, Answer):
            self._records.add(
                intended_s=intended_s,
                sent_s=sent_s,
                finished_s=sample.finished_s,
                rows=self._rows,
                body_bytes=sample.body_bytes,
                wire=found.times,
                received_s=found.received_s,
            )
            return True
        self._failed += 1
        self._words = self._words or self._describe(found)
        self._records.add(
            intended_s=intended_s,
            sent_s=sent_s,
            finished_s=sample.finished_s,
            rows=self._rows,
            body_bytes=sample.body_bytes,
            outcome=kind_of(found),
        )
        return False

    # -- beside them -----------------------------------------------------------------------------------------------

    async def _conduct(self) -> None:
        """Meter the client at the window's ends; look whether it is time to end early."""
        tick_s = min(max(_LEAST_TICK_S, (self._until_s - self._began_s) / _TICKS), _MOST_TICK_S)
        good = 0
        while True:
            now_s = self._clock()
            marks = (self._window.start_s, self._window.stop_s, self._until_s)
            next_s = min((mark for mark in marks if mark > now_s), default=now_s + tick_s)
            await anyio.sleep(min(tick_s, next_s - now_s))
            now_s = self._clock()
            if now_s >= self._window.start_s:
                self._read_cpu(1)
            if now_s >= self._window.stop_s:
                self._read_cpu(2)
            if self._on_tick is not None:
                self._on_tick(now_s - self._began_s, len(self._records))
            if self._ended.is_set():
                continue
            self._look(now_s)
            if self._enough is not None and self._window.start_s < now_s < self._window.stop_s:
                so_far = Window(start_s=self._window.start_s, stop_s=now_s)
                good = good + 1 if self._enough(self._records, so_far) else 0
                if good >= 2:
                    self._end("precision")

    def _look(self, now_s: float) -> None:
        if (
            self._backlog is not None
            and now_s < self._until_s
            and self._backlog.note(self._in_flight, self._started)
        ):
            self._end("saturation", at_once=True)
        hopeless = self._failed >= _HOPELESS_REQUESTS or (
            self._failed and now_s - self._began_s >= max(_HOPELESS_S, self._limits.warmup_s)
        )
        if hopeless and self._failed == len(self._records):
            self._end("errors", at_once=True)

    def _end(self, why: StoppedBy, *, at_once: bool = False, stop_s: float | None = None) -> None:
        """Measure no further than `stop_s`, or now; go on under load for the cool-down, unless `at_once`."""
        if self._ended.is_set() and not at_once:
            return
        now_s = self._clock()
        if self._stopped_by is None:
            self._stopped_by = why
            start_s = self._window.start_s
            if why == "errors" or (why == "saturation" and now_s <= start_s):
                start_s = self._began_s  # nothing was warmed up: what there is says it
            self._window = Window(
                start_s=start_s, stop_s=min(self._window.stop_s, now_s if stop_s is None else stop_s)
            )
        self._until_s = min(
            self._until_s, now_s if at_once or why == "budget" else now_s + self._limits.cooldown_s
        )
        if at_once:
            self._scope.cancel()
        if self._until_s <= now_s:
            self._ended.set()

    def _read_cpu(self, wanted: int) -> None:
        """Read the meter for the `wanted`-th time, if it was not read so often."""
        if self._meter is not None and len(self._readings) < wanted:
            self._readings.append(self._meter())


def kind_of(refusal: Refusal) -> str:
    """What an error is counted as: the outcome, with transport failure or status and name where there was one."""
    failure = refusal.failure
    head = failure.error_name if failure.error_name and failure.status is None else failure.head
    outcome = refusal.verdict.outcome.value
    return outcome if head == "failed" or head.lower() == outcome else f"{outcome}: {head}"
