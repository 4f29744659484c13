"""What is done when an endpoint refuses requests for load: 429 and 503.

A pause first, so that what is under way does not meet the same refusal; then, once for each burst of refusals, the remedy: larger
chunks and a slower pace where requests a second are limited, fewer in flight where requests at once are, or the queue is short.
"""

import math
import random

from asyncbatch.control.explore import Move
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.search import Search
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import Sample

_REFUSED_SHARE = 0.03
"""More 503 than this, and fewer requests are kept in flight: a handful from a short queue costs less than idle workers."""


class Refusals:
    """Sets the point and the pace.

    Args:
        rng: spreads the pauses, so that several runs do not come back at the same moment.
    """

    def __init__(
        self, point: OperatingPoint, search: Search, pacer: RequestPacer, *, rng: random.Random
    ) -> None:
        self._point = point
        self._search = search
        self._pacer = pacer
        self._rng = rng
        self._throttle = ThrottleCause()
        self._calls = self._refused = 0
        self._full_at: int | None = None  # requests in flight when a queue was last full

    def count(self) -> None:
        """A request that steers has ended, in whatever way. Old ones fade."""
        self._calls += 1
        if self._calls > 60 and self._calls > 4 * self._point.limit:
            self._calls //= 2
            self._refused //= 2

    def forget(self) -> None:
        """The endpoint is another, or was away: what it refused says nothing now."""
        self._throttle = ThrottleCause()
        self._pacer.forget()
        self._calls = self._refused = 0

    def pause(self, now: float) -> None:
        """A moment without requests, so that what is under way does not meet the same refusal; no remedy."""
        self._refused += 1
        self._hold(now, min(0.5, max(0.05, 0.25 * self._point.latency_s)))

    def throttled(self, sample: Sample, begun_with: int, *, tested: float) -> None:
        """Larger chunks need fewer requests for the same rows: they come first, then the limit that is meant.

        Args:
            begun_with: in flight when it was sent, itself included.
            tested: so many in flight were long answered without refusals.
        """
        point, cruise, now = self._point, self._search.cruise, sample.finished_s
        self._refused += 1
        self._hold(now, min(0.5, max(0.05, 0.5 * point.latency_s)))
        if sample.started_s <= point.cut_s or now - point.cut_s < 0.3:
            self._throttle.also(begun_with)
            if self._throttle.cause is Cause.IN_FLIGHT and begun_with <= point.flight_cap:
                cruise.cap_flight(now, begun_with)
                point.limit = max(1.0, min(point.limit, point.flight_cap))
            return
        point.cut_s = now
        cause = self._throttle.judge(begun_with, tested=tested)
        cruise.drop_trial()
        if cause is Cause.IN_FLIGHT:
            cruise.cap_flight(now, begun_with)
            point.limit = max(1.0, min(point.limit, point.flight_cap))
            point.note(now, f"{point.limit:.0f} in flight", "throttled: the endpoint admits no more at once")
            self._search.stop_growing(now)
        elif cause is Cause.RATE:
            self._slower(now, begun_with)
        else:
            larger = self._larger_rows()
            self._hold(now, min(1.0, max(0.2, point.latency_s)))
            point.limit = max(1.0, 0.75 * begun_with)
            point.rows = larger
            point.note(now, point.setting, "throttled: larger chunks, then it shows what the limit is")
            self._search.grow_again(now)

    def unavailable(self, sample: Sample, begun_with: int) -> None:
        """A full queue: growth pauses, and ends when it is full again at a like number; later only the share counts."""
        point, cruise, now = self._point, self._search.cruise, sample.finished_s
        self.pause(now)
        cruise.epoch.refused += 1
        if sample.started_s < point.cut_s or now - point.cut_s < max(1.0, point.latency_s):
            return
        growing = not self._search.cruising and self._search.startup.growing
        often = self._refused >= max(3.0, _REFUSED_SHARE * self._calls)
        before, self._full_at = self._full_at, begun_with
        if growing and not often and (before is None or begun_with > 1.2 * before):
            point.cut_s = now
            point.limit = max(1.0, begun_with - 1.0)
            return
        if not growing and not often:
            return
        point.cut_s = now
        self._calls = self._refused = 0
        cruise.cap_flight(now, begun_with, by_chance=True)
        if cruise.drop_trial() is not Move.FLIGHT_UP:
            least = begun_with - 1.0 if growing else 0.85 * point.limit
            point.limit = max(1.0, least)
        point.note(now, f"{point.limit:.0f} in flight", "the endpoint's queue is full")
        self._search.stop_growing(now)

    def _slower(self, now: float, begun_with: int) -> None:
        """Requests a second are limited: they are paced until chunks are larger."""
        point, search = self._point, self._search
        rate = self._pacer.cut(now)
        point.flight_cap = math.inf
        point.note(now, f"{rate:.1f} requests/s", "throttled for the rate: paced until chunks are larger")
        search.cruise.explorer.soon(Move.ROWS_MODEL)
        search.cruise.explorer.soon(Move.ROWS_UP)
        busy_s = point.slots / rate  # a chunk that takes this long keeps every worker busy at this rate
        if search.cruising and point.fit.seconds(point.rows) < 0.9 * busy_s:
            point.rows = self._larger_rows()
        # pacing is to hold requests back, not the limit
        unqueued = 1 + 1.3 * rate * point.fit.seconds(point.rows)
        most = max(1.5 * point.slots, 2.0 * begun_with)
        point.limit = max(point.limit, min(unqueued, most))
        search.paced(now)

    def _larger_rows(self) -> float:
        """Chunks that need fewer requests, as far as latency, caps and what was slower allow."""
        point = self._point
        fit, longest_s = point.fit, 0.5 * point.longest_s
        growth = 4 if fit.seconds(point.rows) < 1.5 else 2
        larger = min(growth * point.rows, fit.knee(), float(point.top_rows), point.rows_ceiling)
        if fit.seconds(larger) > longest_s:
            larger = fit.rows_in(longest_s)
        larger = min(larger, point.rows_for_rounds(point.limit))
        return larger if larger > 1.3 * point.rows else point.rows

    def _hold(self, now: float, seconds: float) -> None:
        self._pacer.hold(now + seconds * self._rng.uniform(0.8, 1.2))
