"""A polite guest on an endpoint that serves live users: takes what they leave, and yields.

The idea of scavenger transports: LEDBAT (RFC 6817) limits the delay it adds; LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus) finds
the base delay anew in periodic slowdowns, because a guest that keeps a queue full takes that queue for the base.

What a guest's own chunks see is not what live users see. A chunk is sent when another has just ended, so it meets an emptier
endpoint than a request that comes at any time: where the 99th percentile of live users rose by 20 %, the guest's own rose by 2 %
(simulation, benchmarks/control/guest.py). So now and then the guest is a live user itself: a request of one row, at a random
time (Poisson arrivals see time averages: Wolff, Operations Research 30, 1982), beside the chunks that are in flight. Those
requests, and they alone, are held against the same requests at rest (`base_latency`), and from how many of them wait at which
level follows how much may be in flight (`quest`). They carry rows of the job, so they are not wasted.

A live request also waits for what is being worked on: so the service time of a chunk is bounded, whatever larger chunks would
gain. How much is in flight is a real number: 2.5 is two chunks all the time and a third for half of it, 0.5 a pause as long as
each chunk.
"""

import math
import random
import statistics
from collections import deque
from collections.abc import Callable
from enum import Enum

from asyncbatch.control.base_latency import NORMAL, BaseLatency
from asyncbatch.control.guest_size import SizeSearch, unqueued
from asyncbatch.control.journal import Decision, Journal
from asyncbatch.control.quest import Quest
from asyncbatch.control.sent import Request, Sent
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.units import IntRange

_CONGESTED = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.TIMEOUT)
_FIRST_BASE = 40
"""Fewest latencies at rest before any work."""
_GOOD_BASE = 300
"""So many where they are had within `_FIRST_REST_S`."""
_FIRST_REST_S = 10.0
_REST_EVERY = 400
"""Shortest time of work between two rests, in latencies of one row; three times that once the base is settled."""
_SETTLE = 6
_REST = 24
_LONGEST_REST = 60
"""A rest: silence, then single rows, in latencies of one row."""
_REST_SHARE = 0.5
_MOST_REST_SHARE = 0.8
"""Of the level that single rows at rest make up: where little is allowed, even one row at a time is felt, by itself too."""
_WATCHED = 16
"""Chunks that are watched for their latency."""
_LEAST = 0.1
"""Fewest in flight: nine tenths of the time nothing."""
_LEVEL_OF_REST = 8
"""At rest, one single row at a time for each so many that may be in flight."""
_ALLOWED = 0.13
"""Share of single rows that may wait beyond the normal one, for each unit of slowdown."""
_CAUTION = 0.4
"""The level is too high with this probability."""
_ROOM = 4
"""Single rows that may be in flight at once, at least: were one held back while others wait, the queue would go unseen."""
_LOW_ANSWERS, _LOW_WAITED = 40, 3
"""At the least level nothing is learned of the guest's part: after so many single rows of which so few waited it tries again."""
_GROWTH = 1.5
_BEFORE_GROWTH = 10
"""Single rows that must have been answered before the level may grow by `_GROWTH`."""


class _Phase(Enum):
    SIZE = "finding a chunk size"
    REST = "resting to measure"
    WORK = "working"


class GuestController:
    """A Controller for `--background`.

    Args:
        clock: seconds, monotonic; the clock of the samples' times.
        rng: times of the one-row requests, and the pauses.
        max_slowdown: latency of live users allowed, as a multiple of that without the guest: their 99th percentile rises
            by three quarters of it in the mean of endpoints, and by somewhat more than all of it where slots are few.
        max_chunk_s: longest service time of a chunk; None: twice the latency of one row.
        rest_every_s: seconds of work between two rests.
        chunk_rows, chunk_bytes, concurrency: hard bounds, as of `AdaptiveController`.
        request_timeout_s: when the client gives up a request.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        max_slowdown: float = 1.2,
        max_chunk_s: float | None = None,
        rest_every_s: float = 20.0,
        chunk_rows: IntRange | None = None,
        chunk_bytes: int = 25_000_000,
        concurrency: IntRange | None = None,
        request_timeout_s: float = 70.0,
    ) -> None:
        if max_slowdown <= 1:
            raise ValueError(f"max_slowdown must be above 1, got {max_slowdown}")
        self._clock = clock
        self._rng = rng
        self._max_slowdown = max_slowdown
        self._rest_every_s = rest_every_s
        self._rows_range = chunk_rows or IntRange(1, 65_536)
        self._flight_range = concurrency or IntRange(1, 512)
        self._bytes = chunk_bytes
        self._most_bytes: int | None = None
        self._bytes_per_row = 0.0
        self._journal = Journal()
        self._base = BaseLatency()
        self._sent = Sent(expire_s=4 * request_timeout_s)
        self._phase = _Phase.SIZE
        self._size = SizeSearch(low=self._rows_range.low, longest_s=max_chunk_s)
        self._rows = self._rows_range.low
        self._rows_cap = self._rows_range.high
        self._chunk_s = 0.0
        low = _LEAST if self._flight_range.low <= 1 else float(self._flight_range.low)
        # The rise of the 99th percentile grows with the share that waits: 15 % at 5 to 6 % (simulation, 15 cases).
        self._quest = Quest(
            low=low,
            high=float(self._flight_range.high) + 1,
            normal=NORMAL,
            allowed=min(0.5, NORMAL + _ALLOWED * (max_slowdown - 1)),
        )
        self._level = self._most_level = float(max(1, self._flight_range.low))
        self._least = low
        self._growing = True
        self._has_worked = False
        self._answers = 0
        self._noted_level = self._level
        self._since_s = now = clock()
        self._phase_until_s = math.inf
        self._next_single_s = now
        self._part_from_s = -math.inf
        self._single_granted = False
        self._hold_until_s = -math.inf
        self._hold_s = 0.5
        self._calm_until_s = -math.inf
        self._recent: deque[float] = deque(maxlen=_WATCHED)
        self._singles: deque[float] = deque(maxlen=9)
        self._low = self._low_waited = 0
        self._seen = self._beyond = 0

    # ------------------------------------------------------------------ protocol
    def next_chunk(self) -> ChunkTarget:
        if self._phase is _Phase.SIZE:
            rows = self._size.trying
        else:
            rows = self._rows_range.low if self._single_granted else self._rows
        rows = max(self._rows_range.low, min(self._rows_range.high, rows, self._rows_cap))
        return ChunkTarget(rows=rows, bytes=self._bytes)

    def concurrency(self) -> int:
        most = self._rest_in_flight()
        if self._phase is _Phase.WORK:
            most = math.ceil(self._chunks()) + _ROOM + int(2 * self._single_share())
        if self._most_bytes is not None and self._bytes_per_row > 0:
            most = min(most, int(self._most_bytes / (self._rows * self._bytes_per_row)))
        return max(self._flight_range.low, min(self._flight_range.high, most))

    def send_delay(self) -> float:
        now = self._clock()
        if now < self._hold_until_s - 1e-9:
            return self._hold_until_s - now
        wait_s = self._wait(now)
        if wait_s > 1e-9:
            return wait_s
        self._sent.add(now, single=self._single_granted, level=self._level)
        return 0.0

    def note_bytes_in_flight(self, most: int) -> None:
        """Bodies in flight may have `most` bytes together."""
        self._most_bytes = most

    def note_remaining(self, rows: int) -> None:
        """The tail is cut like the rest."""

    def record(self, sample: Sample) -> None:
        now = sample.finished_s
        request = self._sent.pop(sample.started_s)
        if sample.kind is not Kind.FIRST and sample.kind is not Kind.RETRY:
            return
        if sample.outcome in _CONGESTED:
            self._yield(sample, now)
        elif sample.outcome is Outcome.TOO_LARGE:
            good = self._size.rows if self._phase is _Phase.SIZE else self._rows
            self._rows_cap = max(1, min(self._rows_cap, sample.rows - 1, good))
            if self._phase is _Phase.SIZE:
                self._settle(now)
        elif sample.outcome is Outcome.SUCCESS:
            self._hold_s = 0.5
            self._bytes_per_row = max(self._bytes_per_row, sample.body_bytes / sample.rows)
            if request is not None and sample.started_s >= self._since_s:
                self._answered(sample, now, request)

    def explain(self) -> list[Decision]:
        """What was decided and why, oldest first; bounded."""
        return self._journal.decisions()

    # ------------------------------------------------------------------ when to send
    def _wait(self, now: float) -> float:
        """Seconds until something may be sent, and whether that is a single row."""
        in_flight, chunks = len(self._sent), self._sent.chunks
        self._sent.expire(now)
        if self._phase is not _Phase.WORK:
            self._single_granted = True
            if chunks or in_flight >= self._rest_in_flight():
                return 0.05
            if now >= self._next_single_s:
                self._next_single_s = now + self._spread(self._base.mean_s * (1 / self._rest_share() - 1))
                return 0.0
            return self._next_single_s - now
        if now >= self._next_single_s:
            self._next_single_s = now + self._spread(self._singles_every_s())
            self._single_granted = True
            return 0.0
        self._single_granted = False
        level = self._chunks()
        whole = int(level)
        if chunks < whole:
            return 0.0
        wait_s = self._next_single_s - now
        if chunks == whole and level > whole:
            wait_s = min(wait_s, self._part_from_s - now)
        return max(0.0, wait_s)

    def _single_share(self) -> float:
        """How many single rows are in flight on average."""
        most = 0.5 if self._growing else 0.3
        return max(0.1, 0.1 * self._level, min(most, most * self._level))

    def _rest_share(self) -> float:
        """Part of the time at rest that a single row is in flight."""
        return min(_MOST_REST_SHARE, _REST_SHARE * self._level)

    def _rest_in_flight(self) -> int:
        """How many single rows at a time, at rest: one, or so few that they change nothing."""
        return max(1, int(self._level / _LEVEL_OF_REST)) if self._phase is _Phase.REST else 1

    def _chunks(self) -> float:
        """How many chunks are in flight beside the single rows."""
        return max(0.5 * self._least, self._level - self._single_share())

    def _singles_every_s(self) -> float:
        return self._base.mean_s / self._single_share()

    def _spread(self, mean_s: float) -> float:
        return self._rng.expovariate(1.0) * mean_s if mean_s > 0 else 0.0

    # ------------------------------------------------------------------ decisions
    def _answered(self, sample: Sample, now: float, request: Request) -> None:
        seconds = max(1e-6, now - sample.started_s)
        if self._phase is _Phase.SIZE:
            if self._size.trying_smallest:
                self._base.add(seconds)
            if self._size.observe(seconds, most=self._rows_cap):
                self._settle(now)
        elif self._phase is _Phase.REST:
            if request.single:
                self._base.add(seconds)
            if now >= self._phase_until_s and self._base_known(now):
                self._work(now)
        elif request.single:
            self._singles.append(seconds)
            if sample.rows <= self._rows_range.low:
                self._observe(seconds, now, request.level)
            if now >= self._phase_until_s:
                self._rest(now)
        else:
            self._part_over(now)
            self._watch_chunks(seconds, now)

    def _base_known(self, now: float) -> bool:
        known = len(self._base)
        return known >= _GOOD_BASE or (known >= _FIRST_BASE and now >= self._since_s + _FIRST_REST_S)

    def _part_over(self, now: float) -> None:
        """A chunk ended: the one that is there for a part of the time pauses for the rest of it."""
        level = self._chunks()
        part = level - int(level)
        if part > 0 and self._sent.chunks == int(level):
            self._part_from_s = now + self._spread(self._chunk_s * (1 / part - 1))

    def _watch_chunks(self, seconds: float, now: float) -> None:
        """The service time of chunks stays bounded when rows become heavier."""
        recent, longest_s = self._recent, self._size.longest_s
        recent.append(seconds)
        if len(recent) < _WATCHED or not self._singles or longest_s is None:
            return
        waits_s = max(0.0, statistics.median(self._singles) - self._base.mean_s)
        service_s = unqueued(recent) - waits_s
        recent.clear()
        if service_s > longest_s and waits_s < 0.2 * self._base.mean_s and self._rows > self._rows_range.low:
            self._rows = max(self._rows_range.low, int(0.8 * self._rows))
            self._chunk_s = 0.8 * service_s
            self._note(now, f"chunk {self._rows} rows", f"most chunks take more than {longest_s:.3g} s")

    def _settle(self, now: float) -> None:
        self._rows, self._chunk_s = min(self._size.rows, self._rows_cap), self._size.chunk_s
        self._note(
            now,
            f"chunk {self._rows} rows",
            f"a chunk takes {self._chunk_s:.3g} s; allowed {self._size.longest_s or 0:.3g} s",
        )
        self._rest(now)

    def _rest(self, now: float) -> None:
        """No chunks for a while: nothing until the queue that the guest made is gone, then only single rows."""
        base_s = self._base.mean_s
        self._phase = _Phase.REST
        self._since_s = self._next_single_s = now + (_SETTLE * base_s if self._has_worked else 0.0)
        rest_s = base_s * min(_LONGEST_REST, _REST * _MOST_REST_SHARE / self._rest_share())
        self._phase_until_s = self._since_s + max(1.0, rest_s) / self._rest_in_flight()
        self._has_worked = True

    def _work(self, now: float) -> None:
        """Back to work, at the level of before."""
        self._phase = _Phase.WORK
        self._since_s = now
        self._recent.clear()
        work_s = max(self._rest_every_s, _REST_EVERY * self._base.mean_s)
        self._phase_until_s = now + work_s * (3 if self._base.settled else 1) * self._rng.uniform(0.8, 1.2)
        self._next_single_s = now + self._spread(self._singles_every_s())
        self._note(
            now, f"{self._level:.3g} in flight", f"latency of one row alone: {self._base.mean_s:.3g} s"
        )

    def _observe(self, seconds: float, now: float, level: float) -> None:
        """A single row was answered: did it wait longer than alone, and what follows for the level?"""
        longer = self._base.exceeded_by(seconds)
        self._seen += 1
        self._beyond += longer
        if not longer and (now < self._calm_until_s or self._sent.chunks_seen < int(self._chunks())):
            return  # refused a moment ago, or what is allowed was not used
        self._quest.observe(level, longer)
        self._answers += 1
        self._try_again(longer)
        wanted = max(self._least, min(float(self._flight_range.high), self._quest.quantile(_CAUTION)))
        if wanted > self._most_level and self._answers >= _BEFORE_GROWTH:
            self._most_level *= _GROWTH
            self._answers = 0
        self._growing = self._growing and wanted > self._most_level
        self._level = min(wanted, self._most_level)
        self._most_level = min(self._most_level, _GROWTH * self._level)
        if abs(math.log(self._level / self._noted_level)) > 0.2:
            self._level_noted(now, f"{self._beyond} of {self._seen} rows waited longer than 97.5 % do alone")

    def _try_again(self, longer: bool) -> None:
        """At the least level: when live users are as before, what was learned in their rush no longer holds."""
        if self._level > self._least + _LEAST:
            self._low = self._low_waited = 0
            return
        self._low += 1
        self._low_waited += longer
        if self._low >= _LOW_ANSWERS:
            if self._low_waited <= _LOW_WAITED:
                self._quest.doubt(0.5)
            self._low = self._low_waited = 0

    def _level_noted(self, now: float, why: str) -> None:
        self._noted_level = self._level
        self._seen = self._beyond = 0
        self._sent.chunks_seen = 0
        self._note(now, f"{self._level:.3g} in flight", why)

    def _level_to(self, level: float, now: float, why: str) -> None:
        self._level = self._most_level = max(self._least, level)
        self._answers = 0
        self._recent.clear()
        self._since_s = now
        self._level_noted(now, why)

    def _yield(self, sample: Sample, now: float) -> None:
        """Refused: halve at once, wait, and come back slowly."""
        self._hold_until_s = max(self._hold_until_s, now + self._hold_s * self._rng.uniform(0.8, 1.2))
        if sample.started_s < self._since_s:
            return
        self._hold_s = min(30.0, 2 * self._hold_s)
        self._calm_until_s = now + 10.0
        self._growing = False
        self._quest.lower(0.5)
        self._level_to(0.5 * self._level, now, f"the endpoint refused a request: {sample.outcome.value}")

    def _note(self, now: float, what: str, why: str) -> None:
        self._journal.note(now, what, why)
