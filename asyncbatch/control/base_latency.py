"""Latency of one row without the guest, and which latencies are longer than that.

A latency counts as longer when it is beyond the 97.5th percentile at rest: of those that do not wait, one in forty is. The
percentile, not the mean: it needs no model of the service times, and outliers cannot outvote the rest. The 99th, which the guest
must not raise, is not counted directly: more than twice as many latencies lie beyond this one. A lower one decides no sooner and
says less of the 99th: where that is 15 % higher, two to three times as many as alone are beyond the 97.5th percentile, 1.6 to 3.6
times beyond the 95th (simulation, 15 cases, 4 to 64 slots).
"""

import math
from collections import deque

NORMAL = 0.025
"""Share of latencies at rest that are beyond the limit."""
_KEPT = 800
"""Latencies at rest; older ones are forgotten, so that the base follows the day."""
_SETTLED = 300
_GRAIN = 1.005
"""A difference smaller than this is no wait: where all latencies are alike, half of them would be beyond the rest."""


class BaseLatency:
    """Latencies of one row while the guest rests."""

    def __init__(self) -> None:
        self._kept: deque[float] = deque(maxlen=_KEPT)
        self._limit_s: float | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def settled(self) -> bool:
        """Enough are known to look rarely for more."""
        return len(self._kept) >= _SETTLED

    @property
    def mean_s(self) -> float:
        """0 while unknown."""
        return sum(self._kept) / len(self._kept) if self._kept else 0.0

    @property
    def limit_s(self) -> float:
        """The 97.5th percentile; infinite while unknown.

        Between order statistics, so that one more latency is beyond it with a probability of 2.5 % however few are known (the
        estimate of Weibull, Hyndman and Fan's sixth, The American Statistician 50, 1996).
        """
        if self._limit_s is None:
            ranked = sorted(self._kept)
            rank = (1 - NORMAL) * (len(ranked) + 1)
            whole = math.floor(rank)
            if not ranked:
                self._limit_s = math.inf
            elif whole >= len(ranked):
                self._limit_s = ranked[-1]
            else:
                self._limit_s = ranked[whole - 1] + (rank - whole) * (ranked[whole] - ranked[whole - 1])
        return self._limit_s

    def add(self, seconds: float) -> None:
        """A latency at rest."""
        self._kept.append(seconds)
        self._limit_s = None

    def exceeded_by(self, seconds: float) -> bool:
        """Whether `seconds` are more than 97.5 % of the latencies at rest."""
        return seconds > _GRAIN * self.limit_s
