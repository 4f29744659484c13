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
from asyncbatch.protocols import RunHook


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


@with_options(run_options(), run_defaults())
def plan(
    source: SourceArgument = None,
    sink: SinkArgument = None,
    file: FileOption = None,
    print_config: PrintConfigOption = False,
    **options: Any,
) -> int:
    """Say what run would do, and check that it can.

    Reads the head of the source, sends a few rows to the endpoint and learns how its replies read. Nothing is
    written. Takes the options of run.
    """
    job = read_job(source=source, sink=sink, file=file, options=options)
    screen = Screen(sys.stderr, job.config.output)
    if print_config:
        return screen.guard(lambda: _print_config(job))
    return screen.guard(lambda: execute(job, hooks=screen.hooks(), plan_job=_plan_job))


def execute(job: Job, *, hooks: Sequence[RunHook], plan_job: PlanJob, stdout: TextIO | None = None) -> int:
    """Plan the job and print the plan; returns the exit code.

    Raises:
        AsyncBatchError: as `plan_job` does.
    """
    found = plan_job(job.config, job.source, job.sink, hooks=hooks)
    as_json = job.config.output.json
    print_out((json.dumps(found.to_dict(), indent=2) if as_json else found.summary()) + "\n", stdout)
    return 0


def _plan_job(*arguments: Any, **named: Any) -> PlanReport:
    from asyncbatch.pipeline.api import plan_job

    return plan_job(*arguments, **named)


def _print_config(job: Job) -> int:
    print_out(job_toml(job))
    return 0
