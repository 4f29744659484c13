"""Scoring the blocks that hold rejects again, and putting them in the place of the old ones.

Order: `retry.json` says which blocks it is about. Each is committed to a folder of this retry in the state, as
in any run, while the output stays as it is and finished. When all are there, the files of the output that hold
them are replaced, each atomically: readers see old rows or new ones. Then errors, manifest and `_SUCCESS` are
written again, and `retry.json` goes. A retry that was interrupted goes on wherever it was; replacing twice
does no harm.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.sink.existing import Existing, open_existing, published_parts
from asyncbatch.sink.filesize import require_folder
from asyncbatch.sink.footer import PartFooter, member_values
from asyncbatch.sink.layout import REPORT, RETRIED, RETRY
from asyncbatch.sink.lease import Holder, Lease, acquire, new_owner
from asyncbatch.sink.manifest import Manifest, tiling
from asyncbatch.sink.parts import PartInfo, PartsSink, list_parts
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.retry_attempt import Attempt, is_begun, load_record, load_success
from asyncbatch.sink.retry_file import finish_file, require_finished
from asyncbatch.sink.retry_folder import finish_folder
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store
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
            require_finished(existing)
        self._state = existing.state
        self._lease = lease
        self._attempt = self._begun()
        self._blocks = self._all_blocks()
        self._wanted = (
            self._attempt.blocks
            if self._attempt is not None
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
        return self._current().sink

    @property
    def state(self) -> Store:
        """The state folder."""
        return self._state

    def begin(self) -> None:
        """Make it durable which blocks are scored again. Nothing to do if an interrupted retry goes on."""
        if self._attempt is not None:
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
            there = Attempt(self._existing, record).target()
            record |= {
                "members": [member_values(footer) for footer in self._blocks],
                "target": {"size_bytes": there.size_bytes, "version": there.version},
                "offsets": load_success(self._state).get("offsets"),
            }
        content = json.dumps(record, indent=1).encode() + b"\n"
        self._state.create_if_absent(RETRY, lambda file: file.write(content))
        self._attempt = self._begun()  # another process may have been faster
        if self._attempt is None:
            raise OutputError(
                f"the record of the retry of {self.spec} vanished: another process has just ended one",
                hint="run the same command again",
            )
        self._wanted = self._attempt.blocks
        self._sweep()

    def done_by_file(self) -> dict[int, list[tuple[int, int, int | None]]]:
        """The `done` of `Source.blocks`: every block but those that are still to be scored again."""
        left = self._wanted - self._scored().keys()
        found: dict[int, list[tuple[int, int, int | None]]] = {file.number: [] for file in self.plan.current}
        for footer in self._blocks:
            if footer.block not in left and footer.block.rows:
                found[footer.block.file].append((footer.block.start, footer.block.stop, footer.end_offset))
        return found

    def rows_left(self) -> int:
        """Rows that are still to be scored again."""
        return sum(block.rows for block in self._wanted - self._scored().keys())

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
        attempt, fresh = self._current(), self._scored()
        if lacking := self._wanted - fresh.keys():
            raise OutputError(
                f"{len(lacking)} blocks of {self.spec} were not scored again",
                hint="the same command goes on",
            )
        manifest = (
            finish_folder(attempt, fresh, answered=answered, file_size=self._file_size)
            if self._existing.location.kind == "folder"
            else finish_file(attempt, fresh)
        )
        kept = {each.rejects_file for each in self._all_blocks() if each.rejects_file}
        replaced = attempt.record.get("rejects", [])
        self._state.delete(RETRY)
        self._sweep()
        # Only what was in use when the retry began: another process may be at the next one already.
        self._state.delete(*(set(replaced) - kept))
        self._attempt = None
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

    def _begun(self) -> Attempt | None:
        record = load_record(self._state)
        return None if record is None else Attempt(self._existing, record)

    def _current(self) -> Attempt:
        if self._attempt is None:
            raise ValueError("the retry has not begun: call begin first")
        return self._attempt

    def _scored(self) -> dict[Block, PartInfo]:
        """The blocks that this retry has scored again so far."""
        if self._attempt is None:
            return {}
        return {part.block: part for part in list_parts(self._attempt.retried)}

    def _sweep(self) -> None:
        """Remove what an earlier retry left behind."""
        current = f"{self._attempt.folder}/" if self._attempt is not None and is_begun(self._state) else ""
        names = [entry.name for entry in self._state.list(RETRIED)]
        self._state.delete(*(name for name in names if not current or not name.startswith(current)))
        self._state.below(RETRIED).remove_empty_folders()


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
