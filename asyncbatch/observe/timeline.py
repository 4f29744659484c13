"""How a run went over time: chunk, requests in flight, rows/s, latency, refusals and what bound, in at most 600 points.

Points are a second apart at first. When there would be more than 600, neighbours are merged and the points are twice as far
apart: an hour has a point each 8 s, a day one each 3 min. Nothing is lost by merging but resolution: counts add up, and
latencies are kept as a histogram until they are asked for.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil, floor, inf, log

from asyncbatch.control.binding import Bound
from asyncbatch.model import CANCELLED, PROBE, SUCCESS, Outcome, Sample
from asyncbatch.observe.metric import metric

MOST_POINTS = 600
_RATIO = 1.04
_SCALE = 1 / log(_RATIO)
_LOWEST = floor(log(1e-06) * _SCALE)
_CONGESTED = (Outcome.THROTTLED, Outcome.UNAVAILABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePoint:
    """A stretch of a run."""

    at_s: float = metric("s", "end of the stretch, since planning began")
    seconds: float = metric("s", "length of the stretch")
    rows_per_s: float = metric("rows/s", "rows answered in the stretch / seconds")
    requests: int = metric("requests", "invocations that ended in the stretch, probes left out")
    chunk_rows: float | None = metric("rows", "mean rows of the invocations that succeeded in the stretch")
    chunk_rows_wanted: int = metric("rows", "rows wanted in the next request, as last seen in the stretch")
    limit: int = metric("requests", "invocations allowed in flight, as last seen in the stretch")
    in_flight: float = metric("requests", "mean number of invocations under way, seen five times a second")
    latency_p95_s: float | None = metric(
        "s", "95th percentile of the duration of the invocations that succeeded in the stretch, within 2 %"
    )
    refused: int = metric(
        "requests", "invocations that ended as throttled or unavailable (429, 503) in the stretch"
    )
    failed: int = metric("requests", "invocations that ended in another failure in the stretch")
    rejected: int = metric("rows", "rows that got an error instead of a prediction in the stretch")
    bound: str | None = metric(
        "-", f"what bound longest in the stretch: {', '.join(each.value for each in Bound)}; null: not known"
    )


@dataclass(slots=True)
class _Stretch:
    """What happened from the end of the one before to `end`, in units of the first spacing."""

    end: int
    chunk_rows: int = 0
    refused: int = 0
    failed: int = 0
    rejected: int = 0
    in_flight: int = 0
    seen: int = 0
    wanted: int = 0
    limit: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    bounds: Counter[Bound] = field(default_factory=Counter)

    def absorb(self, later: "_Stretch") -> None:
        """Take in what happened right after."""
        for name in ("chunk_rows", "refused", "failed", "rejected", "in_flight", "seen"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.end = later.end
        if later.seen:
            self.wanted, self.limit = later.wanted, later.limit
        self.latencies.update(later.latencies)
        self.bounds.update(later.bounds)


class Timeline:
    """Collects a run's course. Each call is O(1), merging apart; memory is bounded.

    Args:
        origin_s: when the run began, on the clock of the samples.
        spacing_s: seconds between points at first.
        most_points: from this many on, neighbours are merged; even.
    """

    def __init__(self, *, origin_s: float, spacing_s: float = 1.0, most_points: int = MOST_POINTS) -> None:
        self._origin_s = origin_s
        self._spacing_s = spacing_s
        self._most = most_points
        self._step = 1  # how many of the first spacings make a stretch
        self._stretches: list[_Stretch] = []
        self._last = _Stretch(end=0)
        self._last_until_s = -inf

    def finished(self, sample: Sample) -> None:
        """An invocation ended."""
        rows, _, started_s, finished_s, outcome, kind = sample
        if kind is PROBE or outcome is CANCELLED:
            return
        stretch = self._last if finished_s < self._last_until_s else self._at(finished_s)
        if outcome is SUCCESS:
            seconds = finished_s - started_s
            stretch.chunk_rows += rows
            bucket = floor(log(seconds) * _SCALE) if seconds > 1e-06 else _LOWEST
            latencies = stretch.latencies
            latencies[bucket] = latencies.get(bucket, 0) + 1  # Counter's own default is a call into Python
        elif outcome in _CONGESTED:
            stretch.refused += 1
        else:
            stretch.failed += 1

    def rejected(self, at_s: float, rows: int) -> None:
        """Rows got an error instead of an answer; they count as answered."""
        self._at(at_s).rejected += rows

    def seen(self, at_s: float, *, in_flight: int, limit: int, chunk_rows: int, bound: Bound | None) -> None:
        """The state of the run at a moment; to be told a few times a second."""
        stretch = self._at(at_s)
        stretch.in_flight += in_flight
        stretch.seen += 1
        stretch.limit, stretch.wanted = limit, chunk_rows
        if bound is not None:
            stretch.bounds[bound] += 1

    def points(self, now_s: float) -> tuple[TimelinePoint, ...]:
        """The run so far, oldest first. The last point ends now."""
        found = []
        begin_s = 0.0
        for stretch in self._stretches:
            end_s = stretch.end * self._spacing_s
            if stretch is self._stretches[-1]:
                end_s = max(begin_s, min(end_s, now_s - self._origin_s))
            found.append(_point(stretch, end_s, max(end_s - begin_s, 1e-3)))
            begin_s = end_s
        return tuple(found)

    def _at(self, at_s: float) -> _Stretch:
        """The stretch of a moment; a moment before the last stretch counts in the last."""
        unit = int((at_s - self._origin_s) / self._spacing_s)
        if self._stretches and unit < self._stretches[-1].end:
            return self._stretches[-1]
        unit = max(0, unit)
        while not self._stretches or unit >= self._stretches[-1].end:
            if len(self._stretches) >= self._most:
                self._thin()
                continue
            before = self._stretches[-1] if self._stretches else _Stretch(end=0)
            behind = (unit - before.end) // self._step
            if behind > self._most:  # the machine slept: one long stretch instead of many empty ones
                self._stretches.append(_Stretch(end=before.end + behind * self._step))
                continue
            self._stretches.append(
                _Stretch(end=before.end + self._step, limit=before.limit, wanted=before.wanted)
            )
        self._last = self._stretches[-1]
        self._last_until_s = self._origin_s + self._last.end * self._spacing_s
        return self._last

    def _thin(self) -> None:
        """Merge neighbours."""
        kept = self._stretches[::2]
        for first, second in zip(kept, self._stretches[1::2], strict=False):
            first.absorb(second)
        self._stretches = kept
        self._step *= 2


def _point(stretch: _Stretch, end_s: float, seconds: float) -> TimelinePoint:
    bound = max(stretch.bounds, key=lambda each: stretch.bounds[each], default=None)
    successes = stretch.latencies.total()
    return TimelinePoint(
        at_s=round(end_s, 3),
        seconds=round(seconds, 3),
        rows_per_s=float(f"{(stretch.chunk_rows + stretch.rejected) / seconds:.6g}"),
        requests=successes + stretch.refused + stretch.failed,
        chunk_rows=round(stretch.chunk_rows / successes, 1) if successes else None,
        chunk_rows_wanted=stretch.wanted,
        limit=stretch.limit,
        in_flight=round(stretch.in_flight / stretch.seen, 2) if stretch.seen else 0.0,
        latency_p95_s=_percentile(stretch.latencies, 95),
        refused=stretch.refused,
        failed=stretch.failed,
        rejected=stretch.rejected,
        bound=None if bound is None else bound.value,
    )


def _percentile(latencies: Counter[int], percent: float) -> float | None:
    rank = max(1, ceil(latencies.total() * percent / 100))
    seen = 0
    for bucket in sorted(latencies):
        seen += latencies[bucket]
        if seen >= rank:
            return float(f"{_RATIO ** (bucket + 0.5):.4g}")
    return None
