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

    Args:
        expected_s: mean latency then.
        spread: coefficient of variation of latencies then.
        enough: how many answers are waited for.
    """

    def __init__(self, *, expected_s: float, spread: float, enough: int) -> None:
        self._expected_s = expected_s
        self._tolerance = 1.8 + 2 * spread
        self._enough = max(3, enough)
        self._seen: list[float] = []
        self._refused = 0

    def answered(self, seconds: float) -> bool | None:
        """An answer of the learned size came: True if the point still holds, False if not, None while undecided."""
        self._seen.append(seconds / self._expected_s)
        if len(self._seen) < self._enough:
            far_off = len(self._seen) > 1 and min(self._seen) > 2 * self._tolerance
            return False if far_off else None
        return 1 / self._tolerance < statistics.median(self._seen) < self._tolerance

    def refused(self) -> bool | None:
        """A request was refused or failed: False if that is too many."""
        self._refused += 1
        return False if self._refused > max(2, len(self._seen) // 10) else None
