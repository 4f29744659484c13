"""The plots of a bench result. Each takes its numbers from the result as they are; none is computed here but positions."""

from collections.abc import Sequence
from typing import Any

from asyncbatch.bench.result import BenchResult, Latency, Percentile, Point
from asyncbatch.observe import text
from asyncbatch.observe.page import Figure

_GROUND = "ground"
_SPECTRUM_POINTS = 6
"""Points in the percentile plot: more lines than colours say nothing."""
_TICKS = (
    (1, "min"),
    (2, "p50"),
    (10, "p90"),
    (20, "p95"),
    (100, "p99"),
    (1_000, "p99.9"),
    (10_000, "p99.99"),
)
_LANES = 60


def setting(point: Point) -> str:
    """`512 rows x 8`, or `512 rows at 40/s` in open loop."""
    rows = f"{point.chunk_rows:,} {'row' if point.chunk_rows == 1 else 'rows'}"
    load = (
        f" x {point.concurrency}"
        if point.concurrency is not None
        else f" at {text.number(point.rate or 0)}/s"
    )
    return rows + load


def p95(point: Point) -> Percentile:
    """Of the latency from the intended start."""
    return point.latency.percentile(95.0)


def throughput(result: BenchResult) -> Figure:
    """Rows a second against p95, with intervals; the Pareto front is a line, the best has a ring."""
    shown = [point for point in result.points if p95(point).seconds is not None]
    front = sorted((each for each in shown if each.on_pareto_front), key=_p95_s)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [_p95_s(each) for each in front],
            "y": [each.rows_per_s for each in front],
            "line": {"dash": "dot", "color": _GROUND},
            "hoverinfo": "skip",
        }
    ]
    for rows in sorted({each.chunk_rows for each in shown}):
        of_rows = [each for each in shown if each.chunk_rows == rows]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{rows:,} rows",
                "x": [_p95_s(each) for each in of_rows],
                "y": [each.rows_per_s for each in of_rows],
                "error_x": _bars([(_p95_s(each), p95(each).low_s, p95(each).high_s) for each in of_rows]),
                "error_y": _bars(
                    [(each.rows_per_s, each.rows_per_s_low, each.rows_per_s_high) for each in of_rows]
                ),
                "marker": {
                    "size": 9,
                    "symbol": ["x" if each.slo_met is False else "circle" for each in of_rows],
                },
                "text": [_hover(each) for each in of_rows],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    if result.best is not None and p95(result.points[result.best]).seconds is not None:
        best = result.points[result.best]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "best",
                "x": [_p95_s(best)],
                "y": [best.rows_per_s],
                "marker": {"size": 18, "symbol": "circle-open", "color": _GROUND, "line": {"width": 2}},
                "hoverinfo": "skip",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "p95 latency"}, "type": "log", **_latency_ticks([*map(_p95_s, shown)])},
        "yaxis": {"title": {"text": "rows/s"}, "rangemode": "tozero"},
    }
    return Figure(name="throughput", traces=traces, layout=layout, height=440)


def heat_map(result: BenchResult) -> Figure | None:
    """Rows a second by chunk rows and load; cells that missed the objective are hatched. None without a grid."""
    firsts = [point for point in result.points if point.repeats is None]
    rows = sorted({point.chunk_rows for point in firsts})
    loads = sorted({_load(point) for point in firsts})
    if len(rows) < 2 or len(loads) < 2:
        return None
    at = {(point.chunk_rows, _load(point)): point for point in firsts}
    cells = [[at.get((count, load)) for count in rows] for load in loads]
    missed = [
        (across, up)
        for up, line in enumerate(cells)
        for across, cell in enumerate(line)
        if cell is not None and (cell.slo_met is False or cell.rows_per_s == 0)
    ]
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": list(range(len(rows))),
            "y": list(range(len(loads))),
            "z": [[None if cell is None else cell.rows_per_s for cell in line] for line in cells],
            "text": [
                ["" if cell is None else text.short(cell.rows_per_s) for cell in line] for line in cells
            ],
            "texttemplate": "%{text}",
            "customdata": [["" if cell is None else _hover(cell) for cell in line] for line in cells],
            "hovertemplate": "%{customdata}<extra></extra>",
            "hoverongaps": False,
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "rows/s"}},
            "xgap": 2,
            "ygap": 2,
        },
        {
            "type": "bar",
            "name": "objective missed",
            "showlegend": False,
            "x": [across for across, _ in missed],
            "y": [1] * len(missed),
            "base": [up - 0.5 for _, up in missed],
            "width": 1,
            "hoverinfo": "skip",
            "marker": {
                "color": "rgba(0,0,0,0)",
                "pattern": {"shape": "/", "fgcolor": "rgba(255,255,255,0.65)", "size": 9, "solidity": 0.25},
            },
        },
    ]
    closed = all(point.concurrency is not None for point in firsts)
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "rows a request"}, **_labels([f"{each:,}" for each in rows])},
        "yaxis": {
            "title": {"text": "requests in flight" if closed else "requests/s"},
            **_labels([text.number(each) for each in loads]),
        },
    }
    return Figure(name="grid", traces=traces, layout=layout, height=140 + 44 * max(4, len(loads)))


def over_time(point: Point) -> Figure:
    """Latency and rows a second of one point, slice by slice."""
    middles = [(each.start_s + each.stop_s) / 2 for each in point.slices]
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": middles,
            "y": values,
            **({} if axis == "y" else {"yaxis": axis}),
        }
        for name, values, axis in (
            ("p50", [each.p50_s for each in point.slices], "y"),
            ("p95", [each.p95_s for each in point.slices], "y"),
            ("longest", [each.max_s for each in point.slices], "y"),
            ("rows/s", [each.rows_per_s for each in point.slices], "y2"),
        )
    ]
    layout = {
        "xaxis": {"title": {"text": "s from the start of the point"}, "anchor": "y2"},
        "yaxis": {"title": {"text": "latency, s"}, "rangemode": "tozero", "domain": [0.42, 1]},
        "yaxis2": {"title": {"text": "rows/s"}, "rangemode": "tozero", "domain": [0, 0.34]},
    }
    return Figure(name="time", traces=traces, layout=layout, height=460)


def spectrum(result: BenchResult) -> Figure:
    """Latency by percentile, the axis by 1 / (1 - p): every nine is as wide as the one before."""
    points = spectrum_points(result)
    traces = [_spectrum_trace(setting(point), point.latency, {}) for point in points]
    if len(points) == 1:
        traces.append(_spectrum_trace("from the send only", points[0].latency_from_send, {"dash": "dash"}))
    largest = max((trace["x"][-1] for trace in traces if trace["x"]), default=100)
    ticks = [(at, name) for at, name in _TICKS if at <= largest * 1.2]
    layout = {
        "xaxis": {
            "title": {"text": "percentile"},
            "type": "log",
            "tickvals": [at for at, _ in ticks],
            "ticktext": [name for _, name in ticks],
        },
        "yaxis": {"title": {"text": "latency, s"}, "rangemode": "tozero"},
    }
    return Figure(name="spectrum", traces=traces, layout=layout, height=420)


def spectrum_points(result: BenchResult) -> list[Point]:
    """What the percentile plot shows: the best first, then the others of the Pareto front."""
    best = [] if result.best is None else [result.points[result.best]]
    front = [point for point in result.points if point.on_pareto_front and point not in best]
    shown = [point for point in best + front if point.latency.spectrum]
    return (shown or [point for point in result.points if point.latency.spectrum])[:_SPECTRUM_POINTS]


def errors(result: BenchResult) -> Figure | None:
    """Failed requests by kind, a bar a point. None if nothing failed."""
    kinds = sorted({kind for point in result.points for kind in point.errors})
    if not kinds:
        return None
    failed = [point for point in result.points if point.errors]
    traces = [
        {
            "type": "bar",
            "name": kind,
            "x": [f"{point.number}: {setting(point)}" for point in failed],
            "y": [point.errors.get(kind, 0) for point in failed],
        }
        for kind in kinds
    ]
    layout = {"barmode": "stack", "yaxis": {"title": {"text": "failed requests"}}}
    return Figure(name="errors", traces=traces, layout=layout)


def gantt(point: Point) -> Figure:
    """Single requests as bars on as many lanes as were in flight; what was waited before the send is hatched."""
    sample = point.sample
    lanes = _lanes(sample.sent_s, sample.finished_s)
    kinds = sorted(set(sample.outcome), key=lambda kind: (kind != "success", kind))
    traces: list[dict[str, Any]] = []
    for kind in kinds:
        here = [at for at, outcome in enumerate(sample.outcome) if outcome == kind and lanes[at] < _LANES]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": kind,
                "base": [sample.sent_s[at] for at in here],
                "x": [sample.finished_s[at] - sample.sent_s[at] for at in here],
                "y": [lanes[at] for at in here],
                "width": 0.8,
                "marker": {"opacity": [1 if sample.measured[at] else 0.35 for at in here]},
                "text": [
                    f"{sample.rows[at]:,} rows, {text.latency(sample.finished_s[at] - sample.sent_s[at])}"
                    f", {text.latency(max(0.0, sample.sent_s[at] - sample.intended_s[at]))} late"
                    for at in here
                ],
                "hovertemplate": "%{text}<extra></extra>",
                "textposition": "none",
            }
        )
    layout = {
        "barmode": "overlay",
        "bargap": 0.1,
        "xaxis": {"title": {"text": "s from the start of the point"}},
        "yaxis": {"title": {"text": "lane"}, "autorange": "reversed", "showgrid": False},
    }
    used = min(_LANES, max(lanes, default=0) + 1)
    return Figure(name="gantt", traces=traces, layout=layout, height=160 + 12 * used)


def _lanes(starts: Sequence[float], ends: Sequence[float]) -> list[int]:
    """For each request the first lane that is free when it starts."""
    free: list[float] = []
    lanes = [0] * len(starts)
    for at in sorted(range(len(starts)), key=lambda each: starts[each]):
        for lane, until in enumerate(free):
            if until <= starts[at]:
                lanes[at] = lane
                free[lane] = ends[at]
                break
        else:
            lanes[at] = len(free)
            free.append(ends[at])
    return lanes


def _spectrum_trace(name: str, latency: Latency, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [1 / (1 - percent / 100) for percent, _ in latency.spectrum],
        "y": [seconds for _, seconds in latency.spectrum],
        "line": line,
    }


def _p95_s(point: Point) -> float:
    return p95(point).seconds or 0.0


def _load(point: Point) -> float:
    return point.concurrency if point.concurrency is not None else point.rate or 0.0


def _bars(values: Sequence[tuple[float, float | None, float | None]]) -> dict[str, Any]:
    """Error bars of plotly from (value, low, high)."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if high is None else high - value for value, _, high in values],
        "arrayminus": [0 if low is None else value - low for value, low, _ in values],
        "thickness": 1,
        "width": 3,
    }


def _labels(names: Sequence[str]) -> dict[str, Any]:
    """An axis of places 0, 1, … with names."""
    return {"tickvals": list(range(len(names))), "ticktext": list(names), "showgrid": False}


def _latency_ticks(seconds: Sequence[float]) -> dict[str, Any]:
    """1, 2, 5, 10 … ms as far as `seconds` reach, written with their unit."""
    values = [digit * 10.0**power for power in range(-5, 3) for digit in (1, 2, 5)]
    low, high = min(seconds, default=0.01) / 2.5, max(seconds, default=1.0) * 2.5
    inside = [value for value in values if low <= value <= high]
    return {"tickvals": inside, "ticktext": [text.latency(value) for value in inside]}


def _hover(point: Point) -> str:
    lines = [f"<b>{setting(point)}</b>", f"{text.number(point.rows_per_s)} rows/s"]
    found = p95(point)
    lines.append(f"p95 {text.latency(found.seconds)}")
    if point.error_share:
        lines.append(f"{point.error_share:.2%} failed")
    if point.slo_missed:
        lines.append(point.slo_missed)
    return "<br>".join(lines)
