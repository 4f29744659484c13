"""`asyncbatch bench`."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from asyncbatch.bench.config import LOAD_OPTIONS, SHARED, LoadConfig, load_defaults
from asyncbatch.cli.job import given_options
from asyncbatch.cli.options import run_defaults, run_options, with_options
from asyncbatch.cli.run import FileOption, SourceArgument
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError, UsageError
from asyncbatch.observe import text

if TYPE_CHECKING:
    from asyncbatch.bench.load import Loaded
    from asyncbatch.bench.measuring import Applied
    from asyncbatch.bench.result import BenchResult, Budget, EndpointFacts, Point
    from asyncbatch.bench.session import Progress

BenchJob = Callable[..., "BenchResult"]
"""`asyncbatch.bench.api.bench_job`, or a double."""

EXAMPLES = """
asyncbatch bench flights.parquet -e http://127.0.0.1:8080/invocations
asyncbatch bench flights.parquet -e churn-prod --chunk-rows 64,512,4096 --concurrency 4:32 --yes
asyncbatch bench flights.parquet -e churn-prod --find-knee --slo 'p95<800ms,errors<1%' --save-tuning
asyncbatch bench flights.parquet -e churn-prod --rate 50 --arrivals poisson --duration 2m --output result.json
"""


def _table() -> dict[str, Any]:
    shared = {name: option for name, option in run_options().items() if name in SHARED}
    return {**shared, **LOAD_OPTIONS}


def _defaults() -> dict[str, object]:
    shared = {name: value for name, value in run_defaults().items() if name in SHARED}
    return {**shared, **load_defaults()}


@with_options(_table(), _defaults())
def bench(source: SourceArgument = None, file: FileOption = None, **options: Any) -> int:
    """Measure how fast an endpoint can go, with your rows.

    Sends the rows of SOURCE again and again: a sweep over chunk rows x requests in flight, requests at a fixed
    rate, or a search for the best setting. Says rows/s and latency with intervals, and where the time went.
    Before it loads an endpoint beyond this machine it says what that takes, and asks.

    Exit codes: 0 measured, 1 nothing was answered, 2 wrong usage, 4 an assertion failed, 130 Ctrl-C (what was
    measured until then is reported, and marked partial).
    """
    own = {name: value for name, value in options.items() if name in LOAD_OPTIONS}
    given, paths = given_options(
        file=file, options={name: value for name, value in options.items() if name not in LOAD_OPTIONS}
    )
    config = RunConfig.from_options({name: value for name, value in given.items() if name in SHARED})
    load = LoadConfig.from_options(own)
    screen = Screen(sys.stderr, config.output)
    spec = source or paths["source"]
    return screen.guard(lambda: execute(config, load, spec, screen=screen, bench_job=_bench_job))


def execute(
    config: RunConfig,
    load: LoadConfig,
    source: str | None,
    *,
    screen: Screen,
    bench_job: BenchJob,
    stdout: TextIO | None = None,
    command: Sequence[str] = (),
) -> int:
    """Measure, print and write; returns the exit code.

    Raises:
        AsyncBatchError: as `bench_job` does; no source or endpoint; a file could not be written; nobody agreed.
    """
    from asyncbatch.bench.export import REQUESTS_SUFFIX, RequestsFile, check_output, write_result
    from asyncbatch.bench.table import summary

    _check(config, source)
    for path in load.output:
        check_output(path)
    if load.report is not None:
        check_output(load.report, suffixes=(".html", ".json"), option="--report")
        if load.report.lower().endswith(".html"):
            from asyncbatch.observe.page import plotly_js

            plotly_js()  # raises where it is not installed, before anything is measured
    raw = [RequestsFile(path) for path in load.output if path.lower().endswith(REQUESTS_SUFFIX)]

    def keep(point: "Point", loaded: "Loaded") -> None:
        for each in raw:
            each.add(point, loaded)

    watcher = Watcher(screen, quiet=config.output.quiet, may_load=_permission(config, load))
    result = bench_job(
        config,
        load,
        source,
        command=command or ("asyncbatch", *sys.argv[1:]),
        listener=watcher,
        hooks=screen.hooks(),
        keep=keep if raw else None,
    )
    watcher.finish()
    print_out(
        result.to_json() if load.json else summary(result) + "\n", stdout
    )  # first: a full disk loses no figures
    for each in raw:
        each.close()
    for path in load.output:
        if not path.lower().endswith(REQUESTS_SUFFIX):
            write_result(result, path)
    if load.report is not None:
        _write_report(result, load.report)
    if result.exit_code == 1:
        screen.refused(result.answer, "plan --show 1 prints a request and its reply")
    if result.exit_code == 4:
        screen.refused(
            result.warnings[0], "the table shows every point; --slo lets only points that meet it be the best"
        )
    return result.exit_code


class Watcher:
    """A `bench.session.Listener` on the error stream; it asks before it loads what others may depend on."""

    def __init__(
        self, screen: Screen, *, quiet: bool, may_load: "Callable[[Budget, EndpointFacts], bool]"
    ) -> None:
        self._screen = screen
        self._quiet = quiet
        self._may_load = may_load

    def announced(self, planned: "Budget", facts: "EndpointFacts") -> None:
        """Say what it takes, and ask where that is wanted.

        Raises:
            UsageError: the answer was no.
        """
        from asyncbatch.bench.table import announcement

        if not self._quiet:
            self._screen.line(announcement(planned, facts))
        if not self._may_load(planned, facts):
            raise UsageError("nothing was measured", hint="--yes goes ahead without asking")

    def progressed(self, progress: "Progress") -> None:
        """One line, drawn again and again; plain lines where that is not possible."""
        where = f"point {progress.point + 1} of {progress.points}: {_setting(progress.applied)}"
        self._screen.status(
            f"{where} · {progress.requests:,} requests · ETA {text.clock(progress.left_s)}",
            progress.elapsed_s,
        )

    def measured(self, point: "Point") -> None:
        """A line a point."""
        from asyncbatch.bench.answer import setting_words
        from asyncbatch.bench.table import plus_minus

        if self._quiet:
            return
        p95 = point.latency.percentile(95.0).seconds
        parts = [
            f"{setting_words(point)}: {text.number(point.rows_per_s)} rows/s ± {plus_minus(point)}",
            "p95 ?" if p95 is None else f"p95 {text.latency(p95)}",
        ]
        if point.error_share:
            parts.append(f"{point.error_share * 100:.3g} % failed")
        if point.slo_met is False:
            parts.append(f"missed: {point.slo_missed}")
        self._screen.line(" · ".join(parts))

    def warned(self, message: str) -> None:
        """At once."""
        self._screen.line(f"warning: {message}")

    def finish(self) -> None:
        """Remove what is drawn."""
        self._screen.clear()


def _check(config: RunConfig, source: str | None) -> None:
    if not source:
        raise ConfigError("no SOURCE is given", hint="asyncbatch bench SOURCE -e ENDPOINT")
    if not config.endpoint.endpoint:
        raise ConfigError(
            "no endpoint is given",
            hint="add -e NAME (SageMaker), -e https://host/path or -e python:package.module:function",
        )


def _permission(config: RunConfig, load: LoadConfig) -> "Callable[[Budget, EndpointFacts], bool]":
    """Whether the load may start: always on this machine or with `--yes`, else if a person agrees.

    Raises:
        UsageError: nobody can be asked. Before anything is sent.
    """
    from asyncbatch.bench.place import place_of

    if load.yes or place_of(config).local:
        return lambda _planned, _facts: True
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        from asyncbatch.bench.sweep import announced_seconds

        raise UsageError(
            f"bench would load {text.without_credentials(config.endpoint.endpoint)}, which is not on this machine,"
            f" for about {text.duration(announced_seconds(load))} with at most {load.max_requests:,} requests",
            hint="for a live endpoint that is an outage; --yes goes ahead, --max-requests and --duration bound it",
        )

    def ask(_planned: "Budget", facts: "EndpointFacts") -> bool:
        return typer.confirm(f"Load {facts.name}? Its users will wait meanwhile.", err=True)

    return ask


def _write_report(result: "BenchResult", path: str) -> None:
    if path.lower().endswith(".html"):
        from asyncbatch.bench.html import write_html

        write_html(result, path)
        return
    from asyncbatch.bench.export import write_result

    write_result(result, path)


def _setting(applied: "Applied") -> str:
    rows = text.plural(applied.chunk_rows, "row")
    if applied.rate is not None:
        return f"{rows} x {text.number(applied.rate)} requests/s"
    return f"{rows} x {applied.concurrency} in flight"


def _bench_job(*arguments: Any, **named: Any) -> "BenchResult":
    from asyncbatch.bench.api import bench_job

    return bench_job(*arguments, **named)
