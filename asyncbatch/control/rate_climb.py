"""Larger chunks where requests a second are limited: rows a second are then the rate times the rows, as long as no request waits.

No trial has to show that: a few answers at each size that take no longer than an idle endpoint would are enough to double it.
"""

import math

from asyncbatch.control.operating_point import WAITING, OperatingPoint

_ENOUGH = 4
"""Answers at a size before the next."""
_MARGIN = 1.3
"""Requests in flight over what the pace needs: latencies vary."""


class RateClimb:
    """Sets `point.rows` and `point.limit` until requests wait, or chunks cannot be larger."""

    def __init__(self, point: OperatingPoint) -> None:
        self._point = point
        self._since_s = -math.inf
        self._ratios: list[float] = []
        self._in_flight = 1

    def answered(
        self, rows: int, seconds: float, begun_with: int, *, started_s: float, now: float, rate: float
    ) -> bool:
        """A chunk was answered while requests are spaced to `rate` a second. True: the climb is over."""
        point, fit = self._point, self._point.fit
        if started_s < self._since_s or rows < 0.7 * point.rows:
            return False
        ratio = seconds / max(1e-6, fit.seconds(rows))
        if ratio < WAITING:
            self._in_flight = max(self._in_flight, begun_with)
        needed = 2 + _MARGIN * rate * fit.seconds(point.rows)
        # twice as many as were answered without a wait: a queue that grows while no answer tells of it would end in timeouts
        most = min(2.0 + 2 * self._in_flight, float(point.flight_range.high), point.flight_cap)
        point.limit = max(point.limit, min(needed, most))
        self._ratios.append(min(3.0, ratio))
        if len(self._ratios) < _ENOUGH:
            return False
        ratio = sum(self._ratios) / len(self._ratios)
        if ratio > WAITING:
            return True
        fit.add(rows, ratio * fit.seconds(rows), weight=len(self._ratios))
        point.latency_s = ratio * fit.seconds(rows)
        self._ratios.clear()
        goal = point.goal_rows(rate * point.rows, queueing=WAITING, paced=True)
        growth = 4 if fit.seconds(4 * point.rows) < 2.0 else 2
        larger = min(goal, growth * point.rows, point.rows_for_rounds(rate * point.latency_s))
        if larger < 1.3 * point.rows:
            return needed <= point.limit or most <= point.limit
        point.rows = larger
        point.note(now, point.setting, f"paced at {rate:.1f} requests/s, and none of them waits")
        self._since_s = now
        return False
