"""Two results of `bench` against each other: better, worse, the same, or not to be told.

Every figure compared carries an interval that allows for the noise of its own run. On the logarithmic scale the two
half-widths, divided by the normal quantile, are standard errors, and the difference of the logarithms over their root sum of
squares is a z statistic (the delta method on a ratio; R. Jain, The Art of Computer Systems Performance Analysis, 1991,
ch. 13). Several comparisons in one go are corrected by Holm's step-down rule (1979). A difference counts only if it is
larger than `min_effect` as well: with enough requests any two runs differ. "The same" takes as much evidence as "worse":
the interval has to lie within `min_effect` on both sides (two one-sided tests, Schuirmann 1987).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

from asyncbatch.bench.result import BenchResult, Point

SCHEMA_VERSION = 1
Verdict = Literal["better", "worse", "same", "cannot tell"]
_UNTOLD = "no interval on both sides: measure for longer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure of a point with its interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of one setting in two results."""

    what: Literal["rows/s", "p95 latency"]
    setting: str
    baseline: Measure
    candidate: Measure
    ratio: float | None
    """candidate / baseline."""
    ratio_low: float | None
    """Of the interval at the results' confidence, for this comparison alone."""
    ratio_high: float | None
    effect: float | None
    """The z statistic's size in units of the noise of one such ratio; its sign says up or down."""
    p_value: float | None
    """Two-sided, corrected for the number of comparisons."""
    verdict: Verdict
    why: str = ""
    """Why it cannot be told; empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One result among all that were given."""

    label: str
    setting: str
    rows_per_s: float | None
    p95_s: float | None
    dollars_per_million_rows: float | None
    on_pareto_front: bool
    """No other result is both as fast and as cheap a million rows, and better in one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What `compare` found. The first result is the baseline of every other."""

    schema_version: int = SCHEMA_VERSION
    kind: str = "asyncbatch-compare"
    baseline: str
    min_effect: float
    confidence: float
    ranking: Sequence[Ranked]
    """The best of each result, most rows a second first."""
    candidates: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    """By label."""
    warnings: Sequence[str] = ()

    @property
    def regressed(self) -> bool:
        """Whether anything is worse than in the baseline."""
        return any(each.verdict == "worse" for found in self.candidates.values() for each in found)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {**asdict(self), "regressed": self.regressed}


def compare_results(results: Sequence[BenchResult], *, min_effect: float) -> Compared:
    """Compare every result with the first.

    Args:
        results: two or more, with labels of their own (see `distinct`).
        min_effect: relative difference below which nothing is better or worse, such as 0.02.
    """
    baseline = results[0]
    candidates = {}
    for result in results[1:]:
        pairs = _pairs(baseline, result)
        found = [each for name, old, new in pairs for each in _compared(name, old, new, _confidence(results))]
        candidates[result.label] = _judged(found, min_effect, alpha=1 - _confidence(results))
    return Compared(
        baseline=baseline.label,
        min_effect=min_effect,
        confidence=_confidence(results),
        ranking=_ranking(results),
        candidates=candidates,
        warnings=tuple(_doubts(results)),
    )


def distinct(results: Iterable[BenchResult]) -> list[BenchResult]:
    """The results, each with a label that no other has: `churn`, `churn (2)`."""
    seen: dict[str, int] = {}
    found = []
    for result in results:
        seen[result.label] = seen.get(result.label, 0) + 1
        count = seen[result.label]
        found.append(result if count == 1 else replace(result, label=f"{result.label} ({count})"))
    return found


def best_point(result: BenchResult) -> Point | None:
    """The point that the result calls best; without one, that with the most rows a second."""
    if result.best is not None:
        return result.points[result.best]
    return max(result.points, key=lambda point: point.rows_per_s, default=None)


def _confidence(results: Sequence[BenchResult]) -> float:
    return min(result.confidence for result in results)


def _pairs(baseline: BenchResult, candidate: BenchResult) -> list[tuple[str, Point, Point]]:
    """The settings that both measured; if there is none, the best of each."""
    old = {_key(point): point for point in baseline.points if point.repeats is None}
    pairs = [
        (_said(point), old[_key(point)], point)
        for point in candidate.points
        if point.repeats is None and _key(point) in old
    ]
    if pairs:
        return pairs
    first, second = best_point(baseline), best_point(candidate)
    if first is None or second is None:
        return []
    return [(f"best ({_said(first)}; {_said(second)})", first, second)]


def _key(point: Point) -> tuple[str, int, float]:
    return point.mode, point.chunk_rows, point.concurrency or point.rate or 0


def _said(point: Point) -> str:
    load = f"{point.concurrency} in flight" if point.concurrency is not None else f"{point.rate:g}/s"
    return f"{point.chunk_rows:,} rows x {load}"


def _compared(name: str, old: Point, new: Point, confidence: float) -> list[Comparison]:
    found = [_ratio("rows/s", name, _rate(old), _rate(new), confidence)]
    if old.mode != "closed":
        found = []  # the rate was set: only the latency can differ
    found.append(_ratio("p95 latency", name, _p95(old), _p95(new), confidence))
    return found


def _rate(point: Point) -> Measure:
    return Measure(value=point.rows_per_s, low=point.rows_per_s_low, high=point.rows_per_s_high)


def _p95(point: Point) -> Measure:
    found = point.latency.percentile(95.0)
    return Measure(value=found.seconds, low=found.low_s, high=found.high_s)


def _ratio(
    what: Literal["rows/s", "p95 latency"], setting: str, old: Measure, new: Measure, confidence: float
) -> Comparison:
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    spreads = [_log_error(each, quantile) for each in (old, new)]
    if old.value and new.value and spreads[0] is not None and spreads[1] is not None:
        error = math.hypot(spreads[0], spreads[1])
        log = math.log(new.value / old.value)
        effect = log / error if error else math.copysign(math.inf, log) if log else 0.0
        return Comparison(
            what=what,
            setting=setting,
            baseline=old,
            candidate=new,
            ratio=new.value / old.value,
            ratio_low=math.exp(log - quantile * error),
            ratio_high=math.exp(log + quantile * error),
            effect=effect if math.isfinite(effect) else None,
            p_value=2 * NormalDist().cdf(-abs(effect)),
            verdict="cannot tell",
        )
    ratio = new.value / old.value if old.value and new.value else None
    return Comparison(
        what=what,
        setting=setting,
        baseline=old,
        candidate=new,
        ratio=ratio,
        ratio_low=None,
        ratio_high=None,
        effect=None,
        p_value=None,
        verdict="cannot tell",
        why=_UNTOLD,
    )


def _log_error(measure: Measure, quantile: float) -> float | None:
    """Standard error of the logarithm; None without an interval above zero."""
    if not measure.low or not measure.high or measure.low <= 0:
        return None
    return math.log(measure.high / measure.low) / 2 / quantile


def _judged(found: Sequence[Comparison], min_effect: float, *, alpha: float) -> list[Comparison]:
    """Verdicts, with p values corrected by Holm's rule."""
    tested = sorted((each.p_value, at) for at, each in enumerate(found) if each.p_value is not None)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, (p_value, at) in enumerate(tested):
        largest = max(largest, min(1.0, p_value * (len(tested) - rank)))
        corrected[at] = largest
    return [
        replace(each, p_value=corrected[at], **_verdict(each, corrected[at], min_effect, alpha))
        if at in corrected
        else each
        for at, each in enumerate(found)
    ]


def _verdict(each: Comparison, p_value: float, min_effect: float, alpha: float) -> dict[str, Any]:
    assert each.ratio is not None
    assert each.ratio_low is not None
    assert each.ratio_high is not None
    if p_value < alpha and abs(math.log(each.ratio)) > math.log1p(min_effect):
        up = each.ratio > 1
        return {"verdict": "better" if up == (each.what == "rows/s") else "worse"}
    if each.ratio_low >= 1 / (1 + min_effect) and each.ratio_high <= 1 + min_effect:
        return {"verdict": "same"}
    width = (each.ratio_high / each.ratio_low) ** 0.5 - 1
    return {"verdict": "cannot tell", "why": f"the noise is ± {width:.1%}: measure for longer"}


def _ranking(results: Sequence[BenchResult]) -> list[Ranked]:
    entries = []
    for result in results:
        point = best_point(result)
        entries.append(
            Ranked(
                label=result.label,
                setting="-" if point is None else _said(point),
                rows_per_s=None if point is None else point.rows_per_s,
                p95_s=None if point is None else point.latency.percentile(95.0).seconds,
                dollars_per_million_rows=None if point is None else point.dollars_per_million_rows,
                on_pareto_front=False,
            )
        )
    marked = [replace(each, on_pareto_front=_undominated(each, entries)) for each in entries]
    return sorted(marked, key=lambda each: -(each.rows_per_s or 0))


def _undominated(one: Ranked, entries: Sequence[Ranked]) -> bool:
    """Without a price everywhere, the most rows a second alone."""
    if not one.rows_per_s:
        return False
    priced = all(each.dollars_per_million_rows is not None for each in entries)
    rate, cost = one.rows_per_s, (one.dollars_per_million_rows or 0.0) if priced else 0.0
    for other in entries:
        other_rate = other.rows_per_s or 0.0
        other_cost = (other.dollars_per_million_rows or 0.0) if priced else 0.0
        if other_rate >= rate and other_cost <= cost and (other_rate, other_cost) != (rate, cost):
            return False
    return True


def _doubts(results: Sequence[BenchResult]) -> list[str]:
    """What makes two results hard to compare."""
    first = results[0]
    doubts = []
    for other in results[1:]:
        if other.machine != first.machine:
            doubts.append(f"{other.label} was measured from another machine than {first.label}")
        if (other.data.body, tuple(other.data.columns)) != (first.data.body, tuple(first.data.columns)):
            doubts.append(f"{other.label} sent other columns or another body than {first.label}")
    for result in results:
        if result.partial:
            doubts.append(f"{result.label} is partial: {result.partial_reason}")
        if any(point.client_bound for point in result.points):
            doubts.append(f"in {result.label} the client was the limit at some points")
    priced = [best.dollars_per_million_rows is not None for each in results if (best := best_point(each))]
    if any(priced) and not all(priced):
        doubts.append("some results have no price, so dollars are not compared with them")
    return doubts
