"""Keeping the setting right: measuring it epoch by epoch, trying its neighbours, noticing that the endpoint has changed."""

import functools
import math

from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.explore import Explorer, Move, Surroundings, clearly_slower
from asyncbatch.control.operating_point import UNEVEN, OperatingPoint
from asyncbatch.model import Sample


class Cruise:
    """Owns the trials. Sets `point.rows` and `point.limit`."""

    _CAP_RETRY_S = 60.0
    """After this long, one more in flight than was once refused is tried; after each refusal twice as long."""
    _LATE = 4
    """So many answers and half of those in flight beyond the longest latency, and no epoch is waited for."""
    _UNQUEUED = 1.3
    """Mean latency over that of an idle endpoint below which requests hardly wait."""
    _DEEP = 8.0
    """So long requests may wait where latencies are uneven, in latencies of an idle endpoint, where that is soon over."""

    def __init__(self, point: OperatingPoint, *, now_s: float) -> None:
        self._point = point
        self.explorer = Explorer()
        self.epoch = Epoch(from_s=now_s, need=1)
        self._saved = (point.rows, point.limit)
        self._late = 0  # answers of this epoch that took too long
        self._cap_s = -math.inf
        self._cap_gap_s = self._CAP_RETRY_S
        self._by_chance = False

    def begin(self, now: float) -> None:
        """Measure the present setting anew."""
        self.explorer.trial = None
        self.explorer.base = None
        self.epoch = self._point.epoch(now, settle_s=self._point.latency_s)

    def cap_flight(self, now: float, begun_with: int, *, by_chance: bool = False) -> None:
        """The endpoint refused a request that was sent with `begun_with` in flight, itself included.

        `by_chance`: a queue was full. Where requests are spread at random that happens at any number in flight, only more
        often at larger ones.
        """
        self._by_chance = by_chance
        if now - self._cap_s > self._cap_gap_s and self._point.flight_cap < math.inf:
            self._cap_gap_s *= 2
        self._point.flight_cap = max(1.0, begun_with - 1.0)
        self._cap_s = now

    def drop_trial(self) -> Move | None:
        """Back to the setting before the trial, if one is on."""
        trial = self.explorer.trial
        if trial is None:
            return None
        self._point.rows, self._point.limit = self._saved
        self.explorer.rejected(trial.move)
        return trial.move

    def oversize(self, now: float) -> None:
        """A chunk was too large: end a trial of more rows without counting it against the direction."""
        trial = self.explorer.trial
        if trial is not None and trial.rows > self._saved[0]:
            self._point.rows, self._point.limit = self._saved
            self.explorer.trial = None
            self.epoch = self._point.epoch(now, settle_s=self._point.latency_s)

    def answered(self, sample: Sample, seconds: float, *, proved: bool, paced_rate: float) -> bool:
        """A chunk was answered; `proved`: it was the first of a size never tried. True: a row climb should begin."""
        now, epoch = sample.finished_s, self.epoch
        if proved and epoch.from_s == math.inf:
            self.epoch = self._point.epoch(now, settle_s=self._point.latency_s, precision=0.1)
            return False
        if seconds > epoch.late_s and sample.started_s >= epoch.from_s:
            self._late += 1
            if self._late > self._LATE + 0.5 * self._point.limit:
                self._late = 0
                self.drop_trial()
                self._shorten(now, seconds)
                return False
        if self._point.measured(epoch, sample, seconds):
            return self._end_epoch(now, paced_rate)
        return False

    def _shorten(self, now: float, latency_s: float) -> None:
        """Requests take too long: fewer in flight where they queue, else smaller chunks."""
        point = self._point
        share = max(0.5, 0.8 * point.longest_s / latency_s)
        if point.limit > 1.2 * point.slots > 0 or point.rows <= 1:
            point.limit = max(1.0, point.limit * share)
        else:
            point.rows = max(1.0, point.rows * share)
        point.forget_best()
        point.note(now, point.setting, f"latency {latency_s:.1f} s is too near the limit")
        self.explorer.base = None
        self.epoch = point.epoch(now, settle_s=latency_s)

    def _end_epoch(self, now: float, paced_rate: float) -> bool:
        point, explorer = self._point, self.explorer
        self._late = 0
        measure = explorer.calibrated(point.measure(self.epoch, now))
        point.latency_s = measure.latency_s
        point.fit.focus(point.rows)
        idle_s = point.fit.seconds(measure.rows)
        if measure.latency_s < 0.95 * idle_s:  # no request waits less than not at all
            point.fit.scale(measure.latency_s / idle_s)
        if explorer.trial is None and paced_rate == math.inf and point.return_to_best(measure):
            point.note(now, f"back to {point.setting}", f"it was much faster than {measure.rate:.0f} rows/s")
            self.begin(now)
            return False
        if explorer.trial is not None:
            if not self._judge(now, measure, paced_rate):
                self.epoch = point.epoch(now, settle_s=measure.latency_s)
                return False
        elif point.rounds_left < 1.5:
            self.epoch = point.epoch(now)
            return False
        elif explorer.changed(measure):
            point.rows_ceiling = math.inf
            point.forget_best()
            point.note(now, "explore again", f"the endpoint changed: {measure.rate:.0f} rows/s")
        point.remember(measure)
        return self._propose(now, measure, paced_rate)

    def _judge(self, now: float, measure: Measure, paced_rate: float) -> bool:
        """End the trial: True if its setting is kept."""
        point, explorer = self._point, self.explorer
        trial, base = explorer.trial, explorer.base
        assert trial is not None
        gain, error = (explorer.gain(measure), explorer.error(measure)) if base else (0.0, math.inf)
        if base and abs(math.log(trial.rows / self._saved[0])) > 0.3:
            # at the same number in flight, latencies are as the service times, whatever the queue
            ratio, weight = measure.latency_s / base.latency_s, min(8.0, (0.3 / error) ** 2)
            point.fit.compared(base.rows, measure.rows, ratio, weight=weight)
        if trial.move is Move.FLIGHT_UP and trial.in_flight > point.flight_cap:
            point.flight_cap = math.inf
        longest_queue = self._longest_queue(measure)
        headroom = point.queue_factor(measure.latency_s, measure.rows) < longest_queue
        tried = point.setting
        too_long = max(3.0, longest_queue)
        queueing = base is not None and point.queue_factor(base.latency_s, base.rows) > too_long
        if explorer.judge(measure, headroom=headroom, queueing=queueing):
            point.note(now, tried, f"{trial.move.value}: {100 * gain:+.1f} %, {measure.rate:.0f} rows/s")
            return True
        point.rows, point.limit = self._saved
        if trial.rows > self._saved[0] and (trial.move is Move.ROWS_MODEL or clearly_slower(gain, error)):
            point.rows_ceiling = math.sqrt(trial.rows * self._saved[0])
        point.note(now, f"back to {point.setting}", f"{trial.move.value}, {tried}: {100 * gain:+.1f} %")
        return False

    def _longest_queue(self, measure: Measure) -> float:
        """How long requests may take where that does no harm, in latencies of an idle endpoint."""
        point = self._point
        if point.spread < UNEVEN:
            return 2.0
        rest_s = point.remaining / max(1e-9, measure.rate)
        quick = measure.latency_s < min(0.3 * point.longest_s, 0.03 * rest_s)
        return self._DEEP if quick else 3.0

    def _propose(self, now: float, measure: Measure, paced_rate: float) -> bool:
        """Begin the next trial or epoch. True: a row climb should begin instead."""
        point, explorer, caps = self._point, self.explorer, self._point.caps
        longest_s = point.longest_s
        queued = point.limit > 1.2 * point.slots > 0
        wished = point.target_latency_s is not None  # then queueing is wrong even where it is harmless
        if measure.latency_s > 1.1 * longest_s and (wished or (point.rows > 1 and not queued)):
            self._shorten(now, measure.latency_s)
            return False
        doubtful = caps.doubtful_rows
        if doubtful > point.rows and point.fit.gain(point.rows, doubtful) > 0.1 and caps.doubt(now):
            point.note(
                now,
                f"up to {doubtful} rows once more",
                "that may work, or what failed had another reason than size",
            )
        self._saved = (point.rows, point.limit)
        queue_factor = point.queue_factor(measure.latency_s, measure.rows)
        if point.limit < 1.1 * point.slots and queue_factor > 1.4:
            explorer.soon(Move.ROWS_DOWN)  # slow without queueing: beyond a knee
        paced = measure.rate / measure.rows > 0.7 * paced_rate
        flight_max = float(point.flight_range.high)
        if point.flight_cap < math.inf:
            again = now - self._cap_s > self._cap_gap_s * (0.3 if self._by_chance else 1)
            more = (0.3 * point.flight_cap if self._by_chance else 1) if again else 0
            flight_max = min(flight_max, point.flight_cap + more)
        around = Surroundings(
            rows=point.rows,
            in_flight=point.limit,
            goal_rows=point.goal_rows(measure.rate, queueing=queue_factor, paced=paced),
            max_rows=min(float(point.top_rows), max(point.rows, point.rows_ceiling)),
            max_in_flight=flight_max,
            latency_s=measure.latency_s,
            queue_factor=queue_factor,
            overhead=point.fit.overhead(point.rows),
            gain=functools.partial(point.fit.gain, point.rows),
            longest_s=longest_s,
            wished=wished,
            paced=paced,
            rounds_left=point.rounds_left,
        )
        if paced and self._larger_for_rate(now, measure, queue_factor, paced_rate):
            return False
        trial = explorer.propose(around)
        if trial is None:
            self.epoch = point.epoch(now)
            return False
        if (
            trial.move is Move.ROWS_MODEL
            and trial.rows > point.rows
            and not paced
            and around.gain(trial.rows) > 0.1
        ):
            return True
        self.start(now)
        return False

    def _larger_for_rate(self, now: float, measure: Measure, queue_factor: float, paced_rate: float) -> bool:
        """Requests are paced and none of them waits: rows a second are the rate times the rows, that needs no trial."""
        point = self._point
        if queue_factor > self._UNQUEUED:
            return False
        under_way = measure.rate / measure.rows * measure.latency_s
        goal = point.goal_rows(measure.rate, queueing=queue_factor, paced=True)
        rows = min(goal, 2 * point.rows, point.rows_for_rounds(under_way))
        if rows < 1.3 * point.rows:
            return False
        needed = 1 + 1.3 * under_way * rows / point.rows
        point.rows, point.limit = rows, min(max(point.limit, needed), float(point.flight_range.high))
        point.note(now, point.setting, f"paced at {paced_rate:.1f} requests/s, and none of them waits")
        self.explorer.base = None
        self.epoch = point.epoch(now, settle_s=point.fit.seconds(rows), precision=0.1)
        return True

    def start(self, now: float) -> None:
        """Apply the proposed trial and measure it; what to do if no row climb began."""
        point, trial = self._point, self.explorer.trial
        if trial is None:
            self.epoch = point.epoch(now)
            return
        point.rows, point.limit = trial.rows, trial.in_flight
        if trial.rows > 1.1 * point.caps.good_rows:
            self.epoch = Epoch(from_s=math.inf, need=1)  # begins when one chunk of that size was answered
            return
        self.epoch = point.epoch(now, settle_s=point.latency_s, precision=trial.precision)
