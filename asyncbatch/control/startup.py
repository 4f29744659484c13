"""From the first request to a good setting: row ramp, slow start, doubling, row climb.

A small chunk size is found first, because only then does a round trip take a fraction of a second; then the requests in flight
are doubled with it; meanwhile and afterwards single larger chunks go beside them, until the service-time fit asks for no more.
Where the endpoint limits requests a second, a rate climb takes the place of all that.
"""

import math
from enum import Enum

from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.operating_point import UNEVEN, OperatingPoint
from asyncbatch.control.rate_climb import RateClimb
from asyncbatch.control.row_ramp import RowRamp, power_of_two
from asyncbatch.control.slow_start import SlowStart
from asyncbatch.model import Sample

_START_IN_FLIGHT = 6
_DRAINING_S = 0.05
"""Seconds between looks at whether requests from before the row ramp are still under way."""
_ALONE_S = 10.0
"""A row ramp that has taken longer goes on beside growing numbers in flight: then round trips are too dear to wait for."""
_HEADROOM = 1.3
"""In flight over what the endpoint works on at once: what waits there fills the gaps, and shows new capacity at once."""
_UNEVEN_HEADROOM = 1.8
"""The same where latencies are uneven."""
_DEAR = 0.4
"""Share of the fixed cost in a chunk's time above which larger chunks come before more of them, if round trips take long."""
_LONG_S = 2.0
_MORE = 1.7
"""Requests worked on at once may be so many times more than slow start found, where it ended early."""
_FASTER = 0.8
"""No request waits less than not at all: latencies below this share of the fit's mean that what it has seen is out of date."""


class Phase(Enum):
    ROWS = "row ramp"
    FLIGHT = "slow start"
    DOUBLE = "doubling"
    CLIMB = "row climb"
    PACED = "rate climb"
    DONE = "done"


class Startup:
    """Sets `point.rows` and `point.limit`; `phase` is DONE when it has nothing more to do.

    Args:
        start_rows: size of the first request.
    """

    def __init__(self, point: OperatingPoint, *, start_rows: int, now_s: float) -> None:
        self._point = point
        point.rows = float(start_rows)
        point.limit = float(max(point.flight_range.low, min(_START_IN_FLIGHT, point.flight_range.high)))
        self.phase = Phase.ROWS
        self._ramp = RowRamp(fit=point.fit, start_rows=start_rows, enough_s=0.4, slow_s=2.0)
        self._slow = SlowStart()
        self._begun_s = now_s
        self._alone_s = now_s  # since then none from before it is under way
        self._epoch = Epoch(from_s=now_s, need=1)
        self._base: tuple[Measure, float] | None = None
        self._waiting_s = 0.0
        self._ratio = 1.0  # latency over what the fit expects
        self._patience = 0
        self._paced = False
        self._rate_climb = RateClimb(point)
        self._doubles = False  # after the row climb
        self._trials_s = now_s  # when trials of larger chunks last began

    def skip(self) -> None:
        """A setting is known already."""
        self.phase = Phase.DONE

    @property
    def growing(self) -> bool:
        """Whether the requests in flight are being raised."""
        return self.phase in (Phase.FLIGHT, Phase.DOUBLE)

    def rows_alone(self, now_s: float) -> int:
        """Rows of the next request of the row ramp."""
        return self._ramp.next_rows(now_s)

    def delay(self, now_s: float) -> float:
        """Seconds that the next request of the row ramp has to wait: those sent before it began would take part of its work."""
        point = self._point
        if point.flight.oldest_s < self._begun_s and now_s < self._begun_s + point.timeout_s:
            self._alone_s = now_s
            return _DRAINING_S
        return self._ramp.delay(now_s)

    def rows_beside(self, now_s: float, *, patience_s: float) -> int | None:
        """Rows of a larger chunk to try now, or None for an ordinary one."""
        if self.phase is not Phase.PACED and (self.phase is Phase.CLIMB or self._point.limit >= 4):
            return self._ramp.take(now_s, patience_s=patience_s)
        return None

    def answered(
        self, sample: Sample, seconds: float, begun_with: int, *, since_s: float, paced_rate: float
    ) -> None:
        """A chunk was answered; requests from before `since_s` tell nothing about the limit."""
        point, now, rows = self._point, sample.finished_s, sample.rows
        if self.phase is Phase.ROWS:
            if sample.started_s < self._begun_s:
                return
            point.latency_s = point.latency_s or seconds
            self._ramp.answered_first(rows, seconds, max_rows=point.top_rows, in_flight=begun_with)
            if self._ramp.done or self._ramp_takes_long(now, rows):
                self.begin_flight(now)
            return
        if self.phase is Phase.PACED:
            if self._rate_climb.answered(
                rows, seconds, begun_with, started_s=sample.started_s, now=now, rate=paced_rate
            ):
                self._end_climb(now)
            return
        idle_s = point.fit.seconds(rows)
        if rows > 1.3 * point.rows and sample.started_s < self._trials_s:
            return  # of a size that was given up
        if not self._ramp.done and rows > 1.3 * point.rows:
            alone_s = max(seconds - self._waiting_s, 0.6 * seconds)
            self._ramp.answered(rows, alone_s, max_rows=point.top_rows, spread=point.spread)
        else:
            point.latency_s = 0.7 * point.latency_s + 0.3 * seconds
            self._ratio = 0.8 * self._ratio + 0.2 * min(2.0, seconds / max(idle_s, 1e-6))
            if self._ratio < _FASTER:
                point.fit.scale(self._ratio)
                idle_s, self._ratio = idle_s * self._ratio, 1.0
            self._waiting_s = max(0.0, 0.8 * self._waiting_s + 0.2 * (seconds - idle_s))
            if begun_with <= 2:
                point.fit.add(rows, seconds)
        if sample.started_s < since_s:
            return
        if self.phase is Phase.FLIGHT:
            grown = self._slow.answered(
                seconds=seconds, idle_s=idle_s, in_flight=begun_with, limit=point.limit
            )
            point.limit = min(float(point.flight_range.high), grown)
            larger_s = point.fit.seconds(self._ramp.best_rows)
            if self._ramp.best_rows > point.rows and larger_s < 2 * point.fit.seconds(point.rows):
                point.rows = float(self._ramp.best_rows)
            little = point.rounds_left < 2
            if self._slow.done or point.limit >= point.flight_range.high or little:
                self._end_flight(now, little=little)
        elif self.phase is Phase.DOUBLE:
            if rows < 1.3 * point.rows and point.measured(self._epoch, sample, seconds):
                self._double(now)
        else:
            self._climbed(now)

    def _ramp_takes_long(self, now: float, rows: int) -> bool:
        """A row ramp that is not at its end has taken too long; longer where requests wait for each other and calls are dear."""
        fit, serial = self._point.fit, self._ramp.serial
        enough_s = 4 * _ALONE_S if serial and fit.overhead(rows) > 0.5 else _ALONE_S
        return now > self._alone_s + enough_s and fit.sizes >= (2 if serial else 3)

    def begin_flight(self, now: float) -> None:
        """The row ramp is over: raise the requests in flight, with chunks of about half a second."""
        point = self._point
        fit = point.fit
        rows = float(self._ramp.best_rows)
        a, b = fit.line
        if fit.seconds(rows) > 1.0 and b > 0:
            rows = float(power_of_two(max(1.0, rows / 4, min(rows, max((0.5 - a) / b, a / b)))))
        point.note(now, f"chunk {rows:.0f} rows", f"row ramp: t(n) = {a:.3g} s + {b:.3g} s x n")
        point.rows = rows
        self.phase = Phase.FLIGHT
        self._slow = SlowStart(few=1 if self._ramp.serial else 3)
        flight = point.flight_range
        point.limit = float(max(flight.low, min(flight.high, max(2, len(point.flight) + 1))))
        point.latency_s = fit.seconds(rows)
        rate = 4 * rows / max(1e-9, point.latency_s)
        goal = point.goal_rows(rate, queueing=1.5, paced=False)
        if fit.seconds(self._ramp.best_rows) > point.longest_s:
            self._ramp.best_rows = int(max(1.0, min(self._ramp.best_rows, goal)))
            point.rows = min(point.rows, float(self._ramp.best_rows))
        self._ramp.extend(goal, max_rows=point.top_rows)
        if point.rounds_left < 2:
            self._end_flight(now, little=True)

    def again(self, now: float) -> None:
        """Raise the requests in flight anew, from where they are."""
        if self.phase is Phase.ROWS:
            limit, rows = self._point.limit, self._point.rows
            self.begin_flight(now)
            self._point.limit, self._point.rows = limit, rows
        self.phase = Phase.FLIGHT
        self._ramp.best_rows = int(self._point.rows)
        self._slow = SlowStart(few=int(self._point.limit) + 1)

    def oversize(self, rows: int, now: float) -> None:
        """A chunk of `rows` was too large, or did not come back in time."""
        self._ramp.refused(rows)
        if self._ramp.done and self.phase is Phase.ROWS:
            self.begin_flight(now)
        elif self._ramp.done and self.phase is Phase.CLIMB:
            self._end_climb(now)

    def trying(self, rows: int) -> bool:
        """Whether a chunk of `rows` was a trial of a larger size."""
        return not self._ramp.done and (self.phase is Phase.ROWS or rows > 1.3 * self._point.rows)

    def stop_growing(self, now: float) -> None:
        """The requests in flight have met a limit."""
        if self.phase is Phase.ROWS and not self._ramp.serial:
            self._ramp.go_alone()
            return
        if self.phase is Phase.ROWS:
            limit = self._point.limit
            self.begin_flight(now)
            self._point.limit = limit
        if self.growing:
            self._begin_climb(now)

    def paced(self, now: float) -> None:
        """Requests are spaced from now on: that is no limit of those in flight, which go on growing while latencies allow it."""
        self._paced = True
        if self.phase is Phase.ROWS:
            limit, rows = self._point.limit, self._point.rows
            self.begin_flight(now)
            self._point.limit, self._point.rows = limit, max(rows, self._point.rows)
        if self.phase is not Phase.PACED:
            self.phase = Phase.PACED
            self._rate_climb = RateClimb(self._point)

    def climb_on(self, now: float) -> bool:
        """Whether the fit asks for chunks of twice the size and more; then trials of them begin."""
        point = self._point
        point.fit.focus(point.rows)
        rate = point.limit * point.rows / max(1e-9, point.latency_s)
        queueing = point.queue_factor(point.latency_s, point.rows)
        goal = point.goal_rows(rate, queueing=queueing, paced=False)
        goal = min(goal, power_of_two(point.rows * point.rounds_left / 3))
        if self._doubles:  # rows enough that most of the time is theirs; more once it is known how many are worked on at once
            goal = min(goal, power_of_two(2 * point.least_rows()))
        least = 1.2 if goal >= point.top_rows else 1.9  # what is left below a cap is halved until it is small
        if goal < least * point.rows or point.fit.gain(point.rows, goal) < 0.05:
            return False
        self._trials_s = now
        self._ramp.best_rows = int(point.rows)
        self._ramp.extend(goal, max_rows=point.top_rows)
        if self._ramp.done:
            return False
        self.phase = Phase.CLIMB
        self._patience = 0
        return True

    def _end_flight(self, now: float, *, little: bool) -> None:
        point = self._point
        point.slots = self._slow.slots()
        grown = point.limit
        if self._slow.bounds:
            headroom = _HEADROOM if self._slow.spread < UNEVEN else _UNEVEN_HEADROOM
            point.limit = max(2.0, min(grown, headroom * point.slots))
        point.latency_s *= point.limit / grown
        self._waiting_s *= point.limit / grown
        point.note(
            now, f"{point.limit:.0f} in flight", f"slow start: about {point.slots:.1f} are worked on at once"
        )
        dear = point.fit.overhead(point.rows) > _DEAR
        serial = dear and self._ramp.serial
        if little or serial or self._slow.certain or self._paced or point.flight_cap < math.inf:
            self._begin_climb(now)
            return
        point.limit = max(point.limit, min(4.0, float(point.flight_range.high)))
        point.spread = max(point.spread, self._slow.spread)
        self._doubles = dear and point.latency_s > _LONG_S
        if self._doubles:
            self._begin_climb(now)
        else:
            self._begin_double(now)

    def _begin_double(self, now: float) -> None:
        self.phase = Phase.DOUBLE
        self._doubles = False
        self._base = None
        self._epoch = self._point.epoch(now, precision=0.1)

    def _double(self, now: float) -> None:
        """Latencies were too uneven to tell queueing from noise: go on while throughput grows."""
        point = self._point
        measure = point.measure(self._epoch, now)
        gain = math.log(measure.rate / self._base[0].rate) if self._base else 1.0
        point.remember(measure)
        point.note(
            now, f"{point.limit:.0f} in flight", f"doubling: {100 * gain:+.0f} %, {measure.rate:.0f} rows/s"
        )
        high = float(point.flight_range.high)
        if gain < 0.12 or point.limit >= high or point.rounds_left < 2:
            if gain < 0.1 and self._base is not None:
                point.limit, point.latency_s = _HEADROOM * self._base[1], self._base[0].latency_s
            self._begin_climb(now)
            return
        self._base = (measure, point.limit)
        point.limit = min(high, 2 * point.limit)
        self._epoch = point.epoch(now, settle_s=point.latency_s, precision=0.12)

    def _begin_climb(self, now: float) -> None:
        self.phase = Phase.CLIMB
        self._point.slots = self._point.slots or self._slow.slots()
        self._patience = 0
        if self._ramp.best_rows > self._point.rows:
            self._adopt()
        if self._ramp.done and not self.climb_on(now):
            self._end_climb(now)

    def _climbed(self, now: float) -> None:
        """An answer came in the row climb: go on to the next size, or end."""
        point = self._point
        if self._ramp.best_rows > point.rows:
            self._adopt()
            self._patience = 0
        self._patience += 1
        patient = self._patience < 4 * point.limit + 16
        if patient and not self._ramp.done and self._ramp.rows > 1.3 * point.rows:
            return
        if not patient or not self.climb_on(now):
            self._end_climb(now)

    def _adopt(self) -> None:
        """Larger chunks are proven. Where requests queue, fewer are kept in flight, so that none waits for too long."""
        point, rows = self._point, float(self._ramp.best_rows)
        fit = point.fit
        if fit.seconds(rows) > point.longest_s:  # it was answered in time, but the next may not be
            rows = max(point.rows, float(power_of_two(fit.rows_in(point.longest_s))))
            self._ramp.best_rows = int(rows)
        queue = point.limit / max(1.0, _MORE * point.slots)  # latencies may be of before that formed
        waiting = max(1.0, point.queue_factor(point.latency_s, point.rows), queue)
        point.latency_s = waiting * fit.seconds(rows)
        if point.latency_s > point.longest_s and waiting > 1.3:
            share = max(
                1.3 / waiting, point.longest_s / point.latency_s, min(1.0, 1.1 * point.slots / point.limit)
            )
            point.limit = max(2.0, point.limit * share)
            point.latency_s *= share
        point.rows = rows

    def _end_climb(self, now: float) -> None:
        point = self._point
        a, b = point.fit.line
        point.note(now, f"chunk {point.rows:.0f} rows", f"row climb: t(n) = {a:.3g} s + {b:.3g} s x n")
        if self._doubles and not self._paced and point.flight_cap == math.inf and point.rounds_left > 6:
            self._begin_double(now)
            return
        self.phase = Phase.DONE
