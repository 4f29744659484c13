"""What several processes of one job did, as if one had done it. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from asyncbatch.observe.events import RunPlanned
from asyncbatch.observe.histogram import LogHistogram
from asyncbatch.observe.metrics import RunTotals, Snapshot
from asyncbatch.observe.timeline import TimelinePoint

EXIT_ORDER = (1, 2, 130, 75, 3, 0)
"""Worst first: what failed must be looked at, what was stopped goes on by itself, and rejects are a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process measured."""

    totals: RunTotals
    latencies: LogHistogram
    timeline: Sequence[TimelinePoint] = ()
    began_s: float = 0.0
    """When it began, after the first of them."""


def worst(codes: Iterable[int]) -> int:
    """The exit code of the whole: the worst of `codes`; a signal's (negative) counts as failed."""
    found = [code if code in EXIT_ORDER else 1 for code in codes]
    return min(found, key=EXIT_ORDER.index, default=0)


def joined_plan(planned: Sequence[RunPlanned]) -> RunPlanned:
    """All shards as one job; there must be one at least."""
    return replace(
        planned[0],
        rows=sum_known(each.rows for each in planned),
        resumed_rows=sum(each.resumed_rows for each in planned),
        blocks=sum_known(each.blocks for each in planned),
        shard="",
    )


def joined_snapshot(snapshots: Sequence[Snapshot], *, elapsed_s: float) -> Snapshot:
    """All shards at one moment; there must be one at least. The slowest 95th percentile stands for all."""
    slowest = max((each.latency_p95_s for each in snapshots if each.latency_p95_s is not None), default=None)
    busiest = max(snapshots, key=lambda each: each.rows_per_s_recent)
    return Snapshot(
        elapsed_s=elapsed_s,
        rows_total=sum_known(each.rows_total for each in snapshots),
        rows_resumed=sum(each.rows_resumed for each in snapshots),
        rows_done=sum(each.rows_done for each in snapshots),
        rows_answered=sum(each.rows_answered for each in snapshots),
        rows_rejected=sum(each.rows_rejected for each in snapshots),
        source_share=None,
        rows_per_s_recent=sum(each.rows_per_s_recent for each in snapshots),
        requests=sum(each.requests for each in snapshots),
        in_flight=sum(each.in_flight for each in snapshots),
        limit=sum(each.limit for each in snapshots),
        chunk_rows=busiest.chunk_rows,
        retries=sum(each.retries for each in snapshots),
        throttled=sum(each.throttled for each in snapshots),
        bytes_sent=sum(each.bytes_sent for each in snapshots),
        latency_p95_s=slowest,
        blocks_open=sum(each.blocks_open for each in snapshots),
        bound=busiest.bound,
    )


def joined_totals(measured: Sequence[Measured], *, elapsed_s: float) -> RunTotals:
    """All shards from beginning to end. Percentiles are of all invocations together."""
    latencies = LogHistogram()
    chunk_rows = 0.0
    for each in measured:
        latencies.merge(each.latencies)
        chunk_rows += (each.totals.chunk_rows_mean or 0.0) * each.latencies.count
    totals = [each.totals for each in measured]
    rows_in = sum(each.rows_in for each in totals)
    busy_s = sum(each.in_flight_mean * each.elapsed_s for each in totals)
    return RunTotals(
        elapsed_s=elapsed_s,
        rows_in=rows_in,
        rows_out=sum(each.rows_out for each in totals),
        rows_rejected=sum(each.rows_rejected for each in totals),
        rejected_by_code=_added(each.rejected_by_code for each in totals),
        rows_resumed=sum(each.rows_resumed for each in totals),
        rows_per_s=rows_in / elapsed_s if elapsed_s > 0 else 0.0,
        requests=sum(each.requests for each in totals),
        requests_by_outcome=_added(each.requests_by_outcome for each in totals),
        requests_by_kind=_added(each.requests_by_kind for each in totals),
        retries=sum(each.retries for each in totals),
        bytes_sent=sum(each.bytes_sent for each in totals),
        latency_mean_s=latencies.mean(),
        latency_p50_s=latencies.percentile(50),
        latency_p95_s=latencies.percentile(95),
        latency_p99_s=latencies.percentile(99),
        latency_max_s=latencies.highest_s if latencies.count else None,
        chunk_rows_mean=chunk_rows / latencies.count if latencies.count else None,
        chunk_rows_max=max((each.chunk_rows_max or 0 for each in totals), default=0) or None,
        in_flight_mean=busy_s / elapsed_s if elapsed_s > 0 else 0.0,
        in_flight_max=sum(each.in_flight_max for each in totals),
    )


def joined_timeline(measured: Sequence[Measured]) -> tuple[TimelinePoint, ...]:
    """The courses of all on one grid, as coarse as the coarsest; what is a mean there is weighted by its requests."""
    placed = [
        (each.began_s + point.at_s, point)
        for each in measured
        for point in each.timeline
        if point.seconds > 0
    ]
    if not placed:
        return ()
    width = max(1.0, *(point.seconds for _, point in placed))
    bins: dict[int, list[TimelinePoint]] = {}
    for at_s, point in placed:
        bins.setdefault(int((at_s - point.seconds / 2) / width), []).append(point)
    return tuple(_joined_point(bins[number], (number + 1) * width, width) for number in sorted(bins))


def _joined_point(points: Sequence[TimelinePoint], at_s: float, width: float) -> TimelinePoint:
    rows = sum(each.rows_per_s * each.seconds for each in points)
    answered = [(each.chunk_rows, each.requests) for each in points if each.chunk_rows is not None]
    requests = sum(count for _, count in answered)
    longest = max(points, key=lambda each: each.seconds)
    return TimelinePoint(
        at_s=round(at_s, 3),
        seconds=round(width, 3),
        rows_per_s=round(rows / width, 3),
        requests=sum(each.requests for each in points),
        chunk_rows=round(sum(size * count for size, count in answered) / requests, 1) if requests else None,
        chunk_rows_wanted=longest.chunk_rows_wanted,
        limit=sum(each.limit for each in points),
        in_flight=round(sum(each.in_flight * each.seconds for each in points) / width, 2),
        latency_p95_s=max(
            (each.latency_p95_s for each in points if each.latency_p95_s is not None), default=None
        ),
        refused=sum(each.refused for each in points),
        failed=sum(each.failed for each in points),
        rejected=sum(each.rejected for each in points),
        bound=longest.bound,
    )


def sum_known(counts: Iterable[int | None]) -> int | None:
    """The sum; None where one of `counts` is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
