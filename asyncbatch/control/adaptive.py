"""The default controller: finds chunk size and requests in flight while the job runs, and keeps them right.

`startup` finds a setting within seconds, `cruise` tries its neighbours and notices change; around them stand `size_caps`
(413, memory errors), `throttle` and `pacing` (429), `tail` (the end of the job). This module knows the order of things and
what to do when requests are refused; it holds no rule of its own about how fast an endpoint is.
"""

import math
import random
from collections.abc import Callable

from asyncbatch.control.cruise import Cruise
from asyncbatch.control.explore import Move
from asyncbatch.control.journal import Decision
from asyncbatch.control.learned import LearnedPoint, Trust
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.outage import Outage
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import Prover
from asyncbatch.control.startup import Phase, Startup
from asyncbatch.control.tail import tail_rows
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.units import IntRange

_START_ROWS = 16
_REFUSED_SHARE = 0.03
"""More 503 than this, and fewer requests are kept in flight: a handful from a short queue costs less than idle workers."""

_MANY_TIMEOUTS = 3
"""So many, none of them long after the one before: it is the size, whatever else it is."""
_ROUNDS = 6
"""Where chunks are made larger because of a throttle, so many are left for each of the requests in flight."""

_SUCCESS, _FIRST, _RETRY = Outcome.SUCCESS, Kind.FIRST, Kind.RETRY
"""Reading a member from its class is a call into Python until 3.12."""
_LOST = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.FAILED, Outcome.TIMEOUT)


class AdaptiveController:
    """Rows and bytes of a chunk, requests in flight, and request rate, from nothing but samples.

    Pure: no I/O, no clock of its own. Bounds are hard: whatever is learned, chunks have `chunk_rows.low` to
    `chunk_rows.high` rows and `concurrency()` is within `concurrency`. Only FIRST and RETRY samples steer; the others
    only end their permit.

    Args:
        clock: seconds, monotonic; the clock of the samples' times.
        rng: spreads the pauses after refusals, so that several runs do not come back at the same moment.
        chunk_rows: bounds of rows of a chunk, fixed when equal; None: 1 to 65,536.
        chunk_bytes: largest body; smaller caps are learned from 413.
        concurrency: bounds of requests in flight, fixed when equal; None: 1 to 512.
        request_timeout_s: when the client gives up a request; a shorter limit of the endpoint is learned from timeouts.
        target_latency_s: mean latency of a request to stay below, or None.
        start: what an earlier run learned; dropped when the first answers disagree.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        chunk_rows: IntRange | None = None,
        chunk_bytes: int = 25_000_000,
        concurrency: IntRange | None = None,
        request_timeout_s: float = 70.0,
        target_latency_s: float | None = None,
        start: LearnedPoint | None = None,
    ) -> None:
        chunk_rows = chunk_rows or IntRange(1, 65_536)
        concurrency = concurrency or IntRange(1, 512)
        self._clock = clock
        self._rng = rng
        now = clock()
        self._point = OperatingPoint(
            rows_range=chunk_rows,
            flight_range=concurrency,
            max_bytes=chunk_bytes,
            timeout_s=request_timeout_s,
            target_latency_s=target_latency_s,
            now_s=now,
        )
        start_rows = max(chunk_rows.low, min(_START_ROWS, chunk_rows.high))
        self._startup = Startup(self._point, start_rows=start_rows, now_s=now)
        self._cruise = Cruise(self._point, now_s=now)
        self._cruising = False
        self._prover = Prover()
        self._pacer = RequestPacer()
        self._throttle = ThrottleCause()
        self._hold_until_s = -math.inf
        self._cut_s = self._timeout_s = -math.inf
        self._flight_ok = 0.0
        self._calls = self._refusals = self._timeouts = 0
        self._full_at: int | None = None  # requests in flight when a queue was last full
        self._failures = self._successes = 0.0  # of the present size, fading
        self._smaller_ok = 0
        self._outage = Outage()
        self._most_bytes: int | None = None
        self._target = ChunkTarget(rows=start_rows, bytes=chunk_bytes)
        self._trust: Trust | None = None
        self._open = math.inf
        if start is not None:
            self._warm_start(start, now)
        self._open = self._point.limit  # follows the limit upwards by one an answer

    # ------------------------------------------------------------------ protocol
    def next_chunk(self) -> ChunkTarget:
        point = self._point
        caps, rows = point.caps, int(point.rows)
        settled = self._cruising and rows <= 1.1 * caps.good_rows and point.remaining >= rows * point.limit
        if not settled:
            rows = self._unsettled(rows)
        most, bounds = caps.max_rows, point.rows_range
        if rows > most:
            rows = most
        if rows > bounds.high:
            rows = bounds.high
        if rows < bounds.low:
            rows = bounds.low
        target = self._target
        if target.rows != rows or target.bytes != caps.max_bytes:
            self._target = target = ChunkTarget(rows=rows, bytes=caps.max_bytes)
        return target

    def _unsettled(self, rows: int) -> int:
        """Rows of the next chunk at start-up, in a trial of a new size, and in the tail of the job."""
        now, point = self._clock(), self._point
        if self._startup.phase is Phase.ROWS:
            return self._startup.rows_alone(now)
        patience_s = 4 * point.latency_s + 1
        rows = self._prover.rows(rows, good=point.caps.good_rows, now_s=now, patience_s=patience_s)
        if not self._cruising:
            rows = self._startup.rows_beside(now, patience_s=patience_s) or rows
        if point.remaining < rows * point.limit:
            rows = tail_rows(rows, remaining=point.remaining, in_flight=point.limit, least=point.least_rows())
        return rows

    def concurrency(self) -> int:
        point = self._point
        bounds, wanted = point.flight_range, point.limit
        if wanted > self._open:
            wanted = self._open
        limit = int(wanted)
        # Asked for each request: comparing takes a third of what min and max take.
        most_bytes = self._most_bytes
        if most_bytes is not None:
            each = point.rows * point.caps.bytes_per_row
            if limit * each > most_bytes or limit > most_bytes:
                limit = min(limit, int(most_bytes / max(1.0, each)))
        if limit < bounds.low:
            return bounds.low
        if limit > bounds.high:
            return bounds.high
        return limit

    def send_delay(self) -> float:
        now = self._clock()
        if now < self._hold_until_s - 1e-9:
            return self._hold_until_s - now
        if not self._cruising and self._startup.phase is Phase.ROWS and len(self._point.flight):
            wait_s = self._startup.delay(now)
            if wait_s > 0:
                return wait_s
        wait_s = self._pacer.delay(now)
        if wait_s:
            return wait_s
        self._point.flight.send(now)
        return 0.0

    def note_bytes_in_flight(self, most: int) -> None:
        """Bodies in flight may have `most` bytes together."""
        self._most_bytes = most

    def note_remaining(self, rows: int) -> None:
        self._point.remaining = rows

    def record(self, sample: Sample) -> None:
        rows, _, started_s, now, outcome, kind = sample
        point = self._point
        begun_with = point.flight.finish(started_s, now)
        success = outcome is _SUCCESS
        if success:
            if rows < 0.8 * point.rows:
                self._smaller_ok += 1
            else:
                self._successes = 0.98 * self._successes + 1
                self._failures *= 0.98
        if kind is not _FIRST and kind is not _RETRY:
            return
        limit = point.limit
        if success:
            self._open += 1
        if self._open > limit:
            self._open = limit
        if success:
            if self._outage.in_a_row and self._outage.answered(sample.rows, now, latency_s=point.latency_s):
                self._outage_over(now)
        elif outcome in _LOST and (outcome is not Outcome.TIMEOUT or point.latency_s < 0.5 * point.longest_s):
            self._outage.lost(sample.rows, now, setting=(point.rows, point.limit))
        if self._trust is not None and not self._believe(sample, now):
            return
        self._calls += 1
        if self._calls > 60 and self._calls > 4 * limit:
            self._calls //= 2
            self._refusals //= 2
        if success:
            self._answered(sample, now, begun_with)
        elif outcome is Outcome.THROTTLED:
            self._refusals += 1
            self._throttled(sample, now, begun_with)
        elif outcome is Outcome.UNAVAILABLE:
            self._refusals += 1
            self._unavailable(sample, now, begun_with)
        elif outcome is Outcome.TIMEOUT:
            self._timed_out(sample, now)
        elif outcome is Outcome.TOO_LARGE or outcome is Outcome.FAILED:
            self._too_large(sample, now)

    def explain(self) -> list[Decision]:
        """What was decided and why, oldest first; bounded."""
        return self._point.journal.decisions()

    @property
    def settled(self) -> bool:
        """A setting was found; what is tried from now on are its neighbours."""
        return self._cruising

    @property
    def at_size_cap(self) -> bool:
        """Chunks would be larger if the largest body, or a size that the endpoint refused, allowed it."""
        most = self._point.caps.max_rows
        return most < self._point.rows_range.high and self._point.rows >= 0.9 * most

    def learned(self) -> LearnedPoint | None:
        """The point to start the next run with; None until a setting was found."""
        point = self._point
        a, b = point.fit.line
        if not self._cruising or point.latency_s <= 0 or b <= 0 or self._trust is not None:
            return None
        rate = self._pacer.rate
        return LearnedPoint(
            chunk_rows=max(1, int(point.rows)),
            concurrency=self.concurrency(),
            latency_s=point.latency_s,
            call_s=a,
            row_s=b,
            spread=point.spread,
            slots=point.slots,
            max_rows=point.caps.found_rows,
            max_bytes=point.caps.found_bytes,
            request_rate=rate if rate < math.inf else None,
        )

    # ------------------------------------------------------------------ warm start
    def _warm_start(self, start: LearnedPoint, now: float) -> None:
        point = self._point
        point.fit.restore(call_s=start.call_s, row_s=start.row_s, rows=start.chunk_rows)
        point.caps.restore(rows=start.max_rows, max_bytes=start.max_bytes, good_rows=start.chunk_rows)
        point.rows = float(min(start.chunk_rows, point.top_rows))
        point.limit = float(max(point.flight_range.low, min(point.flight_range.high, start.concurrency)))
        point.latency_s, point.spread, point.slots = start.latency_s, start.spread, start.slots
        if start.request_rate is not None:
            self._pacer.restore(start.request_rate, now)
        self._trust = Trust(
            expected_s=start.latency_s, spread=start.spread, enough=min(8, self.concurrency() // 4)
        )
        self._startup.skip()
        self._cruising = True
        self._cruise.begin(now)
        point.note(now, point.setting, "learned by an earlier run")

    def _believe(self, sample: Sample, now: float) -> bool:
        """Hold a sample against what an earlier run learned. False if that is over."""
        assert self._trust is not None
        verdict: bool | None = None
        if sample.outcome is not Outcome.SUCCESS:
            verdict = self._trust.refused() if sample.outcome is not Outcome.NOT_READY else None
        elif sample.rows > 0.4 * self._point.rows:
            verdict = self._trust.answered(now - sample.started_s)
        if verdict is False:
            self._distrust(now)
            return False
        if verdict:
            self._trust = None
        return True

    def _distrust(self, now: float) -> None:
        """The endpoint is not what it was: start as if nothing were known."""
        point = self._point
        self._trust = None
        point.note(now, "start anew", "the first answers disagree with what an earlier run learned")
        point.fit = ServiceFit()
        point.slots, point.latency_s, point.flight_cap = 0.0, 0.0, math.inf
        self._pacer = RequestPacer()
        self._cruise.explorer.reset()
        start_rows = max(point.rows_range.low, min(_START_ROWS, point.rows_range.high))
        self._startup = Startup(point, start_rows=start_rows, now_s=now)
        self._cruising = False
        self._cut_s = now

    # ------------------------------------------------------------------ answers
    def _answered(self, sample: Sample, now: float, begun_with: int) -> None:
        rows, body_bytes, started_s, _, _, _ = sample
        point, caps = self._point, self._point.caps
        seconds = now - started_s
        if seconds < 1e-6:
            seconds = 1e-6
        proved = self._prover.trying > 0 and self._prover.settled(rows, good=caps.good_rows, now_s=now)
        caps.answered(rows, body_bytes)
        if proved:  # block ends make chunks smaller than wanted; what is wanted counts as proven
            caps.prove(int(point.rows))
        if started_s > self._cut_s:
            faded = self._flight_ok * 0.9999
            self._flight_ok = faded if faded > begun_with else float(begun_with)
        if not self._cruising:
            self._startup.answered(sample, seconds, begun_with, since_s=self._cut_s)
            self._go_on(now)
            return
        if self._cruise.answered(sample, seconds, proved=proved, paced_rate=self._pacer.rate):
            if self._startup.climb_on(now):
                self._cruise.explorer.trial = None
                self._cruising = False
            else:
                self._cruise.start(now)

    def _go_on(self, now: float) -> None:
        """Cruise, if start-up has come to its end."""
        if not self._cruising and self._startup.phase is Phase.DONE:
            self._cruising = True
            self._cruise.begin(now)

    # ------------------------------------------------------------------ refusals
    def _throttled(self, sample: Sample, now: float, begun_with: int) -> None:
        """Larger chunks need fewer requests for the same rows: they come first, then the limit that is meant."""
        point = self._point
        self._hold(now, min(0.5, max(0.05, 0.5 * point.latency_s)))
        if sample.started_s <= self._cut_s or now - self._cut_s < 0.3:
            self._throttle.also(begun_with)
            if self._throttle.cause is Cause.IN_FLIGHT and begun_with <= point.flight_cap:
                self._cruise.cap_flight(now, begun_with)
                point.limit = max(1.0, min(point.limit, point.flight_cap))
            return
        self._cut_s = now
        cause = self._throttle.judge(begun_with, tested=self._flight_ok)
        self._cruise.drop_trial()
        if cause is Cause.IN_FLIGHT:
            self._cruise.cap_flight(now, begun_with)
            point.limit = max(1.0, min(point.limit, point.flight_cap))
            point.note(now, f"{point.limit:.0f} in flight", "throttled: the endpoint admits no more at once")
            self._stop_growing(now)
            return
        larger = self._larger_rows()
        if cause is Cause.RATE:
            rate = self._pacer.cut(now)
            point.flight_cap = math.inf
            point.note(now, f"{rate:.1f} requests/s", "throttled for the rate: paced until chunks are larger")
            self._cruise.explorer.soon(Move.ROWS_MODEL)
            self._cruise.explorer.soon(Move.ROWS_UP)
            busy_s = point.slots / rate  # a chunk that takes this long keeps every worker busy at this rate
            if not self._cruising or point.fit.seconds(point.rows) < 0.9 * busy_s:
                point.rows = larger
            # pacing is to hold requests back, not the limit
            unqueued = 1 + 1.3 * rate * point.fit.seconds(point.rows)
            most = max(1.5 * point.slots, 2.0 * begun_with)
            point.limit = max(point.limit, min(unqueued, most))
            self._stop_growing(now)
            return
        self._hold(now, min(1.0, max(0.2, point.latency_s)))
        point.limit = max(1.0, 0.75 * begun_with)
        point.rows = larger
        point.note(now, point.setting, "throttled: larger chunks, then it shows what the limit is")
        self._cruising = False
        self._startup.again(now)

    def _larger_rows(self) -> float:
        """Chunks that need fewer requests, as far as latency, caps and what was slower allow."""
        point = self._point
        fit, longest_s = point.fit, 0.5 * point.longest_s
        growth = 4 if fit.seconds(point.rows) < 1.5 else 2
        larger = min(growth * point.rows, fit.knee(), float(point.top_rows), point.rows_ceiling)
        if fit.seconds(larger) > longest_s:
            a, b = fit.line
            larger = (longest_s - a) / max(b, 1e-12)
        larger = min(larger, point.remaining / (_ROUNDS * max(1.0, point.limit)))
        return larger if larger > 1.3 * point.rows else point.rows

    def _unavailable(self, sample: Sample, now: float, begun_with: int) -> None:
        """A full queue: growth pauses, and ends when it is full again at a like number; later only the share counts."""
        point = self._point
        self._hold(now, min(0.5, max(0.05, 0.25 * point.latency_s)))
        self._cruise.epoch.refused += 1
        if sample.started_s < self._cut_s or now - self._cut_s < max(1.0, point.latency_s):
            return
        growing = not self._cruising and self._startup.growing
        often = self._refusals >= max(3.0, _REFUSED_SHARE * self._calls)
        before, self._full_at = self._full_at, begun_with
        if growing and not often and (before is None or begun_with > 1.2 * before):
            self._cut_s = now
            point.limit = max(1.0, begun_with - 1.0)
            return
        if not growing and not often:
            return
        self._cut_s = now
        self._calls = self._refusals = 0
        self._cruise.cap_flight(now, begun_with, by_chance=True)
        if self._cruise.drop_trial() is not Move.FLIGHT_UP:
            least = begun_with - 1.0 if growing else 0.85 * point.limit
            point.limit = max(1.0, least)
        point.note(now, f"{point.limit:.0f} in flight", "the endpoint's queue is full")
        self._stop_growing(now)

    def _timed_out(self, sample: Sample, now: float) -> None:
        """The first remedy is fewer in flight where requests queue, and smaller chunks where they do not."""
        point, rows = self._point, sample.rows
        waited_s = now - sample.started_s
        point.timeout_s = min(point.timeout_s, max(0.1, waited_s))
        proved = self._prover.settled(rows, good=point.caps.good_rows, now_s=now)
        if not self._cruising and (self._startup.trying(rows) or proved):
            point.fit.add(rows, waited_s)
            self._startup.oversize(rows, now)
            self._go_on(now)
            return
        if now - self._timeout_s > 3 * point.timeout_s:
            self._timeouts = 0
        self._timeouts += rows > 0.45 * point.rows
        self._timeout_s = now
        if sample.started_s < self._cut_s:
            return
        again = self._timeouts >= _MANY_TIMEOUTS
        self._cut_s = now
        point.forget_best()
        if self._cruise.drop_trial() is None:
            queued = point.limit > max(2.0, 1.5 * point.slots) and waited_s > 1.5 * point.fit.seconds(rows)
            if queued:
                point.limit = max(1.0, 0.6 * point.limit, min(point.limit, 1.2 * point.slots))
            if again or not queued:
                point.rows = max(1.0, 0.5 * point.rows if again else 0.75 * min(point.rows, rows))
        point.note(now, point.setting, f"a request of {rows} rows timed out after {waited_s:.1f} s")
        self._stop_growing(now)

    def _too_large(self, sample: Sample, now: float) -> None:
        """A cap on size, or what looks like one: errors of sizes that work are only counted."""
        point, caps, rows = self._point, self._point.caps, sample.rows
        if sample.started_s >= self._cruise.epoch.from_s:
            self._cruise.epoch.lose(now - sample.started_s)
        if sample.outcome is Outcome.FAILED and rows <= caps.good_rows:
            self._failed(rows, now)
            return
        self._prover.settled(rows, good=caps.good_rows, now_s=now)
        caps.refused(rows, sample.body_bytes, sample.outcome, now_s=now)
        if self._cruising:
            self._cruise.oversize(now)
            point.rows = min(point.rows, float(caps.max_rows))
        else:
            self._startup.oversize(rows, now)
        if rows > 1:
            point.note(now, f"at most {caps.max_rows} rows", f"{sample.outcome.value} at {rows} rows")
        self._go_on(now)

    def _failed(self, rows: int, now: float) -> None:
        """A size that worked has failed. Often, and smaller ones succeed: shrink. Where all fails, size is not to blame."""
        point = self._point
        if rows < 0.8 * point.rows:
            return
        self._failures += 1
        often = self._failures >= 3 and self._failures > 0.2 * self._successes
        if often and self._smaller_ok and self._cruising:
            self._failures = self._successes = 0.0
            self._smaller_ok = 0
            point.rows = max(1.0, 0.7 * min(point.rows, rows))
            point.caps.shrink(rows, now)
            point.note(now, point.setting, "requests of this size fail often")
            self._cruise.begin(now)

    def _outage_over(self, now: float) -> None:
        """All was lost for a while and now something succeeds: what the outage taught was not about limits."""
        point = self._point
        point.rows = max(point.rows, min(self._outage.setting[0], float(point.top_rows)))
        point.limit = max(1.0, 0.5 * self._outage.setting[1])
        point.flight_cap = math.inf
        self._throttle, self._pacer = ThrottleCause(), RequestPacer()
        self._calls = self._refusals = 0
        self._failures = self._successes = 0.0
        self._cut_s = now
        self._cruise.explorer.reset()
        self._cruise.explorer.trial = self._cruise.explorer.base = None
        point.note(now, point.setting, "an outage is over")
        if self._startup.phase is not Phase.ROWS:
            self._cruising = False
            self._startup.again(now)

    def _stop_growing(self, now: float) -> None:
        if self._cruising:
            self._cruise.begin(now)
        else:
            self._startup.stop_growing(now)
            self._go_on(now)

    def _hold(self, now: float, seconds: float) -> None:
        self._hold_until_s = max(self._hold_until_s, now + seconds * self._rng.uniform(0.8, 1.2))
