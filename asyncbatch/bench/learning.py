"""What a run on the same endpoint can begin with: the best point, and the costs behind it. Pure but for the file."""

import math
from collections.abc import Callable, Sequence

from asyncbatch.bench.result import Point
from asyncbatch.config import RunConfig
from asyncbatch.control import LearnedPoint
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.pipeline.tuning import tuning_for


def learned_point(best: Point, points: Sequence[Point], *, row_s: float) -> LearnedPoint | None:
    """The best point as a run's controller keeps it; None in open loop, or without latencies.

    Args:
        points: all of them: those with the fewest in flight tell what a call and a row cost.
        row_s: what the probes say of a row, where the points have one size only.
    """
    latency_s = best.latency_from_send.mean_s
    if best.concurrency is None or latency_s is None:
        return None
    call_s, slope_s = _costs(points, fallback=row_s)
    middle, high = (
        best.latency_from_send.percentile(50.0).seconds,
        best.latency_from_send.percentile(95.0).seconds,
    )
    spread = 0.0 if middle is None or high is None else max(0.0, (high / middle - 1) / 1.645)
    alone_s = call_s + slope_s * best.chunk_rows
    return LearnedPoint(
        chunk_rows=best.chunk_rows,
        concurrency=best.concurrency,
        latency_s=latency_s,
        call_s=call_s,
        row_s=slope_s,
        spread=spread,
        slots=min(float(best.concurrency), best.rows_per_s / best.chunk_rows * alone_s)
        if alone_s > 0
        else 0.0,
    )


def save_tuning(
    best: Point,
    points: Sequence[Point],
    prepared: Prepared,
    config: RunConfig,
    *,
    warn: Callable[[str], None],
) -> None:
    """Keep the best point where the next run looks for it. Blocking. What cannot be written is told to `warn`."""
    point = learned_point(best, points, row_s=prepared.probes.seconds_per_row)
    tuning = tuning_for(
        config,
        prepared.endpoint,
        content_type=prepared.encoder.content_type,
        send=prepared.selection.send,
        warn=warn,
    )
    if point is None or tuning is None:
        warn("nothing was kept for the next run: --save-tuning needs a closed loop and a place for the file")
        return
    tuning.remember(point)


def _costs(points: Sequence[Point], *, fallback: float) -> tuple[float, float]:
    """Of a call and of a row: a straight line through the mean latencies with the fewest in flight."""
    known = [
        (each.chunk_rows, each.latency_from_send.mean_s, each.concurrency)
        for each in points
        if each.concurrency is not None and each.latency_from_send.mean_s is not None
    ]
    fewest = min((flight for _, _, flight in known), default=0)
    alone = [(float(rows), seconds) for rows, seconds, flight in known if flight == fewest]
    rows = [each for each, _ in alone]
    if len(set(rows)) < 2:
        n, seconds = alone[0] if alone else (1.0, 0.0)
        slope = min(max(0.0, fallback), seconds / n)
        return seconds - slope * n, slope
    mean_rows, mean_s = math.fsum(rows) / len(rows), math.fsum(seconds for _, seconds in alone) / len(alone)
    slope = math.fsum((n - mean_rows) * (seconds - mean_s) for n, seconds in alone) / math.fsum(
        (n - mean_rows) ** 2 for n in rows
    )
    slope = max(0.0, slope)
    return max(0.0, mean_s - slope * mean_rows), slope
