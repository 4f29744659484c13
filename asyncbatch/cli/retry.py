"""`asyncbatch retry`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from asyncbatch.cli.job import given_options
from asyncbatch.cli.options import run_defaults, run_options, with_options
from asyncbatch.cli.run import FileOption
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.cli.status import OutArgument
from asyncbatch.config import RunConfig
from asyncbatch.protocols import RunHook

EXAMPLES = """
asyncbatch retry scored/
asyncbatch retry scored.parquet --region eu-west-1 --concurrency 4
"""


_NOT_FOR_A_RETRY = {"settle", "reprocess", "allow_empty", "shard", "processes", "overwrite"}
_HIDDEN = _NOT_FOR_A_RETRY | {name for name, option in run_options().items() if option.semantic}


@with_options(run_options(), run_defaults(), hidden=_HIDDEN)
def retry(out: OutArgument, file: FileOption = None, **options: Any) -> int:
    """Score the rejected rows of a finished output again.

    Source, endpoint and all that decides what the output holds are those of the run and need not be given again;
    give the options of how to connect, and of speed, as there. Blocks with rejects are scored again whole and then
    replaced: readers see old rows or new; in a table of a database the rejected rows alone change. The same command
    goes on where a retry was stopped.

    Exit codes: those of run; 0 also if there was nothing to retry.
    """
    given = given_options(file=file, options=options)[0]
    screen = Screen(sys.stderr, RunConfig.from_options(given).output)
    return screen.guard(lambda: execute(out, given, hooks=screen.hooks()))


def execute(out: str, given: Mapping[str, Any], *, hooks: Sequence[RunHook]) -> int:
    """Retry and print the report if asked to; returns the exit code.

    Raises:
        AsyncBatchError: what ended the retry.
    """
    from asyncbatch.pipeline.api import retry_job

    report = retry_job(out, given, hooks=hooks)
    if RunConfig.from_options(given).output.json:
        print_out(report.to_json())
    return report.exit_code
