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
        self._area = 0.0
        self._since = self._touched = now_s
        self._cohort = 0
        self.cohort_until_s = math.inf
        """When the last request of the cohort was sent; infinity while it is not complete."""

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, now_s: float) -> None:
        """A permit was used."""
        self._advance(now_s)
        sent, oldest_s = self._sent, now_s - self._expire_s
        while sent and sent[0] < oldest_s:
            del sent[0], self._level[0]
        self._level.append(len(sent) + 1)
        sent.append(now_s)
        if self._cohort and now_s >= self._since:
            self._cohort -= 1
            if not self._cohort:
                self.cohort_until_s = now_s

    def finish(self, started_s: float, now_s: float) -> int:
        """An invocation that began at `started_s` ended. How many were in flight when it began, itself included.

        Between its permit and its beginning, a request that waited for the user's `--rate` was not in flight.
        """
        self._advance(now_s)
        sent = self._sent
        if not sent:
            return 1
        at = bisect_right(sent, started_s) - 1
        if at < 0:
            at = 0
        permit_s = sent[at]
        if started_s > permit_s and started_s > self._since:
            self._area -= started_s - max(permit_s, self._since)
        del sent[at]
        return self._level.pop(at)

    def restart(self, now_s: float, *, from_s: float, cohort: int = 0) -> None:
        """Begin a new average that starts at `from_s`, now or later; the first `cohort` requests after it are a cohort."""
        self._cohort, self.cohort_until_s = cohort, math.inf
        self._advance(now_s)
        self._area = 0.0
        self._since = from_s

    def mean(self, now_s: float) -> float:
        """Average number in flight since `restart`."""
        self._advance(now_s)
        elapsed = now_s - self._since
        return max(0.0, self._area) / elapsed if elapsed > 0 else float(len(self._sent))

    def _advance(self, now_s: float) -> None:
        touched = self._touched
        if now_s > touched:
            since = self._since
            if now_s > since:
                self._area += len(self._sent) * (now_s - max(touched, since))
            self._touched = now_s
