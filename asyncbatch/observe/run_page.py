"""The report of a run as one HTML file: how chunk, concurrency, speed and refusals went over time, and what bound when."""

from collections.abc import Sequence
from typing import Any

from asyncbatch.control.binding import Bound
from asyncbatch.observe import text
from asyncbatch.observe.page import Figure, Page, Section, Table
from asyncbatch.observe.report import RunReport
from asyncbatch.observe.timeline import TimelinePoint

_GAP = 0.035
"""Of the height, between two plots."""
_DECISIONS_SHOWN = 60


def run_page(report: RunReport) -> Page:
    """The report: how it ended, what bound it, its course, and what repeating it takes."""
    head, *details = report.summary().split("\n")
    notes = [*([report.reason] if report.reason else []), *report.warnings]
    sections = [Section(title="In figures", shows=[_figures(report, details)])]
    if report.timeline:
        sections.append(
            Section(
                title="What bound when",
                text="The one thing that kept the run from being faster; only more of that one helps.",
                shows=[bound_over_time(report.timeline), _bounds(report.timeline)],
            )
        )
        sections.append(
            Section(
                title="The course of the run",
                text=f"Each point is {text.duration(report.timeline[0].seconds)} or less.",
                shows=[course(report.timeline)],
            )
        )
    if report.decisions:
        rows = [
            (text.duration(each.at_s), each.what, each.why) for each in report.decisions[:_DECISIONS_SHOWN]
        ]
        more = len(report.decisions) - len(rows)
        sections.append(
            Section(
                title="What was decided, and why",
                text=f"The first {len(rows)}; {more} more are in the JSON report." if more else "",
                shows=[Table(head=("at", "what", "why"), rows=rows, left=("what", "why"))],
            )
        )
    return Page(
        title=f"asyncbatch run: {report.source} -> {report.sink or 'Python'}",
        answer=head,
        notes=notes,
        sections=sections,
        facts=_facts(report),
        document=report.to_dict(),
    )


def course(points: Sequence[TimelinePoint]) -> Figure:
    """Rows/s, rows a request, requests in flight, p95, refusals and rejects over time, one above the other."""
    plots: list[tuple[str, list[tuple[str, list[Any], dict[str, Any]]]]] = [
        ("rows/s", [("rows/s", [each.rows_per_s for each in points], {})]),
        (
            "rows a request",
            [
                ("rows a request", [each.chunk_rows for each in points], {}),
                ("wanted", [each.chunk_rows_wanted for each in points], {"dash": "dot"}),
            ],
        ),
        (
            "in flight",
            [
                ("in flight", [each.in_flight for each in points], {}),
                ("limit", [each.limit for each in points], {"dash": "dot"}),
            ],
        ),
        ("p95, s", [("p95 latency", [each.latency_p95_s for each in points], {})]),
        (
            "a stretch",
            [
                ("refused requests", [each.refused for each in points], {}),
                ("failed requests", [each.failed for each in points], {}),
                ("rejected rows", [each.rejected for each in points], {}),
            ],
        ),
    ]
    times = [each.at_s - each.seconds / 2 for each in points]
    height = (1 - _GAP * (len(plots) - 1)) / len(plots)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"hovermode": "x unified"}
    for at, (title, lines) in enumerate(plots):
        axis = "y" if at == 0 else f"y{at + 1}"
        top = 1 - at * (height + _GAP)
        layout["yaxis" + axis[1:]] = {
            "title": {"text": title},
            "rangemode": "tozero",
            "domain": [max(0.0, top - height), top],
        }
        traces += [
            {
                "type": "scatter",
                "mode": "lines" if len(points) > 1 else "markers",
                "name": name,
                "x": times,
                "y": values,
                "yaxis": axis,
                "line": {"shape": "hvh", "width": 1.6, **line},
            }
            for name, values, line in lines
        ]
    layout["xaxis"] = {"title": {"text": "s since the start"}, "anchor": f"y{len(plots)}"}
    return Figure(name="course", traces=traces, layout=layout, height=820)


def bound_over_time(points: Sequence[TimelinePoint]) -> Figure:
    """A strip: each stretch in the colour of what bound it."""
    bounds = [each for each in Bound if any(point.bound == each.value for point in points)]
    traces = []
    for bound in bounds:
        here = [point for point in points if point.bound == bound.value]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": bound.label,
                "base": [point.at_s - point.seconds for point in here],
                "x": [point.seconds for point in here],
                "y": [0] * len(here),
                "hovertemplate": f"{bound.label}: %{{base:.1f}} s<extra></extra>",
            }
        )
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "s since the start"}},
        "yaxis": {"visible": False},
        "showlegend": True,
    }
    return Figure(name="bounds", traces=traces, layout=layout, height=170)


def _bounds(points: Sequence[TimelinePoint]) -> Table:
    seconds: dict[str, float] = {}
    for point in points:
        if point.bound is not None:
            seconds[point.bound] = seconds.get(point.bound, 0.0) + point.seconds
    total = sum(seconds.values())
    rows = [
        (f"{spent / total:.0%}", text.duration(spent), Bound(name).label, Bound(name).meaning)
        for name, spent in sorted(seconds.items(), key=lambda each: -each[1])
    ]
    return Table(head=("share", "time", "bound by", "that is"), rows=rows, left=("bound by", "that is"))


def _figures(report: RunReport, details: Sequence[str]) -> Table:
    rows = [("status", report.status.replace("_", " "))]
    rows += [("", line.strip()) for line in details]
    return Table(head=("", ""), rows=rows, left=("",))


def _facts(report: RunReport) -> list[tuple[str, str]]:
    return [
        ("endpoint", report.endpoint),
        ("options", ", ".join(f"{name} = {value}" for name, value in report.options.items()) or "defaults"),
        ("job", report.job_id or "-"),
        ("started", report.started_at),
        ("finished", report.finished_at),
        ("machine", f"{report.machine.platform}, {report.machine.cores} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
