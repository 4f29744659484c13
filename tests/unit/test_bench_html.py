"""The report of a bench result: its plots and tables hold the result's numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncbatch.bench.figures import setting
from asyncbatch.bench.html import bench_page
from asyncbatch.bench.result import BenchResult, Point
from asyncbatch.observe.page import Figure, Page, Table, page_html

MakePoint = Callable[..., Point]
MakeResult = Callable[..., BenchResult]


@pytest.fixture
def grid(make_point: MakePoint, make_result: MakeResult) -> BenchResult:
    """Two chunk sizes by three concurrencies; one missed the objective, one failed in part."""
    points = [
        make_point(
            number,
            chunk_rows=rows,
            concurrency=flight,
            rows_per_s=100.0 * rows * flight,
            p95_s=0.05 * flight,
            slo_met=flight < 8,
            slo_missed="p95 is 400 ms" if flight == 8 else "",
            on_pareto_front=rows == 20,
            errors={"throttled 429": 3, "timeout": 1} if number == 5 else {},
            error_share=0.02 if number == 5 else 0.0,
        )
        for number, (rows, flight) in enumerate((rows, flight) for rows in (10, 20) for flight in (1, 4, 8))
    ]
    return make_result(*points, best=4, slo="p95<300ms", warnings=("the client was busy",))


@pytest.fixture
def figures(grid: BenchResult) -> dict[str, Figure]:
    return {each.name: each for each in shown(bench_page(grid)) if isinstance(each, Figure)}


def shown(page: Page) -> list[Figure | Table]:
    return [each for section in page.sections for each in section.shows]


def named(figure: Figure, name: str) -> Any:
    (trace,) = [each for each in figure.traces if each.get("name") == name]
    return trace


def test_throughput_is_plotted_against_p95_with_its_intervals(
    grid: BenchResult, figures: dict[str, Figure]
) -> None:
    trace = named(figures["throughput"], "20 rows")
    points = grid.points[3:]
    assert trace["y"] == [point.rows_per_s for point in points]
    assert trace["x"] == [point.latency.percentile(95.0).seconds for point in points]
    assert trace["error_y"]["array"] == [(point.rows_per_s_high or 0) - point.rows_per_s for point in points]
    assert trace["error_y"]["arrayminus"] == [
        point.rows_per_s - (point.rows_per_s_low or 0) for point in points
    ]
    assert trace["marker"]["symbol"] == ["circle", "circle", "x"]
    assert named(figures["throughput"], "Pareto front")["y"] == [2000.0, 8000.0, 16000.0]
    assert named(figures["throughput"], "best")["y"] == [8000.0]


def test_the_heat_map_has_a_cell_a_setting_and_hatches_what_missed(figures: dict[str, Figure]) -> None:
    cells, hatched = figures["grid"].traces
    assert cells["z"] == [[1000.0, 2000.0], [4000.0, 8000.0], [8000.0, 16000.0]]
    assert figures["grid"].layout["xaxis"]["ticktext"] == ["10", "20"]
    assert figures["grid"].layout["yaxis"]["ticktext"] == ["1", "4", "8"]
    assert (hatched["x"], hatched["base"]) == ([0, 1], [1.5, 1.5])
    assert hatched["marker"]["pattern"]["shape"] == "/"


def test_a_repeated_point_does_not_replace_the_first_in_the_heat_map(
    make_point: MakePoint, make_result: MakeResult
) -> None:
    points = [
        make_point(number, chunk_rows=rows, concurrency=flight, rows_per_s=float(number + 1))
        for number, (rows, flight) in enumerate(((1, 1), (1, 2), (2, 1), (2, 2)))
    ]
    again = make_point(4, chunk_rows=1, concurrency=1, rows_per_s=99.0, repeats=0)
    page = bench_page(make_result(*points, again))
    (cells,) = [each.traces[0] for each in shown(page) if isinstance(each, Figure) and each.name == "grid"]
    assert cells["z"] == [[1.0, 3.0], [2.0, 4.0]]


def test_one_setting_alone_makes_no_heat_map(make_point: MakePoint, make_result: MakeResult) -> None:
    page = bench_page(make_result(make_point()))
    assert "grid" not in [each.name for each in shown(page) if isinstance(each, Figure)]


def test_every_nine_of_the_percentiles_is_as_wide(grid: BenchResult, figures: dict[str, Figure]) -> None:
    trace = figures["spectrum"].traces[0]
    assert trace["name"] == setting(grid.points[4])
    assert trace["x"] == pytest.approx([1, 2, 10, 20, 100])
    assert trace["y"] == [seconds for _, seconds in grid.points[4].latency.spectrum]
    assert figures["spectrum"].layout["xaxis"]["type"] == "log"
    assert list(
        zip(*(figures["spectrum"].layout["xaxis"][key] for key in ("tickvals", "ticktext")), strict=True)
    )[-1] == (100, "p99")


def test_the_best_point_is_shown_over_time(grid: BenchResult, figures: dict[str, Figure]) -> None:
    slices = grid.points[4].slices
    assert named(figures["time"], "rows/s")["y"] == [each.rows_per_s for each in slices]
    assert named(figures["time"], "p95")["y"] == [each.p95_s for each in slices]
    assert named(figures["time"], "p95")["x"] == [(each.start_s + each.stop_s) / 2 for each in slices]


def test_errors_are_stacked_by_kind(figures: dict[str, Figure]) -> None:
    assert named(figures["errors"], "throttled 429")["y"] == [3]
    assert named(figures["errors"], "timeout")["y"] == [1]


def test_requests_of_one_lane_never_overlap(figures: dict[str, Figure]) -> None:
    bars = [
        (lane, base, base + length)
        for trace in figures["gantt"].traces
        for lane, base, length in zip(trace["y"], trace["base"], trace["x"], strict=True)
    ]
    assert sorted(bars) == [(0, 0.0, 0.15), (0, 0.2, 0.5), (1, 0.11, 0.2)]
    assert [trace["name"] for trace in figures["gantt"].traces] == ["success", "throttled"]
    assert named(figures["gantt"], "success")["marker"]["opacity"] == [0.35, 1]


def test_the_table_holds_every_point_and_its_objective(grid: BenchResult) -> None:
    table = next(each for each in shown(bench_page(grid)) if isinstance(each, Table))
    assert [row[2] for row in table.rows] == ["1,000", "4,000", "8,000", "2,000", "8,000", "16,000"]
    assert table.rows[2][-1] == "missed: p95 is 400 ms"
    assert table.rows[0][3] == "2.0"


def test_what_cannot_be_borne_by_the_sample_is_a_dash(make_point: MakePoint, make_result: MakeResult) -> None:
    page = bench_page(make_result(make_point(p95_s=None, spread=0)))
    table = next(each for each in shown(page) if isinstance(each, Table))
    assert table.rows[0][3:8] == ["-", "0.20", "-", "-", "-"]
    assert {"throughput", "spectrum"}.isdisjoint(
        each.name for each in shown(page) if isinstance(each, Figure)
    )


def test_caveats_stand_first_and_a_partial_result_says_so(grid: BenchResult, make_result: MakeResult) -> None:
    page = bench_page(
        make_result(
            *grid.points, partial=True, partial_reason="interrupted", warnings=("the client was busy",)
        )
    )
    assert page.notes[0].startswith("Partial: interrupted")
    assert page.notes[1] == "the client was busy"


def test_the_report_of_nothing_measured_can_be_made(make_result: MakeResult) -> None:
    page = bench_page(make_result(answer="nothing was measured", partial=True, partial_reason="interrupted"))
    assert "nothing was measured" in page_html(page, script="")


def test_plotly_takes_every_figure(figures: dict[str, Figure]) -> None:
    """Its Python classes check every name and value that its script would pass over in silence."""
    from plotly.graph_objects import Figure as PlotlyFigure

    for figure in figures.values():
        PlotlyFigure(data=[_coloured(each) for each in figure.traces], layout=dict(figure.layout))


def _coloured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _coloured(each) for key, each in value.items()}
    return "black" if value == "ground" else value
