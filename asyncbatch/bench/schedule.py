"""When requests start, decided beforehand: in open loop no reply, however slow, moves a start. Pure."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["constant", "poisson"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """So long, so many requests a second."""

    seconds: float
    rate: float

    def __str__(self) -> str:
        return f"{self.seconds:g}s@{self.rate:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the load, in seconds from its start; what is in figures."""

    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


def arrivals(stages: Sequence[Stage], kind: Arrivals, rng: random.Random) -> Iterator[float]:
    """Start times, ascending, in seconds from the start of the load.

    Constant: the n-th request of a stage starts n / rate after the stage began. Poisson: gaps are exponential with mean
    1 / rate; a gap that crosses into the next stage is stretched by the ratio of rates, so both ends are Poisson.
    """
    began_s = 0.0
    carried = 0.0 if kind == "constant" else rng.expovariate(1.0)
    for stage in stages:
        left = carried / stage.rate
        while left < stage.seconds:
            yield began_s + left
            left += (1.0 if kind == "constant" else rng.expovariate(1.0)) / stage.rate
        carried = (left - stage.seconds) * stage.rate
        began_s += stage.seconds


def stage_windows(stages: Sequence[Stage], *, warmup_s: float) -> list[Window]:
    """What of each stage is in figures: all but its first `warmup_s` seconds, and at least its last half."""
    windows, began_s = [], 0.0
    for stage in stages:
        settled_s = began_s + min(warmup_s, stage.seconds / 2)
        windows.append(Window(start_s=settled_s, stop_s=began_s + stage.seconds))
        began_s += stage.seconds
    return windows


def geometric(low: int, high: int, *, factor: float = 2.0) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, both included, each about `factor` times the one before."""
    steps = max(0, math.ceil(math.log(high / low) / math.log(factor) - 1e-9))
    found = [round(low * factor**step) for step in range(steps)]
    return tuple(dict.fromkeys([*(each for each in found if each < high), high]))


class Backlog:
    """Whether requests of an open loop pile up: beyond what the endpoint takes, latency grows as long as one waits.

    Told of the requests in flight at even times. Saturated: over the last `LOOK` looks they grew in nearly every one, by
    more than a tenth of what was started meanwhile. By chance a queue at 95 % load does that less than once in 10,000.
    """

    LOOK = 12
    _RISES = 10
    _SHARE = 0.1

    def __init__(self, *, most: int) -> None:
        """`most`: in flight beyond which it is saturated whatever the trend."""
        self._most = most
        self._seen: list[tuple[int, int]] = []
        self.saturated = False

    def note(self, in_flight: int, started: int) -> bool:
        """Look once more; True as soon as it is saturated.

        Args:
            started: requests started so far.
        """
        self._seen.append((in_flight, started))
        self._seen = self._seen[-self.LOOK - 1 :]
        flights = [each for each, _ in self._seen]
        if in_flight > self._most:
            self.saturated = True
        elif len(flights) > self.LOOK:
            rises = sum(after > before for before, after in itertools.pairwise(flights))
            meanwhile = self._seen[-1][1] - self._seen[0][1]
            grown = flights[-1] - flights[0]
            self.saturated = rises >= self._RISES and grown > max(self._SHARE * meanwhile, self.LOOK)
        return self.saturated
