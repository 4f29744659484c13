"""Doubling the requests in flight each round trip until they begin to queue.

TCP's slow start (Jacobson, "Congestion avoidance and control", SIGCOMM 1988): each answer lets one more out, so the limit doubles
in one latency without a pause to measure, and a full queue is met by one request, not by half of them. It ends as TCP Vegas
(Brakmo and Peterson, 1995) and Netflix' concurrency-limits end it: when latencies show that requests wait.
"""

import math
from collections import deque


class SlowStart:
    """Watches latency relative to the latency of an idle endpoint.

    Args:
        few: so many in flight surely do not queue.
        queueing: end when the mean of recent latencies exceeds the idle latency by this factor.
    """

    _BASELINE = 4
    _MOST = 1.35
    _FILLED = 0.5
    """A limit of which less was used when a request was sent has no need to grow."""

    def __init__(self, *, queueing: float = 1.5, few: int = 3) -> None:
        self._few = few
        self._queueing = queueing
        self._ratios: deque[tuple[float, int]] = deque(maxlen=64)
        self._baseline: list[float] = [0.0]  # logarithms; the first is the fit's own word
        self._unfilled = 0  # answers in a row to requests sent with far fewer in flight than allowed
        self._unused = False  # it ended because something else holds requests back
        self.done = False

    def answered(self, *, seconds: float, idle_s: float, in_flight: int, limit: float) -> float:
        """An answer came: the limit from now on.

        Args:
            seconds: its latency.
            idle_s: predicted for an idle endpoint; corrected by the first answers, when few are in flight.
            in_flight: how many were, when it was sent, itself included.
            limit: the limit until now.
        """
        ratio = seconds / max(idle_s, 1e-6)
        self._unfilled = self._unfilled + 1 if in_flight < self._FILLED * limit - 1 else 0
        if self._unfilled:
            self._unused = self.done = self._unfilled > 2 * limit + 8  # such as by their pace
            return limit
        if len(self._baseline) <= self._BASELINE:
            most = math.inf if in_flight <= self._few else self._MOST  # of more, some may have waited
            self._baseline.append(math.log(max(min(ratio, most), 1e-6)))
            return limit + 1.0
        self._ratios.append((ratio / self.baseline, in_flight))
        window = min(len(self._ratios), max(4, in_flight // 2))
        recent = sorted(r for r, _ in list(self._ratios)[-window:])
        if window >= 4:
            recent.pop()  # one spike is no queue
        ratio = sum(recent) / len(recent)
        if window >= 4:
            variance = sum((r - ratio) ** 2 for r in recent) / (len(recent) - 1)
            if ratio - math.sqrt(variance / len(recent)) > self._queueing * 0.9 and ratio > self._queueing:
                self.done = True
                return max(1.0, limit)
        grown = limit + (1.0 if window < 4 or ratio > 1.2 else 1.5)
        return max(limit, min(grown, 2.0 * self.slots() + 2.0))

    @property
    def baseline(self) -> float:
        """Latency of an idle endpoint over what was predicted."""
        return math.exp(sum(self._baseline) / len(self._baseline))

    @property
    def bounds(self) -> bool:
        """Whether `slots` says how many there are, not only how many there are at least."""
        return bool(self._ratios) and not self._unused

    @property
    def certain(self) -> bool:
        """Whether latencies were even enough for `slots` to be believed without a measurement of throughput."""
        return len(self._ratios) >= 10 and self.spread < 0.2

    @property
    def spread(self) -> float:
        """Coefficient of variation of recent latencies."""
        recent = [min(ratio, 5.0) for ratio, _ in self._ratios][-max(4, len(self._ratios) // 2) :]
        if not recent:
            return 0.0
        mean = sum(recent) / len(recent)
        return math.sqrt(sum((r - mean) ** 2 for r in recent) / len(recent)) / mean

    def slots(self) -> float:
        """How many requests the endpoint seems to work on at once."""
        recent = list(self._ratios)[-max(4, len(self._ratios) // 3) :]
        if not recent:
            return 1.0
        return max(1.0, sum(f for _, f in recent) / sum(min(5.0, max(1.0, r)) for r, _ in recent))
