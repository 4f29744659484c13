"""A polite guest on an endpoint that serves live users: takes what they leave, and yields.

The idea of scavenger transports: LEDBAT (RFC 6817) limits the delay it adds; LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus) finds
the base delay anew in periodic slowdowns, because a guest that keeps a queue full takes that queue for the base.

What a guest's own chunks see is not what live users see. A chunk is sent when another has just ended, so it meets an emptier
endpoint than a request that comes at any time: where the 99th percentile of live users rose by 20 %, the guest's own rose by 2 %
(simulation, benchmarks/control/guest.py). So now and then the guest is a live user itself: a request of one row, at a random
time (Poisson arrivals see time averages: Wolff, Operations Research 30, 1982), beside the chunks that are in flight. Those
requests, and they alone, are held against the same requests at rest (`delay_test`). They carry rows of the job, so they are not
wasted.

A live request also waits for what is being worked on: so the service time of a chunk is bounded, whatever larger chunks would
gain. How much is in flight is a real number: 2.5 is two chunks all the time and a third for half of it, 0.5 a pause as long as
each chunk.
"""

import math
import random
import statistics
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from enum import Enum

from asyncbatch.control.delay_test import DelayTest, Verdict
from asyncbatch.control.journal import Decision, Journal
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.units import IntRange

_CONGESTED = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.TIMEOUT)
_CHUNK_OVER_ROW = 2.0
_MARGIN = 0.9
_SIZE_SAMPLES = 8
_FIRST_BASE = 120
_AT_REST_S = 0.5
"""Pause between two requests at rest, mean, in latencies of one row."""
_WATCHED = 8
"""Chunks that are watched for their latency."""
_LEAST = 0.1
"""Fewest chunks in flight: nine tenths of the time none."""


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
            by no more in the mean, and by about three quarters of it where enough can be measured.
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
        self._max_chunk_s = max_chunk_s
        self._rest_every_s = rest_every_s
        self._rows_range = chunk_rows or IntRange(1, 65_536)
        self._flight_range = concurrency or IntRange(1, 512)
        self._bytes = chunk_bytes
        self._most_bytes: int | None = None
        self._bytes_per_row = 0.0
        self._journal = Journal()
        # The rise of the 99th percentile grows with the share that waits: 15 % at 9 % (simulation, 15 cases).
        self._test = DelayTest(allowed=min(0.5, 0.05 + 0.18 * (max_slowdown - 1)))
        self._sent = _Sent(expire_s=4 * request_timeout_s)
        self._phase = _Phase.SIZE
        self._rows = self._trying = self._rows_range.low
        self._rows_cap = self._rows_range.high
        self._sizing: list[float] = []
        self._chunk_s = 0.0
        self._level = float(max(1, self._flight_range.low))
        self._least = _LEAST if self._flight_range.low <= 1 else float(self._flight_range.low)
        self._growing = True
        self._step = math.log(1.5)
        self._last: Verdict | None = None
        self._since_s = now = clock()
        self._phase_until_s = math.inf
        self._next_single_s = now
        self._part_from_s = -math.inf
        self._single_granted = False
        self._hold_until_s = -math.inf
        self._hold_s = 0.5
        self._calm_until_s = -math.inf
        self._recent: deque[float] = deque(maxlen=_WATCHED)
        self._singles: deque[float] = deque(maxlen=5)

    # ------------------------------------------------------------------ protocol
    def next_chunk(self) -> ChunkTarget:
        if self._phase is _Phase.SIZE:
            rows = self._trying
        else:
            rows = self._rows_range.low if self._single_granted else self._rows
        rows = max(self._rows_range.low, min(self._rows_range.high, rows, self._rows_cap))
        return ChunkTarget(rows=rows, bytes=self._bytes)

    def concurrency(self) -> int:
        most = math.ceil(self._level) + 1 if self._phase is _Phase.WORK else 1
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
        self._sent.add(now, single=self._single_granted)
        return 0.0

    def note_bytes_in_flight(self, most: int) -> None:
        """Bodies in flight may have `most` bytes together."""
        self._most_bytes = most

    def note_remaining(self, rows: int) -> None:
        """The tail is cut like the rest."""

    def record(self, sample: Sample) -> None:
        now = sample.finished_s
        single, alone = self._sent.pop(sample.started_s)
        if sample.kind is not Kind.FIRST and sample.kind is not Kind.RETRY:
            return
        if sample.outcome in _CONGESTED:
            self._yield(sample, now)
        elif sample.outcome is Outcome.TOO_LARGE:
            self._rows_cap = max(1, min(self._rows_cap, sample.rows - 1, self._rows))
            if self._phase is _Phase.SIZE:
                self._settle(now)
        elif sample.outcome is Outcome.SUCCESS:
            self._hold_s = 0.5
            self._bytes_per_row = max(self._bytes_per_row, sample.body_bytes / sample.rows)
            if sample.started_s >= self._since_s:
                self._answered(sample, now, single=single, alone=alone)

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
            if in_flight:
                return 0.05
            if now >= self._next_single_s:
                self._next_single_s = now + self._spread(_AT_REST_S * self._test.base_s)
                return 0.0
            return self._next_single_s - now
        if now >= self._next_single_s:
            self._next_single_s = now + self._spread(self._singles_every_s())
            self._single_granted = True
            return 0.0
        self._single_granted = False
        whole = int(self._level)
        if chunks < whole:
            return 0.0
        wait_s = self._next_single_s - now
        if chunks == whole and self._level > whole:
            wait_s = min(wait_s, self._part_from_s - now)
        return max(0.0, wait_s)

    def _singles_every_s(self) -> float:
        """So often that a tenth of what is in flight, or a fifth of a request, are single rows."""
        share = 0.5 if self._growing else 0.15 if self._last is Verdict.MORE else 0.3
        share = max(share, 0.1 * self._level)
        return self._test.base_s / share

    def _spread(self, mean_s: float) -> float:
        return self._rng.expovariate(1.0) * mean_s if mean_s > 0 else 0.0

    # ------------------------------------------------------------------ decisions
    def _answered(self, sample: Sample, now: float, *, single: bool, alone: bool) -> None:
        seconds = max(1e-6, now - sample.started_s)
        if self._phase is _Phase.SIZE:
            self._sizing.append(seconds)
            if self._trying == self._rows_range.low:
                self._test.at_rest(seconds)
            if len(self._sizing) >= _SIZE_SAMPLES:
                self._sized(now)
        elif self._phase is _Phase.REST:
            if single and alone:
                self._test.at_rest(seconds)
            if self._test.base_count >= _FIRST_BASE and now >= self._phase_until_s:
                self._work(now)
        elif single:
            self._singles.append(seconds)
            if sample.rows <= self._rows_range.low:
                verdict = self._test.at_work(seconds, less=0.7 if self._growing else 1.2, more=1.5)
                if verdict is not None:
                    self._judge(verdict, now)
            if now >= self._phase_until_s:
                self._rest(now)
        else:
            self._part_over(now)
            self._watch_chunks(seconds, now)

    def _part_over(self, now: float) -> None:
        """A chunk ended: the one that is there for a part of the time pauses for the rest of it."""
        part = self._level - int(self._level)
        if part > 0 and self._sent.chunks == int(self._level):
            self._part_from_s = now + self._spread(self._chunk_s * (1 / part - 1))

    def _watch_chunks(self, seconds: float, now: float) -> None:
        """Chunks that take far longer than alone need no test; and their service time stays bounded."""
        recent = self._recent
        recent.append(seconds)
        if len(recent) < _WATCHED:
            return
        slowdown = statistics.fmean(recent) / self._chunk_s
        unqueued_s = sorted(recent)[_WATCHED // 4]
        crowded = not self._singles or statistics.median(self._singles) > 1.2 * self._test.base_s
        if crowded and slowdown > 1 + 5 * (self._max_slowdown - 1) and self._level > self._least:
            self._level_to(0.5 * self._level, now, f"chunks take {slowdown:.2f} times as long as alone")
        elif (
            not crowded and unqueued_s > (self._max_chunk_s or math.inf) and self._rows > self._rows_range.low
        ):
            self._rows = max(self._rows_range.low, int(0.8 * self._rows))
            self._chunk_s = 0.8 * unqueued_s
            self._note(
                now, f"chunk {self._rows} rows", f"most chunks take more than {self._max_chunk_s:.3g} s"
            )
            recent.clear()

    def _sized(self, now: float) -> None:
        """A size was measured with one in flight: double it while a chunk may take that long."""
        seconds = sorted(self._sizing)[len(self._sizing) // 4]  # of those that did not wait for others
        if self._max_chunk_s is None:
            self._max_chunk_s = _CHUNK_OVER_ROW * seconds
        if seconds > _MARGIN * self._max_chunk_s and self._trying > self._rows_range.low:
            self._settle(now)
            return
        self._rows, self._chunk_s = self._trying, statistics.fmean(self._sizing)
        self._trying = min(2 * self._trying, self._rows_cap)
        self._sizing = []
        self._since_s = now
        if self._trying <= self._rows:
            self._settle(now)

    def _settle(self, now: float) -> None:
        self._note(
            now,
            f"chunk {self._rows} rows",
            f"a chunk takes {self._chunk_s:.3g} s; allowed {self._max_chunk_s or 0:.3g} s",
        )
        self._trying = self._rows
        self._rest(now)

    def _rest(self, now: float) -> None:
        """No chunks for a while: only single rows, one at a time."""
        self._phase = _Phase.REST
        self._since_s = now
        self._phase_until_s = now + max(1.5, 12 * self._test.base_s)
        self._next_single_s = now + self._spread(self._test.base_s)

    def _work(self, now: float) -> None:
        """Back to work, at the level of before."""
        self._phase = _Phase.WORK
        self._since_s = now
        self._recent.clear()
        self._phase_until_s = now + max(self._rest_every_s, 120 * self._test.base_s) * (
            1 + self._test.settled
        ) * self._rng.uniform(0.8, 1.2)
        self._next_single_s = now + self._spread(self._singles_every_s())
        self._note(
            now, f"{self._level:.3g} in flight", f"latency of one row alone: {self._test.base_s:.3g} s"
        )

    def _judge(self, verdict: Verdict, now: float) -> None:
        test, level = self._test, self._level
        seen = f"{test.beyond} of {test.count} rows waited longer than 95 % do alone"
        if verdict is Verdict.LESS and (now < self._calm_until_s or self._sent.chunks_seen < int(level)):
            test.restart()  # refused a moment ago, or what is allowed was not used
            return
        if (
            self._last is not None
        ):  # Kesten, Annals of Mathematical Statistics 29, 1958: smaller steps where the sign changes
            self._step *= 1.6 if verdict is self._last else 0.5
            self._step = min(math.log(1.5), max(math.log(1.04), self._step))
        self._last = verdict
        if verdict is Verdict.MORE:
            self._growing = False
            self._level_to(level * math.exp(-1.3 * min(self._step, 0.2)), now, seen)
        else:
            self._level_to(min(float(self._flight_range.high), level * math.exp(self._step)), now, seen)

    def _level_to(self, level: float, now: float, why: str) -> None:
        self._level = max(self._least, level)
        self._test.restart()
        self._recent.clear()
        self._sent.chunks_seen = 0
        self._since_s = now
        self._note(now, f"{self._level:.3g} in flight", why)

    def _yield(self, sample: Sample, now: float) -> None:
        """Refused: halve at once, wait, and come back slowly."""
        self._hold_until_s = max(self._hold_until_s, now + self._hold_s * self._rng.uniform(0.8, 1.2))
        if sample.started_s < self._since_s:
            return
        self._hold_s = min(30.0, 2 * self._hold_s)
        self._calm_until_s = now + 10.0
        self._growing = False
        self._step, self._last = math.log(1.5), None
        self._level_to(0.5 * self._level, now, f"the endpoint refused a request: {sample.outcome.value}")

    def _note(self, now: float, what: str, why: str) -> None:
        self._journal.note(now, what, why)


class _Sent:
    """What is under way: when it was sent, and whether it is a single row. What never ends expires."""

    def __init__(self, *, expire_s: float) -> None:
        self._expire_s = expire_s
        self._at_s: list[float] = []
        self._single: list[bool] = []
        self._alone: list[bool] = []
        self.chunks = 0
        self.chunks_seen = 0
        """Most chunks in flight since the level was changed."""

    def __len__(self) -> int:
        return len(self._at_s)

    def add(self, now: float, *, single: bool) -> None:
        self._alone.append(not self._at_s)
        self._at_s.append(now)
        self._single.append(single)
        self.chunks += not single
        self.chunks_seen = max(self.chunks_seen, self.chunks)

    def pop(self, started_s: float) -> tuple[bool, bool]:
        """The one sent last at or before `started_s` ended: was it a single row, and sent while none else was under way?"""
        if not self._at_s:
            return False, False
        return self._remove(max(0, bisect_right(self._at_s, started_s) - 1))

    def expire(self, now: float) -> None:
        """Forget what was sent too long ago to be under way."""
        while self._at_s and self._at_s[0] < now - self._expire_s:
            self._remove(0)

    def _remove(self, at: int) -> tuple[bool, bool]:
        del self._at_s[at]
        single, alone = self._single.pop(at), self._alone.pop(at)
        self.chunks -= not single
        return single, alone
