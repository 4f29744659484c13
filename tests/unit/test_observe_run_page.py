"""The HTML report of a run: its plots hold the timeline's numbers."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control.binding import Bound
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.page import Figure, Page, Table, read_document
from asyncbatch.observe.report import DecisionMade, RunReport, make_report
from asyncbatch.observe.report_file import write_report
from asyncbatch.observe.run_page import run_page
from asyncbatch.observe.timeline import Timeline


@pytest.fixture
def report() -> Callable[..., RunReport]:
    """Of a run of two seconds: one request each, the second throttled."""

    def make(**more: object) -> RunReport:
        timeline = Timeline(origin_s=0.0)
        for second, outcome in enumerate((Outcome.SUCCESS, Outcome.THROTTLED)):
            timeline.finished(
                Sample(
                    rows=50,
                    body_bytes=100,
                    started_s=second + 0.1,
                    finished_s=second + 0.5,
                    outcome=outcome,
                    kind=Kind.FIRST,
                )
            )
            bound = (Bound.SEARCH, Bound.THROTTLE)[second]
            timeline.seen(second + 0.9, in_flight=second + 1, limit=4, chunk_rows=64, bound=bound)
        options = {
            "config": RunConfig(),
            "totals": MetricsCollector(clock=lambda: 2.0).totals(),
            "status": "done",
            "exit_code": 0,
            "job_id": "j",
            "endpoint": "churn",
            "source": "rows.parquet",
            "sink": "out/",
            "started_at": datetime(2026, 1, 2, tzinfo=UTC),
            "timeline": timeline.points(2.0),
        }
        return make_report(**{**options, **more})  # type: ignore[arg-type]

    return make


def shown(page: Page) -> dict[str, Figure]:
    return {
        each.name: each for section in page.sections for each in section.shows if isinstance(each, Figure)
    }


def test_every_line_is_the_timelines(report: Callable[..., RunReport]) -> None:
    made = report()
    lines = {trace["name"]: trace for trace in shown(run_page(made))["course"].traces}
    assert lines["rows/s"]["y"] == [each.rows_per_s for each in made.timeline] == [50.0, 0.0]
    assert lines["rows a request"]["y"] == [50.0, None]
    assert lines["wanted"]["y"] == [64, 64]
    assert lines["in flight"]["y"] == [1.0, 2.0]
    assert lines["limit"]["y"] == [4, 4]
    assert lines["refused requests"]["y"] == [0, 1]
    assert lines["p95 latency"]["y"] == [each.latency_p95_s for each in made.timeline]
    assert lines["rejected rows"]["y"] == [0, 0]
    assert lines["rows/s"]["x"] == [0.5, 1.5]


def test_what_bound_is_a_strip_and_a_table_of_shares(report: Callable[..., RunReport]) -> None:
    page = run_page(report())
    strip = shown(page)["bounds"]
    assert [(trace["name"], trace["base"], trace["x"]) for trace in strip.traces] == [
        (Bound.SEARCH.label, [0.0], [1.0]),
        (Bound.THROTTLE.label, [1.0], [1.0]),
    ]
    tables = [each for section in page.sections for each in section.shows if isinstance(each, Table)]
    assert [row[:3] for row in tables[1].rows] == [
        ("50%", "1.0 s", Bound.SEARCH.label),
        ("50%", "1.0 s", Bound.THROTTLE.label),
    ]


def test_decisions_and_warnings_are_told(report: Callable[..., RunReport]) -> None:
    page = run_page(
        report(
            warnings=["rows go unencrypted"],
            reason="the deadline of 5 s is reached",
            decisions=[DecisionMade(at_s=1.0, what="rows 64", why="the fit says so")],
        )
    )
    assert page.notes == ["the deadline of 5 s is reached", "rows go unencrypted"]
    assert ("1.0 s", "rows 64", "the fit says so") in [
        row
        for section in page.sections
        for each in section.shows
        if isinstance(each, Table)
        for row in each.rows
    ]


def test_a_run_that_never_began_has_a_report_too(report: Callable[..., RunReport]) -> None:
    assert shown(run_page(report(timeline=(), status="failed", exit_code=1))) == {}


def test_the_name_decides_between_page_and_json(tmp_path: Path, report: Callable[..., RunReport]) -> None:
    made = report()
    for name in ("a.html", "a.json"):
        write_report(made, str(tmp_path / name))
    assert read_document((tmp_path / "a.html").read_text(encoding="utf-8")) == made.to_dict()
    assert (tmp_path / "a.json").read_text() == made.to_json()


def test_plotly_takes_every_figure(report: Callable[..., RunReport]) -> None:
    from plotly.graph_objects import Figure as PlotlyFigure

    for figure in shown(run_page(report())).values():
        PlotlyFigure(data=list(figure.traces), layout=dict(figure.layout))
