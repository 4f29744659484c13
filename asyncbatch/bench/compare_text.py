"""A comparison for people: cells of its tables, and the text of the terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence

from asyncbatch.bench.comparing import Compared, Comparison, Measure
from asyncbatch.observe import text

RANKING_HEAD = ("result", "best setting", "rows/s", "p95", "$/M rows", "front")
COMPARISON_HEAD = ("verdict", "setting", "figure", "baseline", "now", "change", "interval", "p", "effect")


def summary(found: Compared) -> str:
    """The whole comparison, with a final line end."""
    lines = [f"warning: {each}" for each in found.warnings]
    lines += _aligned([RANKING_HEAD, *ranking_cells(found)], right={2, 3, 4})
    for label, comparisons in found.candidates.items():
        lines += ["", verdict_sentence(found, label)]
        lines += _aligned([COMPARISON_HEAD, *map(comparison_cells, comparisons)], right={3, 4, 5, 6, 7, 8})
        lines += sorted({f"cannot tell: {each.why}" for each in comparisons if each.why})
    return "\n".join(lines) + "\n"


def verdict_sentence(found: Compared, label: str) -> str:
    """`after against before: 1 better, 2 cannot tell`."""
    counts = Counter(each.verdict for each in found.candidates[label])
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "nothing to compare"
    return f"{label} against {found.baseline}: {said}"


def ranking_cells(found: Compared) -> list[tuple[str, ...]]:
    """A row of `RANKING_HEAD` for each result."""
    return [
        (
            each.label + (" (baseline)" if each.label == found.baseline else ""),
            each.setting,
            "-" if each.rows_per_s is None else text.number(each.rows_per_s),
            text.latency(each.p95_s),
            "-" if each.dollars_per_million_rows is None else f"{each.dollars_per_million_rows:.4g}",
            "Pareto" if each.on_pareto_front else "",
        )
        for each in found.ranking
    ]


def comparison_cells(each: Comparison) -> tuple[str, ...]:
    """A row of `COMPARISON_HEAD`."""
    low, high = each.ratio_low, each.ratio_high
    return (
        each.verdict,
        each.setting,
        each.what,
        _value(each, each.baseline),
        _value(each, each.candidate),
        "-" if each.ratio is None else f"{each.ratio - 1:+.1%}",
        "-" if low is None or high is None else f"{low - 1:+.1%} to {high - 1:+.1%}",
        "-" if each.p_value is None else f"{each.p_value:.3f}" if each.p_value >= 0.001 else "<0.001",
        "-" if each.effect is None else f"{each.effect:+.1f}",
    )


def _value(each: Comparison, measure: Measure) -> str:
    if each.what == "rows/s":
        return "-" if measure.value is None else text.number(measure.value)
    return text.latency(measure.value)


def _aligned(rows: Iterable[Sequence[str]], *, right: set[int]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
