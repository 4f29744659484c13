"""A single file whose rejects were scored again: it is written anew, with the new blocks in the places of the old ones."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from asyncbatch.errors import OutputError
from asyncbatch.sink.existing import Existing
from asyncbatch.sink.footer import PREFIX, PartFooter, member_from_values, read_raw_footer
from asyncbatch.sink.history import load_history
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.layout import MANIFEST, RETRY, SUCCESS, part_name
from asyncbatch.sink.manifest import (
    Manifest,
    manifest_bytes,
    manifest_values,
    parse_manifest,
    part_entry,
    store_manifest,
    write_errors,
)
from asyncbatch.sink.publish import published_marks, splice_text
from asyncbatch.sink.retry_attempt import Attempt, Fresh, is_begun, load_record, load_success
from asyncbatch.store.base import Entry, read_bytes


def require_finished(existing: Existing) -> None:
    """Raises OutputError if the single file is not finished, or not as it was then."""
    if existing.state.stat(SUCCESS) is None:
        raise OutputError(
            f"{existing.location.spec} is not finished: only then are rejects scored again",
            hint="give the run's command again first; asyncbatch status says what is missing",
        )
    there = existing.target.stat(existing.location.target.name)
    expected = load_success(existing.state).get("target_bytes")
    if there is None or (there.size_bytes != expected and not is_begun(existing.state)):
        raise OutputError(
            f"{existing.location.spec} was {'changed' if there else 'removed'} after it was finished",
            hint="--overwrite scores every row again",
        )


def finish_file(attempt: Attempt, fresh: Fresh) -> Manifest:
    """Replace the file; can be repeated.

    Raises:
        OutputError: it was changed since the retry began.
    """
    existing, plan = attempt.existing, attempt.plan
    target, name = existing.target, existing.location.target.name
    old = [
        member_from_values(each, job_id=plan.job_id, config_hash=plan.config_hash)
        for each in attempt.record["members"]
    ]
    pieces, members = attempt.spliced(target, name, old, fresh)
    values = manifest_values(
        plan,
        members,
        entries=_entries(attempt, members, fresh),
        file_rows=existing.parts_sink().file_rows(),
        history=load_history(attempt.state),
    )
    manifest = parse_manifest(manifest_bytes(values))
    success: dict[str, Any] = {"manifest": manifest.digest}
    # The file first: a process that was taken for dead, and comes too late, must not touch anything else.
    if existing.location.format == "parquet":
        marks = published_marks(plan, manifest)
        there = attempt.target()
        if not _replaced_already(attempt, marks):
            if not _as_it_was(attempt, there):
                raise _changed(attempt)
            target.replace(
                name,
                lambda file: join_parquet(file, pieces, schema=plan.schema, key_values=marks),
                expected=there,
            )
    else:
        success["offsets"] = _replace_text(attempt, old, fresh)
    write_errors(attempt.state, members)
    store_manifest(attempt.state, values)
    attempt.succeed({**success, "target_bytes": attempt.target().size_bytes})
    return manifest


def _entries(attempt: Attempt, members: Sequence[PartFooter], fresh: Fresh) -> list[dict[str, Any]]:
    known = {each["name"]: each for each in _manifest_parts(attempt)}
    retried = attempt.retried
    return [
        part_entry(fresh[each.block], each, digest=read_raw_footer(retried, part_name(each.block)).digest)
        if each.block in fresh
        else known[part_name(each.block)]
        for each in members
    ]


def _manifest_parts(attempt: Attempt) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = json.loads(read_bytes(attempt.state, MANIFEST))["parts"]
    return parts


def _replaced_already(attempt: Attempt, marks: Mapping[str, str]) -> bool:
    found = read_raw_footer(attempt.existing.target, attempt.existing.location.target.name).key_values or {}
    job = PREFIX + "job_id"
    if found.get(job.encode()) != marks[job].encode():
        raise OutputError(
            f"{attempt.spec} was replaced by something else", hint="--overwrite scores every row again"
        )
    return all(found.get(key.encode()) == value.encode() for key, value in marks.items())


def _replace_text(attempt: Attempt, old: Sequence[PartFooter], fresh: Fresh) -> list[int]:
    offsets = attempt.record["offsets"]
    if offsets is None:
        raise OutputError(
            f"{attempt.spec} was written by a version that kept no row offsets",
            hint="score the input again with --overwrite",
        )
    retried = attempt.retried
    there = attempt.target()
    new = [
        [Piece(store=retried, name=part_name(each.block))] if each.block in fresh else None for each in old
    ]
    target, name = attempt.existing.target, attempt.existing.location.target.name
    found: list[int] = []
    form = attempt.existing.location.format

    def write(file: BinaryIO) -> None:
        with target.open(name) as source:
            found[:] = splice_text(file, source, offsets, new, form)

    if _as_it_was(attempt, there):
        target.replace(name, write, expected=there)
        return found
    # Replaced by this retry before it was interrupted; only the offsets are wanted again.
    lengths = splice_text(None, None, offsets, new, form)
    if lengths[-1] != there.size_bytes:
        raise _changed(attempt)
    return lengths


def _as_it_was(attempt: Attempt, there: Entry) -> bool:
    """Whether the single file is the one that stood there when the retry began."""
    began = attempt.record["target"]
    return bool(began == {"size_bytes": there.size_bytes, "version": there.version})


def _changed(attempt: Attempt) -> OutputError:
    """The record is void: another process was faster, or something else has written there."""
    there = load_record(attempt.state)
    if there is not None and there["id"] == attempt.record["id"]:
        attempt.state.delete(RETRY)
    return OutputError(
        f"{attempt.spec} was changed while it was retried",
        hint="the same command begins anew, if what is there now is finished",
    )
