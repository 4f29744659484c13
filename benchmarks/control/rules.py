"""Published rules for batch size or concurrency, in our own words, for comparison.

None of them moves both; where a rule leaves one free, it is fixed at a value people use.
"""

import math
import random
from collections.abc import Callable

from asyncbatch.control import FixedController
from asyncbatch.model import ChunkTarget, Outcome, Sample
from asyncbatch.protocols import Controller

Maker = Callable[[Callable[[], float], random.Random], Controller]
_BODY = 6 * 2**20


def _fixed(rows: int, in_flight: int) -> Maker:
    return lambda clock, rng: FixedController(chunk_rows=rows, chunk_bytes=_BODY, concurrency=in_flight)


class Clipper:
    """Clipper (NSDI 2017, 4.3.1): rows grow by a constant while latency is below the objective, else shrink by a tenth."""

    def __init__(self, *, in_flight: int, objective_s: float = 2.0) -> None:
        self._in_flight = in_flight
        self._objective_s = objective_s
        self.rows = 100.0

    def next_chunk(self) -> ChunkTarget:
        return ChunkTarget(rows=int(self.rows), bytes=_BODY)

    def concurrency(self) -> int:
        return self._in_flight

    def send_delay(self) -> float:
        return 0.0

    def note_remaining(self, rows: int) -> None:
        pass

    def record(self, sample: Sample) -> None:
        if sample.outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE):
            return
        in_time = sample.finished_s - sample.started_s <= self._objective_s
        if sample.outcome is Outcome.SUCCESS and in_time:
            self.rows += 25 if sample.rows >= 0.9 * self.rows else 0
        else:
            self.rows = max(1.0, 0.9 * self.rows)


class Beam:
    """Apache Beam's batch size estimator: a line through (rows, seconds); as many rows as take 1 s or have 5 % overhead."""

    def __init__(self, rng: random.Random, *, in_flight: int) -> None:
        self._rng = rng
        self._in_flight = in_flight
        self._seen: list[tuple[int, float]] = []

    def next_chunk(self) -> ChunkTarget:
        return ChunkTarget(rows=self._rows(), bytes=_BODY)

    def _rows(self) -> int:
        seen = self._seen
        if len(seen) < 2:
            return 1 + len(seen)
        mean_n = sum(n for n, _ in seen) / len(seen)
        mean_s = sum(s for _, s in seen) / len(seen)
        width = sum((n - mean_n) ** 2 for n, _ in seen)
        slope = sum((n - mean_n) * (s - mean_s) for n, s in seen) / width if width else mean_s / mean_n
        slope = max(slope, 1e-12)
        fixed = max(mean_s - slope * mean_n, 1e-9)
        wanted = min(10_000.0, (1.0 - fixed) / slope, fixed / slope * 19)
        wanted *= self._rng.uniform(0.75, 1.25)
        return int(max(1 + len(seen) % 2, min(wanted, 2 * seen[-1][0])))

    def concurrency(self) -> int:
        return self._in_flight

    def send_delay(self) -> float:
        return 0.0

    def note_remaining(self, rows: int) -> None:
        pass

    def record(self, sample: Sample) -> None:
        if sample.outcome is Outcome.SUCCESS:
            self._seen.append((sample.rows, sample.finished_s - sample.started_s))
            if len(self._seen) > 100:
                del self._seen[self._rng.randrange(25)]


class Gradient:
    """Netflix' Gradient2 on requests in flight, once a second; rows by Clipper's rule."""

    def __init__(self) -> None:
        self._clipper = Clipper(in_flight=1)
        self._limit = 4.0
        self._long_s: float | None = None
        self._window: list[float] = []
        self._window_s = 0.0
        self._dropped = False

    def next_chunk(self) -> ChunkTarget:
        return self._clipper.next_chunk()

    def concurrency(self) -> int:
        return max(1, min(512, int(self._limit)))

    def send_delay(self) -> float:
        return 0.0

    def note_remaining(self, rows: int) -> None:
        pass

    def record(self, sample: Sample) -> None:
        self._clipper.record(sample)
        now = sample.finished_s
        if sample.outcome is Outcome.SUCCESS:
            self._window.append((now - sample.started_s) / sample.rows)
        else:
            self._dropped = True
        if now - self._window_s < 1.0 or len(self._window) < 10:
            return
        short_s = sum(self._window) / len(self._window)
        self._long_s = short_s if self._long_s is None else self._long_s + (short_s - self._long_s) * 2 / 601
        if self._long_s > 2 * short_s:
            self._long_s *= 0.9
        gradient = 0.5 if self._dropped else max(0.5, min(1.0, self._long_s / short_s))
        self._limit = max(1.0, 0.8 * self._limit + 0.2 * (self._limit * gradient + math.sqrt(16)))
        self._window, self._window_s, self._dropped = [], now, False


class Aimd:
    """Additive increase, multiplicative decrease of requests in flight (Chiu and Jain, 1989); rows by Clipper's rule."""

    def __init__(self) -> None:
        self._clipper = Clipper(in_flight=1)
        self._limit = 4.0
        self._cut_s = -1.0

    def next_chunk(self) -> ChunkTarget:
        return self._clipper.next_chunk()

    def concurrency(self) -> int:
        return int(self._limit)

    def send_delay(self) -> float:
        return 0.0

    def note_remaining(self, rows: int) -> None:
        pass

    def record(self, sample: Sample) -> None:
        self._clipper.record(sample)
        if sample.outcome is Outcome.SUCCESS:
            self._limit = min(512.0, self._limit + 1 / self._limit)
        elif sample.finished_s > self._cut_s + 1.0:
            self._limit = max(1.0, 0.7 * self._limit)
            self._cut_s = sample.finished_s


class Vegas:
    """TCP Vegas on requests in flight (Brakmo and Peterson, 1995, as in Netflix' concurrency-limits): a queue of 3 to 6 is
    wanted, by the ratio of the least latency to the present one; rows by Clipper's rule."""

    def __init__(self) -> None:
        self._clipper = Clipper(in_flight=1)
        self._limit = 4.0
        self._least_s = math.inf  # a row

    def next_chunk(self) -> ChunkTarget:
        return self._clipper.next_chunk()

    def concurrency(self) -> int:
        return int(self._limit)

    def send_delay(self) -> float:
        return 0.0

    def note_remaining(self, rows: int) -> None:
        pass

    def record(self, sample: Sample) -> None:
        self._clipper.record(sample)
        if sample.outcome is not Outcome.SUCCESS:
            self._limit = max(1.0, self._limit - 1.0)
            return
        each_s = max(1e-9, (sample.finished_s - sample.started_s) / sample.rows)
        self._least_s = min(self._least_s, each_s)
        queued = self._limit * (1 - self._least_s / each_s)
        if queued < 3:
            self._limit = min(512.0, self._limit + 1 / self._limit)
        elif queued > 6:
            self._limit = max(1.0, self._limit - 1 / self._limit)


RULES: dict[str, Maker] = {
    "100x1": _fixed(100, 1),
    "500x16": _fixed(500, 16),
    "clipper": lambda clock, rng: Clipper(in_flight=16),
    "beam": lambda clock, rng: Beam(rng, in_flight=16),
    "gradient": lambda clock, rng: Gradient(),
    "aimd": lambda clock, rng: Aimd(),
    "vegas": lambda clock, rng: Vegas(),
}
