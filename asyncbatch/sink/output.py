"""One output from beginning to end: what the pipeline needs of the sink.

```python
with open_sink("out/") as output:          # new, ours, or OutputError; takes the lease
    if output.finished: ...                # nothing to do
    if output.plan is None:
        output.start(plan)                 # written once
    output.sink.write(block, table, ...)   # in any order, from any thread
    output.finish(report)                  # None while parts are missing
```
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncbatch.errors import OutputError
from asyncbatch.sink.filesize import join_parts, remove_replaced, require_folder
from asyncbatch.sink.layout import (
    JOINED,
    MANIFEST,
    REPORT,
    RETRY,
    SUCCESS,
    SinkLocation,
    locate,
)
from asyncbatch.sink.lease import (
    WHOLE,
    Holder,
    Lease,
    acquire,
    acquire_finish,
    blocker,
    forget_dead,
    new_owner,
)
from asyncbatch.sink.manifest import (
    Manifest,
    MissingRange,
    finished_manifest,
    load_manifest,
    tiling,
    write_manifest,
)
from asyncbatch.sink.ours import check_no_foreign, check_ours, check_schema, wipe
from asyncbatch.sink.partitioning import FolderCount
from asyncbatch.sink.parts import PartsSink, list_parts
from asyncbatch.sink.places import check_places, open_places
from asyncbatch.sink.plan import Plan, create_plan, load_plan, plan_differences
from asyncbatch.sink.publish import allow_replacing, publish
from asyncbatch.sink.published import Publication, open_publication
from asyncbatch.sink.replaced import ReplacingParts, parts_of
from asyncbatch.store.access import Access
from asyncbatch.store.base import Entry, Store, read_bytes
from asyncbatch.store.database.parts import TableParts


class Output:
    """An output that is new or ours. Made by `open_sink`; close it, or use it in a `with`."""

    def __init__(
        self,
        *,
        location: SinkLocation,
        state: Store,
        parts: Store,
        target: Store,
        lease: Lease | None,
        take_lease: Callable[[], Lease],
        wipe: Callable[[], Entry | None] | None = None,
        file_size: int | None = None,
        take_finish: Callable[[], Lease | Holder] | None = None,
        made: Sequence[Path] = (),
        publication: Publication | None = None,
    ) -> None:
        """`wipe` removes what an earlier job left, once `start` is sure that a new one can begin; `take_finish`
        is for one of several shards."""
        self._location = location
        self._state = state
        self._folder = parts
        self._target = target
        self._table = parts if isinstance(parts, TableParts) else None
        self._publication = publication
        self._lease = lease  # None until `start` makes a new output's state folder
        self._take_lease = take_lease
        self._wipe = wipe
        self._file_size = file_size
        self._take_finish = take_finish
        self._finish_lease: Lease | None = None
        self._began = False
        self._made = made if take_finish is None else ()
        """Folders that an output that never came to a plan leaves no trace of; of several shards none is its own."""
        self._plan = load_plan(state) if wipe is None else None
        self._parts = parts_of(self._plan, parts, state)
        self._sink: PartsSink | None = None
        if self._plan is not None and location.kind == "folder" and state.stat(JOINED) is not None:
            remove_replaced(self._parts)
        self._finished = self._plan is not None and self._look_finished(self._plan)
        if self._finished:
            forget_dead(state)  # one that was killed right after it had finished
            if isinstance(self._parts, ReplacingParts):
                self._parts.delete(*self._parts.old())  # what came too late

    @property
    def location(self) -> SinkLocation:
        return self._location

    @property
    def state(self) -> Store:
        """The state folder, for what else belongs there."""
        return self._state

    @property
    def plan(self) -> Plan | None:
        """None as long as nothing was planned."""
        return self._plan

    @property
    def finished(self) -> bool:
        """The job was finished before, and its output is still there."""
        return self._finished

    def finished_rows(self) -> int:
        """Input rows of a finished job; 0 before."""
        manifest = load_manifest(self._state)
        return manifest.rows_in if manifest is not None else 0

    @property
    def sink(self) -> PartsSink:
        """Where blocks go; needs a plan."""
        if self._plan is None:
            raise ValueError("nothing was planned yet: call start first")
        if self._sink is None:
            if self._table is not None:
                self._table.make_target(self._plan.schema)
            columns = self._location.columns
            self._sink = PartsSink(
                plan=self._plan,
                parts=self._parts,
                state=self._state,
                see=FolderCount(columns).see if columns else None,
            )
        return self._sink

    def start(self, plan: Plan, *, expected_bytes: int = 0) -> Plan:
        """Write the plan; the one that holds, which is another process's if that was faster and was asked for
        the same: block rows, too, are then the other's.

        Args:
            expected_bytes: size of the whole output, as far as it can be guessed.

        Raises:
            OutputError: the output cannot be written or has too little room, a column's type cannot be
                written, or another process planned something else there at the same time.
            BusyError: another process has begun to work on it.
        """
        check_schema(plan)
        if self._lease is None:
            self._began = True
            self._state.prepare()
            self._lease = self._take_lease()
        self._parts.prepare(expected_bytes=expected_bytes)
        if self._wipe is not None:
            replaces = self._wipe()
            if replaces is not None:
                allow_replacing(self._state, replaces)
        if self._table is not None and load_plan(self._state) is None:
            self._table.check_columns(plan.schema)
        if self._publication is not None and load_plan(self._state) is None:
            self._publication.check(plan.schema)
        there = create_plan(self._state, plan)
        # What was measured may differ between two that plan at once; whoever lost goes by the winner's.
        asked = replace(plan, block_rows=there.block_rows, min_rows=there.min_rows)
        if there.job_id != plan.job_id and (differences := plan_differences(there, asked)):
            raise OutputError(
                f"another process has just planned {self._location.spec} differently ({differences[0]})",
                hint="choose another output for one of them",
            )
        self._plan = there
        return there

    def grow(self, plan: Plan) -> Plan:
        """Write `plan`, the next generation of a finished job, whose further files are then to be done; the one
        that holds, which is another process's if that was faster.

        The plan's creation is the step that counts: whoever opens the output from then on finds it unfinished.

        Raises:
            OutputError: the output was begun anew by another process meanwhile.
        """
        there = create_plan(self._state, plan)
        if there.job_id != plan.job_id:
            raise OutputError(
                f"another process has just planned {self._location.spec} anew",
                hint="choose another output for one of them",
            )
        if finished_manifest(self._state, there) is None:
            self._state.delete(SUCCESS)
            self._state.delete(MANIFEST)
        self._plan, self._sink, self._finished = there, None, False
        self._parts = parts_of(there, self._folder, self._state)
        return there

    def set_aside(self) -> None:
        """Of a table: keep the finished job's records under another name, so that the next job can begin.

        Its rows stay where they are: the next one appends to them or replaces them.
        """
        assert self._plan is not None
        if self._table is not None:
            self._table.set_aside(self._plan.job_id)
        else:
            wipe(self._location, state=self._state, parts=self._parts, target=self._target)
        self._plan, self._sink, self._finished = None, None, False
        if self._lease is not None:
            self._lease = self._take_lease()

    def missing(self) -> list[MissingRange]:
        """The rows that no part holds yet; none when `finish` will finish."""
        return tiling(self.sink.plan, self.sink.committed(), self.sink.file_rows())

    def may_finish(self) -> bool:
        """Whether `finish` may be called now; False while another shard is finishing: ask again, it may die."""
        if self._take_finish is not None and self._finish_lease is None:
            found = self._take_finish()
            self._finish_lease = found if isinstance(found, Lease) else None
            return self._finish_lease is not None
        return True

    def finished_by_others(self) -> bool:
        """Whether another shard has finished the job meanwhile: then parts that are not there were published."""
        return self._take_finish is not None and finished_manifest(self._state, self.sink.plan) is not None

    def finish(self, report: Mapping[str, Any]) -> Manifest | None:
        """Write the report; and if every row is in a part, the manifest, the single file and `_SUCCESS`.

        Repeatable after a crash at any point. None if rows are missing: another shard's, or a run that
        stopped.

        Raises:
            OutputError: a part is damaged or not ours, or something else stands where the single file goes.
            StorageError: the store failed; the parts stay.
        """
        self.write_report(report)
        if self.finished_by_others():
            return load_manifest(self._state)
        try:
            return self._finish()
        except (FileNotFoundError, OutputError) as error:
            # Another shard may have seen the full tiling too, published, and removed the parts.
            manifest = finished_manifest(self._state, self.sink.plan)
            if manifest is not None:
                return manifest
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"a part of {self._location.spec} vanished", hint="run the same command again"
            ) from error

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace `report.json`: of a run that stopped as well."""
        content = json.dumps(report, indent=1, ensure_ascii=False, default=str).encode() + b"\n"
        self._state.replace(REPORT, lambda file: file.write(content))

    def report(self) -> dict[str, Any] | None:
        """The last report; None without one."""
        try:
            values = json.loads(read_bytes(self._state, REPORT))
        except (FileNotFoundError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def heartbeat(self) -> bool:
        """Renew the lease, every `lease.HEARTBEAT_S` seconds; False if another process has taken it."""
        if self._finish_lease is not None:
            self._finish_lease.heartbeat()
        return self._lease is None or self._lease.heartbeat()

    @property
    def taken_by(self) -> Holder | None:
        """Who has taken the lease, after `heartbeat` returned False."""
        return self._lease.taken_by if self._lease is not None else None

    def close(self) -> None:
        """Give the lease back; without a plan, take back the empty folders that were made. Idempotent."""
        for lease in (self._finish_lease, self._lease):
            if lease is not None:
                lease.release()
        if self._table is not None:
            self._table.close()
        if self._plan is None and (self._began or self._lease is not None):
            for folder in self._made:
                with contextlib.suppress(OSError):  # not made, or not empty: then it is another's
                    folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self) -> Manifest | None:
        if self.missing():
            return None
        sink = self.sink
        if self._location.kind == "folder" and not sink.committed():
            sink.write_empty()
        if isinstance(self._parts, ReplacingParts):
            self._parts.take_their_place()
        if self._location.kind == "folder" and self._file_size is not None:
            join_parts(sink, parts_store=self._parts, state=self._state, file_size=self._file_size)
        # One listing for all that follows: another one may lack what this one has, in a store that is behind.
        parts = sink.committed()
        if tiling(sink.plan, parts, sink.file_rows()):
            return None
        manifest = write_manifest(sink, parts=parts, parts_store=self._parts, state=self._state)
        success: dict[str, Any] = {"manifest": manifest.digest}
        if self._location.kind == "file":
            published = publish(
                plan=sink.plan,
                manifest=manifest,
                format=self._location.format,
                parts=parts,
                check=lambda part: not sink.wrote(part),
                parts_store=self._parts,
                target=self._target,
                name=self._location.target.name,
                state=self._state,
            )
            success["target_bytes"] = published.entry.size_bytes
            success["offsets"] = published.offsets
        if self._table is not None:
            self._table.publish()
        if self._publication is not None:
            self._publication.publish(sink.plan, self._parts, parts)
        content = json.dumps(success).encode() + b"\n"
        self._state.replace(SUCCESS, lambda file: file.write(content))
        if self._location.kind == "file":
            self._remove_published_parts()
        forget_dead(self._state)
        self._finished = True
        return manifest

    def _look_finished(self, plan: Plan) -> bool:
        """Whether it is; what a crash after the end has left is tidied up, and a `_SUCCESS` that is none any
        more goes."""
        try:
            success = json.loads(read_bytes(self._state, SUCCESS))
        except FileNotFoundError:
            return False
        except ValueError:
            success = {}
        if self._location.kind == "folder":
            sink = PartsSink(plan=plan, parts=self._parts, state=self._state)
            parts = sink.committed()
            if (
                parts
                and not tiling(plan, parts, sink.file_rows())
                and finished_manifest(self._state, plan) is not None
            ):
                if self._publication is None or self._publication.is_there():
                    return True
                if self._location.is_table:
                    raise OutputError(
                        f"{self._location.spec} was finished before and then removed",
                        hint="--overwrite scores every row again; or choose another output",
                    )
            # A part was removed: its rows are scored again; or a further generation was planned; or a published
            # file was removed, and is made again.
            self._state.delete(SUCCESS, MANIFEST)
            return False
        there = self._target.stat(self._location.target.name)
        if there is None or there.size_bytes != success.get("target_bytes"):
            if there is not None and self._state.stat(RETRY) is not None:
                raise OutputError(
                    f"a retry of {self._location.spec} was interrupted",
                    hint=f"asyncbatch retry {self._location.spec} goes on with it",
                )
            raise OutputError(
                f"{self._location.spec} was finished before and then {'changed' if there else 'removed'}",
                hint="--overwrite scores every row again; or choose another output",
            )
        self._remove_published_parts()
        return True

    def _remove_published_parts(self) -> None:
        self._parts.delete(*(part.name for part in list_parts(self._parts)))
        self._parts.remove_empty_folders()


def open_sink(
    spec: str,
    *,
    format: str | None = None,  # noqa: A002 (the option's name)
    overwrite: bool = False,
    shard: str = WHOLE,
    file_size: int | None = None,
    access: Access | None = None,
    mode: str = "fail",
    columns: Sequence[str] = (),
) -> Output:
    """Open the output named `spec` for a run: a new one, or one of ours to go on with.

    Of a new one nothing is made on disk before `Output.start`.

    Args:
        spec: a folder or a single file; not `-`.
        format: as `--format`.
        overwrite: `Output.start` removes what an earlier job left there, if it was ours; a single file of
            someone else's is replaced when the new one is complete.
        shard: whose lease to take.
        file_size: as `--file-size`, in bytes.
        access: to an object store.
        mode: as `--mode`, of a table.
        columns: as `--partition-by`.

    Raises:
        OutputError: it cannot be an output, or holds what is not ours.
        BusyError: another process is at work on it.
    """
    location = locate(spec, format=format, columns=columns)
    if location.kind == "stream":
        raise ValueError("stdout is written by TextWriter")
    if file_size is not None:
        require_folder(location)
    if location.database is not None and file_size is not None:
        raise OutputError(f"--file-size is for folders, and {location.spec} is a table", hint="leave it out")
    if location.published is not None and file_size is not None:
        raise OutputError(
            f"--file-size is for folders of parts, and files of {location.spec} have their own size",
            hint="leave it out",
        )
    if location.is_table and overwrite and mode != "replace":
        raise OutputError(
            f"--overwrite cannot tell the rows of an earlier run in {location.spec} from others",
            hint="add --mode replace: a new table takes the old one's place when it is complete",
        )
    owner = new_owner()
    check_places(location)
    places = open_places(location, owner=owner, access=access, mode=mode)
    state, parts, target = places.state, places.parts, places.target
    with places.looked_at():
        if not overwrite:
            check_ours(location, state, parts, target)
        elif location.kind == "folder":
            check_no_foreign(location, parts, target, has_plan=bool(state.list("job-")))

    def take_lease() -> Lease:
        return acquire(state, owner=owner, shard=shard, alone=overwrite)

    lease = None
    if places.begun():
        state.prepare()
        lease = take_lease()
    try:
        return Output(
            location=location,
            state=state,
            parts=parts,
            target=target,
            lease=lease,
            take_lease=take_lease,
            wipe=(lambda: wipe(location, state=state, parts=parts, target=target)) if overwrite else None,
            file_size=file_size,
            made=places.made,
            publication=open_publication(location, target=target, state=state, access=access, mode=mode),
            take_finish=None if shard == WHOLE else lambda: acquire_finish(state, owner=owner),
        )
    except BaseException:
        if lease is not None:
            lease.release()
        raise


def blocked_by(
    spec: str,
    *,
    format: str | None = None,  # noqa: A002 (the option's name)
    shard: str = WHOLE,
    access: Access | None = None,
) -> Holder | None:
    """The live process because of which `open_sink` would refuse; None if it would not."""
    location = locate(spec, format=format)
    return blocker(open_places(location, access=access).state, shard=shard)
