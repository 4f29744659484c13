"""The default controller: finds chunk size and requests in flight while the job runs, and keeps them right.

Three phases, each a module of its own: `row_ramp` finds a chunk size with one request at a time, `slow_start` doubles the requests
in flight until they queue, `explore` then tries one variable at a time. Around them: `size_caps` (413, memory), `pacing`
(request-rate throttles), `tail` (the end of the job).
"""

import functools
import math
import random
from collections.abc import Callable
from enum import Enum

from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.explore import Explorer, Move, Surroundings
from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.journal import Decision, Journal
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.row_ramp import RowRamp, power_of_two
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import Prover, SizeCaps
from asyncbatch.control.slow_start import SlowStart
from asyncbatch.control.tail import tail_rows
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.units import IntRange


class Phase(Enum):
    ROWS = "row ramp"
    FLIGHT = "slow start"
    DOUBLE = "doubling"
    CLIMB = "row climb"
    CRUISE = "cruise"


class AdaptiveController:
    """See the module."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        chunk_rows: IntRange = IntRange(1, 65_536),
        chunk_bytes: int = 25_000_000,
        concurrency: IntRange = IntRange(1, 512),
        request_timeout_s: float = 70.0,
        target_latency_s: float | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._rows_range = chunk_rows
        self._flight_range = concurrency
        self._timeout_s = request_timeout_s
        self._target_latency_s = target_latency_s
        now = clock()
        self._born_s = now
        self._flight = InFlight(expire_s=4 * request_timeout_s, now_s=now)
        self._fit = ServiceFit()
        self._caps = SizeCaps(max_rows=chunk_rows.high, max_bytes=chunk_bytes)
        self._prover = Prover()
        self._pacer = RequestPacer()
        self._explorer = Explorer()
        self._journal = Journal()
        self._remaining = 10**12
        self._rows = float(max(chunk_rows.low, min(16, chunk_rows.high)))
        self._limit = float(max(concurrency.low, min(6, concurrency.high)))
        self._phase = Phase.ROWS
        self._ramp = RowRamp(fit=self._fit, start_rows=int(self._rows), enough_s=0.4, slow_s=2.0)
        self._slow = SlowStart()
        self._epoch = Epoch(from_s=now, need=1)
        self._saved = (self._rows, self._limit)
        self._spread = 0.2
        self._latency_s = 0.0
        self._hold_until_s = -math.inf
        self._cut_s = -math.inf
        self._flight_cap = math.inf
        self._flight_cap_s = -math.inf
        self._flight_cap_gap_s = 60.0
        self._flight_ok = 0.0
        self._rows_ceiling = math.inf
        self._calls = self._refusals = 0
        self._failures = 0.0
        self._slots = 0.0
        self._waiting_s = 0.0
        self._climb_patience = 0
        self._throttle = ThrottleCause()

    # ------------------------------------------------------------------ protocol
    def next_chunk(self) -> ChunkTarget:
        now = self._clock()
        if self._phase is Phase.ROWS:
            rows = self._ramp.next_rows(now)
        else:
            patience_s = 4 * self._latency_s + 1
            rows = self._prover.rows(int(self._rows), good=self._caps.good_rows, now_s=now, patience_s=patience_s)
            if self._phase is Phase.CLIMB or (self._phase is not Phase.CRUISE and self._limit >= 4):
                rows = self._ramp.take(now, patience_s=patience_s) or rows
            rows = tail_rows(rows, remaining=self._remaining, in_flight=self._limit, least=self._least_rows())
        rows = min(rows, self._caps.max_rows)
        rows = max(self._rows_range.low, min(self._rows_range.high, rows))
        return ChunkTarget(rows=rows, bytes=self._caps.max_bytes)

    def concurrency(self) -> int:
        return max(self._flight_range.low, min(self._flight_range.high, int(self._limit)))

    def send_delay(self) -> float:
        now = self._clock()
        if now < self._hold_until_s - 1e-9:
            return self._hold_until_s - now
        if self._phase is Phase.ROWS and len(self._flight):
            wait = self._ramp.delay(now)
            if wait > 0:
                return wait
        wait = self._pacer.delay(now)
        if wait > 0:
            return wait
        self._flight.send(now)
        return 0.0

    def note_remaining(self, rows: int) -> None:
        self._remaining = rows

    def record(self, sample: Sample) -> None:
        now = sample.finished_s
        begun_with = self._flight.finish(sample.started_s, now)
        if sample.kind is not Kind.FIRST and sample.kind is not Kind.RETRY:
            return
        outcome = sample.outcome
        self._count(refused=outcome is Outcome.THROTTLED or outcome is Outcome.UNAVAILABLE)
        if outcome is Outcome.SUCCESS:
            self._answered(sample, now, begun_with)
        elif outcome is Outcome.THROTTLED:
            self._throttled(sample, now, begun_with)
        elif outcome is Outcome.UNAVAILABLE:
            self._unavailable(sample, now, begun_with)
        elif outcome is Outcome.TIMEOUT:
            self._timed_out(sample, now)
        elif outcome is Outcome.TOO_LARGE or outcome is Outcome.FAILED:
            self._too_large(sample, now)

    def explain(self) -> list[Decision]:
        """What was decided and why, oldest first; bounded."""
        return self._journal.decisions()

    # ------------------------------------------------------------------ answers
    def _answered(self, sample: Sample, now: float, begun_with: int) -> None:
        rows, seconds = sample.rows, max(1e-6, now - sample.started_s)
        self._caps.answered(rows, sample.body_bytes)
        self._failures *= 0.95
        if self._phase is Phase.ROWS:
            if not self._latency_s:
                self._latency_s = seconds
            self._ramp.answered(rows, seconds, max_rows=self._top_rows())
            if self._ramp.done:
                self._start_flight(now)
            return
        proved = self._prover.settled(rows)
        if proved:
            self._caps.good_rows = max(self._caps.good_rows, min(int(self._rows), self._caps.max_rows))
        if self._phase is not Phase.CRUISE:
            self._climbing(sample, seconds, now, begun_with)
            return
        if sample.started_s > self._cut_s + 2 * self._latency_s:
            self._flight_ok = max(self._flight_ok * 0.9999, begun_with)
        if proved and self._epoch.from_s == math.inf:
            self._new_epoch(now, settle_s=self._latency_s, precision=0.1)
            return
        if sample.started_s >= self._epoch.from_s and self._epoch.add(rows, seconds):
            self._end_epoch(now)

    def _start_flight(self, now: float) -> None:
        fit = self._fit
        rows = float(self._ramp.best_rows)
        a, b = fit.line
        if fit.seconds(rows) > 1.0 and b > 0:  # smaller chunks double faster
            rows = float(power_of_two(max(1.0, rows / 4, min(rows, max((0.5 - a) / b, a / b)))))
        self._note(now, f"chunk {rows:.0f} rows", f"row ramp: t(n) = {a:.3g} s + {b:.3g} s x n")
        self._rows = rows
        self._phase = Phase.FLIGHT
        self._limit = float(max(self._flight_range.low, min(self._flight_range.high, max(2, len(self._flight) + 1))))
        self._latency_s = fit.seconds(rows)
        rate = self._rows * 4 / max(1e-9, self._latency_s)
        self._ramp.extend(self._goal(rate, queueing=1.5, paced=False), max_rows=self._top_rows())
        if self._remaining < 2 * self._rows * self._limit:
            self._end_flight(now, little=True)

    def _climbing(self, sample: Sample, seconds: float, now: float, begun_with: int) -> None:
        """Slow start, and trials of larger chunks beside it."""
        rows = sample.rows
        idle_s = self._fit.seconds(rows)
        if not self._ramp.done and rows > 1.3 * self._rows:
            self._ramp.answered(rows, max(seconds - self._waiting_s, 0.4 * seconds), max_rows=self._top_rows())
        else:
            self._latency_s = 0.7 * self._latency_s + 0.3 * seconds
            self._waiting_s = max(0.0, 0.8 * self._waiting_s + 0.2 * (seconds - idle_s))
            if begun_with <= 2:
                self._fit.add(rows, seconds)
        if sample.started_s < self._cut_s:
            return
        if self._phase is Phase.FLIGHT:
            self._limit = min(
                self._flight_range.high,
                self._slow.answered(seconds=seconds, idle_s=idle_s, in_flight=begun_with, limit=self._limit),
            )
            little = self._remaining < 2 * self._rows * self._limit
            if self._slow.done or self._limit >= self._flight_range.high or little:
                self._end_flight(now, little=little)
            return
        if self._phase is Phase.DOUBLE:
            if rows < 1.3 * self._rows and sample.started_s >= self._epoch.from_s and self._epoch.add(rows, seconds):
                self._double(now)
            return
        if self._ramp.best_rows > self._rows:
            self._rows = float(self._ramp.best_rows)
            self._climb_patience = 0
        self._climb_patience += 1
        patient = self._climb_patience < 4 * self._limit + 16
        if patient and not self._ramp.done and self._ramp.rows > 1.3 * self._rows:
            return
        if not patient or not self._climb_on():
            self._end_climb(now)

    def _end_flight(self, now: float, *, little: bool) -> None:
        self._slots = self._slow.slots()
        self._limit = max(2.0, min(self._limit, 1.3 * self._slots))
        self._note(now, f"{self._limit:.0f} in flight", f"slow start: about {self._slots:.1f} are worked on at once")
        if little or self._slow.certain or self._flight_cap < math.inf:
            self._begin_climb(now)
            return
        self._phase = Phase.DOUBLE
        self._explorer.base = None
        self._limit = max(self._limit, min(4.0, self._flight_range.high))
        self._spread = max(self._spread, self._slow.spread)
        self._new_epoch(now, settle_s=0.0, precision=0.1)

    def _double(self, now: float) -> None:
        """Latencies were too uneven to tell queueing from noise: go on while throughput grows."""
        measure = self._epoch.measure(mean_in_flight=self._flight.mean(now), spread=self._spread)
        self._spread = measure.spread
        base = self._explorer.base
        gain = math.log(measure.rate / base.rate) if base else 1.0
        self._note(now, f"{self._limit:.0f} in flight", f"doubling: {100 * gain:+.0f} %, {measure.rate:.0f} rows/s")
        high = self._flight_range.high
        if gain < 0.2 or self._limit >= high or self._remaining < 2 * self._rows * self._limit:
            if gain < 0.1:
                self._limit = self._saved[1]
            self._begin_climb(now)
            return
        self._explorer.base = measure
        self._saved = (self._rows, self._limit)
        self._limit = min(float(high), 2 * self._limit)
        self._new_epoch(now, settle_s=0.0, precision=0.12)

    def _begin_climb(self, now: float) -> None:
        self._phase = Phase.CLIMB
        self._climb_patience = 0
        self._rows = float(max(self._rows, self._ramp.best_rows))
        if self._ramp.done and not self._climb_on():
            self._end_climb(now)

    def _climb_on(self) -> bool:
        """Whether the fit, better now, asks for still larger chunks; then trials of them have begun."""
        self._fit.focus(self._rows)
        rate = self._limit * self._rows / max(1e-9, self._latency_s)
        goal = self._goal(rate, queueing=self._latency_s / max(1e-9, self._fit.seconds(self._rows)), paced=False)
        left = self._remaining / max(1.0, self._rows * self._limit)
        if goal < 1.9 * self._rows or self._fit.gain(self._rows, goal) < 0.05 or left < 3 * goal / self._rows:
            return False
        self._ramp.best_rows = int(self._rows)
        self._ramp.extend(goal, max_rows=self._top_rows())
        return not self._ramp.done

    def _end_climb(self, now: float) -> None:
        self._note(now, f"chunk {self._rows:.0f} rows", f"row climb: t(n) = {self._fit.line[0]:.3g} s + {self._fit.line[1]:.3g} s x n")
        self._to_cruise(now)

    def _to_cruise(self, now: float) -> None:
        self._phase = Phase.CRUISE
        self._explorer.trial = None
        self._explorer.base = None
        self._new_epoch(now, settle_s=self._latency_s)

    # ------------------------------------------------------------------ epochs
    def _new_epoch(self, now: float, settle_s: float = 0.0, precision: float = 0.05) -> None:
        base = max(6, int(self._limit))
        need = int(min(max(24, 3 * base), max(base, (self._spread / precision) ** 2)))
        self._flight.restart(now, from_s=now + settle_s)
        self._epoch = Epoch(from_s=now + settle_s, need=need)

    def _end_epoch(self, now: float) -> None:
        epoch = self._epoch
        measure = epoch.measure(mean_in_flight=self._flight.mean(now), spread=self._spread)
        self._spread = measure.spread
        self._latency_s = measure.latency_s
        explorer = self._explorer
        self._fit.focus(self._rows)
        if measure.latency_s < 0.95 * self._fit.seconds(measure.rows):
            self._fit.add(measure.rows, measure.latency_s, weight=8.0)  # no request waits less than not at all
        if explorer.trial is not None:
            trial = explorer.trial
            gain = explorer.gain(measure) if explorer.base else 0.0
            if explorer.base and abs(math.log(trial.rows / self._saved[0])) > 0.3 and not self._pacer.rate < math.inf:
                idle_s = self._fit.seconds(explorer.base.rows) * measure.latency_s / explorer.base.latency_s
                self._fit.add(measure.rows, idle_s, weight=8.0)
            if trial.move is Move.FLIGHT_UP and trial.in_flight > self._flight_cap:
                self._flight_cap = math.inf
            if explorer.judge(measure, headroom=self._queue_factor(measure) < 1.6):
                self._note(now, self._setting(), f"{trial.move.value}: {100 * gain:+.1f} %, {measure.rate:.0f} rows/s")
                self._propose(now, measure)
            else:
                tried = self._setting()
                self._rows, self._limit = self._saved
                if trial.move is Move.ROWS_MODEL:
                    self._rows_ceiling = math.sqrt(trial.rows * self._saved[0])
                self._note(now, f"back to {self._setting()}", f"{trial.move.value}, {tried}: {100 * gain:+.1f} %")
                self._new_epoch(now, settle_s=measure.latency_s)
            return
        if self._remaining < 1.5 * self._rows * self._limit:
            self._new_epoch(now)
            return
        if explorer.changed(measure):
            self._rows_ceiling = math.inf
            self._note(now, "explore again", f"the endpoint changed: {measure.rate:.0f} rows/s")
        self._propose(now, measure)

    def _propose(self, now: float, measure: Measure) -> None:
        longest_s = self._longest_s()
        if measure.latency_s > 1.1 * longest_s and self._rows > 1 and not self._limit > 1.2 * self._slots > 0:
            self._rows = max(1.0, self._rows * max(0.5, 0.8 * longest_s / measure.latency_s))
            self._note(now, self._setting(), f"latency {measure.latency_s:.1f} s is too near the limit")
            self._explorer.base = None
            self._new_epoch(now, settle_s=measure.latency_s)
            return
        if self._caps.suspect_rows > self._rows and self._fit.gain(self._rows, self._caps.suspect_rows) > 0.1:
            if self._caps.doubt():
                self._note(now, f"{self._caps.suspect_rows} rows once more", "it may have failed for another reason than size")
        self._saved = (self._rows, self._limit)
        if self._slots and self._limit < 1.1 * self._slots and self._queue_factor(measure) > 1.4:
            self._explorer.soon(Move.ROWS_DOWN)  # slow without queueing: beyond a knee
        paced = measure.rate / measure.rows > 0.7 * self._pacer.rate
        flight_max = float(self._flight_range.high)
        if self._flight_cap < math.inf:  # once in a while, one more than was admitted
            again = now - self._flight_cap_s > self._flight_cap_gap_s
            flight_max = min(flight_max, self._flight_cap + (1 if again else 0))
        around = Surroundings(
            rows=self._rows,
            in_flight=self._limit,
            goal_rows=self._goal_rows(measure, paced),
            max_rows=self._top_rows(),
            max_in_flight=flight_max,
            latency_s=measure.latency_s,
            queue_factor=self._queue_factor(measure),
            overhead=self._fit.overhead(self._rows),
            gain=functools.partial(self._fit.gain, self._rows),
            longest_s=longest_s,
            paced=paced,
            rounds_left=self._remaining / max(1.0, self._rows * self._limit),
        )
        trial = self._explorer.propose(around)
        if trial is None:
            self._new_epoch(now)
            return
        if trial.move is Move.ROWS_MODEL and not paced and around.gain(trial.rows) > 0.1 and self._climb_on():
            self._explorer.trial = None
            self._phase = Phase.CLIMB
            self._climb_patience = 0
            return
        self._rows, self._limit = trial.rows, trial.in_flight
        if trial.rows > 1.1 * self._caps.good_rows:
            self._epoch = Epoch(from_s=math.inf, need=1)  # begins when a single chunk of that size was answered
        else:
            settle_s = measure.latency_s if trial.move is not Move.FLIGHT_UP else 0.0
            self._new_epoch(now, settle_s=settle_s, precision=trial.precision)

    # ------------------------------------------------------------------ refusals
    def _throttled(self, sample: Sample, now: float, begun_with: int) -> None:
        self._hold(now, min(0.5, max(0.05, 0.5 * self._latency_s)))
        if sample.started_s <= self._cut_s or now - self._cut_s < 0.3:
            return
        self._cut_s = now
        cause = self._throttle.judge(begun_with, tested=self._flight_ok)
        trial = self._explorer.trial
        if trial is not None:
            self._rows, self._limit = self._saved
            self._explorer.rejected(trial.move)
        if cause is Cause.IN_FLIGHT:
            self._cap_flight(now, begun_with)
            self._limit = max(1.0, min(self._limit, self._flight_cap))
            self._note(now, f"{self._limit:.0f} in flight", "throttled: the endpoint admits no more at once")
            self._leave_ramp(now)
            return
        growth = 4 if self._fit.seconds(self._rows) < 1.5 else 2
        larger = min(growth * self._rows, self._fit.knee(), float(self._top_rows()), self._rows_ceiling)
        longest_s = 0.5 * self._longest_s()
        if self._fit.seconds(larger) > longest_s:
            a, b = self._fit.line
            larger = max(self._rows, (longest_s - a) / max(b, 1e-12))
        grows = larger > 1.3 * self._rows
        if cause is Cause.RATE:
            rate = self._pacer.cut(now)
            self._flight_cap = math.inf
            self._note(now, f"{rate:.1f} requests/s", "throttled for the rate: larger chunks, pacing until then")
            self._explorer.soon(Move.ROWS_MODEL)
            self._explorer.soon(Move.ROWS_UP)
            if self._phase is not Phase.CRUISE and grows:
                self._rows = larger
            # pacing is to hold requests back, not the limit
            unqueued = 1 + 1.3 * rate * self._fit.seconds(self._rows)
            self._limit = max(self._limit, min(unqueued, 1.5 * self._slots if self._slots else 2.0 * begun_with))
            self._leave_ramp(now)
            return
        self._hold(now, min(1.0, max(0.2, self._latency_s)))
        self._limit = max(1.0, 0.5 * begun_with)
        if grows:
            self._rows = larger
        self._note(now, self._setting(), "throttled: larger chunks need fewer requests; then it shows what the limit is")
        if self._phase is Phase.ROWS:
            self._start_flight(now)
        else:
            self._phase = Phase.FLIGHT
            self._slow = SlowStart()

    def _unavailable(self, sample: Sample, now: float, begun_with: int) -> None:
        self._hold(now, min(0.5, max(0.05, 0.25 * self._latency_s)))
        self._epoch.refused += 1
        if sample.started_s < self._cut_s or now - self._cut_s < max(1.0, self._latency_s):
            return
        trial = self._explorer.trial
        growing = self._phase in (Phase.FLIGHT, Phase.DOUBLE)
        if not growing and self._refusals < max(3.0, 0.03 * self._calls):
            return
        self._cut_s = now
        self._calls = self._refusals = 0
        self._cap_flight(now, begun_with)
        if trial is not None and trial.move is Move.FLIGHT_UP:
            self._limit = self._saved[1]
            self._explorer.rejected(Move.FLIGHT_UP)
        elif self._phase in (Phase.FLIGHT, Phase.DOUBLE):
            self._limit = max(1.0, begun_with - 1.0)
        else:
            self._limit = max(1.0, 0.85 * min(self._limit, begun_with))
        self._note(now, f"{self._limit:.0f} in flight", "the endpoint's queue is full")
        self._leave_ramp(now)

    def _cap_flight(self, now: float, begun_with: int) -> None:
        if now - self._flight_cap_s > self._flight_cap_gap_s < math.inf and self._flight_cap < math.inf:
            self._flight_cap_gap_s *= 2
        self._flight_cap = max(1.0, begun_with - 1.0)
        self._flight_cap_s = now

    def _timed_out(self, sample: Sample, now: float) -> None:
        """The first remedy is fewer in flight where requests queue, and smaller chunks where they do not."""
        waited_s = now - sample.started_s
        self._timeout_s = min(self._timeout_s, max(0.1, waited_s))
        rows = sample.rows
        trial = self._prover.settled(rows) or rows > 1.3 * self._rows
        if self._phase is not Phase.CRUISE and not self._ramp.done and (trial or self._phase is Phase.ROWS):
            self._ramp.refused(rows)
            self._fit.add(rows, waited_s)
            if self._phase is Phase.ROWS and self._ramp.done:
                self._start_flight(now)
            elif self._phase is Phase.CLIMB and self._ramp.done:
                self._end_climb(now)
            if trial:
                return
        if sample.started_s < self._cut_s:
            return
        self._cut_s = now
        if self._explorer.trial is not None:
            move = self._explorer.trial.move
            self._rows, self._limit = self._saved
            self._explorer.rejected(move)
        elif self._limit > max(2.0, 1.2 * self._slots) and waited_s > 1.5 * self._fit.seconds(rows):
            self._limit = max(1.0, 0.6 * self._limit)
        else:
            self._rows = max(1.0, 0.75 * min(self._rows, rows))
        self._note(now, self._setting(), f"a request of {rows} rows timed out after {waited_s:.1f} s")
        self._leave_ramp(now)

    def _too_large(self, sample: Sample, now: float) -> None:
        rows = sample.rows
        if sample.outcome is Outcome.FAILED and rows <= self._caps.good_rows:
            self._failures += 1
            if self._failures < 3 or rows < 0.8 * self._rows:
                return
            self._failures = 0.0
        self._caps.refused(rows, sample.body_bytes, sample.outcome)
        self._prover.settled(rows)
        if self._phase is not Phase.CRUISE:
            self._ramp.refused(rows)
            self._note(now, f"at most {self._caps.max_rows} rows", f"{sample.outcome.value} at {rows} rows")
            if self._ramp.done and self._phase is Phase.ROWS:
                self._start_flight(now)
            elif self._ramp.done and self._phase is Phase.CLIMB:
                self._end_climb(now)
            return
        trial = self._explorer.trial
        if trial is not None and trial.rows > self._saved[0]:
            self._rows, self._limit = self._saved
            self._explorer.trial = None
            self._new_epoch(now, settle_s=self._latency_s)
        self._rows = min(self._rows, float(self._caps.max_rows))
        self._note(now, f"at most {self._caps.max_rows} rows", f"{sample.outcome.value} at {rows} rows")

    # ------------------------------------------------------------------ helpers
    def _leave_ramp(self, now: float) -> None:
        if self._phase is Phase.ROWS:
            self._start_flight(now)
            self._begin_climb(now)
        elif self._phase in (Phase.FLIGHT, Phase.DOUBLE):
            self._begin_climb(now)
        elif self._phase is Phase.CRUISE:
            self._to_cruise(now)

    def _count(self, *, refused: bool) -> None:
        self._calls += 1
        self._refusals += refused
        if self._calls > max(60.0, 4 * self._limit):
            self._calls //= 2
            self._refusals //= 2

    def _hold(self, now: float, seconds: float) -> None:
        self._hold_until_s = max(self._hold_until_s, now + seconds)

    def _top_rows(self) -> int:
        return max(self._rows_range.low, min(self._rows_range.high, self._caps.max_rows))

    def _longest_s(self) -> float:
        longest = 0.6 * self._timeout_s / (1 + 2 * self._spread)
        return min(longest, self._target_latency_s) if self._target_latency_s else longest

    def _queue_factor(self, measure: Measure) -> float:
        idle = self._fit.seconds(measure.rows)
        return measure.latency_s / idle if idle > 0 else 1.0

    def _least_rows(self) -> float:
        a, b = self._fit.line
        return a / b if b > 0 else 1.0

    def _goal_rows(self, measure: Measure, paced: bool) -> float:
        """Overhead over the rest of the job against the wait for the last chunks.

        The sum of T·a/(b·n) and b·n is least where a chunk takes about sqrt(T·a): the square-root rule of Young (CACM 17, 1974).
        """
        return self._goal(measure.rate, queueing=self._queue_factor(measure), paced=paced)

    def _goal(self, rate: float, *, queueing: float, paced: bool) -> float:
        fit = self._fit
        a, b = fit.line
        if b <= 0:
            return self._rows
        rest_s = min(600.0, self._remaining / max(rate, 1e-9))
        best_s = max(0.8, math.sqrt(rest_s * a / (1 + 2 * self._spread)))
        longest_s = self._longest_s() / max(1.0, queueing)
        best_s = min(best_s, longest_s, max(rest_s / 10, 0.5))
        rows = max(1.0, (best_s - a) / b)
        if paced:
            rows = max(rows, min(4 * self._rows, (longest_s - a) / b))
        if rows < self._caps.max_rows:
            rows = 2.0 ** round(math.log2(rows))
        rows = min(rows, self._rows_ceiling, fit.knee())
        return min(rows, float(self._top_rows()))

    def _setting(self) -> str:
        return f"{self._rows:.0f} rows x {self._limit:.0f} in flight"

    def _note(self, now: float, what: str, why: str) -> None:
        self._journal.note(now, what, why)
