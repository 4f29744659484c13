"""Whether requests wait longer than they would alone: a sequential test on the share beyond the 95th percentile.

Latencies with the guest at rest are the base. While it works, each further latency is counted as beyond the base's 95th
percentile or not: of those that wait no longer 5 % are. Wald's sequential probability ratio test (Annals of Mathematical
Statistics 16, 1945) decides as soon as the counts allow it, which takes a handful of requests where all wait and some forty
where none does. The percentile, not the mean: it needs no model of the service times, and outliers cannot outvote the rest.
"""

import math
from collections import deque
from enum import Enum

_BASE = 400
"""Latencies kept as the base; older ones are forgotten, so that it follows the day."""
_NORMAL = 0.05
_GRAIN = 1.005
"""A difference smaller than this is no wait: where all latencies are alike, half of them would be beyond the rest."""


class Verdict(Enum):
    """What the counts say."""

    LESS = "fewer wait than allowed"
    MORE = "more wait than allowed"


class DelayTest:
    """Latencies at rest and at work.

    Args:
        allowed: share of latencies beyond the base's 95th percentile at which neither verdict is likelier; above 0.05.
    """

    def __init__(self, *, allowed: float) -> None:
        if not _NORMAL < allowed < 1:
            raise ValueError(f"allowed must be between 0.05 and 1, got {allowed}")
        # the two shares that the test tells apart; the log likelihoods balance close to `allowed`
        few, many = max(0.02, 0.66 * allowed), min(0.95, 1.44 * allowed)
        self._beyond = math.log(many / few)
        self._within = math.log((1 - many) / (1 - few))
        self._base: deque[float] = deque(maxlen=_BASE)
        self._limit_s: float | None = None
        self._score = 0.0
        self.count = 0
        """Latencies at work since the last decision."""
        self.beyond = 0
        """Of them, beyond the base's 95th percentile."""

    @property
    def base_count(self) -> int:
        return len(self._base)

    @property
    def settled(self) -> bool:
        """The base is as large as it gets."""
        return len(self._base) == _BASE

    @property
    def base_s(self) -> float:
        """Mean latency at rest; 0 while unknown."""
        return sum(self._base) / len(self._base) if self._base else 0.0

    @property
    def limit_s(self) -> float:
        """The base's 95th percentile."""
        if self._limit_s is None:
            ranked = sorted(self._base)
            self._limit_s = (
                ranked[min(len(ranked) - 1, math.ceil(0.95 * len(ranked)) - 1)] if ranked else math.inf
            )
        return self._limit_s

    def at_rest(self, seconds: float) -> None:
        """A latency of the base."""
        self._base.append(seconds)
        self._limit_s = None

    def at_work(self, seconds: float, *, less: float, more: float) -> Verdict | None:
        """A latency while the guest works; a verdict once the log of the likelihood ratio reaches `more`, or minus `less`."""
        beyond = seconds > _GRAIN * self.limit_s
        self.count += 1
        self.beyond += beyond
        self._score += self._beyond if beyond else self._within
        if self._score >= more:
            return Verdict.MORE
        return Verdict.LESS if self._score <= -less else None

    def restart(self) -> None:
        """The setting has changed: count anew."""
        self._score = 0.0
        self.count = self.beyond = 0
