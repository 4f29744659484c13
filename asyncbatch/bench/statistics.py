"""Intervals for rates and percentiles of what a load generator sees: neighbouring requests resemble each other.

Pure: arrays in, numbers out. Rates are judged by batch means (Law and Kelton, "Simulation Modeling and Analysis",
chapter 9): the measured time is cut into stretches, and their means are nearly independent. Percentiles are judged by
order statistics, with the sample size that independent requests would need to say as much, learned from batch means of
"was it below" (Heidelberger and Lewis 1984, "Quantile estimation in dependent sequences").
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

MOST_BATCHES = 30
LEAST_BATCHES = 8
_LEAST_PER_BATCH = 3
"""Requests in a batch, on average, below which its mean says little."""
_INDEPENDENT = 0.4
"""Batches whose neighbours correlate by more than this are joined in pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval."""

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Something per second, with its interval where the sample bears one."""

    value: float
    interval: Interval | None

    @property
    def relative_half(self) -> float | None:
        """Half the interval's width, as a share of the value."""
        return self.interval.half / self.value if self.interval is not None and self.value > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A percentile and its interval; all None where the sample cannot bear it."""

    value: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The change from the first to the last third, as a share of the mean."""

    share: float
    significant: bool


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t: Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5; error below 1 % from 4 degrees on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def mean_interval(batches: "Array", confidence: float) -> Interval | None:
    """The interval of the mean of batch means; None for fewer than `LEAST_BATCHES`."""
    batches = _nearly_independent(np.asarray(batches, dtype=np.float64))
    count = len(batches)
    if count < LEAST_BATCHES:
        return None
    half = t_quantile(0.5 + confidence / 2, count - 1) * float(batches.std(ddof=1)) / math.sqrt(count)
    mean = float(batches.mean())
    return Interval(low=max(0.0, mean - half), high=mean + half)


def rate(finished_s: "Array", amounts: "Array", *, start_s: float, stop_s: float, confidence: float) -> Rate:
    """What finished per second between `start_s` and `stop_s`.

    Between two finishes the count is taken to rise evenly, so that a window's edge cuts a request instead of counting
    it whole or not at all.

    Args:
        finished_s: when, ascending; what finished before `start_s` and after `stop_s` belongs in it too, if known.
        amounts: of each: rows, bytes or 1.
    """
    seconds = stop_s - start_s
    if not len(finished_s) or seconds <= 0:
        return Rate(value=0.0, interval=None)
    inside = int(np.searchsorted(finished_s, stop_s, "right") - np.searchsorted(finished_s, start_s, "left"))
    count = min(MOST_BATCHES, inside // _LEAST_PER_BATCH)
    edges = np.linspace(start_s, stop_s, max(count, 1) + 1)
    reached = _reached(finished_s, amounts, edges, start_s)
    value = float(reached[-1] - reached[0]) / seconds
    interval = (
        mean_interval(np.diff(reached) / np.diff(edges), confidence) if count >= LEAST_BATCHES else None
    )
    return Rate(value=value, interval=interval)


def batch_rates(
    finished_s: "Array", amounts: "Array", *, start_s: float, stop_s: float, count: int
) -> "Array":
    """The rate of each of `count` equal stretches."""
    edges = np.linspace(start_s, stop_s, count + 1)
    if not len(finished_s):
        return np.zeros(count)
    return np.diff(_reached(finished_s, amounts, edges, start_s)) / np.diff(edges)


def effective_count(below: "Array") -> float:
    """How many independent trials would say as much as these, of which neighbours resemble each other.

    Args:
        below: 0 or 1 each, in order of time.
    """
    count = len(below)
    share = float(below.mean()) if count else 0.0
    variance = share * (1 - share)
    batches = min(MOST_BATCHES, count // _LEAST_PER_BATCH)
    if batches < LEAST_BATCHES or variance <= 0:
        return float(count)
    size = count // batches
    means = _nearly_independent(below[: size * batches].reshape(batches, size).mean(axis=1))
    inflation = float(means.var(ddof=1)) * (count / len(means)) / variance
    return count / max(1.0, inflation)


def quantile(values: "Array", percent: float, *, confidence: float) -> Quantile:
    """A percentile by nearest rank, and its interval by order statistics.

    Args:
        values: in order of time.
        percent: above 0, below 100.

    Returns:
        None throughout where the sample has no order statistic beyond the percentile with enough confidence: for 95 %
        and independent values it takes 6 values for p50, 72 for p95, 368 for p99 and 3,688 for p99.9.
    """
    count = len(values)
    share = percent / 100
    if not count:
        return Quantile()
    ordered = np.sort(values)
    value = float(ordered[min(count, max(1, math.ceil(round(share * count, 6)))) - 1])
    effective = max(1, round(effective_count((np.asarray(values) <= value).astype(np.float64))))
    low, high = binomial_ranks(effective, share, confidence)
    if low < 1 or high > effective:
        return Quantile()
    scale = count / effective
    lowest = ordered[max(1, math.floor(low * scale)) - 1]
    highest = ordered[min(count, math.ceil(high * scale)) - 1]
    return Quantile(value=value, interval=Interval(low=float(lowest), high=float(highest)))


def binomial_ranks(count: int, share: float, confidence: float) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that enclose the quantile `share`; 0 or `count` + 1 where there is none."""
    outside = (1 - confidence) / 2
    spread = 12 * math.sqrt(count * share * (1 - share)) + 12
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    hits = np.arange(first, last + 1, dtype=np.float64)
    steps = np.log((count - hits[:-1]) / hits[1:]) + math.log(share / (1 - share))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    chance = np.exp(logs - logs.max())
    cumulated = np.cumsum(chance / chance.sum())
    low = first + int(np.searchsorted(cumulated, outside, "right"))
    high = first + int(np.searchsorted(cumulated, 1 - outside, "left")) + 1
    return low, high


def drift(batches: "Array", *, confidence: float) -> Drift | None:
    """Whether the last third differs from the first: Welch's t-test. None for fewer than 9 batches."""
    third = len(batches) // 3
    mean = float(batches.mean()) if len(batches) else 0.0
    if third < 3 or mean <= 0:
        return None
    first, last = batches[:third], batches[-third:]
    share = float(last.mean() - first.mean()) / mean
    errors = float(first.var(ddof=1)) / third, float(last.var(ddof=1)) / third
    total = sum(errors)
    if total <= 0:
        return Drift(share=share, significant=abs(share) > 1e-9)
    freedom = total**2 / sum(error**2 / (third - 1) for error in errors)
    limit = t_quantile(0.5 + confidence / 2, max(2, int(freedom))) * math.sqrt(total)
    return Drift(share=share, significant=abs(share) * mean > limit)


def spectrum(values: "Array") -> tuple[tuple[float, float], ...]:
    """Percent and value along the distribution, finer towards the tail: at most about 120 pairs.

    Seven steps for each halving of what is left above, as HdrHistogram's percentile iterator steps.
    """
    count = len(values)
    if not count:
        return ()
    ordered = np.sort(values)
    halvings = max(1.0, math.log2(count))
    left = np.exp2(-np.arange(0, min(halvings, 17.0), 1 / 7))
    shares = np.concatenate((1 - left, [1 - 1 / count]))
    shares = np.unique(np.clip(shares, 0.0, 1 - 1e-9))
    ranks = np.clip(np.ceil(shares * count).astype(int), 1, count) - 1
    return tuple(
        (float(share) * 100, float(ordered[rank])) for share, rank in zip(shares, ranks, strict=True)
    )


def _reached(finished_s: "Array", amounts: "Array", edges: "Array", start_s: float) -> "Array":
    """The amount finished by each edge; evenly rising between finishes, and from `start_s` to the first of all."""
    times = np.unique(finished_s)
    totals = np.cumsum(amounts)[np.searchsorted(finished_s, times, "right") - 1]
    if times[0] > start_s:
        times, totals = np.concatenate(([start_s], times)), np.concatenate(([0.0], totals))
    return np.interp(edges, times, totals)


def _nearly_independent(batches: "Array") -> "Array":
    """Batch means whose neighbours correlate are joined in pairs, as long as enough are left."""
    while len(batches) >= 2 * LEAST_BATCHES and _correlation(batches) > _INDEPENDENT:
        batches = batches[: len(batches) // 2 * 2].reshape(-1, 2).mean(axis=1)
    return batches


def _correlation(batches: "Array") -> float:
    """Of neighbours."""
    centred = batches - batches.mean()
    square = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / square if square > 0 else 0.0
