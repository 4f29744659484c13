"""An input that grows: files that appeared since the job was planned, and the columns as they were then.

A finished job takes them up: a further generation of its plan lists them under the next numbers, and only they are scored.
One that is not finished is finished first. A file that changed is refused, or with `--reprocess` listed once more. Types
of text columns are inferred from the files of the first generation alone, so they stay what they were.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import anyio.to_thread

from asyncbatch.config import RunConfig
from asyncbatch.errors import AsyncBatchError, OutputError, StoppedError
from asyncbatch.model import InputFile
from asyncbatch.observe import text
from asyncbatch.observe.events import Warned
from asyncbatch.pipeline.job import Job
from asyncbatch.pipeline.planned import UnreadSource, as_planned, changed_files, later_files
from asyncbatch.protocols import Source
from asyncbatch.sink import Output, Plan, SinkLocation, load_plan, plan_differences
from asyncbatch.sink.manifest import finished_manifest
from asyncbatch.sink.places import open_places
from asyncbatch.source import Earlier


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What an earlier run into the same output leaves to know about the input."""

    earlier: Earlier | None = None
    """None where nothing was planned there."""
    unread: Source | None = None
    """Of a finished job whose input has the same files still: that input, which nobody needs to open."""


async def look_before(job: Job, location: SinkLocation) -> Before:
    """Find out before the input is opened. What is wrong with output or input is left for others to say.

    Tables are not asked: what a command means for them depends on whether it is the same as theirs.
    """
    if location.kind == "stream" or location.is_table or job.config.failure.overwrite:
        return Before()

    def look() -> Before:
        try:
            state = open_places(location, access=job.sink_access).state
            planned = load_plan(state)
            if planned is None:
                return Before()
            earlier = _earlier(planned)
            schema = planned.input_schema
            finished = schema is not None and finished_manifest(state, planned) is not None
            if schema is not None and finished and job.has_same_input(planned.current, earlier):
                return Before(earlier=earlier, unread=UnreadSource(planned.current, schema))
            return Before(earlier=earlier)
        except AsyncBatchError:
            return Before()

    return await anyio.to_thread.run_sync(look)


def _earlier(planned: Plan) -> Earlier:
    first = planned.files[: planned.listed[0] if planned.listed else None]
    return Earlier(
        listed=frozenset(file.path for file in planned.files),
        first=frozenset(file.path for file in first),
    )


async def as_first_read(
    job: Job, stack: AsyncExitStack, source: Source, planned: Plan, *, opened_with: Earlier | None = None
) -> Source:
    """`source`, opened once more if later files had a say in its types, or `--settle` left planned files out."""
    earlier = _earlier(planned)
    if earlier == opened_with or not source.resumable:
        return source
    now = {file.path for file in source.files}
    infers = any(file.rows is None for file in source.files) and now != earlier.first
    left_out = job.config.input.settle is not None and not earlier.listed <= now
    return await job.open_source(stack, earlier) if infers or left_out else source


def would_double(config: RunConfig, source: Source, planned: Plan) -> bool:
    """Whether `--mode append` would add rows that are in the table: some files of the input changed, and others did not.

    Otherwise another input, or the same with other options, is another job, as was asked for.
    """
    now = {file.path: dict(file.fingerprint) for file in source.files}
    same = [now.get(file.path) == dict(file.fingerprint) for file in planned.current]
    return (
        config.output.mode == "append"
        and any(same)
        and not all(same)
        and not plan_differences(
            replace(planned, files=()), replace(planned, files=(), options=config.semantic())
        )
    )


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
                hint="files that appeared or changed since differ: leave them out, or choose another output",
            )


def with_later_files(job: Job, output: Output, source: Source, planned: Plan) -> Plan:
    """The plan to go by: `planned`, or what is to be the next one.

    That is so if its job is finished and files appeared since; or, finished or not, if files changed, under `--reprocess`.

    Raises:
        OutputError: a single file, which takes no further rows once it is published; or files changed, and their old
            rows cannot be told from others.
    """
    later = later_files(source, planned.current)
    if job.config.input.reprocess and (changed := changed_files(source, planned.current)):
        _check_replaceable(output, planned, changed)
        job.emit(
            Warned(message=f"{text.plural(len(changed), 'file')} changed, and scored again: --reprocess")
        )
        return planned.grown([*changed, *later])
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
    return planned.grown(later)


async def grow(output: Output, plan: Plan, source: Source) -> tuple[Plan, Source]:
    """Begin the next generation: the one that holds, and the files of `source` that it lists.

    Raises:
        OutputError: another process has begun the output anew.
        StoppedError: another process has just listed files that this one has not seen, or saw otherwise.
    """
    there = await anyio.to_thread.run_sync(output.grow, plan)
    if unseen := {file.path for file in there.files} - {file.path for file in source.files}:
        raise StoppedError(
            f"another process has just planned {text.plural(len(unseen), 'file')} more",
            hint="the same command goes on with them",
        )
    if changed := changed_files(source, there.current):
        raise StoppedError(
            f"{_named(changed)} changed while another process planned it", hint="run the same command again"
        )
    return there, as_planned(source, there.current)


def _check_replaceable(output: Output, planned: Plan, changed: list[InputFile]) -> None:
    """Raises OutputError where the rows of `changed` cannot take the place of the old ones."""
    location = output.location
    what = f"{text.plural(len(changed), 'file')} changed ({_named(changed)})"
    if planned.limit is not None:
        raise OutputError(
            f"{what}, and --limit counts rows over all files",
            hint="--overwrite scores all again; or choose another output",
        )
    if location.kind == "file":
        raise OutputError(
            f"{what}, and {location.spec} is one file",
            hint="a folder as SINK takes changed files: name one, or --overwrite to score all again",
        )
    if location.database is not None or location.published is not None:
        raise OutputError(
            f"{what}, and its old rows in {location.spec} cannot be told from others",
            hint="--overwrite scores all again (into a table with --mode replace)",
        )


def _named(files: list[InputFile]) -> str:
    return files[0].path + (", …" if len(files) > 1 else "")


def _same_columns(config: RunConfig, planned: Plan) -> bool:
    """The columns that are sent are those planned: of CSV, only theirs have types of their own."""
    return all(
        list(planned.options.get(name) or ()) == list(getattr(config.input, name) or ())
        for name in ("send", "no_send")
    )
