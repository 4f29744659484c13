"""A run's timeline as a few lines of text: one bar a stretch, and what bound for how long."""

from collections.abc import Callable, Sequence

from asyncbatch.control.binding import Bound
from asyncbatch.observe import text
from asyncbatch.observe.timeline import TimelinePoint

_BARS = "▁▂▃▄▅▆▇█"
_LEAST = 3
"""Fewer points make no picture."""


def chart(points: Sequence[TimelinePoint], *, width: int = 60) -> str:
    """Chunk, requests in flight, rows/s, p95 and refusals over time, each from 0 to its highest value; '' if too short.

    Args:
        width: bars in a line, at most.
    """
    if len(points) < _LEAST:
        return ""
    groups = _grouped(points, width)
    rows: list[tuple[str, list[float | None], Callable[[float], str]]] = [
        ("chunk rows", [_mean([point.chunk_rows for point in group]) for group in groups], text.short),
        ("in flight", [_mean([point.in_flight for point in group]) for group in groups], text.short),
        ("rows/s", [_mean([point.rows_per_s for point in group]) for group in groups], text.short),
        ("p95", [_most([point.latency_p95_s for point in group]) for group in groups], text.latency),
        ("refused", [float(sum(point.refused for point in group)) for group in groups], text.short),
    ]
    spacing_s = points[-1].at_s / len(groups)
    lines = [f"over {text.duration(points[-1].at_s)}, {text.duration(spacing_s)} a bar:"]
    lines += [f"  {name:<10} {bars(values)} {_range(values, shown)}" for name, values, shown in rows]
    if bound := _bound(points):
        lines.append(f"  bound by   {bound}")
    return "\n".join(lines)


def bars(values: Sequence[float | None]) -> str:
    """A bar a value, from 0 to the highest; a space where there is none, and for 0."""
    highest = max((value for value in values if value is not None), default=0.0)
    if highest <= 0:
        return " " * len(values)
    last = len(_BARS) - 1
    return "".join(
        " " if not value else _BARS[min(last, int(value / highest * len(_BARS)))] for value in values
    )


def _range(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return f"max {shown(max(known))}" if known else "none"


def _grouped(points: Sequence[TimelinePoint], width: int) -> list[Sequence[TimelinePoint]]:
    size = -(-len(points) // width)
    return [points[start : start + size] for start in range(0, len(points), size)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _bound(points: Sequence[TimelinePoint]) -> str:
    """What bound for which share of the time, most first."""
    seconds: dict[str, float] = {}
    for point in points:
        if point.bound is not None:
            seconds[point.bound] = seconds.get(point.bound, 0.0) + point.seconds
    total_s = sum(seconds.values())
    ranked = sorted(seconds, key=lambda bound: -seconds[bound])
    return " · ".join(f"{Bound(bound).label} {seconds[bound] / total_s:.0%}" for bound in ranked)
