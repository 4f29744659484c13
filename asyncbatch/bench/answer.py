"""The best point, the result in one sentence, and what limits the figures. Pure."""

import math
from collections.abc import Sequence

from asyncbatch.bench.result import Knee, Point
from asyncbatch.observe import text

_BILLION = 1_000_000_000
_AS_GOOD = 0.01
_MOST_ERRORS = 0.01
_LONG_LATE = 0.05


def best_point(points: Sequence[Point], *, objective: bool) -> Point | None:
    """The point with the most rows/s that met the objective; of those within 1 % of it, the one with the lowest p95.

    Without an objective: of those of whose requests at most 1 % failed, and that did not pile up.
    """
    good = [
        each
        for each in points
        if each.rows_per_s > 0
        and (each.slo_met if objective else each.error_share <= _MOST_ERRORS and not each.saturated)
        and each.repeats is None
    ]
    if not good:
        return None
    most = max(each.rows_per_s for each in good)
    return min(
        (each for each in good if each.rows_per_s >= most * (1 - _AS_GOOD)),
        key=lambda each: (_p95(each), each.concurrency or 0, each.chunk_rows),
    )


def setting_words(point: Point) -> str:
    """`2,048 rows x 24 in flight`."""
    rows = text.plural(point.chunk_rows, "row")
    if point.rate is not None:
        return f"{rows} x {text.number(point.rate)} requests/s"
    return f"{rows} x {point.concurrency} in flight"


def answer(
    points: Sequence[Point],
    best: Point | None,
    *,
    slo: str,
    knee: Knee | None = None,
    dollars_per_million_rows: float | None = None,
) -> str:
    """The result in one sentence, without a full stop."""
    if best is None:
        return _no_best(points, slo, knee)
    rows_per_s, low, high = best.rows_per_s, best.rows_per_s_low, best.rows_per_s_high
    if knee is not None and knee.rows_per_s is not None:
        rows_per_s, low, high = knee.rows_per_s, knee.rows_per_s_low, knee.rows_per_s_high
    p95 = best.latency.percentile(95.0).seconds
    words = [
        f"best: {setting_words(best)}, {_rounded(rows_per_s)} rows/s{_give_or_take(rows_per_s, low, high)}",
        "p95 unknown" if p95 is None else f"p95 {text.latency(p95)}",
    ]
    if knee is not None and not knee.confirmed:
        words.append("not confirmed by its replicates")
    sentence = ", ".join(words) + f"; one billion rows would take {_long(_BILLION / rows_per_s)}"
    if dollars_per_million_rows is not None:
        sentence += f" and cost about ${_money(dollars_per_million_rows * 1000)}"
    if knee is not None:
        sentence += f" ({knee.verdict}: {knee.why})" if knee.why else f" ({knee.verdict})"
    return sentence


def warnings(points: Sequence[Point], *, local: bool, one_row_s: float | None) -> list[str]:
    """What limits the figures, each once, with what to do about it."""
    found = []
    bound = [each for each in points if each.client_bound]
    if bound:
        found.append(
            f"{_named(bound)}: this client had no CPU left, so the endpoint may be faster;"
            " larger --chunk-rows need less of it, and another machine or core has more"
        )
    short = [each for each in points if each.latency.count and each.latency.percentile(50.0).seconds is None]
    if short:
        slowest = min((each.requests_per_s for each in short if each.requests_per_s > 0), default=0.0)
        longer = f": --duration {_nice_seconds(100 / slowest)} would give a p95" if slowest else ""
        found.append(f"{_named(short)}: too few requests for any percentile{longer}")
    drifting = [each for each in points if each.drifts and not each.saturated]
    if drifting:
        found.append(
            f"{_named(drifting)}: figures changed by {_most_drift(drifting)} between the first and the last third;"
            " a longer --warmup leaves out what warms up, a longer --duration shows what follows"
        )
    piled = [each for each in points if each.saturated]
    if piled:
        found.append(f"{_named(piled)}: requests came faster than they were answered, and piled up")
    late = [each for each in points if each.rate and _is_late(each)]
    if late:
        found.append(
            f"{_named(late)}: requests were started late by this client; latency from the intended start counts that"
        )
    if local and one_row_s is not None:
        found.append("the endpoint is on this machine: client and model share its cores")
    return found


def _no_best(points: Sequence[Point], slo: str, knee: Knee | None) -> str:
    if knee is not None and any(each.rows_per_s > 0 for each in points):
        return f"{knee.verdict}: {knee.why}"
    answered = [each for each in points if each.rows_per_s > 0]
    if not answered:
        errors: dict[str, int] = {}
        for point in points:
            for name, count in point.errors.items():
                errors[name] = errors.get(name, 0) + count
        said = ", ".join(
            f"{count:,} {name}" for name, count in sorted(errors.items(), key=lambda each: -each[1])[:3]
        )
        return "no row was answered" + (f": {said}" if said else "")
    most = max(answered, key=lambda each: each.rows_per_s)
    if slo:
        return f"no point met {slo}: {most.slo_missed or 'too few requests to tell'} at {setting_words(most)}"
    return (
        f"no point is sound: {most.error_share * 100:.1f} % of requests failed at {setting_words(most)},"
        f" which gave {_rounded(most.rows_per_s)} rows/s"
    )


def _p95(point: Point) -> float:
    found = point.latency.percentile(95.0).seconds
    return math.inf if found is None else found


def _give_or_take(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None or value <= 0:
        return " (too few requests for an interval)"
    share = (high - low) / 2 / value * 100
    return f" ± {share:.0f} %" if share >= 0.95 else f" ± {share:.1f} %"


def _rounded(value: float) -> str:
    """Three digits and thousands: `41,200`."""
    if value <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _long(seconds: float) -> str:
    """`6.7 h`: for something not yet done, so without false precision."""
    for size, name in ((86_400 * 365.25, "years"), (86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (name == "h" and seconds >= size):
            value = seconds / size
            return f"{value:,.0f} {name}" if value >= 9.95 else f"{value:.1f} {name}"
    return f"{seconds:.0f} s"


def _money(dollars: float) -> str:
    return f"{dollars:,.0f}" if dollars >= 99.5 else f"{dollars:.2f}"


def _nice_seconds(seconds: float) -> str:
    step = 10 if seconds < 120 else 60
    whole = math.ceil(seconds / step) * step
    return f"{whole}s" if whole < 120 else f"{whole // 60}m"


def _named(points: Sequence[Point]) -> str:
    first = setting_words(points[0])
    return first if len(points) == 1 else f"{first} and {text.plural(len(points) - 1, 'other')}"


def _most_drift(points: Sequence[Point]) -> str:
    worst = max((each.drift or 0.0 for each in points), key=abs)
    return f"{worst * 100:+.0f} %"


def _is_late(point: Point) -> bool:
    median = point.latency.percentile(50.0).seconds
    late = point.late_p99_s
    return late is not None and median is not None and late > max(0.005, _LONG_LATE * median)
