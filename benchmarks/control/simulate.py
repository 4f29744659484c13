"""A batch job against a simulated endpoint, event by event, with the block grid of a real run.

A chunk never crosses a block; the unsent rows of a block are cut into equal chunks when a request may be sent. What the pipeline
does on failures is done here too: throttled, unavailable and not ready are retried after a full-jitter exponential backoff,
too large and timed out are halved, failed is sent again once and then halved. A waiting retry keeps its place in flight, as in
the loops that the rivals' rules were made for, unless `retries_step_aside`: then the simulation does as the pipeline does.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from endpoints import Endpoint

from asyncbatch.control.cutting import equal_cut
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.protocols import Controller


@lru_cache(maxsize=4)
def _work_before(cost: str, by: float, rows: int) -> list[float] | None:
    """Prefix sums of the rows' work, or None where all are alike."""
    if cost == "even":
        return None
    endpoint = Endpoint(name="", rows=rows, row_cost=cost, row_cost_by=by)
    rng = random.Random(99)
    total, sums = 0.0, [0.0]
    for row in range(rows):
        total += endpoint.row_weight(row / rows, rng)
        sums.append(total)
    return sums


@dataclass(slots=True, eq=False)
class _Call:
    start: int
    stop: int
    kind: Kind
    tries: int = 0
    failures: int = 0
    begun_s: float = 0.0
    work: float = 0.0
    bytes: int = 0
    over: bool = False
    instance: "_Instance | None" = None
    live: bool = False
    """Of a live user, not of the job."""


@dataclass(slots=True, eq=False)
class _Instance:
    slots: int
    speed: float
    cold_until_s: float
    busy: int = 0
    waiting: deque[_Call] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a job."""

    seconds: float
    rows_done: int
    finished: bool
    outcomes: dict[str, int]
    answered: list[tuple[float, int]]
    """(when, rows) of every answer."""
    live_s: list[float]
    """Latencies of the live users' requests."""
    busy_s: float
    """Seconds of slots spent on the job."""

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def refused_share(self) -> float:
        return (self.outcomes.get("throttled", 0) + self.outcomes.get("unavailable", 0)) / max(
            1, self.requests
        )

    @property
    def oversize_share(self) -> float:
        """413, memory errors and timeouts; errors without a reason too."""
        return sum(self.outcomes.get(k, 0) for k in ("too_large", "failed", "timeout")) / max(
            1, self.requests
        )


class Simulation:
    """One job. `clock` is what the controller is to be made with."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        seed: int,
        block_rows: int | None = None,
        retries_step_aside: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._step_aside = retries_step_aside
        self._rng = random.Random(f"{endpoint.name} {seed}")
        self._now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], Any]] = []
        self._order = 0
        self._block_rows = block_rows or max(256, min(131_072, int(30 / endpoint.row_s)))
        self._work = _work_before(endpoint.row_cost, endpoint.row_cost_by, endpoint.rows)
        self._instances = [self._instance(0.0) for _ in range(endpoint.instances)]
        self._slowness = 1.0
        self._rate = endpoint.request_rate
        self._tokens, self._tokens_s = self._burst, 0.0
        self._admitted = 0
        self._next_row = 0
        self._in_flight = 0
        self._backing_off = 0
        self._ready: deque[_Call] = deque()
        self._wake_s = math.inf
        self._done = 0
        self._outcomes: dict[str, int] = {}
        self._answered: list[tuple[float, int]] = []
        self._live_s: list[float] = []
        self._busy_s = 0.0

    def clock(self) -> float:
        return self._now

    @property
    def idle_slots(self) -> int:
        """Of all instances, at the moment; no client can know."""
        return sum(max(0, each.slots - each.busy) for each in self._instances)

    @property
    def _burst(self) -> float:
        return max(1.0, self._endpoint.request_rate * self._endpoint.burst_s)

    def _instance(self, now: float) -> _Instance:
        endpoint = self._endpoint
        return _Instance(
            slots=endpoint.slots,
            speed=math.exp(self._rng.gauss(0, endpoint.uneven)) if endpoint.uneven else 1.0,
            cold_until_s=now + endpoint.cold_s,
        )

    def run(self, controller: Controller, *, until_s: float = math.inf, max_requests: int = 400_000) -> Run:
        """Drive `controller` until the job is done, or `until_s` has passed."""
        self._controller = controller
        for change in self._endpoint.changes:
            self._at(change.at_s, self._change, change)
        controller.note_remaining(self._endpoint.rows)
        if self._endpoint.live_load:
            self._live(None)
        self._dispatch()
        sent_limit = max_requests
        while self._heap and self._done < self._endpoint.rows:
            when, _, action, argument = heapq.heappop(self._heap)
            if when > until_s or len(self._answered) > sent_limit:
                break
            self._now = when
            action(argument)
        return Run(
            seconds=self._now,
            rows_done=self._done,
            finished=self._done >= self._endpoint.rows,
            outcomes=self._outcomes,
            answered=self._answered,
            live_s=self._live_s,
            busy_s=self._busy_s,
        )

    def _at(self, when: float, action: Callable[..., None], argument: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, action, argument))

    # ------------------------------------------------------------------ client
    def _dispatch(self) -> None:
        controller, rows = self._controller, self._endpoint.rows
        while (self._ready or self._next_row < rows) and self._in_flight + (
            0 if self._step_aside else self._backing_off
        ) < controller.concurrency():
            wait = controller.send_delay()
            if wait > 0:
                if self._now + wait < self._wake_s - 1e-9:
                    self._wake_s = self._now + wait
                    self._at(self._wake_s, self._wake, None)
                return
            self._send(self._ready.popleft() if self._ready else self._cut())

    def _wake(self, _: None) -> None:
        if self._now < self._wake_s - 1e-9:
            return  # an earlier one came instead: it would only ask again and again beside it
        self._wake_s = math.inf
        self._dispatch()

    def _cut(self) -> _Call:
        start = self._next_row
        block_end = min(self._endpoint.rows, (start // self._block_rows + 1) * self._block_rows)
        target = self._controller.next_chunk()
        stop = start + equal_cut(block_end - start, target.rows)
        while stop - start > 1 and self._bytes(start, stop) > target.bytes:
            stop = start + max(1, int((stop - start) * 0.9))
        self._next_row = stop
        self._controller.note_remaining(self._endpoint.rows - stop)
        return _Call(start=start, stop=stop, kind=Kind.FIRST)

    def _rows_work(self, start: int, stop: int) -> float:
        return float(stop - start) if self._work is None else self._work[stop] - self._work[start]

    def _bytes(self, start: int, stop: int) -> int:
        return int(self._rows_work(start, stop) * self._endpoint.row_bytes)

    def _send(self, call: _Call) -> None:
        endpoint, now = self._endpoint, self._now
        call.begun_s, call.over, call.instance = now, False, None
        call.work = self._rows_work(call.start, call.stop)
        call.bytes = self._bytes(call.start, call.stop)
        self._in_flight += 1
        refusal = self._refusal(call)
        if refusal is not None:
            self._at(now + endpoint.round_trip_s, self._ended, (call, refusal))
            return
        if endpoint.random_routing:
            instance = self._rng.choice(self._instances)
        else:
            instance = min(self._instances, key=lambda each: each.busy + len(each.waiting) - each.slots)
        if instance.busy >= instance.slots and len(instance.waiting) >= endpoint.queue:
            self._at(now + endpoint.round_trip_s, self._ended, (call, Outcome.UNAVAILABLE))
            return
        call.instance = instance
        self._admitted += 1
        if instance.busy < instance.slots:
            self._serve(call)
        else:
            instance.waiting.append(call)
            self._at(now + endpoint.timeout_s, self._ended, (call, Outcome.TIMEOUT))

    def _refusal(self, call: _Call) -> Outcome | None:
        endpoint = self._endpoint
        if (endpoint.max_bytes and call.bytes > endpoint.max_bytes) or (
            endpoint.max_rows and call.stop - call.start > endpoint.max_rows
        ):
            return Outcome.TOO_LARGE
        if endpoint.at_once and self._admitted >= endpoint.at_once:
            return Outcome.THROTTLED
        if self._rate:
            self._tokens = min(self._burst, self._tokens + (self._now - self._tokens_s) * self._rate)
            self._tokens_s = self._now
            if self._tokens < 1:
                return Outcome.THROTTLED
            self._tokens -= 1
        return None

    def _ended(self, what: tuple[_Call, Outcome]) -> None:
        call, outcome = what
        if call.over:
            return
        call.over = True
        self._in_flight -= 1
        if call.instance is not None:
            self._admitted -= 1
        self._outcomes[outcome.value] = self._outcomes.get(outcome.value, 0) + 1
        rows = call.stop - call.start
        self._controller.record(
            Sample(
                rows=rows, body_bytes=call.bytes, started_s=call.begun_s, finished_s=self._now, outcome=outcome,
                kind=call.kind,
            )
        )  # fmt: skip
        if outcome is Outcome.SUCCESS:
            self._done += rows
            self._answered.append((self._now, rows))
        elif outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE):
            again = _Call(
                start=call.start,
                stop=call.stop,
                kind=Kind.RETRY,
                tries=call.tries + 1,
                failures=call.failures,
            )
            self._backing_off += 1
            self._at(self._now + self._rng.random() * min(20.0, 2.0**call.tries), self._retry, again)
        elif (outcome is Outcome.FAILED and call.failures == 0) or rows == 1:
            if call.failures > 5:
                self._done += rows  # a reject
            else:
                self._ready.append(
                    _Call(start=call.start, stop=call.stop, kind=Kind.RETRY, failures=call.failures + 1)
                )
        else:
            middle = (call.start + call.stop) // 2
            self._ready.append(_Call(start=call.start, stop=middle, kind=Kind.BISECT))
            self._ready.append(_Call(start=middle, stop=call.stop, kind=Kind.BISECT))
        self._dispatch()

    def _retry(self, call: _Call) -> None:
        self._backing_off -= 1
        self._ready.append(call)
        self._dispatch()

    # ------------------------------------------------------------------ live users
    def _live(self, _: None) -> None:
        """A live user's request comes in; the next is on its way."""
        endpoint = self._endpoint
        slots = sum(each.slots for each in self._instances)
        rate = endpoint.live_load * slots / endpoint.service_s(1)
        self._at(self._now + self._rng.expovariate(rate), self._live, None)
        call = _Call(start=0, stop=1, kind=Kind.FIRST, begun_s=self._now, work=1.0, live=True)
        call.instance = min(self._instances, key=lambda each: each.busy + len(each.waiting) - each.slots)
        if call.instance.busy < call.instance.slots:
            self._serve(call)
        else:
            call.instance.waiting.append(call)

    def _live_ended(self, call: _Call) -> None:
        self._live_s.append(self._now - call.begun_s)

    # ------------------------------------------------------------------ endpoint
    def _serve(self, call: _Call) -> None:
        endpoint, now, instance = self._endpoint, self._now, call.instance
        assert instance is not None
        instance.busy += 1
        if endpoint.memory_rows and call.work > endpoint.memory_rows:
            self._at(now + endpoint.memory_delay_s, self._ended, (call, Outcome.FAILED))
            self._at(now + max(endpoint.memory_delay_s, endpoint.restart_s), self._slot_free, instance)
            return
        seconds = endpoint.service_s(call.work) * self._slowness * self._noise() / instance.speed
        if endpoint.cores and instance.busy > endpoint.cores:
            seconds *= instance.busy / endpoint.cores + endpoint.thrash * (instance.busy - endpoint.cores)
        if now < instance.cold_until_s:
            seconds *= endpoint.cold_by
        self._at(now + seconds, self._slot_free, instance)
        if call.live:
            self._at(now + seconds, self._live_ended, call)
            return
        self._busy_s += seconds
        back = now + seconds + endpoint.round_trip_s + call.bytes / endpoint.bandwidth
        failed = endpoint.error_share and self._rng.random() < endpoint.error_share
        outcome = Outcome.FAILED if failed else Outcome.SUCCESS
        limit = call.begun_s + endpoint.timeout_s
        self._at(
            *(
                (back, self._ended, (call, outcome))
                if back <= limit
                else (limit, self._ended, (call, Outcome.TIMEOUT))
            )
        )

    def _noise(self) -> float:
        endpoint, rng = self._endpoint, self._rng
        if endpoint.noise_kind == "exponential":
            return 1 - endpoint.noise + endpoint.noise * rng.expovariate(1.0)
        if endpoint.noise_kind == "spikes":
            return (10.0 if rng.random() < 0.03 else 1.0) * math.exp(rng.gauss(0, 0.1))
        return math.exp(rng.gauss(-(endpoint.noise**2) / 2, endpoint.noise))

    def _slot_free(self, instance: _Instance) -> None:
        instance.busy -= 1
        while instance.waiting and instance.busy < instance.slots:
            # a client may have given up: the endpoint does not know, and works on it all the same
            self._serve(instance.waiting.popleft())

    def _change(self, change: Any) -> None:
        if change.what == "slowness":
            self._slowness = change.value
        elif change.what == "request_rate":
            self._rate = change.value
        elif change.what == "slots":
            for instance in self._instances:
                instance.slots = int(change.value)
                instance.busy += 1  # `_slot_free` takes it back and fills the new slots
                self._slot_free(instance)
        else:
            while len(self._instances) < change.value:
                self._instances.append(self._instance(self._now))
            while len(self._instances) > change.value:
                for call in self._instances.pop().waiting:
                    self._at(
                        self._now + self._endpoint.round_trip_s, self._ended, (call, Outcome.UNAVAILABLE)
                    )
