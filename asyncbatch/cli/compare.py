"""`asyncbatch compare`."""

import json
import sys
from typing import Annotated

import typer

from asyncbatch.cli.options import VerboseOption
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import OutputConfig
from asyncbatch.errors import ConfigError
from asyncbatch.units import parse_share

EXAMPLES = """
asyncbatch compare before.json after.json
asyncbatch compare m5.json c5.json g4dn.json --report instances.html
asyncbatch compare main.json branch.json --min-effect 5% --json
"""
_REGRESSION = 4

ResultsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RESULT",
        help="two or more results of bench, .json or .html; the first is the baseline",
    ),
]
MinEffectOption = Annotated[
    str,
    typer.Option(
        "--min-effect",
        metavar="P%",
        help="differences smaller than this are neither better nor worse",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", show_default=False, help="print the comparison to stdout as JSON")
]
ReportOption = Annotated[
    str | None,
    typer.Option("--report", metavar="FILE.html", show_default=False, help="write an HTML report there"),
]


def compare(
    results: ResultsArgument,
    min_effect: MinEffectOption = "2%",
    as_json: JsonOption = False,
    report: ReportOption = None,
    verbose: VerboseOption = False,
) -> int:
    """Compare results of bench: better, worse, or not to be told.

    Settings that both results measured are compared one by one, else the best of each. A difference counts if the
    noise of both runs cannot explain it, and it is larger than --min-effect.

    Exit codes: 0 nothing is worse than in the first result, 4 something is, 1 or 2 a result cannot be read.
    """
    screen = Screen(sys.stderr, OutputConfig(verbose=verbose))
    return screen.guard(lambda: execute(results, min_effect=min_effect, as_json=as_json, report=report))


def execute(paths: list[str], *, min_effect: str, as_json: bool, report: str | None) -> int:
    """Print the comparison; returns the exit code.

    Raises:
        AsyncBatchError: a result cannot be read, a bad option, or the report cannot be written.
    """
    from asyncbatch.bench.compare_text import summary
    from asyncbatch.bench.comparing import compare_results, distinct
    from asyncbatch.bench.reading import read_result

    if len(paths) < 2:
        raise ConfigError(
            "compare needs two results", hint="name two or more: compare before.json after.json"
        )
    try:
        smallest = parse_share(min_effect)
    except ValueError as error:
        raise ConfigError(f"--min-effect {min_effect!r}: {error}", hint="such as 2%") from error
    results = distinct(read_result(path) for path in paths)
    found = compare_results(results, min_effect=smallest)
    if report is not None:
        from asyncbatch.bench.compare_html import write_compare_html

        write_compare_html(found, results, report)
    print_out(json.dumps(found.to_dict(), indent=1) + "\n" if as_json else summary(found))
    return _REGRESSION if found.regressed else 0
