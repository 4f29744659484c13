"""How many invocations are under way, and how many were on average since a moment.

Little's law (Little, "A proof for the queuing formula L = λW", Operations Research 9, 1961) turns this and the latency into
throughput without waiting for a whole window of completions.
"""

import math
from bisect import bisect_right


class InFlight:
    """Counts permits against samples. A permit whose sample never comes expires, so the count cannot drift."""

    def __init__(self, *, expire_s: float, now_s: float) -> None:
        self._expire_s = expire_s
        self._sent: list[float] = []
        self._level: list[int] = []  # in flight when it was sent, itself included
        self._area = 0.0  # request-seconds of the average, were all that is in flight to end at its start
        self._since = now_s
        self._cohort = 0
        self.cohort_until_s = math.inf
        """When the last request of the cohort was sent; infinity while it is not complete."""

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def oldest_s(self) -> float:
        """When the one that has been under way for longest was sent; infinity if there is none."""
        return self._sent[0] if self._sent else math.inf

    def send(self, now_s: float) -> None:
        """A permit was used."""
        sent, since = self._sent, self._since
        while sent and sent[0] < now_s - self._expire_s:
            del sent[0], self._level[0]
            if now_s > since:
                self._area += now_s - since
        sent.append(now_s)
        self._level.append(len(sent))
        if now_s >= since:
            self._area -= now_s - since
            if self._cohort:
                self._cohort -= 1
                if not self._cohort:
                    self.cohort_until_s = now_s

    def finish(self, started_s: float, now_s: float) -> int:
        """An invocation that began at `started_s` ended. How many were in flight when it began, itself included.

        Between its permit and its beginning, a request that waited for the user's `--rate` was not in flight.
        """
        sent, since = self._sent, self._since
        if not sent:
            return 1
        at = bisect_right(sent, started_s) - 1
        if at < 0:
            at = 0
        permit_s = sent.pop(at)
        if now_s > since:
            self._area += now_s - since
            if started_s > permit_s and started_s > since:
                self._area -= started_s - max(permit_s, since)
        return self._level.pop(at)

    def restart(self, now_s: float, *, from_s: float, cohort: int = 0) -> None:
        """Begin a new average that starts at `from_s`, now or later; the first `cohort` requests after it are a cohort."""
        self._cohort, self.cohort_until_s = cohort, math.inf
        self._area = 0.0
        self._since = from_s

    def mean(self, now_s: float) -> float:
        """Average number in flight since `restart`."""
        elapsed = now_s - self._since
        if elapsed <= 0:
            return float(len(self._sent))
        return max(0.0, self._area + len(self._sent) * elapsed) / elapsed
