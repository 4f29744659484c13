"""What is done when requests fail for their size, or seem to: timeouts, 413, memory errors."""

import math

from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.search import Search
from asyncbatch.control.size_caps import Prover
from asyncbatch.model import Outcome, Sample

_MANY_TIMEOUTS = 3
"""So many, none of them long after the one before: it is the size, whatever else it is."""


class Oversize:
    """Sets the point and its caps.

    Args:
        prover: settles whether a request was the first of its size.
    """

    def __init__(self, point: OperatingPoint, search: Search, prover: Prover) -> None:
        self._point = point
        self._search = search
        self._prover = prover
        self._timeouts = 0
        self._timeout_s = -math.inf
        self._remedies = 0  # against timeouts, none of them long after the one before
        self._failures = self._successes = 0.0  # of the present size, fading
        self._smaller_ok = 0

    def answered(self, rows: int) -> None:
        """A chunk of `rows` rows was answered, of whatever kind."""
        if rows < 0.8 * self._point.rows:
            self._smaller_ok += 1
        else:
            self._successes = 0.98 * self._successes + 1
            self._failures *= 0.98

    def forget(self) -> None:
        """What failed had another reason."""
        self._failures = self._successes = 0.0

    def timed_out(self, sample: Sample) -> None:
        """The first remedy is fewer in flight where requests queue, and smaller chunks where they do not."""
        point, search, rows, now = self._point, self._search, sample.rows, sample.finished_s
        waited_s = now - sample.started_s
        point.timeout_s = min(point.timeout_s, max(0.1, waited_s))
        proved = self._prover.settled(rows, good=point.caps.good_rows, now_s=now)
        if not search.cruising and (search.startup.trying(rows) or proved):
            point.fit.add(rows, waited_s)
            search.startup.oversize(rows, now)
            search.go_on(now)
            return
        if now - self._timeout_s > 3 * point.timeout_s:
            self._timeouts = self._remedies = 0
        self._timeouts += rows > 0.45 * point.rows
        self._timeout_s = now
        if sample.started_s < point.cut_s:
            return
        again = self._timeouts >= _MANY_TIMEOUTS
        point.cut_s = now
        point.forget_best()
        if search.cruise.drop_trial() is None:
            queued = point.limit > max(2.0, 1.5 * point.slots) and waited_s > 1.5 * point.fit.seconds(rows)
            if queued:
                point.limit = max(1.0, 0.6 * point.limit, min(point.limit, 1.2 * point.slots))
            # Smaller chunks did not help: requests wait, whatever was thought of the slots.
            elif self._remedies > 1:
                point.limit = max(1.0, 0.6 * point.limit)
            self._remedies += 1
            if again or not queued:
                point.rows = max(1.0, 0.5 * min(point.rows, rows))
                point.rows_ceiling = min(point.rows_ceiling, max(1.0, rows / 1.4))
                point.fit.add(rows, waited_s, weight=4.0)
        point.note(now, point.setting, f"a request of {rows} rows timed out after {waited_s:.1f} s")
        search.stop_growing(now)

    def refused(self, sample: Sample) -> None:
        """A cap on size, or what looks like one: errors of sizes that work are only counted."""
        point, search, rows, now = self._point, self._search, sample.rows, sample.finished_s
        caps = point.caps
        if sample.started_s >= search.cruise.epoch.from_s:
            search.cruise.epoch.lose(now - sample.started_s)
        if sample.outcome is Outcome.FAILED and rows <= caps.good_rows:
            self._failed(rows, now)
            return
        self._prover.settled(rows, good=caps.good_rows, now_s=now)
        caps.refused(rows, sample.body_bytes, sample.outcome, now_s=now)
        if search.cruising:
            search.cruise.oversize(now)
            point.rows = min(point.rows, float(caps.max_rows))
        else:
            search.startup.oversize(rows, now)
        if rows > 1:
            point.note(now, f"at most {caps.max_rows} rows", f"{sample.outcome.value} at {rows} rows")
        search.go_on(now)

    def _failed(self, rows: int, now: float) -> None:
        """A size that worked has failed. Often, and smaller ones succeed: shrink. Where all fails, size is not to blame."""
        point = self._point
        if rows < 0.8 * point.rows:
            return
        self._failures += 1
        often = self._failures >= 3 and self._failures > 0.2 * self._successes
        if often and self._smaller_ok and self._search.cruising:
            self._failures = self._successes = 0.0
            self._smaller_ok = 0
            point.rows = max(1.0, 0.7 * min(point.rows, rows))
            point.caps.shrink(rows, now)
            point.note(now, point.setting, "requests of this size fail often")
            self._search.cruise.begin(now)
