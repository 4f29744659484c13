"""A comparison of bench results as one HTML file."""

from collections.abc import Sequence
from typing import Any

from asyncbatch.bench.compare_text import (
    COMPARISON_HEAD,
    RANKING_HEAD,
    comparison_cells,
    ranking_cells,
    verdict_sentence,
)
from asyncbatch.bench.comparing import Compared, Comparison
from asyncbatch.bench.result import BenchResult
from asyncbatch.observe import text
from asyncbatch.observe.page import Figure, Page, Section, Table, page_html
from asyncbatch.observe.report_file import write_whole

_COLOURS = {"better": "#009e73", "worse": "#d55e00", "same": "#0072b2", "cannot tell": "#8a8f96"}
_QUIET_LINE = {"dash": "dot", "width": 1, "color": "#8a8f96"}


def write_compare_html(found: Compared, results: Sequence[BenchResult], path: str) -> None:
    """Write the report to a local file, whole or not at all.

    Raises:
        ConfigError: plotly is not installed.
        StorageError: the folder does not exist or cannot be written.
    """
    write_whole(path, page_html(compare_page(found, results)))


def compare_page(found: Compared, results: Sequence[BenchResult]) -> Page:
    """Ranking, speed against cost, and each comparison with its interval."""
    priced = any(each.dollars_per_million_rows is not None for each in found.ranking)
    sections = [
        Section(
            title="The best of each",
            text="On the Pareto front no other result is both as fast and as cheap.",
            shows=[
                Table(head=RANKING_HEAD, rows=ranking_cells(found), left=("best setting",)),
                *([pareto(found)] if priced else []),
            ],
        )
    ]
    for at, (label, comparisons) in enumerate(found.candidates.items()):
        told = [each for each in comparisons if each.ratio_low is not None]
        sections.append(
            Section(
                title=verdict_sentence(found, label),
                text=f"Intervals of {found.confidence:.0%} for each alone; p values are corrected for their number. "
                f"Changes below {found.min_effect:.1%} are neither better nor worse.",
                shows=[
                    *([ratios(told, name=f"ratios{at}")] if told else []),
                    Table(
                        head=COMPARISON_HEAD,
                        rows=[comparison_cells(each) for each in comparisons],
                        left=("setting",),
                    ),
                ],
            )
        )
    return Page(
        title="asyncbatch compare: " + ", ".join(each.label for each in results),
        answer="; ".join(verdict_sentence(found, label) for label in found.candidates),
        notes=found.warnings,
        sections=sections,
        facts=[(each.label, f"{each.command} ({each.started_at}, seed {each.seed})") for each in results],
        document=found.to_dict(),
    )


def pareto(found: Compared) -> Figure:
    """Rows a second against dollars a million rows, a mark a result."""
    priced = [each for each in found.ranking if each.dollars_per_million_rows is not None]
    front = sorted((each for each in priced if each.on_pareto_front), key=lambda each: each.rows_per_s or 0)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": "results",
            "x": [each.dollars_per_million_rows for each in priced],
            "y": [each.rows_per_s for each in priced],
            "text": [each.label for each in priced],
            "textposition": "top center",
            "marker": {"size": 11},
            "cliponaxis": False,
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [each.dollars_per_million_rows for each in front],
            "y": [each.rows_per_s for each in front],
            "line": {"dash": "dot", "color": "ground"},
            "hoverinfo": "skip",
        },
    ]
    layout = {
        "xaxis": {"title": {"text": "dollars a million rows"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "rows/s"}, "rangemode": "tozero"},
    }
    return Figure(name="pareto", traces=traces, layout=layout)


def ratios(told: Sequence[Comparison], *, name: str) -> Figure:
    """Each comparison's ratio with its interval; 1 is no change."""
    traces: list[dict[str, Any]] = []
    for verdict, colour in _COLOURS.items():
        here = [(at, each) for at, each in enumerate(told) if each.verdict == verdict]
        if not here:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": verdict,
                "x": [each.ratio for _, each in here],
                "y": [at for at, _ in here],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [(each.ratio_high or 0) - (each.ratio or 0) for _, each in here],
                    "arrayminus": [(each.ratio or 0) - (each.ratio_low or 0) for _, each in here],
                },
                "marker": {"size": 10, "color": colour},
                "text": [f"{each.what}, {each.setting}: {text.number(each.ratio or 0)}" for _, each in here],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "now / baseline"}, "type": "log"},
        "yaxis": {
            "tickvals": list(range(len(told))),
            "ticktext": [f"{each.what}, {each.setting}" for each in told],
            "autorange": "reversed",
            "showgrid": False,
        },
        "shapes": [
            {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": _QUIET_LINE}
        ],
    }
    return Figure(name=name, traces=traces, layout=layout, height=140 + 30 * len(told))
