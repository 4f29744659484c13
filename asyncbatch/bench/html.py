"""A bench result as one HTML file."""

from asyncbatch.bench import figures
from asyncbatch.bench.figures import p95, setting
from asyncbatch.bench.result import BenchResult, Percentile, Point
from asyncbatch.observe import text
from asyncbatch.observe.page import Figure, Page, Section, Table, page_html
from asyncbatch.observe.report_file import write_whole

_PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)


def write_html(result: BenchResult, path: str) -> None:
    """Write the report to a local file, whole or not at all.

    Raises:
        ConfigError: plotly is not installed.
        StorageError: the folder does not exist or cannot be written.
    """
    write_whole(path, page_html(bench_page(result)))


def bench_page(result: BenchResult) -> Page:
    """The report: the answer, what limits it, tables and plots, and what repeating it takes."""
    notes = list(result.warnings)
    if result.partial:
        notes.insert(0, f"Partial: {result.partial_reason}. What was measured until then is here.")
    shown = _shown_point(result)
    sections = [_points(result)]
    if any(p95(point).seconds is not None for point in result.points):
        sections.append(_throughput(result))
    if shown is not None:
        sections += _of_one(result, shown)
    sections += _cost(result)
    if (failed := figures.errors(result)) is not None:
        sections.append(Section(title="Errors", text="Failed requests by kind.", shows=[failed]))
    return Page(
        title=f"asyncbatch bench: {result.label}",
        answer=result.answer,
        notes=notes,
        sections=[each for each in sections if each.shows],
        facts=_facts(result),
        document=result.to_dict(),
    )


def _shown_point(result: BenchResult) -> Point | None:
    """The one that is looked at closely: the best, else the one with the most rows a second."""
    if result.best is not None:
        return result.points[result.best]
    return max(result.points, key=lambda point: point.rows_per_s, default=None)


def _points(result: BenchResult) -> Section:
    head = ["#", "setting", "rows/s", "± %", "MB/s", "p50", "p95", "p99", "failed", "in flight", "client CPU"]
    priced = any(point.dollars_per_million_rows is not None for point in result.points)
    if priced:
        head.append("$/M rows")
    if result.slo:
        head.append("objective")
    rows = []
    for point in result.points:
        cells = [
            str(point.number),
            setting(point) + (f", again {point.repeats}" if point.repeats is not None else ""),
            text.number(point.rows_per_s),
            relative_half_width(point),
            text.number(point.mb_per_s),
            *(text.latency(point.latency.percentile(each).seconds) for each in (50.0, 95.0, 99.0)),
            f"{point.error_share:.2%}",
            f"{point.in_flight:.1f}",
            "-" if point.client_cpu_share is None else f"{point.client_cpu_share:.0%}",
        ]
        if priced:
            dollars = point.dollars_per_million_rows
            cells.append("-" if dollars is None else f"{dollars:.4g}")
        if result.slo:
            cells.append(
                {True: "met", False: f"missed: {point.slo_missed}", None: "cannot tell"}[point.slo_met]
            )
        rows.append(cells)
    said = f"Intervals of {result.confidence:.0%}; latency from the intended start; warm-up and cool-down left out."
    return Section(
        title="What was measured", text=said, shows=[Table(head=head, rows=rows, left=("setting",))]
    )


def relative_half_width(point: Point) -> str:
    """`3.1`: half the interval of rows/s in percent of the rate; `-` without one."""
    if point.rows_per_s_low is None or point.rows_per_s_high is None or not point.rows_per_s:
        return "-"
    return f"{(point.rows_per_s_high - point.rows_per_s_low) / 2 / point.rows_per_s * 100:.1f}"


def _throughput(result: BenchResult) -> Section:
    shows: list[Figure | Table] = [figures.throughput(result)]
    if (grid := figures.heat_map(result)) is not None:
        shows.append(grid)
    said = (
        "Up and to the left is better. On the dotted line nothing else is both faster and quicker to answer."
    )
    if result.slo:
        said += f" Crosses and hatched cells missed {result.slo}."
    return Section(title="Throughput against latency", text=said, shows=shows)


def _of_one(result: BenchResult, point: Point) -> list[Section]:
    name = setting(point)
    sections = [
        Section(
            title="Latency by percentile",
            text="The axis gives every nine the same width. No line goes further than its sample bears.",
            shows=[figures.spectrum(result), _percentiles(point)] if figures.spectrum_points(result) else [],
        ),
        Section(
            title=f"Over time: {name}",
            text="A line that climbs or falls means that the figures depend on when they were taken.",
            shows=[figures.over_time(point)] if point.slices else [],
        ),
        Section(
            title=f"Single requests: {name}",
            text=f"{_sampled(point)} Pale bars are warm-up and cool-down.",
            shows=[figures.gantt(point)] if point.sample.sent_s else [],
        ),
    ]
    split = point.split
    parts = {
        "waiting to be sent": split.waiting_s,
        "sending": split.send_s,
        "network and model": split.server_s,
        "receiving": split.receive_s,
        "decoding": split.decode_s,
    }
    if any(value is not None for value in parts.values()):
        rows = [[part, text.latency(value)] for part, value in parts.items()]
        sections.insert(
            1, Section(title=f"Where the time goes: {name}", shows=[Table(head=["mean", "time"], rows=rows)])
        )
    return sections


def _cost(result: BenchResult) -> list[Section]:
    sections = []
    if result.price is not None:
        rows = [
            [
                each.who,
                "-" if each.dollars is None else f"${each.dollars:,.2f}",
                "-" if each.seconds is None else text.duration(each.seconds),
                each.assumption,
            ]
            for each in result.price.costs
        ]
        table = Table(head=["way", "dollars", "time", "rests on"], rows=rows, left=("rests on",))
        said = f"{result.price.rows:,} rows by the stated price, {result.price.basis}."
        sections.append(Section(title="What it costs", text=said, shows=[table]))
    if result.autoscaling is not None:
        scaling = result.autoscaling
        table = Table(head=["policy", "target"], rows=[[scaling.policy, text.number(scaling.target)]])
        said = f"To begin with: {scaling.note}."
        sections.append(Section(title="Autoscaling", text=said, shows=[table]))
    return sections


def _percentiles(point: Point) -> Table:
    rows = []
    for percent in _PERCENTS:
        intended, sent = point.latency.percentile(percent), point.latency_from_send.percentile(percent)
        rows.append([f"p{percent:g}", _with_interval(intended), _with_interval(sent)])
    return Table(head=["percentile", "from the intended start", "from the send"], rows=rows)


def _with_interval(found: Percentile) -> str:
    if found.seconds is None:
        return "- (too few requests)"
    if found.low_s is None or found.high_s is None:
        return text.latency(found.seconds)
    return f"{text.latency(found.seconds)} ({text.latency(found.low_s)} to {text.latency(found.high_s)})"


def _sampled(point: Point) -> str:
    shown = len(point.sample.sent_s)
    return f"{shown:,} of {point.sample.of:,} requests." if shown < point.sample.of else "Every request."


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    data, trip = result.data, result.round_trip
    rows = f"{data.rows:,} rows cycled" + ("" if data.rows_total is None else f" of {data.rows_total:,}")
    facts = [
        ("command", result.command),
        ("started", result.started_at),
        ("took", text.duration(result.elapsed_s)),
        ("endpoint", f"{result.endpoint.name} ({result.endpoint.kind})"),
        ("data", f"{data.source}: {rows}, {text.number(data.bytes_per_row)} B a row as {data.body}"),
        ("round trip", f"connect {text.latency(trip.connect_s)}, one row {text.latency(trip.one_row_s)}"),
        ("machine", f"{result.machine.platform}, {result.machine.cores} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
        ("seed", str(result.seed)),
    ]
    if result.slo:
        facts.insert(1, ("objective", result.slo))
    return facts
