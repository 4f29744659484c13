"""`asyncbatch run`."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO

import typer

from asyncbatch.cli.job import Job, read_job
from asyncbatch.cli.options import run_defaults, run_options, with_options
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.observe.report import RunReport
from asyncbatch.protocols import RunHook

RunJob = Callable[..., RunReport]
"""`asyncbatch.pipeline.api.run_job`, or a double."""

EXAMPLES = """
asyncbatch run flights.parquet scored/ -e churn-prod --no-send id,label
asyncbatch run 'in/*.csv' scored.parquet -e https://models.example/invocations --body json
asyncbatch run rows.jsonl - -e python:my_package.model:predict | head
asyncbatch run -f job.toml --limit 1000
"""

SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="a file, a folder or a quoted glob, here or at s3://, gs://, az:// or https://: Parquet, CSV, JSON Lines, Arrow;"
        " or a table, such as postgresql://host/db?table=name&order_by=key",
    ),
]
SinkArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SINK",
        help="a folder of parts; or one file, if the name ends in .parquet, .csv or .jsonl; or - for stdout; at s3://,"
        " gs:// or az:// likewise, or a table",
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option(
        "-f",
        "--file",
        metavar="JOB.toml",
        rich_help_panel="Job",
        show_default=False,
        help="options from a file, with source and sink; the command line and ASYNCBATCH_* variables win over it",
    ),
]


@with_options(run_options(), run_defaults())
def run(
    source: SourceArgument = None, sink: SinkArgument = None, file: FileOption = None, **options: Any
) -> int:
    """Run a file through a model endpoint, in input order.

    Every input row appears exactly once in the output, with its prediction or its error. The same command
    again goes on where a stopped run ended. Chunk size and requests in flight are found while running.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with rejected rows, 75 stopped and resumable, 130
    second Ctrl-C.
    """
    job = read_job(source=source, sink=sink, file=file, options=options)
    screen = Screen(sys.stderr, job.config.output)
    return screen.guard(lambda: execute(job, hooks=screen.hooks(), run_job=_run_job))


def execute(job: Job, *, hooks: Sequence[RunHook], run_job: RunJob, stdout: TextIO | None = None) -> int:
    """Run the job; returns the exit code.

    Raises:
        AsyncBatchError: as `run_job` does; no sink is given; the report and the data would share stdout.
    """
    _check_sink(job.config, job.sink)
    report = run_job(job.config, job.source, job.sink, hooks=hooks)
    if job.config.output.json:
        print_out(report.to_json(), stdout)
    return report.exit_code


def _run_job(config: RunConfig, *arguments: Any, **named: Any) -> RunReport:
    if config.speed.processes not in (None, 1):
        from asyncbatch.cli.processes import run_processes

        return run_processes(config, *arguments, **named)
    from asyncbatch.cli.without_pandas import leave_pandas_out
    from asyncbatch.pipeline.api import run_job

    if not (config.endpoint.endpoint or "").startswith("python:"):  # a function may take and give frames
        leave_pandas_out()
    return run_job(config, *arguments, **named)


def _check_sink(config: RunConfig, sink: str | None) -> None:
    if sink is None:
        raise ConfigError("no SINK is given", hint="name a folder or a file after SOURCE, or - for stdout")
    if sink == "-" and config.output.json:
        raise ConfigError(
            "--json and SINK - both write to stdout", hint="use --report FILE instead of --json"
        )
