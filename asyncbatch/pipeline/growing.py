"""An input that grows: files that appeared since the job was planned, and the columns as they were then.

A finished job takes them up: a further generation of its plan lists them under the next numbers, and only they are scored.
One that is not finished is finished first. Types of text columns are inferred from the files of the first generation alone,
so they stay what they were.
"""

from contextlib import AsyncExitStack

import anyio.to_thread

from asyncbatch.config import RunConfig
from asyncbatch.errors import OutputError, StoppedError
from asyncbatch.model import InputFile
from asyncbatch.observe import text
from asyncbatch.observe.events import Warned
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planned import later_files
from asyncbatch.protocols import Source
from asyncbatch.sink import Output, Plan
from asyncbatch.source import Earlier


async def as_first_read(job: Job, stack: AsyncExitStack, source: Source, planned: Plan) -> Source:
    """`source`, opened once more if later files had a say in its types, or `--settle` left planned files out."""
    first = planned.files[: planned.listed[0] if planned.listed else None]
    earlier = Earlier(
        listed=frozenset(file.path for file in planned.files),
        first=frozenset(file.path for file in first),
    )
    now = {file.path for file in source.files}
    infers = any(file.rows is None for file in source.files) and now != earlier.first
    left_out = job.config.input.settle > 0 and not earlier.listed <= now
    if not source.resumable or not (infers or left_out):
        return source
    return await job.open_source(stack, earlier)


def check_columns(config: RunConfig, source: Source, planned: Plan) -> None:
    """Files that appeared since must leave the input's columns and types as they were.

    Raises:
        OutputError: they do not.
    """
    if planned.input_schema is None or not _same_columns(config, planned):
        return
    if not planned.files and source.files:
        raise OutputError(
            "the job was planned when the input had no file, so nothing is known of its columns",
            hint="--overwrite plans anew, with the files that are there now",
        )
    for column in planned.input_schema:
        now = source.schema.field(column.name) if column.name in source.schema.names else None
        if now is None or now.type != column.type:
            raise OutputError(
                f"column {column.name!r} of the input was {column.type} when the job was planned, and"
                f" {'is gone' if now is None else f'is {now.type}'} now",
                hint="files that appeared since differ: leave them out, or choose another output",
            )


async def with_later_files(job: Job, output: Output, source: Source) -> Plan:
    """The plan to go by: the output's, or the next generation if the job is finished and files appeared since.

    Raises:
        OutputError: a single file, which takes no further rows once it is published.
        StoppedError: another process has just listed files that this one has not seen.
    """
    planned = output.plan
    assert planned is not None
    later = later_files(source, planned.files)
    if not later:
        return planned
    appeared = f"{text.plural(len(later), 'file')} appeared since the job was planned"
    if planned.limit is not None:
        job.emit(
            Warned(message=f"{appeared}, and {'are' if len(later) > 1 else 'is'} not looked at: --limit")
        )
        return planned
    if not output.finished:
        job.emit(Warned(message=f"{appeared}: the same command scores them when this run is done"))
        return planned
    if output.location.kind == "file":
        raise OutputError(
            f"{appeared} ({_named(later)}), and {output.location.spec} is complete",
            hint="a folder as SINK takes further files: name one, or --overwrite to score all again",
        )
    plan = await anyio.to_thread.run_sync(output.grow, planned.grown(later))
    if unseen := {file.path for file in plan.files} - {file.path for file in source.files}:
        raise StoppedError(
            f"another process has just planned {text.plural(len(unseen), 'file')} more",
            hint="the same command goes on with them",
        )
    return plan


def _named(files: list[InputFile]) -> str:
    return files[0].path + (", …" if len(files) > 1 else "")


def _same_columns(config: RunConfig, planned: Plan) -> bool:
    """The columns that are sent are those planned: of CSV, only theirs have types of their own."""
    return all(
        list(planned.options.get(name) or ()) == list(getattr(config.input, name) or ())
        for name in ("send", "no_send")
    )
