"""`asyncbatch plan`."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TextIO

import typer

from asyncbatch.cli.job import Job, job_toml, read_job
from asyncbatch.cli.options import run_defaults, run_options, with_options
from asyncbatch.cli.run import FileOption, SinkArgument, SourceArgument
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.errors import AsyncBatchError, ConfigError
from asyncbatch.protocols import RunHook
from asyncbatch.units import parse_positive


class PlanReport(Protocol):
    """What a plan has to tell."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        ...

    def summary(self) -> str:
        """Lines for people, without a final line end."""
        ...


PlanJob = Callable[..., PlanReport]
"""`asyncbatch.pipeline.api.plan_job`, or a double."""

EXAMPLES = """
asyncbatch plan flights.parquet -e churn-prod --no-send id,label
asyncbatch plan 'in/*.csv' scored/ -e churn-prod --json
asyncbatch plan flights.parquet -e churn-prod --no-send id,label --show 3
asyncbatch plan flights.parquet scored/ -e churn-prod --print-config > job.toml
"""

PrintConfigOption = Annotated[
    bool,
    typer.Option(
        "--print-config",
        rich_help_panel="Job",
        show_default=False,
        help="only write the job as a file for -f to stdout: what differs from the defaults, without headers",
    ),
]


ShowOption = Annotated[
    str | None,
    typer.Option(
        "--show",
        metavar="N",
        rich_help_panel="Job",
        show_default=False,
        help="print a request of N rows and its reply as they were, how it was read, and what each column costs",
    ),
]


@with_options(run_options(), run_defaults())
def plan(
    source: SourceArgument = None,
    sink: SinkArgument = None,
    file: FileOption = None,
    print_config: PrintConfigOption = False,
    show: ShowOption = None,
    **options: Any,
) -> int:
    """Say what run would do, and check that it can.

    Reads some rows of the source, sends them to the endpoint and learns how its replies read. Nothing is
    written. Takes the options of run. --show 3 prints a request and its reply as they were, also one that
    was refused, and the option that would mend it.
    """
    job = read_job(source=source, sink=sink, file=file, options=options)
    screen = Screen(sys.stderr, job.config.output)
    if print_config:
        return screen.guard(lambda: _print_config(job))
    return screen.guard(
        lambda: execute(job, hooks=screen.hooks(), plan_job=_plan_job, show=_shown_rows(show))
    )


def execute(
    job: Job, *, hooks: Sequence[RunHook], plan_job: PlanJob, show: int = 0, stdout: TextIO | None = None
) -> int:
    """Plan the job and print the plan; returns the exit code.

    Raises:
        AsyncBatchError: as `plan_job` does; the request that failed is printed first, if it is to be shown.
    """
    as_json = job.config.output.json
    try:
        found = plan_job(job.config, job.source, job.sink, hooks=hooks, show=show)
    except AsyncBatchError as error:
        for note in () if as_json else getattr(error, "__notes__", ()):
            print_out(note + "\n", stdout)
        raise
    print_out((json.dumps(found.to_dict(), indent=2) if as_json else found.summary()) + "\n", stdout)
    return 0


def _shown_rows(show: str | None) -> int:
    try:
        return 0 if show is None else parse_positive(show)
    except ValueError as error:
        raise ConfigError(
            f"--show {show!r}: {error}", hint="give a number of rows, such as --show 3"
        ) from error


def _plan_job(*arguments: Any, **named: Any) -> PlanReport:
    from asyncbatch.pipeline.api import plan_job

    return plan_job(*arguments, **named)


def _print_config(job: Job) -> int:
    print_out(job_toml(job))
    return 0
