"""Where the endpoint is driven, and what is known of it: shared by start-up, cruise and the reactions to refusals."""

import math

from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.journal import Journal
from asyncbatch.control.row_ramp import power_of_two
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import SizeCaps
from asyncbatch.model import Sample
from asyncbatch.units import IntRange

UNEVEN = 0.3
"""Spread of latencies from where some workers idle while others queue: more in flight evens that out."""
WAITING = 1.5
"""Mean latency over that of an idle endpoint from where requests wait."""
_OVERHEAD = 0.04
"""Share of the fixed cost in a chunk's time below which larger chunks only make the last ones longer to wait for."""
_LATE = 1.2
"""Answers that take this many times the longest mean latency are late."""
_ROUNDS = 6
"""Where chunks are made larger because of a throttle, so many are left for each of the requests in flight."""
_LEAST_S = 0.3
"""Seconds that a measurement takes at least: where requests are quick, there is no need to decide a hundred times a second."""


class OperatingPoint:
    """The present setting, the models of the endpoint, and the rules that follow from them alone.

    Args:
        rows_range, flight_range: the user's bounds.
        max_bytes: largest body.
        timeout_s: when a request is given up; shortened by what timeouts show.
        target_latency_s: latency of a request that the user wants to stay below, or None.
        now_s: on the controller's clock.
    """

    def __init__(
        self,
        *,
        rows_range: IntRange,
        flight_range: IntRange,
        max_bytes: int,
        timeout_s: float,
        target_latency_s: float | None,
        now_s: float,
    ) -> None:
        self.rows_range = rows_range
        self.flight_range = flight_range
        self.timeout_s = timeout_s
        self.target_latency_s = target_latency_s
        self.fit = ServiceFit()
        self.caps = SizeCaps(max_rows=rows_range.high, max_bytes=max_bytes)
        self.flight = InFlight(expire_s=4 * timeout_s, now_s=now_s)
        self.journal = Journal()
        self.rows = float(rows_range.low)
        """Rows of a chunk that are wanted."""
        self.limit = float(flight_range.low)
        """Requests in flight that are wanted; not a whole number while it grows."""
        self.remaining = 10**12
        """Rows not yet sent."""
        self.latency_s = 0.0
        self.spread = 0.2
        """Coefficient of variation of the latencies."""
        self.slots = 0.0
        """How many requests the endpoint works on at once, as slow start found; 0 while unknown."""
        self.rows_ceiling = math.inf
        """Larger chunks were tried and slower."""
        self.flight_cap = math.inf
        """Requests in flight beyond this were refused."""
        self.cut_s = -math.inf
        """When something was last undone: requests sent before tell nothing about the limit."""
        self._best: tuple[float, float, float] | None = None  # rate, rows, limit

    @property
    def top_rows(self) -> int:
        """The most rows that the user and the endpoint allow."""
        return max(self.rows_range.low, min(self.rows_range.high, self.caps.max_rows))

    @property
    def longest_s(self) -> float:
        """Mean latency that must not be exceeded: far enough from the timeout that noise does not reach it."""
        longest = 0.6 * self.timeout_s / (1 + 2 * self.spread)
        return min(longest, self.target_latency_s) if self.target_latency_s else longest

    @property
    def rounds_left(self) -> float:
        """How many more requests each of those in flight will send."""
        return self.remaining / max(1.0, self.rows * self.limit)

    @property
    def setting(self) -> str:
        return f"{self.rows:.0f} rows x {self.limit:.0f} in flight"

    def queue_factor(self, latency_s: float, rows: float) -> float:
        """Latency over that of an idle endpoint."""
        idle_s = self.fit.seconds(rows)
        return latency_s / idle_s if idle_s > 0 else 1.0

    def least_rows(self) -> float:
        """Below this size more than half of a chunk's time is its fixed cost."""
        a, b = self.fit.line
        return a / b if b > 0 else 1.0

    def goal_rows(self, rate: float, *, queueing: float, paced: bool) -> float:
        """The best chunk size by the service-time fit.

        Fixed costs over the rest of the job, T·a/(b·n), against the wait for the last chunks, about b·n: their sum is least
        where a chunk takes sqrt(T·a) (the square-root rule of checkpoint intervals: Young, CACM 17, 1974). The wait is longer
        where latencies spread.

        Args:
            rate: rows a second now.
            queueing: mean latency over that of an idle endpoint.
            paced: the request rate is what limits: then larger chunks are worth more than a short tail.
        """
        fit = self.fit
        if fit.sizes < 2:  # nothing shows what a row costs
            return min(4 * self.rows, self.rows_ceiling, float(self.top_rows))
        a, b = fit.line
        if b <= 0:
            return self.rows
        rest_s = min(600.0, self.remaining / max(rate, 1e-9))
        best_s = max(0.8, math.sqrt(rest_s * a / (1 + 2 * self.spread)))
        longest_s = self.longest_s / max(1.0, queueing)
        # A call that is dear anyway is not made for a few rows.
        longest_s = max(longest_s, min(1.25 * a, self.longest_s))
        best_s = min(best_s, longest_s, max(rest_s / 10, 0.5))
        rows = max(1.0, (best_s - a) / b)
        rows = min(rows, max(a / (_OVERHEAD * b), (0.8 - a) / b, 1.0))
        if paced:
            rows = max(rows, min(4 * self.rows, (longest_s - a) / b))
        if rows < self.caps.max_rows:
            rows = 2.0 ** round(
                math.log2(rows)
            )  # padded endpoints work in powers of two; others lose nothing
            rows = min(rows, max(1.0, (longest_s - a) / b))
        below = min(self.rows_ceiling, fit.knee())
        return min(rows, float(power_of_two(below)) if below < rows else rows, float(self.top_rows))

    def rows_for_rounds(self, in_flight: float) -> float:
        """The largest chunk that leaves enough of them for each of `in_flight` requests."""
        return self.remaining / (_ROUNDS * max(1.0, in_flight))

    def return_from_dearer(self, rows: int, seconds: float, *, proven: int) -> bool:
        """Whether the first chunk of `rows` did much less work a second than those of `proven`; then that size is taken up again.

        Args:
            seconds: that it took.
        """
        fit = self.fit
        proven_s = fit.seconds(proven)
        alone_s = max(seconds - max(0.0, self.latency_s - proven_s), 0.6 * seconds)
        if rows / alone_s > proven / proven_s * math.exp(-max(0.5, 2 * self.spread)):
            return False
        fit.add(rows, alone_s, weight=2.0)
        self.rows = float(proven)
        self.rows_ceiling = min(self.rows_ceiling, math.sqrt(rows * proven))
        return True

    def epoch(self, now_s: float, *, settle_s: float = 0.0, precision: float = 0.05) -> Epoch:
        """A new measurement of this setting: as many samples as `precision` (standard error of log rate) takes at this spread.

        At least as many as are in flight: those that end first are the short ones.
        """
        quick = self.limit * _LEAST_S / self.latency_s if self.latency_s > 1e-4 else 0.0
        base = max(6, int(self.limit), int(min(2000.0, quick)))
        # about ten seconds' worth, and two rounds of slow requests
        affordable = max(6.0, self.limit * max(2.0, 10.0 / max(1e-3, self.latency_s)))
        need = int(min(max(24, 3 * base), max(base, min(affordable, (self.spread / precision) ** 2))))
        self.flight.restart(now_s, from_s=now_s + settle_s, cohort=need)
        return Epoch(from_s=now_s + settle_s, need=need, late_s=_LATE * self.longest_s)

    def measured(self, epoch: Epoch, sample: Sample, seconds: float) -> bool:
        """Take an answer into `epoch`; True when there are enough.

        What counts is a cohort: as many requests as are needed, in the order they were sent. The answers that come first are the
        short ones, and a mean over them says the less, the more are in flight.
        """
        if sample.started_s < epoch.from_s:
            return False
        return epoch.add(sample.rows, seconds, of_cohort=sample.started_s <= self.flight.cohort_until_s)

    def measure(self, epoch: Epoch, now_s: float) -> Measure:
        """What `epoch` found; the spread is learned from it."""
        measure = epoch.measure(mean_in_flight=self.flight.mean(now_s), spread=self.spread)
        self.spread = measure.spread
        return measure

    def remember(self, measure: Measure) -> None:
        """Keep the fastest setting measured so far; a new measurement of it replaces the old one."""
        if self._best is None or self._is_best or measure.rate > self._best[0]:
            self._best = (measure.rate, self.rows, self.limit)

    def return_to_best(self, measure: Measure) -> bool:
        """Whether the present setting is much slower than one measured before; then that is taken up again."""
        if self._best is None or self._is_best:
            return False
        rate, rows, limit = self._best
        if measure.rate * (1 + 2 * measure.error) > 0.75 * rate or rows > self.top_rows:
            return False
        self.rows_ceiling = (
            min(self.rows_ceiling, math.sqrt(rows * self.rows)) if rows < self.rows else self.rows_ceiling
        )
        self.rows, self.limit = rows, min(limit, self.flight_cap)
        self._best = None  # it has to be as fast again
        return True

    def forget_best(self) -> None:
        """The endpoint has changed, or what was measured before took too long."""
        self._best = None

    @property
    def _is_best(self) -> bool:
        if self._best is None:
            return False
        _, rows, limit = self._best
        return abs(math.log(self.rows / rows)) < 0.4 and abs(math.log(self.limit / limit)) < 0.4

    def note(self, now_s: float, what: str, why: str) -> None:
        self.journal.note(now_s, what, why)
