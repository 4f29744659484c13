"""Trying settings beside the present one, one variable at a time, and keeping what is faster.

Hill climbing with measured noise: a trial is kept when the gain in log throughput exceeds its standard error and a floor, as in
PCC Vivace's monitor intervals (Dong et al., NSDI 2018). A direction that brought nothing is tried again after twice as many
epochs as before; a change of the endpoint makes every direction worth trying again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from asyncbatch.control.epoch import Measure
from asyncbatch.control.operating_point import WAITING

_LATER = 16
"""Epochs until a setting that was clearly slower is tried again; after each time twice as many."""
_DEAR = -0.2
"""Gain that the fit predicts below which fewer rows are not tried: no knee makes up for so many calls more."""
_MUCH = 0.12
"""Gain after which the next step is larger; of more in flight, also where it was not beyond its error."""
_NOISIEST = 3.0
"""At most so many times the errors are larger than the spread of latencies says."""


class Move(Enum):
    """What is tried."""

    ROWS_MODEL = "rows towards the fit's optimum"
    ROWS_UP = "more rows"
    ROWS_DOWN = "fewer rows"
    FLIGHT_UP = "more in flight"
    FLIGHT_DOWN = "fewer in flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a proposal depends on besides the explorer's own memory."""

    rows: float
    in_flight: float
    goal_rows: float
    """Where the service-time fit sees the optimum."""
    gain: Callable[[float], float]
    """Predicted gain in log throughput of another chunk size."""
    max_rows: float
    max_in_flight: float
    latency_s: float
    """Mean latency now."""
    queue_factor: float
    """Mean latency over the idle latency of the same chunk."""
    overhead: float
    """Share of the fixed cost in a chunk's time."""
    longest_s: float
    """Latency that must not be exceeded."""
    wished: bool
    """The user asked for it: it is no margin from a timeout."""
    paced: bool
    rounds_left: float
    """How many more requests each of those in flight will send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    move: Move
    rows: float
    in_flight: float
    precision: float
    """Standard error of log(rate) that is enough to judge it."""

    @property
    def setting(self) -> tuple[int, int]:
        """Equal for trials alike: within a quarter of an octave of rows, and an eighth of those in flight if they are tried."""
        alike = 4 * math.log2(self.in_flight) if self.move in (Move.FLIGHT_UP, Move.FLIGHT_DOWN) else 0.0
        return round(2 * math.log2(self.rows)), round(alike)


def clearly_slower(gain: float, error: float) -> bool:
    """Whether a trial that gained `gain` in log throughput, give or take `error`, was no bad luck."""
    return gain < -0.1 and gain < -2 * error


class Explorer:
    """Proposes trials and judges them."""

    _FLOOR: ClassVar[dict[Move, float]] = {
        Move.ROWS_MODEL: -0.02,
        Move.ROWS_UP: -0.01,
        Move.ROWS_DOWN: 0.02,
        Move.FLIGHT_UP: 0.02,
        Move.FLIGHT_DOWN: 0.015,
    }
    _CARE: ClassVar[dict[Move, float]] = {
        Move.ROWS_MODEL: -1.0,
        Move.ROWS_UP: -0.5,
        Move.ROWS_DOWN: 1.2,
        Move.FLIGHT_UP: 1.0,
        Move.FLIGHT_DOWN: 0.7,
    }
    """By how many standard errors the floor is raised: the model's own advice is dropped only when clearly wrong."""

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self.base: Measure | None = None
        self._wait: dict[Move, int] = {}
        self._gap: dict[Move, int] = {}
        self._drift = 0.0
        self._streak = 0
        self._unclear = False  # more in flight were much faster, but not by more than noise
        self._noise = 1.0
        self._epochs = 0
        # By setting: when to try it again, and the wait after that.
        self._slower: dict[tuple[int, int], tuple[int, int]] = {}
        self.reset()

    def reset(self) -> None:
        """Every direction is worth trying again."""
        self._wait = {
            Move.ROWS_MODEL: 0,
            Move.FLIGHT_UP: 0,
            Move.ROWS_UP: 3,
            Move.FLIGHT_DOWN: 6,
            Move.ROWS_DOWN: 3,
        }
        self._gap = dict.fromkeys(Move, 2)
        self._drift = 0.0
        self._streak = 0
        self._unclear = False
        self._slower = {}

    def soon(self, move: Move, epochs: int = 0) -> None:
        """Try `move` after `epochs` more epochs."""
        self._wait[move] = min(self._wait[move], epochs)
        self._gap[move] = 2

    def later(self, move: Move, epochs: int) -> None:
        """Do not try `move` for `epochs` epochs."""
        self._wait[move] = max(self._wait[move], epochs)
        self._gap[move] = max(self._gap[move], epochs)

    def gain(self, measure: Measure) -> float:
        """log(rate / base rate)."""
        assert self.base is not None
        return math.log(max(measure.rate, 1e-9) / max(self.base.rate, 1e-9))

    def error(self, measure: Measure) -> float:
        """Standard error of `gain`."""
        assert self.base is not None
        return math.hypot(measure.error, self.base.error)

    def calibrated(self, measure: Measure) -> Measure:
        """`measure` with the error that it has by experience.

        Latencies of requests that meet the same queue are alike; so measurements of one and the same setting differ by more
        than the spread of the latencies explains.
        """
        return replace(measure, error=measure.error * self._noise)

    def judge(self, measure: Measure, *, headroom: bool, queueing: bool = False) -> bool:
        """The trial was measured: keep it? Ends the trial.

        Where requests wait in a long queue (`queueing`), fewer in flight are kept if they do no harm: latency falls.

        With `headroom`, more in flight is kept if it does no harm: where requests queue a little, new capacity shows at once.
        """
        assert self.trial is not None
        fewer = self.base is not None and self.trial.rows < self.base.rows
        setting = self.trial.setting
        move, self.trial = self.trial.move, None
        if self.base is None:
            self.base = measure
            return True
        gain = self.gain(measure)
        error = self.error(measure)
        floor, care = self._FLOOR[move], self._CARE[move]
        if move is Move.ROWS_MODEL and fewer:
            care = 0.0
        if (move is Move.FLIGHT_UP and headroom) or (move is Move.FLIGHT_DOWN and queueing):
            floor, care = (-0.03, -1.0) if move is Move.FLIGHT_UP else (-0.01, -0.3)
        elif move is Move.FLIGHT_UP and queueing:
            care = 2.0
        gain -= 3 * measure.refused
        if gain > (max(floor, care * error) if care >= 0 else min(floor, care * error)):
            self.base = measure
            self._gap[move] = 1
            self._wait[move] = 0
            self._streak = self._streak + 1 if gain > _MUCH else 0
            self._unclear = False
            if move in (Move.ROWS_UP, Move.ROWS_MODEL):
                self._wait[Move.FLIGHT_UP] = min(self._wait[Move.FLIGHT_UP], 1)
            return True
        self.rejected(move, harmless=gain > -0.05)
        if move is Move.FLIGHT_UP and gain > _MUCH:
            self._unclear = True
            self._wait[move] = 1
        if clearly_slower(gain, error):
            _, wait = self._slower.get(setting, (0, _LATER))
            self._slower[setting] = self._epochs + wait, 2 * wait
        return False

    def rejected(self, move: Move, *, harmless: bool = False) -> None:
        """`move` brought nothing, or harm."""
        self.trial = None
        self._gap[move] = min(4 if move is Move.FLIGHT_UP and harmless else 16, 2 * self._gap[move])
        self._wait[move] = self._gap[move]
        self._streak = 0

    def changed(self, measure: Measure) -> bool:
        """No trial was on: fold `measure` into the base. True if the endpoint has changed.

        Page's cumulative sum (Biometrika 41, 1954) over standardised deviations: one wild epoch is noise, several alike are not.
        """
        if self.base is None:
            self.base = measure
            return False
        error = max(0.02, self.error(measure))
        deviation = self.gain(measure)
        surprise = min(9.0, (deviation / error) ** 2)
        self._noise = min(_NOISIEST, max(1.0, self._noise * math.sqrt(0.9 + 0.1 * surprise)))
        score = max(-3.0, min(3.0, deviation / error))
        self._drift = (self._drift + score - math.copysign(0.5, score)) if score * self._drift >= 0 else score
        if abs(self._drift) > 6 or abs(deviation) > max(0.25, 4 * error):
            self.base = measure
            self.reset()
            return True
        self.base = replace(
            measure,
            rate=math.sqrt(measure.rate * self.base.rate),
            error=max(measure.error * 0.6, self.base.error * 0.7),
        )
        return False

    def propose(self, around: Surroundings) -> Trial | None:
        """The next trial, or None to stay."""
        self._epochs += 1
        for move in self._wait:
            self._wait[move] -= 1
        if around.rounds_left < 4:
            return None
        order = [Move.FLIGHT_UP, Move.ROWS_MODEL, Move.ROWS_UP, Move.FLIGHT_DOWN, Move.ROWS_DOWN]
        if around.gain(around.goal_rows) > 0.15:
            order[:2] = order[1::-1]
        if around.paced:
            order = [Move.ROWS_MODEL, Move.ROWS_UP, Move.FLIGHT_UP, Move.FLIGHT_DOWN, Move.ROWS_DOWN]
        elif around.latency_s > 0.8 * around.longest_s and (around.wished or around.queue_factor > WAITING):
            order = [Move.FLIGHT_DOWN, Move.ROWS_DOWN, Move.ROWS_MODEL, Move.ROWS_UP, Move.FLIGHT_UP]
        for move in order:
            if self._wait[move] > 0:
                continue
            trial = self._next(move, around)
            if trial is not None and self._slower.get(trial.setting, (0, 0))[0] <= self._epochs:
                self.trial = trial
                return trial
        return None

    def _next(self, move: Move, around: Surroundings) -> Trial | None:
        rows, flight, precision = around.rows, around.in_flight, 0.04
        if move is Move.ROWS_MODEL:
            rows = min(around.goal_rows, 4 * rows, around.max_rows, rows * around.rounds_left / 3)
            if rows < 0.4 * around.rows and not around.paced and around.gain(rows) > -0.05:
                return Trial(move=move, rows=rows, in_flight=flight, precision=0.1)
            if rows < 1.3 * around.rows or around.gain(rows) < 0.03:
                return None
            precision = 0.1
        elif move is Move.ROWS_UP:
            rows = min(2 * rows, around.max_rows)
            if not around.paced:
                rows = min(rows, 2 * around.goal_rows)
            longer = 1 + (rows / around.rows - 1) * (1 - around.overhead)
            if (
                rows < 1.05 * around.rows
                or (around.gain(rows) < 0.012 and not around.paced)
                or around.latency_s * longer > around.longest_s
                or around.rounds_left < 4 * rows / around.rows
            ):
                return None
        elif move is Move.ROWS_DOWN:
            rows = rows / 2
            if rows < 1 or around.paced or around.gain(rows) < _DEAR:
                return None
        elif move is Move.FLIGHT_UP:
            # Where none waits, more of them take no longer; whoever wishes for a latency does not want that tried.
            rise = 1.25 if around.wished or around.queue_factor > WAITING else 1.0
            if around.paced or around.latency_s * rise > around.longest_s:
                return None
            quick = self._streak or self._unclear or (around.queue_factor < 1.15 and self._gap[move] <= 2)
            flight = min(max(flight + 1, flight * (1.6 if quick else 1.25)), around.max_in_flight)
            precision = 0.1 if quick else 0.04
            if flight < around.in_flight + 0.99:
                return None
        else:
            if around.paced or around.queue_factor < (1.6 if around.latency_s < around.longest_s else 1.1):
                return None
            flight = max(1.0, min(flight - 1, flight / 1.25))
            if flight >= around.in_flight:
                return None
        return Trial(move=move, rows=rows, in_flight=flight, precision=precision)
