"""A result as a table for terminals and for Markdown. Pure."""

from collections.abc import Sequence

from asyncbatch.bench.answer import setting_words
from asyncbatch.bench.result import BenchResult, Budget, EndpointFacts, Percentile, Point
from asyncbatch.observe import text

_PERCENTS = (50.0, 95.0, 99.0)


def header(points: Sequence[Point], *, open_loop: bool, objective: bool) -> list[str]:
    """Column names; those that say nothing are left out."""
    names = [
        "rows",
        "started/s" if open_loop else "in flight",
        "rows/s",
        "±",
        "MB/s",
        "p50",
        "p95",
        "p99",
        "failed",
    ]
    if open_loop:
        names.insert(8, "in flight")
    if objective:
        names.append("objective")
    if any(each.dollars_per_million_rows is not None for each in points):
        names.append("$/M rows")
    return names


def row(point: Point, names: Sequence[str]) -> list[str]:
    """The cells of one point."""
    cells = {
        "rows": f"{point.chunk_rows:,}",
        "started/s": text.number(point.rate or 0),
        "in flight": f"{point.concurrency}"
        if point.concurrency is not None
        else text.number(point.in_flight),
        "rows/s": text.number(point.rows_per_s),
        "±": plus_minus(point),
        "MB/s": text.number(point.mb_per_s),
        "p50": _latency(point, 50.0),
        "p95": _latency(point, 95.0),
        "p99": _latency(point, 99.0),
        "failed": f"{point.error_share * 100:.3g} %" if point.error_share else "0",
        "objective": {True: "met", False: "missed", None: "?"}[point.slo_met],
        "$/M rows": "-"
        if point.dollars_per_million_rows is None
        else f"{point.dollars_per_million_rows:.3g}",
    }
    return [cells[name] for name in names]


def plus_minus(point: Point) -> str:
    """Half the interval of rows/s, as a share: `2.1 %`; `?` where the sample bears none."""
    if point.rows_per_s_low is None or point.rows_per_s_high is None or not point.rows_per_s:
        return "?"
    return f"{(point.rows_per_s_high - point.rows_per_s_low) / 2 / point.rows_per_s * 100:.1f} %"


def terminal_table(result: BenchResult) -> str:
    """The points in order of their setting, the best marked; replicates left out."""
    points = _ordered(result)
    if not points:
        return ""
    names = header(points, open_loop=points[0].rate is not None, objective=bool(result.slo))
    lines = [[" ", *names]] + [
        ["*" if each.number == result.best else " ", *row(each, names)] for each in points
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def summary(result: BenchResult) -> str:
    """All that a person needs at the end: table, answer, what limits it."""
    lines = [terminal_table(result)] if result.points else []
    if lines:
        said = (
            f"latency from the intended start; ± and limits of {result.confidence:.0%}; ? = too few requests"
        )
        lines += [f"   ({said})", ""]
    if result.partial:
        lines.append(f"partial: {result.partial_reason}")
    lines.append(result.answer)
    best = result.points[result.best] if result.best is not None else None
    if best is not None:
        lines.append(_detail(result, best))
    lines += _prices(result)
    lines += [f"note: {each}" for each in result.warnings]
    return "\n".join(lines)


def announcement(planned: Budget, facts: EndpointFacts) -> str:
    """What is about to happen to which endpoint."""
    requests = (
        "as many requests as it answers"
        if planned.requests is None
        else f"at most {planned.requests:,} requests"
    )
    dollars = "" if planned.dollars is None else f", about ${planned.dollars:,.2f}"
    return (
        f"bench of {facts.name}: {text.plural(planned.points, 'point')}, about {text.duration(planned.seconds)},"
        f" {requests}{dollars}"
    )


def markdown(result: BenchResult) -> str:
    """The same for issues and wikis."""
    points = _ordered(result)
    lines = [f"## {result.label}", "", result.answer[:1].upper() + result.answer[1:] + ".", ""]
    if result.partial:
        lines += [f"Partial: {result.partial_reason}.", ""]
    if points:
        names = header(points, open_loop=points[0].rate is not None, objective=bool(result.slo))
        lines += ["| " + " | ".join(names) + " |", "|" + "---:|" * len(names)]
        for each in points:
            mark = "**" if each.number == result.best else ""
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in row(each, names)) + " |")
        lines.append("")
    lines += [f"- {each}" for each in result.warnings]
    facts = f"{result.machine.platform}, {result.machine.cores} cores, asyncbatch {result.versions.get('asyncbatch', '?')}"
    lines += ["", f"`{result.command}`", "", f"{result.started_at}, {facts}, seed {result.seed}."]
    return "\n".join(lines) + "\n"


def _prices(result: BenchResult) -> list[str]:
    """What the rows cost here and otherwise, and an autoscaling target."""
    lines = []
    if result.price is not None:
        lines.append(f"price: {result.price.basis}; {result.price.rows:,} rows:")
        for each in result.price.costs:
            cost = "?" if each.dollars is None else f"${each.dollars:,.2f}"
            took = "" if each.seconds is None else f" in {text.duration(each.seconds)}"
            lines.append(f"  {each.who}: {cost}{took} ({each.assumption})")
    if result.autoscaling is not None:
        target = result.autoscaling
        lines.append(f"autoscaling: {target.policy} = {target.target:g}: {target.note}")
    return lines


def _ordered(result: BenchResult) -> list[Point]:
    first = [each for each in result.points if each.repeats is None]
    return sorted(
        first, key=lambda each: (each.chunk_rows, each.concurrency or 0, each.rate or 0, each.number)
    )


def _latency(point: Point, percent: float) -> str:
    found: Percentile = point.latency.percentile(percent)
    return "?" if found.seconds is None else text.latency(found.seconds)


def _detail(result: BenchResult, best: Point) -> str:
    """Where the time of a request went at the best point, and how far away the endpoint is."""
    parts = [
        (name, value)
        for name, value in (
            ("waiting", best.split.waiting_s),
            ("send", best.split.send_s),
            ("server", best.split.server_s),
            ("receive", best.split.receive_s),
            ("decode", best.split.decode_s),
        )
        if value is not None
    ]
    line = f"a request at {setting_words(best)}: " + " · ".join(
        f"{name} {text.latency(value)}" for name, value in parts
    )
    far = result.round_trip
    if far.one_row_s is not None:
        connect = "" if far.connect_s is None else f", TCP connect {text.latency(far.connect_s)}"
        line += f"; the smallest alone {text.latency(far.one_row_s)}{connect}"
    if best.client_cpu_share is not None:
        line += f"; client CPU {best.client_cpu_share * 100:.0f} % of a core"
    return line
