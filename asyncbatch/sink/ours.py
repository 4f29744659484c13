"""What lies at an output's place before a job begins there: nothing of others is ever written over or removed."""

from collections.abc import Callable

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import read_part_footer
from asyncbatch.sink.layout import (
    AGAIN,
    ERRORS,
    FILES,
    HISTORY,
    JOINED,
    MANIFEST,
    PARTITIONS,
    REJECTS,
    REPLACES,
    REPORT,
    RETRIED,
    RETRY,
    SUCCESS,
    SinkLocation,
    parse_part_name,
    parse_plan_name,
)
from asyncbatch.sink.partitions import is_partition_file, partition_files
from asyncbatch.sink.parts import is_invisible, list_parts
from asyncbatch.sink.plan import Plan, load_plan
from asyncbatch.sink.publish import may_replace
from asyncbatch.store.base import Entry, Store
from asyncbatch.store.database.parts import TableParts


def check_ours(location: SinkLocation, state: Store, parts: Store, target: Store) -> None:
    """Refuse a place that holds what this job cannot go on with.

    Raises:
        OutputError: files of others, parts whose state is gone, or a single file that is there already.
    """
    planned = load_plan(state) is not None
    if location.kind == "folder":
        check_no_foreign(location, parts, target, has_plan=planned)
        if planned:
            return
        if list_parts(parts) or (location.published == "partitions" and partition_files(target)):
            raise OutputError(
                f"{location.spec} holds parts of an earlier run, but its state {state.root} is gone",
                hint="choose another output, or --overwrite to start anew",
            )
        return
    there = target.stat(location.target.name)
    if there is None or may_replace(state, there) or state.stat(MANIFEST) is not None:
        return  # after the manifest it is our own, or publishing tells
    raise OutputError(
        f"{location.spec} exists" + (" and was not written by this job" if planned else ""),
        hint="choose another output, or --overwrite to replace it when the new one is complete",
    )


def check_no_foreign(location: SinkLocation, parts: Store, target: Store, *, has_plan: bool) -> None:
    """Refuse a folder that holds what asyncbatch did not write; with `--overwrite` too."""
    if location.published == "partitions":
        _check_all(location, target, lambda name: is_partition_file(target, name, has_plan=has_plan))
    _check_all(location, parts, lambda name: _is_part(parts, name, has_plan=has_plan))


def _check_all(location: SinkLocation, store: Store, is_ours: Callable[[str], bool]) -> None:
    for entry in store.list():
        if not is_invisible(entry.name) and not is_ours(entry.name):
            raise OutputError(
                f"{location.spec} holds {entry.name}, which asyncbatch did not write",
                hint="choose another output, or move that file; --overwrite removes only what is ours",
            )


def _is_part(parts: Store, name: str, *, has_plan: bool) -> bool:
    if parse_part_name(name) is None:
        return False
    if not has_plan:
        try:
            read_part_footer(parts, name)
        except (OutputError, FileNotFoundError):
            return False
    return True


def wipe(location: SinkLocation, *, state: Store, parts: Store, target: Store) -> Entry | None:
    """Remove an earlier job's parts and state, and nothing else; the plan goes last.

    A single file that stands at the target stays until the new one replaces it; it is what is returned.
    """
    there = target.stat(location.target.name) if location.kind == "file" else None
    state.delete(SUCCESS)  # first and alone: a crash must not leave it without what it stands for
    state.delete(MANIFEST, ERRORS, REPORT, REPLACES, RETRY, JOINED, HISTORY)
    if isinstance(parts, TableParts):
        parts.forget()
    if location.published == "partitions":
        target.delete(*partition_files(target))
        target.remove_empty_folders()
    parts.delete(*(entry.name for entry in parts.list() if parse_part_name(entry.name) is not None))
    state.delete(
        *(
            entry.name
            for prefix in (FILES, REJECTS, RETRIED, AGAIN, PARTITIONS)
            for entry in state.list(prefix)
        )
    )
    state.delete(*(entry.name for entry in state.list("job-") if parse_plan_name(entry.name) is not None))
    return there


def check_schema(plan: Plan) -> None:
    """Raises OutputError if a column's type cannot be written as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in plan.schema:
        schema = pa.schema([column])
        try:
            with pq.ParquetWriter(pa.BufferOutputStream(), schema) as writer:
                writer.write_table(schema.empty_table())
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"column {column.name!r} of type {column.type} cannot be written as Parquet",
                hint=f"leave it out: --keep with the other columns, without {column.name}",
            ) from error
