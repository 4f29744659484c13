"""Percentiles of a stream of durations in constant memory.

Buckets grow by a fixed ratio, so a percentile is off by at most half a ratio whatever the distribution;
adding is O(1).
"""

import math

_LOWEST_S = 1e-6
_RATIO = 1.04
_BUCKETS = 560
"""1.04 ** 560 is 3.4e9: from a microsecond to about an hour."""
_SCALE = 1 / math.log(_RATIO)


class LogHistogram:
    """Durations in seconds from 1 µs to one hour; what is outside counts in the first or last bucket."""

    RELATIVE_ERROR = math.sqrt(_RATIO) - 1
    """Largest relative error of a percentile: 2 %."""

    __slots__ = ("_counts", "count", "highest_s", "total_s")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_s = 0.0
        self.highest_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = int(math.log(seconds / _LOWEST_S) * _SCALE) if seconds > _LOWEST_S else 0
        self._counts[bucket if bucket < _BUCKETS else _BUCKETS - 1] += 1
        self.count += 1
        self.total_s += seconds
        if seconds > self.highest_s:
            self.highest_s = seconds

    def merge(self, other: "LogHistogram") -> None:
        """Count all that `other` has counted."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.total_s += other.total_s
        self.highest_s = max(self.highest_s, other.highest_s)

    def percentile(self, percent: float) -> float | None:
        """The duration that `percent` % of those counted do not exceed (nearest rank); None if none was."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_LOWEST_S * math.pow(_RATIO, bucket + 0.5), self.highest_s)
        raise AssertionError("counts do not add up")

    def mean(self) -> float | None:
        """Exact, in seconds; None when nothing was counted."""
        return self.total_s / self.count if self.count else None
