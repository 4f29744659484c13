"""Throughput of one setting, measured by Little's law: rate = mean in flight x rows / latency.

Only requests that began inside the epoch count, so nothing sent under the setting before is credited to this one; and because
latency is known when the first of them end, an epoch takes little more than one latency where counting completions takes several.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What an epoch found."""

    rate: float
    """Rows a second."""
    error: float
    """Standard error of log(rate), from the spread of the latencies."""
    latency_s: float
    rows: float
    """Mean rows of a chunk: block ends make it smaller than the target."""


class Epoch:
    """Collects samples until there are enough."""

    def __init__(self, *, from_s: float, need: int) -> None:
        self.from_s = from_s
        self.need = need
        self.count = 0
        self._rows = self._seconds = self._relative = self._squares = 0.0

    def add(self, rows: int, seconds: float) -> bool:
        """Take one answered chunk; True when there are enough."""
        seconds = max(seconds, 1e-6)
        self.count += 1
        self._rows += rows
        self._seconds += seconds
        each = seconds / rows
        self._relative += each
        self._squares += each * each
        return self.count >= self.need

    @property
    def spread(self) -> float:
        """Coefficient of variation of the seconds a row."""
        if self.count < 2:
            return 0.0
        mean = self._relative / self.count
        variance = max(0.0, (self._squares / self.count - mean * mean) * self.count / (self.count - 1))
        return math.sqrt(variance) / mean

    @property
    def latency_s(self) -> float:
        return self._seconds / self.count if self.count else 0.0

    def measure(self, *, mean_in_flight: float, spread: float) -> Measure:
        """`spread`: the coefficient of variation to judge the error by, smoothed over epochs."""
        return Measure(
            rate=mean_in_flight * self._rows / self._seconds,
            error=spread / math.sqrt(self.count),
            latency_s=self._seconds / self.count,
            rows=self._rows / self.count,
        )
