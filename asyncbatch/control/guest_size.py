"""How many rows a guest's chunk has: twice as many while that is worth the time it takes.

A live request waits for what is being worked on, so the time the endpoint works on a chunk is bounded. Within the bound, twice
the rows are worth it while they take less than 1.45 times as long: beyond, there is little left to save of the fixed cost of a
call, and the longer chunk costs live users more than it gains (simulation: an endpoint that pads to powers of two does as many
rows with chunks of 8 as of 16 at the same rise of the live 99th percentile, and gives more of its spare time).
"""

import statistics
from collections.abc import Iterable

_OVER_ROW = 2.0
"""Longest chunk, in latencies of one row, where the user gave no bound."""
_MARGIN = 0.9
_WORTH = 1.45
_SAMPLES = 6
"""Of each size; twice as many of one row, and three times before a size is found too large."""


class SizeSearch:
    """Sizes, one request in flight.

    Args:
        low: the size to begin with, and the smallest.
        longest_s: longest service time of a chunk; None: twice that of the smallest.
    """

    def __init__(self, *, low: int, longest_s: float | None) -> None:
        self._low = low
        self.longest_s = longest_s
        """None while unknown."""
        self.rows = self.trying = low
        """The largest good size, and the one that is measured."""
        self.chunk_s = 0.0
        """Mean latency at `rows`, with nothing else of the guest in flight."""
        self._latencies: list[float] = []
        self._before_s = 0.0

    @property
    def trying_smallest(self) -> bool:
        return self.trying == self._low

    def observe(self, seconds: float, *, most: int) -> bool:
        """A request of `trying` rows was answered; True once `rows` is found.

        Args:
            most: no chunk may have more rows.
        """
        self._latencies.append(seconds)
        count = len(self._latencies)
        if count < (2 if self.trying_smallest else 1) * _SAMPLES:
            return False
        service_s = unqueued(self._latencies)
        if self.longest_s is None:
            self.longest_s = _OVER_ROW * service_s
        if not self.trying_smallest and (
            service_s > _MARGIN * self.longest_s or service_s > _WORTH * self._before_s
        ):
            return count >= 3 * _SAMPLES
        self.rows, self.chunk_s = self.trying, statistics.fmean(self._latencies)
        self._before_s = service_s
        self.trying = min(2 * self.trying, most)
        self._latencies = []
        return self.trying <= self.rows


def unqueued(seconds: Iterable[float]) -> float:
    """A latency of those that did not wait for others."""
    ranked = sorted(seconds)
    return ranked[len(ranked) // 3]
