"""Scoring the blocks that hold rejects again, and putting them in the place of the old ones.

Order: `retry.json` says which blocks it is about. Each is committed to a folder of this retry in the state, as
in any run, while the output stays as it is and finished. When all are there, the files of the output that hold
them are replaced, each atomically: readers see old rows or new ones. Then errors, manifest and `_SUCCESS` are
written again, and `retry.json` goes. A retry that was interrupted goes on wherever it was; replacing twice
does no harm.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.sink.amending import amend_table, kept_columns
from asyncbatch.sink.existing import Existing, open_existing, published_parts
from asyncbatch.sink.filesize import join_parts, require_folder
from asyncbatch.sink.footer import (
    PREFIX,
    PartFooter,
    join_footers,
    member_from_values,
    member_values,
    read_raw_footer,
)
from asyncbatch.sink.history import load_history
from asyncbatch.sink.join import Piece, join_parquet, read_pieces
from asyncbatch.sink.layout import MANIFEST, REPORT, RETRIED, RETRY, SUCCESS, part_name
from asyncbatch.sink.lease import Holder, Lease, acquire, new_owner
from asyncbatch.sink.manifest import (
    Manifest,
    manifest_bytes,
    manifest_values,
    parse_manifest,
    part_entry,
    store_manifest,
    tiling,
    write_errors,
    write_manifest,
)
from asyncbatch.sink.parts import PartInfo, PartsSink, list_parts
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.publish import published_marks, splice_text
from asyncbatch.sink.published import open_publication
from asyncbatch.store.access import Access
from asyncbatch.store.base import Entry, Store, read_bytes
from asyncbatch.store.database.parts import TableParts


class Retry:
    """A retry of a finished output. Made by `open_retry`; `close` gives the lease back.

    Raises:
        OutputError: the output is not finished, or is not as it was then.
    """

    def __init__(self, existing: Existing, lease: Lease, *, file_size: int | None = None) -> None:
        """`file_size`: as `--file-size`, in bytes."""
        self._existing = existing
        self._file_size = file_size
        if existing.location.kind == "file":
            _require_finished(existing)
        self._state = existing.state
        self._lease = lease
        self._record = _load_record(existing.state)
        self._blocks = self._all_blocks()
        self._wanted = (
            _blocks(self._record)
            if self._record is not None
            else {footer.block for footer in self._blocks if footer.rejects}
        )

    @property
    def plan(self) -> Plan:
        return self._existing.plan

    @property
    def spec(self) -> str:
        return self._existing.location.spec

    @property
    def wanted(self) -> int:
        """How many blocks are scored again, those that an interrupted retry has scored included."""
        return len(self._wanted)

    @property
    def sink(self) -> PartsSink:
        """Where the blocks go that were scored again; needs `begin`."""
        if self._record is None:
            raise ValueError("the retry has not begun: call begin first")
        return PartsSink(plan=self.plan, parts=self._retried(), state=self._state)

    @property
    def state(self) -> Store:
        """The state folder."""
        return self._state

    def begin(self) -> None:
        """Make it durable which blocks are scored again. Nothing to do if an interrupted retry goes on."""
        if self._record is not None:
            return
        self._state.prepare()
        record: dict[str, Any] = {
            "id": uuid.uuid4().hex[:12],
            "blocks": [
                {"file": block.file, "start": block.start, "stop": block.stop}
                for block in sorted(self._wanted)
            ],
            "rejects": [each.rejects_file for each in self._blocks if each.block in self._wanted],
        }
        if self._existing.location.kind == "file":
            there = self._target()
            record |= {
                "members": [member_values(footer) for footer in self._blocks],
                "target": {"size_bytes": there.size_bytes, "version": there.version},
                "offsets": _success(self._state).get("offsets"),
            }
        content = json.dumps(record, indent=1).encode() + b"\n"
        self._state.create_if_absent(RETRY, lambda file: file.write(content))
        self._record = _load_record(self._state)  # another process may have been faster
        if self._record is None:
            raise OutputError(
                f"the record of the retry of {self.spec} vanished: another process has just ended one",
                hint="run the same command again",
            )
        self._wanted = _blocks(self._record)
        self._sweep()

    def done_by_file(self) -> dict[int, list[tuple[int, int, int | None]]]:
        """The `done` of `Source.blocks`: every block but those that are still to be scored again."""
        left = self._wanted - {part.block for part in list_parts(self._retried())}
        found: dict[int, list[tuple[int, int, int | None]]] = {file.number: [] for file in self.plan.current}
        for footer in self._blocks:
            if footer.block not in left and footer.block.rows:
                found[footer.block.file].append((footer.block.start, footer.block.stop, footer.end_offset))
        return found

    def rows_left(self) -> int:
        """Rows that are still to be scored again."""
        there = {part.block for part in list_parts(self._retried())}
        return sum(block.rows for block in self._wanted - there)

    def finish(self, report: Mapping[str, Any], *, answered: int = 1) -> Manifest:
        """Put the new blocks in the place of the old ones; every wanted block must have been scored.

        Can be repeated after a crash at any point.

        Args:
            answered: how many columns the reply gives.

        Raises:
            OutputError: a part is damaged or gone, or the single file was changed meanwhile.
            StorageError: the store failed; the same command goes on.
        """
        self.write_report(report)
        fresh = {part.block: part for part in list_parts(self._retried())}
        if lacking := self._wanted - fresh.keys():
            raise OutputError(
                f"{len(lacking)} blocks of {self.spec} were not scored again",
                hint="the same command goes on",
            )
        manifest = (
            self._finish_folder(fresh, answered)
            if self._existing.location.kind == "folder"
            else self._finish_file(fresh)
        )
        kept = {each.rejects_file for each in self._all_blocks() if each.rejects_file}
        replaced = self._record.get("rejects", []) if self._record is not None else []
        self._state.delete(RETRY)
        self._sweep()
        # Only what was in use when the retry began: another process may be at the next one already.
        self._state.delete(*(set(replaced) - kept))
        self._record = None
        return manifest

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace `report.json`."""
        content = json.dumps(report, indent=1, ensure_ascii=False, default=str).encode() + b"\n"
        self._state.replace(REPORT, lambda file: file.write(content))

    def heartbeat(self) -> bool:
        """Renew the lease, every `lease.HEARTBEAT_S` seconds; False if another process has taken it."""
        return self._lease.heartbeat()

    @property
    def taken_by(self) -> Holder | None:
        """Who has taken the lease, after `heartbeat` returned False."""
        return self._lease.taken_by

    def close(self) -> None:
        """Give the lease back. Idempotent."""
        self._lease.release()
        if isinstance(self._existing.parts, TableParts):
            self._existing.parts.close()

    # -- a folder of parts -----------------------------------------------------------------------------------

    def _finish_folder(self, fresh: Mapping[Block, PartInfo], answered: int) -> Manifest:
        existing, parts = self._existing, self._existing.parts
        if isinstance(parts, TableParts):
            assert self._record is not None
            amend_table(
                parts,
                existing.parts_sink(),
                self._state,
                retried=self.sink,
                retry=self._record["id"],
                blocks=fresh.keys(),
                kept=kept_columns(self.plan, answered=answered),
            )
        # In two steps: a manifest is never seen without the parts that it describes, nor _SUCCESS without it.
        self._state.delete(SUCCESS)
        self._state.delete(MANIFEST)
        sink = existing.parts_sink()
        for part in sink.committed():
            footer = sink.footer(part)
            in_place = isinstance(parts, TableParts)
            if not in_place and any(each.block in fresh for each in footer.blocks):
                self._replace_part(part, footer, fresh)
        if self._file_size is not None:
            sink = existing.parts_sink()
            join_parts(sink, parts_store=parts, state=self._state, file_size=self._file_size)
        manifest = write_manifest(existing.parts_sink(), parts_store=parts, state=self._state)
        publication = open_publication(existing.location, target=existing.target, state=self._state)
        if publication is not None:
            publication.publish(self.plan, parts, list_parts(parts))
        self._succeed({"manifest": manifest.digest})
        return manifest

    def _replace_part(self, part: PartInfo, footer: PartFooter, fresh: Mapping[Block, PartInfo]) -> None:
        parts = self._existing.parts
        there = parts.stat(part.name)
        if not footer.members:
            parts.replace(part.name, lambda file: _copy(self._retried(), part.name, file), expected=there)
            return
        pieces, members = self._spliced(parts, part.name, footer.blocks, fresh)
        values = join_footers(members).key_values()
        parts.replace(
            part.name,
            lambda file: join_parquet(file, pieces, schema=self.plan.schema, key_values=values),
            expected=there,
        )

    # -- a single file ---------------------------------------------------------------------------------------

    def _finish_file(self, fresh: Mapping[Block, PartInfo]) -> Manifest:
        existing, plan = self._existing, self.plan
        target, name = existing.target, existing.location.target.name
        assert self._record is not None
        old = [
            member_from_values(each, job_id=plan.job_id, config_hash=plan.config_hash)
            for each in self._record["members"]
        ]
        pieces, members = self._spliced(target, name, old, fresh)
        values = manifest_values(
            plan,
            members,
            entries=self._entries(members, fresh),
            file_rows=existing.parts_sink().file_rows(),
            history=load_history(self._state),
        )
        manifest = parse_manifest(manifest_bytes(values))
        success: dict[str, Any] = {"manifest": manifest.digest}
        # The file first: a process that was taken for dead, and comes too late, must not touch anything else.
        if existing.location.format == "parquet":
            marks = published_marks(plan, manifest)
            there = self._target()
            if not self._replaced_already(marks):
                if not self._as_it_was(there):
                    raise self._changed()
                target.replace(
                    name,
                    lambda file: join_parquet(file, pieces, schema=plan.schema, key_values=marks),
                    expected=there,
                )
        else:
            success["offsets"] = self._replace_text(old, fresh)
        write_errors(self._state, members)
        store_manifest(self._state, values)
        self._succeed({**success, "target_bytes": self._target().size_bytes})
        return manifest

    def _entries(
        self, members: Sequence[PartFooter], fresh: Mapping[Block, PartInfo]
    ) -> list[dict[str, Any]]:
        known = {each["name"]: each for each in self._manifest_parts()}
        retried = self._retried()
        return [
            part_entry(fresh[each.block], each, digest=read_raw_footer(retried, part_name(each.block)).digest)
            if each.block in fresh
            else known[part_name(each.block)]
            for each in members
        ]

    def _manifest_parts(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = json.loads(read_bytes(self._state, MANIFEST))["parts"]
        return parts

    def _replaced_already(self, marks: Mapping[str, str]) -> bool:
        found = read_raw_footer(self._existing.target, self._existing.location.target.name).key_values or {}
        job = PREFIX + "job_id"
        if found.get(job.encode()) != marks[job].encode():
            raise OutputError(
                f"{self.spec} was replaced by something else", hint="--overwrite scores every row again"
            )
        return all(found.get(key.encode()) == value.encode() for key, value in marks.items())

    def _replace_text(self, old: Sequence[PartFooter], fresh: Mapping[Block, PartInfo]) -> list[int]:
        assert self._record is not None
        offsets = self._record["offsets"]
        if offsets is None:
            raise OutputError(
                f"{self.spec} was written by a version that kept no row offsets",
                hint="score the input again with --overwrite",
            )
        retried = self._retried()
        there = self._target()
        new = [
            [Piece(store=retried, name=part_name(each.block))] if each.block in fresh else None
            for each in old
        ]
        target, name = self._existing.target, self._existing.location.target.name
        found: list[int] = []
        form = self._existing.location.format

        def write(file: BinaryIO) -> None:
            with target.open(name) as source:
                found[:] = splice_text(file, source, offsets, new, form)

        if self._as_it_was(there):
            target.replace(name, write, expected=there)
            return found
        # Replaced by this retry before it was interrupted; only the offsets are wanted again.
        lengths = splice_text(None, None, offsets, new, form)
        if lengths[-1] != there.size_bytes:
            raise self._changed()
        return lengths

    def _as_it_was(self, there: Entry) -> bool:
        """Whether the single file is the one that stood there when the retry began."""
        assert self._record is not None
        began = self._record["target"]
        return bool(began == {"size_bytes": there.size_bytes, "version": there.version})

    def _changed(self) -> OutputError:
        """The record is void: another process was faster, or something else has written there."""
        there = _load_record(self._state)
        if there is not None and self._record is not None and there["id"] == self._record["id"]:
            self._state.delete(RETRY)
        return OutputError(
            f"{self.spec} was changed while it was retried",
            hint="the same command begins anew, if what is there now is finished",
        )

    # -- common ----------------------------------------------------------------------------------------------

    def _spliced(
        self, store: Store, name: str, old: Sequence[PartFooter], fresh: Mapping[Block, PartInfo]
    ) -> tuple[list[Piece], list[PartFooter]]:
        """The old file's rows with the fresh blocks in between, and the footers of all blocks."""
        retried = self._retried()
        sink = PartsSink(plan=self.plan, parts=retried, state=self._state)
        pieces: list[Piece] = []
        members: list[PartFooter] = []
        start = at = 0
        for footer in old:
            if footer.block in fresh:
                if start < at:
                    pieces.append(Piece(store=store, name=name, start=start, stop=at))
                pieces.append(Piece(store=retried, name=fresh[footer.block].name))
                members.append(sink.footer(fresh[footer.block]))
                start = at + footer.rows_out
            else:
                members.append(footer)
            at += footer.rows_out
        if start < at:
            pieces.append(Piece(store=store, name=name, start=start, stop=at))
        return pieces, members

    def _all_blocks(self) -> list[PartFooter]:
        """The footer of every block of the output, in row order; it must be finished, or a retry was.

        Raises:
            OutputError: rows are missing, or a part is damaged.
        """
        if self._existing.location.kind == "file":
            return published_parts(self._existing)
        sink = self._existing.parts_sink()
        parts = sink.committed()
        if tiling(self.plan, parts, sink.file_rows()):
            raise OutputError(
                f"{self.spec} is not finished: only then are rejects scored again",
                hint="give the run's command again first; asyncbatch status says what is missing",
            )
        return [block for part in parts for block in sink.footer(part).blocks]

    def _retried(self) -> Store:
        attempt = self._record["id"] if self._record is not None else "none"
        return self._state.below(f"{RETRIED}{attempt}")

    def _sweep(self) -> None:
        """Remove what an earlier retry left behind."""
        current = (
            f"{RETRIED}{self._record['id']}/" if self._record is not None and _there(self._state) else ""
        )
        names = [entry.name for entry in self._state.list(RETRIED)]
        self._state.delete(*(name for name in names if not current or not name.startswith(current)))
        self._state.below(RETRIED).remove_empty_folders()

    def _target(self) -> Entry:
        name = self._existing.location.target.name
        there = self._existing.target.stat(name)
        if there is None:
            raise OutputError(f"{self.spec} is gone", hint="--overwrite scores every row again")
        return there

    def _succeed(self, values: Mapping[str, Any]) -> None:
        content = json.dumps(values).encode() + b"\n"
        self._state.replace(SUCCESS, lambda file: file.write(content))


def open_retry(spec: str, *, file_size: int | None = None, access: Access | None = None) -> Retry:
    """Take the lease of a finished output, to score its rejects again.

    Args:
        file_size: as `--file-size`, in bytes: parts of a folder that are smaller are joined at the end.

    Raises:
        OutputError: nothing was planned there, it is not finished, or a single file is to be joined.
        BusyError: another process is at work on it.
    """
    owner = new_owner()
    existing = open_existing(spec, owner=owner, access=access)
    if existing.location.is_table and existing.location.database is None:
        raise OutputError(
            f"the rejects of {existing.location.spec} cannot be scored again in place",
            hint="run with those rows as the input and --mode append",
        )
    if file_size is not None:
        require_folder(existing.location)
    lease = acquire(existing.state, owner=owner)
    try:
        return Retry(existing, lease, file_size=file_size)
    except BaseException:
        lease.release()
        raise


def _require_finished(existing: Existing) -> None:
    if existing.state.stat(SUCCESS) is None:
        raise OutputError(
            f"{existing.location.spec} is not finished: only then are rejects scored again",
            hint="give the run's command again first; asyncbatch status says what is missing",
        )
    there = existing.target.stat(existing.location.target.name)
    expected = _success(existing.state).get("target_bytes")
    if there is None or (there.size_bytes != expected and not _there(existing.state)):
        raise OutputError(
            f"{existing.location.spec} was {'changed' if there else 'removed'} after it was finished",
            hint="--overwrite scores every row again",
        )


def _there(state: Store) -> bool:
    return state.stat(RETRY) is not None


def _success(state: Store) -> dict[str, Any]:
    try:
        values = json.loads(read_bytes(state, SUCCESS))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _load_record(state: Store) -> dict[str, Any] | None:
    try:
        values = json.loads(read_bytes(state, RETRY))
        if isinstance(values["id"], str) and isinstance(values["blocks"], list):
            return dict(values)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise OutputError(f"{state.root}/{RETRY} is damaged", hint="remove it: the retry then begins again")


def _blocks(record: Mapping[str, Any]) -> set[Block]:
    return {Block(**each) for each in record["blocks"]}


def _copy(store: Store, name: str, file: BinaryIO) -> None:
    # Read through once before: what is damaged must not take the place of what is not.
    for _ in read_pieces([Piece(store=store, name=name)]):
        pass
    with store.open(name) as source:
        while chunk := source.read(2**20):
            file.write(chunk)
