"""Conditions on the figures of a point, as `--slo` takes them: `p95<800ms,errors<1%`. Pure."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asyncbatch.bench.result import Point
from asyncbatch.observe import text
from asyncbatch.units import parse_duration, parse_number, parse_text

_TERM = re.compile(r"\s*([A-Za-z_0-9.]+)\s*(<=|>=|<|>)\s*([^<>=,]+?)\s*")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
_RATES = ("rows_per_s", "mb_per_s", "requests_per_s")
_SHARES = ("errors", "throttled")
_CHANCE, _MOST_TERMS = 0.025, 200
METRICS = (*_PERCENTILES, "mean", "max", *_SHARES, *_RATES)
"""What a condition may name. Latencies count from the intended start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One term: a figure, a comparison, a limit in seconds, as a share, or a second."""

    metric: str
    comparison: Literal["<", "<=", ">", ">="]
    limit: float

    def __str__(self) -> str:
        limit = f"{self.limit:g}" if self.metric in _RATES else _shown(self.metric, self.limit)
        return f"{self.metric}{self.comparison}{limit}"

    def holds(self, point: Point) -> bool | None:
        """Whether `point` satisfies it; None where its sample cannot tell.

        A sample too small for a percentile can still tell that a limit is missed: by how many of it are beyond.
        """
        found = value_of(point, self.metric)
        if found is None:
            return False if self._surely_missed(point) else None
        return _COMPARE[self.comparison](found, self.limit)

    def missed(self, point: Point) -> str:
        """Why it does not hold, in words."""
        found = value_of(point, self.metric)
        if found is None and self._surely_missed(point):
            beyond = 1 - _share_below(point, self.limit)
            return f"{self.metric} is not {self.comparison} {_shown(self.metric, self.limit)}: {beyond:.0%} take longer"
        if found is None:
            return f"too few requests for {self.metric}"
        return f"{self.metric} {_shown(self.metric, found)}, not {self.comparison} {_shown(self.metric, self.limit)}"

    def _surely_missed(self, point: Point) -> bool:
        """Were the limit held, so many beyond it would be a chance of less than 1 in 40."""
        if self.metric not in _PERCENTILES or self.comparison not in ("<", "<=") or not point.latency.count:
            return False
        count = max(1, round(point.latency.effective_count))
        beyond = round((1 - _share_below(point, self.limit)) * count)
        allowed = 1 - _PERCENTILES[self.metric] / 100
        fewer = sum(
            math.comb(count, each) * allowed**each * (1 - allowed) ** (count - each)
            for each in range(min(beyond, _MOST_TERMS))
        )
        return beyond > 0 and 1 - fewer < _CHANCE


def _share_below(point: Point, limit: float) -> float:
    """Share of the sample that took no longer than `limit` seconds."""
    below = [percent for percent, seconds in point.latency.spectrum if seconds <= limit]
    most = point.latency.max_s
    return 1.0 if most is not None and most <= limit else max(below, default=0.0) / 100


def value_of(point: Point, metric: str) -> float | None:
    """The figure that `metric` names; None where the sample cannot bear it."""
    if metric in _PERCENTILES:
        return point.latency.percentile(_PERCENTILES[metric]).seconds
    if metric == "mean":
        return point.latency.mean_s
    if metric == "max":
        return point.latency.max_s
    if metric == "errors":
        return point.error_share
    if metric == "throttled":
        return point.throttled / point.requests if point.requests else None
    value: float = getattr(point, metric)
    return value


def parse_conditions(value: Any) -> tuple[Condition, ...]:
    """Terms with commas between them.

    Raises:
        ValueError: not of the form METRIC<LIMIT, or no such figure.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ",".join(str(each) for each in value)
    return tuple(_term(term) for term in parse_text(value).split(",") if term.strip())


def judge(conditions: Sequence[Condition], point: Point) -> tuple[bool | None, str]:
    """Whether all hold (None: the sample cannot tell), and the first that does not, in words."""
    unknown = ""
    for condition in conditions:
        held = condition.holds(point)
        if held is False:
            return False, condition.missed(point)
        if held is None:
            unknown = unknown or condition.missed(point)
    return (None, unknown) if unknown or not conditions else (True, "")


def _term(term: str) -> Condition:
    found = _TERM.fullmatch(term)
    if found is None:
        raise ValueError(f"expected METRIC<LIMIT, such as p95<800ms, not {term.strip()!r}")
    metric, comparison, limit = found.groups()
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")
    return Condition(metric=metric, comparison=comparison, limit=_limit(metric, limit))  # type: ignore[arg-type]  # by _TERM


def _limit(metric: str, written: str) -> float:
    if metric in _RATES:
        return parse_number(written.replace(",", "").replace("_", ""))
    if metric in _SHARES:
        return parse_number(written[:-1]) / 100 if written.endswith("%") else parse_number(written)
    return parse_duration(written)


def _shown(metric: str, value: float) -> str:
    if metric in _RATES:
        return text.number(value)
    if metric in _SHARES:
        return f"{value * 100:.3g}%"
    return text.latency(value).replace(" ", "")
