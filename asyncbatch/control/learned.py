"""What a run has learned of an endpoint, to start the next one with; and how much to believe of it."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPoint:
    """A good setting and the facts behind it. JSON-ready through `as_dict` and `from_dict`."""

    chunk_rows: int
    concurrency: int
    latency_s: float
    """Mean latency at this setting."""
    call_s: float
    """Fixed cost of a call, by the service-time fit."""
    row_s: float
    """Cost of a row."""
    spread: float
    """Coefficient of variation of the latencies."""
    slots: float
    """Requests worked on at once, 0 if unknown."""
    max_rows: int | None = None
    """Rows of a chunk the endpoint was found to take at most."""
    max_bytes: int | None = None
    """Bytes of a body the endpoint was found to take at most."""
    request_rate: float | None = None
    """Requests a second it was found to admit."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearnedPoint":
        """Unknown keys are ignored, so that newer files can be read.

        Raises:
            ValueError: a value is missing, of the wrong type, or makes no sense.
        """
        known = {each.name for each in fields(cls)}
        try:
            point = cls(**{name: value for name, value in values.items() if name in known})
            numbers = [value for value in asdict(point).values() if value is not None]
            sound = all(
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
                and value >= 0
                for value in numbers
            )
        except TypeError as error:
            raise ValueError(f"not a learned point: {error}") from error
        if (
            not sound
            or point.chunk_rows < 1
            or point.concurrency < 1
            or point.latency_s <= 0
            or point.row_s <= 0
        ):
            raise ValueError("not a learned point: a value makes no sense")
        return point


class Trust:
    """Compares the first latencies of a run with those the point was learned from.

    What counts are the requests that were sent first: of all answers, those that come first are the quick ones. They may take
    anything from the time of an idle endpoint to the latency that was learned, for the queue is only beginning to form. An
    endpoint that is somewhat slower than it was (still cold, of fewer instances, with heavier rows) is not another one.

    Args:
        idle_s: latency of an idle endpoint then.
        expected_s: mean latency then.
        spread: coefficient of variation of latencies then.
        in_flight: requests that are sent at once.
    """

    _SLOWER = 3.0
    """So many times the tolerance, and it is another endpoint."""

    def __init__(self, *, idle_s: float, expected_s: float, spread: float, in_flight: int) -> None:
        self._idle_s = min(idle_s, expected_s)
        self._expected_s = expected_s
        self._tolerance = 1.8 + 2 * spread
        self._enough = max(3, min(8, in_flight // 4))
        self._sent = 0
        self._until_s = math.inf  # when the last of those that count was sent
        self._seen: list[float] = []
        self._failed = 0
        self._burst_until_s = math.inf

    def sent(self, now_s: float) -> None:
        """A request is sent."""
        self._sent += 1
        if self._sent == self._enough:
            self._until_s = now_s

    def answered(self, seconds: float, *, started_s: float) -> bool | None:
        """An answer of the learned size came: True if the point still holds, False if not, None while undecided."""
        if started_s > self._until_s:
            return None
        self._seen.append(seconds)
        slowest_s = self._SLOWER * self._tolerance * self._expected_s
        if len(self._seen) < self._enough:
            return False if len(self._seen) > 1 and min(self._seen) > 1.3 * slowest_s else None
        return self._idle_s / self._tolerance < statistics.median(self._seen) < slowest_s

    @property
    def slower(self) -> float:
        """How many times as long requests take now; 1.0 if that is no more than latencies spread."""
        ratio = statistics.median(self._seen) / self._expected_s
        return ratio if ratio > self._tolerance else 1.0

    def failed(self) -> bool | None:
        """A request failed, or was too large: False if that is too many."""
        self._failed += 1
        return False if self._failed > max(2, len(self._seen) // 10) else None

    def refused(self, *, started_s: float, now_s: float) -> bool:
        """A request was refused for load. True if it was one of those sent at once: that says little of a steady load."""
        if started_s <= self._until_s:
            self._sent -= 1
            self._until_s = math.inf  # the next one counts in its place
        self._burst_until_s = min(self._burst_until_s, now_s)
        return started_s < self._burst_until_s
