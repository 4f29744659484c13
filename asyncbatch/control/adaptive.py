"""The default controller: finds chunk size and requests in flight while the job runs, and keeps them right.

`search` finds a setting within seconds, then tries its neighbours and notices change; around it stand `refusals` (429, 503) with
`pacing`, `oversize` (413, memory errors, timeouts) with `size_caps`, `outage`, and `tail` (the end of the job). This module knows
the order of things; it holds no rule of its own about how fast an endpoint is.
"""

import math
import random
from collections.abc import Callable

from asyncbatch.control.journal import Decision
from asyncbatch.control.learned import LearnedPoint, Trust
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.outage import Outage
from asyncbatch.control.oversize import Oversize
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.refusals import Refusals
from asyncbatch.control.search import Search
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import Prover
from asyncbatch.control.startup import Phase
from asyncbatch.control.tail import tail_rows
from asyncbatch.model import FIRST, RETRY, SUCCESS, ChunkTarget, Outcome, Sample
from asyncbatch.units import IntRange

_START_ROWS = 16
_REFUSED = (Outcome.THROTTLED, Outcome.UNAVAILABLE)
_LOST = (*_REFUSED, Outcome.FAILED, Outcome.TIMEOUT)
_FAILED = (Outcome.TOO_LARGE, Outcome.FAILED, Outcome.TIMEOUT)


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
        self._search = Search(self._point, start_rows=start_rows, now_s=now)
        self._prover = Prover()
        self._pacer = RequestPacer()
        self._refusals = Refusals(self._point, self._search, self._pacer, rng=rng)
        self._oversize = Oversize(self._point, self._search, self._prover)
        self._outage = Outage()
        self._flight_ok = 0.0  # so many in flight were answered without refusals, slowly fading
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
        settled = (
            self._search.cruising and rows <= 1.1 * caps.good_rows and point.remaining >= rows * point.limit
        )
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
        now, point, startup = self._clock(), self._point, self._search.startup
        if startup.phase is Phase.ROWS:
            return startup.rows_alone(now)
        patience_s = 4 * point.latency_s + 1
        rows = self._prover.rows(rows, good=point.caps.good_rows, now_s=now, patience_s=patience_s)
        if not self._search.cruising:
            rows = startup.rows_beside(now, patience_s=patience_s) or rows
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
        now, search = self._clock(), self._search
        if not search.cruising and search.startup.phase is Phase.ROWS and len(self._point.flight):
            wait_s = search.startup.delay(now)
            if wait_s > 0:
                return wait_s
        wait_s = self._pacer.delay(now)
        if wait_s:
            return wait_s
        self._point.flight.send(now)
        if self._trust is not None:
            self._trust.sent(now)
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
        success = outcome is SUCCESS
        if success:
            self._oversize.answered(rows)
        if kind is not FIRST and kind is not RETRY:
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
        if self._trust is not None and not self._believe(sample, now, begun_with):
            return
        self._refusals.count()
        if success:
            self._answered(sample, now, begun_with)
        elif outcome is Outcome.THROTTLED:
            self._refusals.throttled(sample, begun_with, tested=self._flight_ok)
        elif outcome is Outcome.UNAVAILABLE:
            self._refusals.unavailable(sample, begun_with)
        elif outcome is Outcome.TIMEOUT:
            self._oversize.timed_out(sample)
        elif outcome is Outcome.TOO_LARGE or outcome is Outcome.FAILED:
            self._oversize.refused(sample)

    def explain(self) -> list[Decision]:
        """What was decided and why, oldest first; bounded."""
        return self._point.journal.decisions()

    @property
    def settled(self) -> bool:
        """A setting was found; what is tried from now on are its neighbours."""
        return self._search.cruising

    @property
    def at_size_cap(self) -> bool:
        """Chunks would be larger if the largest body, or a size that the endpoint refused, allowed it."""
        most = self._point.caps.max_rows
        return most < self._point.rows_range.high and self._point.rows >= 0.9 * most

    def learned(self) -> LearnedPoint | None:
        """The point to start the next run with; None until a setting was found."""
        point = self._point
        a, b = point.fit.line
        if not self._search.cruising or point.latency_s <= 0 or b <= 0 or self._trust is not None:
            return None
        rate = self._pacer.admitted_rate
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
            idle_s=point.fit.seconds(start.chunk_rows),
            expected_s=start.latency_s,
            spread=start.spread,
            in_flight=self.concurrency(),
        )
        self._search.skip(now)
        point.note(now, point.setting, "learned by an earlier run")

    def _believe(self, sample: Sample, now: float, begun_with: int) -> bool:
        """Hold a sample against what an earlier run learned. False if it is to teach nothing else."""
        trust = self._trust
        assert trust is not None
        rows, _, started_s, _, outcome, _ = sample
        verdict: bool | None = None
        if outcome in _REFUSED and trust.refused(started_s=started_s, now_s=now):
            self._refusals.pause(now)  # one of many sent at the same moment
            self._open = min(self._open, max(1.0, begun_with - 1.0))
            return False
        if outcome in _FAILED:
            verdict = trust.failed()
        elif outcome is Outcome.SUCCESS and rows > 0.4 * self._point.rows:
            verdict = trust.answered(now - started_s, started_s=started_s)
        if verdict is False:
            self._distrust(now)
            return False
        if verdict:
            self._point.fit.scale(trust.slower)
            self._trust = None
        return True

    def _distrust(self, now: float) -> None:
        """The endpoint is not what it was: start as if nothing were known."""
        point = self._point
        self._trust = None
        point.note(now, "start anew", "the first answers disagree with what an earlier run learned")
        point.fit = ServiceFit()
        point.slots, point.latency_s, point.flight_cap = 0.0, 0.0, math.inf
        point.cut_s = now
        self._refusals.forget()
        self._search.start_anew(now)

    # ------------------------------------------------------------------ answers
    def _answered(self, sample: Sample, now: float, begun_with: int) -> None:
        rows, body_bytes, started_s, _, _, _ = sample
        point, caps = self._point, self._point.caps
        seconds = now - started_s
        if seconds < 1e-6:
            seconds = 1e-6
        proved = self._prover.trying > 0 and self._prover.settled(rows, good=caps.good_rows, now_s=now)
        good_rows = caps.good_rows
        caps.answered(rows, body_bytes)
        larger = proved and point.rows >= rows > 1.3 * good_rows > 0
        if larger and point.return_from_dearer(rows, seconds, proven=good_rows):
            point.note(now, point.setting, f"the first request of {rows} rows took {seconds:.1f} s")
        if proved:  # block ends make chunks smaller than wanted; what is wanted counts as proven
            caps.prove(int(point.rows))
        if started_s > point.cut_s:
            faded = self._flight_ok * 0.9999
            self._flight_ok = faded if faded > begun_with else float(begun_with)
        search = self._search
        if not search.cruising:
            search.started_with(sample, seconds, begun_with, paced_rate=self._pacer.rate)
        elif search.cruise.answered(sample, seconds, proved=proved, paced_rate=self._pacer.rate):
            search.climb(now)

    def _outage_over(self, now: float) -> None:
        """All was lost for a while and now something succeeds: what the outage taught was not about limits."""
        point, search = self._point, self._search
        point.rows = max(point.rows, min(self._outage.setting[0], float(point.top_rows)))
        point.limit = max(1.0, 0.5 * self._outage.setting[1])
        point.flight_cap = math.inf
        point.cut_s = now
        self._refusals.forget()
        self._oversize.forget()
        search.cruise.explorer.reset()
        search.cruise.explorer.trial = search.cruise.explorer.base = None
        point.note(now, point.setting, "an outage is over")
        if search.startup.phase is not Phase.ROWS:
            search.grow_again(now)
