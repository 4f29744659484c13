"""Finding a first chunk size from a handful of requests.

One request at a time goes up the sizes, so that what is measured is the endpoint's work and not our own queue, and so that a size
that is too large fails once. Sizes grow by up to eight while the fixed cost of a call dominates. When an answer takes long, small
chunks are sent beside it: they are useful work, and give the fit its second point.
"""

import math

from asyncbatch.control.service_fit import ServiceFit

_SPACING_S = 0.3
"""Seconds between the requests sent beside a slow one."""
_DEARER = 0.8
"""A size that does less than this share of the rows a second of another is too large, if noise does not explain it."""
_QUEUED = 1.5
"""A request that takes so many times as long as one that had nothing beside it may have waited; its square leaves no doubt."""
_AGAIN = 5
"""So often a size is tried while noise may explain it."""


def power_of_two(rows: float) -> int:
    """The power of two at or below `rows`, at least 1: padded endpoints work in such sizes, others lose nothing."""
    return 1 << max(0, int(math.log2(max(1.0, rows * 1.001))))


class RowRamp:
    """Chooses the size of each trial, and says when to stop.

    First alone (`next_rows`, `delay`), until chunks are long enough to raise the requests in flight with; then, after `extend`,
    beside the other requests (`take`): one trial at a time, its latency divided by how much the others queue.

    Args:
        fit: receives the samples of the ramp.
        start_rows: size of the first request.
        enough_s: a chunk that takes this long is large enough while its fixed cost is below half.
        slow_s: no size is tried whose predicted time is beyond this, unless the fixed cost is most of it.
    """

    def __init__(self, *, fit: ServiceFit, start_rows: int, enough_s: float, slow_s: float) -> None:
        self._fit = fit
        self._enough_s = enough_s
        self._slow_s = slow_s
        self._goal = 0.0
        self._step_sent_s: float | None = None
        self._beside = 0
        self._again = 0
        self._others = 0
        self._start = start_rows
        # Rows and seconds of the last request that had nothing beside it.
        self._alone: tuple[int, float] | None = None
        self._waits = 0
        self.rows = start_rows
        """The size being tried."""
        self.best_rows = start_rows
        """The size to go on with."""
        self.done = False

    @property
    def serial(self) -> bool:
        """Requests wait for each other, even so few: only those sent alone tell what a chunk costs."""
        return self._waits > 1

    def go_alone(self) -> None:
        """Requests were refused beside each other: one at a time from now on."""
        self._waits = 2

    def next_rows(self, now_s: float) -> int:
        """Rows of the request that is about to be sent."""
        if self._step_sent_s is None:
            self._step_sent_s = now_s
            self._beside = 0
            return self.rows
        self._beside += 1
        if self.best_rows < self.rows:
            return self.best_rows
        beside = (self._start // 4, self._start * 2)  # a slope, from one round trip
        return max(1, beside[self._beside - 1] if self._beside <= 2 else self._start)

    def delay(self, now_s: float) -> float:
        """Seconds until the next request may be sent."""
        if self.serial:
            return _SPACING_S
        if self._step_sent_s is None:
            return 0.0
        return max(0.0, self._step_sent_s + _SPACING_S * (1 + self._beside) - now_s)

    def extend(self, goal_rows: float, *, max_rows: int) -> None:
        """Go on beside other requests, up to `goal_rows`."""
        self._goal = min(goal_rows, float(max_rows))
        self.done = False
        self._step(self.best_rows, 4.0 if self._fit.overhead(self.best_rows) > 0.2 else 2.0, max_rows)

    def take(self, now_s: float, *, patience_s: float) -> int | None:
        """Rows of the trial that is due, or None: the request is an ordinary one."""
        if self.done or (self._step_sent_s is not None and now_s < self._step_sent_s + patience_s):
            return None
        self._step_sent_s = now_s
        return self.rows

    def answered_first(self, rows: int, seconds: float, *, max_rows: int, in_flight: int) -> None:
        """The same before `extend`: a chunk that was sent with `in_flight` under way, itself included.

        Where requests wait for each other even now, what the later ones took is a queue and no service time.
        """
        if in_flight <= 1:
            self._alone = rows, seconds
        elif self._alone is not None:
            alone_rows, alone_s = self._alone
            ratio = seconds / (alone_s * max(1.0, rows / alone_rows))
            waited = 2 if ratio > _QUEUED**2 else 1 if ratio > _QUEUED else 0
            self._waits += waited
            trial = rows > 0.7 * self.rows
            if self.serial or waited or (self._waits and not trial):
                if trial:
                    self._step_sent_s = None  # once more
                return
        self.answered(rows, seconds, max_rows=max_rows)

    def answered(self, rows: int, seconds: float, *, max_rows: int, spread: float = 0.2) -> None:
        """A chunk of `rows` took `seconds`.

        Args:
            max_rows: the most that may be tried.
            spread: coefficient of variation of latencies.
        """
        fit = self._fit
        fit.add(rows, seconds)
        fit.focus(self.rows)
        if rows < 0.7 * self.rows and rows < self.rows - 1:
            self._others += 1
            if self._others > 30:  # the trial itself never comes back
                self._stop(self.best_rows)
            return
        self._others = 0
        speeds = fit.speeds()
        # the fastest by what is certain: of many single samples one is always lucky
        best_rows, best, seen_best = max(
            speeds, key=lambda each: each[1] * math.exp(-spread / math.sqrt(each[2]))
        )
        speed, seen = next((s, k) for n, s, k in reversed(speeds) if n <= rows * 1.2)
        overhead = fit.overhead(rows)
        if speed < _DEARER * best:  # by the row, than a smaller chunk: noise, or beyond a knee
            self._again += 1
            doubt = math.exp(spread * math.sqrt(1 / seen + 1 / seen_best))
            if self._again <= 1 or (self._goal and self._again < _AGAIN and speed * doubt > _DEARER * best):
                self._step_sent_s = None
            else:
                self._stop(int(min(best_rows, self._goal) if self._goal else best_rows))
            return
        rows = max(rows, self.rows)  # a block's end makes a chunk smaller than the size that was asked for
        self.best_rows = rows
        expected_s = max(seconds, fit.seconds(rows))
        # the line's slope may be noise: a chunk is long only if it also took much longer than the small ones
        small = [n / s for n, s, _ in speeds if n <= rows / 4]
        longer = bool(small) and seconds > 2.5 * sum(small) / len(small)
        growth = 8.0 if overhead > 0.7 else 4.0 if overhead > 0.2 or not longer else 2.0
        if self._goal:
            self._step(rows, growth if overhead > 0.5 or expected_s < self._slow_s else 2.0, max_rows)
            return
        if longer and (overhead < 0.08 or (overhead < 0.5 and expected_s > self._enough_s)):
            self._stop(rows)
            return
        if fit.sizes > 1:
            room = max(self._slow_s, 2.5 * expected_s if overhead > 0.3 else 0.0) / expected_s
            growth = min(growth, (room - overhead) / max(0.05, 1 - overhead))
            if expected_s > self._slow_s and overhead < 0.3 and longer:
                growth = 1.0
        elif seconds * growth > 2 * self._slow_s:
            growth = 4.0 if seconds < 4 * self._slow_s else 2.0
        self._step(rows, growth, max_rows)

    def refused(self, rows: int) -> None:
        """A chunk of `rows` was too large."""
        if rows >= self.rows or rows > self.best_rows:
            self._stop(min(self.best_rows, max(1, rows // 2)))

    def _step(self, rows: int, growth: float, max_rows: int) -> None:
        wanted = power_of_two(rows * growth)
        wanted = min(max_rows, wanted, int(self._goal) if self._goal else max_rows)
        if wanted < 1.2 * rows or (wanted < 2 * rows and self._fit.gain(rows, wanted) < 0.02):
            self._stop(rows)
            return
        self.rows = wanted
        self._step_sent_s = None
        self._again = 0

    def _stop(self, rows: int) -> None:
        self.best_rows = max(1, rows)
        self.done = True
