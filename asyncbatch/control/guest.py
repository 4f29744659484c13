"""A polite guest on an endpoint that serves live users: takes what they leave, and yields.

The idea of scavenger transports: LEDBAT (RFC 6817) limits the delay it adds; LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus)
finds the base delay anew in periodic slowdowns, because a guest that keeps a queue full takes that queue for the base. Here
the latency with one request in flight is the base, measured again in brief pauses; more are added one by one while the mean
latency stays within `max_slowdown` of it; any refusal halves them at once. A live request also waits for what is being
worked on: so the service time of a chunk is bounded, whatever larger chunks would gain.
"""

import math
import random
import statistics
from collections.abc import Callable
from enum import Enum

from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.journal import Decision, Journal
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.units import IntRange

_CONGESTED = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.TIMEOUT)
_BASE_SAMPLES = 16
_BASE_SECONDS = 1.5
"""A pause ends after so many samples or so many seconds, but not with fewer than four samples."""
_CHUNK_OVER_ROW = 2.0
_AIM = 0.35
_BOUND = 0.7
"""Shares of the allowed slowdown: below the first one more is added, above the second there are fewer; noise does the rest."""


class _Phase(Enum):
    SIZE = "finding a chunk size"
    RUN = "running"
    PAUSE = "pausing to measure"


class GuestController:
    """A Controller for `--background`.

    Args:
        clock: seconds, monotonic; the clock of the samples' times.
        rng: spreads the pauses, so that several guests do not measure each other's pauses.
        max_slowdown: mean latency allowed, as a multiple of that with one request in flight.
        max_chunk_s: longest service time of a chunk; None: twice the latency of one row.
        pause_every_s: seconds between two measurements of the base.
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
        pause_every_s: float = 20.0,
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
        self._pause_every_s = pause_every_s
        self._rows_range = chunk_rows or IntRange(1, 65_536)
        self._flight_range = concurrency or IntRange(1, 512)
        self._bytes = chunk_bytes
        now = clock()
        self._flight = InFlight(expire_s=4 * request_timeout_s, now_s=now)
        self._journal = Journal()
        self._phase = _Phase.SIZE
        self._rows = self._trying = self._rows_range.low
        self._rows_cap = self._rows_range.high
        self._limit = 1.0
        self._base_s = 0.0
        self._samples: list[float] = []
        self._since_s = now
        self._pause_s = math.inf
        self._gap_s = min(5.0, pause_every_s)  # the first base is from few samples
        self._hold_until_s = -math.inf
        self._hold_s = 0.5
        self._calm_until_s = -math.inf
        self._remaining = 10**12

    # ------------------------------------------------------------------ protocol
    def next_chunk(self) -> ChunkTarget:
        rows = self._trying if self._phase is _Phase.SIZE else self._rows
        rows = min(rows, self._rows_cap)
        return ChunkTarget(
            rows=max(self._rows_range.low, min(self._rows_range.high, rows)), bytes=self._bytes
        )

    def concurrency(self) -> int:
        limit = self._limit if self._phase is _Phase.RUN else 1.0
        return max(self._flight_range.low, min(self._flight_range.high, int(limit)))

    def send_delay(self) -> float:
        now = self._clock()
        if now < self._hold_until_s - 1e-9:
            return self._hold_until_s - now
        self._flight.send(now)
        return 0.0

    def note_remaining(self, rows: int) -> None:
        self._remaining = rows

    def record(self, sample: Sample) -> None:
        now = sample.finished_s
        begun_with = self._flight.finish(sample.started_s, now)
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
            self._answered(sample, now, begun_with)

    def explain(self) -> list[Decision]:
        """What was decided and why, oldest first; bounded."""
        return self._journal.decisions()

    # ------------------------------------------------------------------ decisions
    def _answered(self, sample: Sample, now: float, begun_with: int) -> None:
        if sample.started_s < self._since_s or (
            self._phase is not _Phase.RUN and begun_with > self._flight_range.low
        ):
            return
        self._samples.append(max(1e-6, now - sample.started_s))
        if self._phase is _Phase.SIZE:
            if len(self._samples) >= 3:
                self._sized(now)
        elif self._phase is _Phase.PAUSE:
            enough = len(self._samples) >= 4 and now - self._since_s > _BASE_SECONDS
            if enough or len(self._samples) >= _BASE_SAMPLES:
                self._rebase(now)
        elif len(self._samples) >= max(12, int(1.5 * self._limit)):
            self._judge(now)

    def _sized(self, now: float) -> None:
        """A size was measured with one in flight: double it while a chunk may take that long."""
        seconds = statistics.median(self._samples)
        if self._max_chunk_s is None:
            self._max_chunk_s = _CHUNK_OVER_ROW * seconds
        if seconds > self._max_chunk_s and self._trying > self._rows_range.low:
            self._settle(now)
            return
        self._rows, self._base_s = self._trying, statistics.fmean(self._samples)
        self._trying = min(2 * self._trying, self._rows_cap)
        if self._trying <= self._rows:
            self._settle(now)
            return
        self._begin(now)

    def _settle(self, now: float) -> None:
        self._note(
            now,
            f"chunk {self._rows} rows",
            f"a chunk takes {self._base_s:.3g} s; allowed {self._max_chunk_s or 0:.3g} s",
        )
        self._trying = self._rows
        self._begin(now, _Phase.PAUSE)

    def _rebase(self, now: float) -> None:
        """The latency with one in flight is known anew."""
        found = statistics.fmean(self._samples)
        self._base_s = found if not self._base_s else 0.6 * self._base_s + 0.4 * found
        self._note(now, f"{int(self._limit)} in flight", f"latency with one in flight: {self._base_s:.3g} s")
        self._pause_s = now + self._gap_s * self._rng.uniform(0.8, 1.2)
        self._gap_s = min(self._pause_every_s, 2 * self._gap_s)
        self._begin(now, _Phase.RUN)

    def _judge(self, now: float) -> None:
        """Some round trips at this limit are over: one more, fewer, or a pause."""
        seconds = statistics.fmean(self._samples)
        slowdown = seconds / self._base_s
        allowed = self._max_slowdown - 1
        if slowdown > 1 + _BOUND * allowed and self._limit > 1:
            # a little over the bound: one less; far over it: down to a half
            self._limit = max(
                1.0, min(self._limit - 1, self._limit * max(0.5, (1 + _BOUND * allowed) / slowdown))
            )
            self._calm_until_s = now + 2.0
            self._note(
                now, f"{int(self._limit)} in flight", f"latency is {slowdown:.2f} of that with one in flight"
            )
        elif slowdown < 1 + _AIM * allowed and now >= self._calm_until_s:
            self._limit = min(float(self._flight_range.high), self._limit + max(1.0, 0.1 * self._limit))
        if now >= self._pause_s and self._limit > 1:
            self._begin(now, _Phase.PAUSE)
        else:
            self._begin(now)

    def _yield(self, sample: Sample, now: float) -> None:
        """Refused: halve at once, wait, and come back slowly."""
        self._hold_until_s = max(self._hold_until_s, now + self._hold_s * self._rng.uniform(0.8, 1.2))
        if sample.started_s < self._since_s:
            return
        self._hold_s = min(30.0, 2 * self._hold_s)
        self._limit = max(1.0, 0.5 * self._limit)
        self._calm_until_s = now + 10.0
        self._note(
            now, f"{int(self._limit)} in flight", f"the endpoint refused a request: {sample.outcome.value}"
        )
        self._begin(now)

    def _begin(self, now: float, phase: _Phase | None = None) -> None:
        """Collect samples anew; those of requests sent before do not count."""
        self._phase = phase or self._phase
        self._samples = []
        self._since_s = now

    def _note(self, now: float, what: str, why: str) -> None:
        self._journal.note(now, what, why)
