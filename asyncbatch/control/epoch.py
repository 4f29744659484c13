"""Throughput of one setting, measured by Little's law: rate = mean in flight x rows / latency.

Only requests that began inside the epoch count, so nothing sent under the setting before is credited to this one; and because
latency is known when the first of them end, an epoch takes little more than one latency where counting completions takes several.
"""

import math
import statistics
from dataclasses import dataclass
from operator import mul


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What an epoch found."""

    rate: float
    """Rows a second."""
    error: float
    """Standard error of log(rate), from the spread of the latencies."""
    spread: float
    """Coefficient of variation of the seconds a row, smoothed over epochs."""
    latency_s: float
    rows: float
    """Mean rows of a chunk: block ends make it smaller than the target."""
    refused: float = 0.0
    """Share of requests refused for load."""


class Epoch:
    """Collects samples until there are enough.

    Latencies (by the row) beyond three times the median count as three times: a spike says nothing about the setting, and would
    drown the difference between two of them.
    """

    _CLIP = 3.0

    def __init__(self, *, from_s: float, need: int, late_s: float = math.inf) -> None:
        self.from_s = from_s
        self.late_s = late_s
        """Answers that take longer are too near to what must not be exceeded."""
        self.need = need
        self._enough = need - need // 10
        self._others = 0
        self._anyone = False  # none of the cohort told anything: whoever comes now counts
        self.refused = 0
        """Requests refused for load in this epoch."""
        self._lost_s = 0.0
        self._row_s: list[float] = []  # seconds a row of each sample, and
        self._rows: list[int] = []  # its rows

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, rows: int, seconds: float, *, of_cohort: bool = True) -> bool:
        """Take one answered chunk; True when nine of ten of the cohort are there, or as good as never will be."""
        if of_cohort or self._anyone:
            self._row_s.append(seconds / rows if seconds > 1e-6 else 1e-6 / rows)
            self._rows.append(rows)
        else:
            self._others += 1
        count, gone = len(self._rows), self._others >= 2 * self.need
        self._anyone = self._anyone or (gone and not count)
        return count >= self._enough or (gone and not self._anyone)

    def lose(self, seconds: float) -> None:
        """A request that took `seconds` failed: it was in flight, and brought no rows."""
        self._lost_s += seconds

    def measure(self, *, mean_in_flight: float, spread: float) -> Measure:
        """The epoch is over. `spread`: that of the epochs before, 0 if unknown; errors are judged by a smoothed one."""
        count, clipped = self.count, self._row_s
        limit = self._CLIP * statistics.median(clipped)
        if max(clipped) > limit:
            clipped = [min(each, limit) for each in clipped]
        rows, seconds = sum(self._rows), sum(map(mul, clipped, self._rows))
        mean = sum(clipped) / count
        variance = sum([(each - mean) ** 2 for each in clipped]) / max(1, count - 1)
        found = math.sqrt(variance) / mean
        smooth = 0.7 * spread + 0.3 * found if spread else found
        return Measure(
            rate=mean_in_flight * rows / (seconds + self._lost_s),
            error=smooth / math.sqrt(count),
            spread=smooth,
            latency_s=seconds / count,
            rows=rows / count,
            refused=self.refused / (self.refused + count),
        )
