"""Partition folders made from columns (`--partition-by a,b`), published from committed parts.

```
OUT/a=1/b=x/part-00000000-000000000000.parquet   rows of one group of parts: number and row where the group begins
OUT.asyncbatch/parts/                            the parts, whole, as of any output
OUT.asyncbatch/partitions/grid-000001.json       where the groups of a generation begin: settled once
OUT.asyncbatch/partitions/FILE-START.json        of a group that is published: its files, and the parts they came from
OUT.asyncbatch/partitions/total.json             all files, when all are there
```
A block stays one part, so what is done is told by a listing, as everywhere. When every row is in a part, groups of parts are
read one after the other and each of their folders gets one file. A file is created whole, and says in its footer which parts
it came from: whatever stopped the publication, the same again leaves what is right, replaces what is not (after a `retry`),
and removes what belongs to nothing any more.
"""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PREFIX, read_raw_footer
from asyncbatch.sink.join import Piece, read_pieces
from asyncbatch.sink.layout import PARTITIONS
from asyncbatch.sink.manifest import load_manifest_values
from asyncbatch.sink.partitioning import FolderCount, split
from asyncbatch.sink.parts import PartInfo, is_invisible, write_part
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Entry, Store, read_bytes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_GROUP_BYTES = 32 * 2**20
"""Of rows in memory. So much is held twice for a moment, as read and in one piece; a larger part is a group by itself."""
_WRITERS = 8
"""Files written at once: one waits for the disk, or for the store, most of its time."""
_JOB, _SOURCE = PREFIX + "job_id", PREFIX + "source"
_TOTAL = f"{PARTITIONS}total.json"
_NAME = re.compile(r"(?:[^/]+=[^/]*/)+part-\d{8}-\d{12}\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parts that follow each other in one generation."""

    name: str
    """`FILE-START` of its first row: sorts in row order."""
    parts: tuple[PartInfo, ...]
    digest: str
    """Over the footers of its parts."""
    rows: int
    """In its parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The files of a group."""

    digest: str
    files: tuple[tuple[str, int, int], ...]
    """Name, rows, bytes."""


class PartitionFolders:
    """The folders below `target`, of the columns `columns`."""

    def __init__(self, target: Store, state: Store, columns: Sequence[str]) -> None:
        self._target = target
        self._state = state
        self._columns = tuple(columns)

    def check(self, schema: "pa.Schema") -> None:
        """Prove that the folder can be written."""
        self._target.prepare()

    def is_there(self) -> bool:
        """Whether all files of a finished job are there, by their number and size."""
        total = self._load(_TOTAL)
        there = [entry for entry in self._target.list() if _NAME.fullmatch(entry.name)]
        return total == {"files": len(there), "bytes": sum(entry.size_bytes for entry in there)}

    def publish(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> None:
        """Make the files that are not there, or not right, and remove those of no group. Memory is bounded.

        Raises:
            OutputError: there are too many folders, a part is damaged, or a file of others is in the way.
            StorageError: the store failed; the same again goes on.
        """
        self._state.delete(_TOTAL)
        there = {entry.name: entry for entry in self._target.list()}
        count = FolderCount(self._columns)
        made: dict[str, Made] = {}
        with ThreadPoolExecutor(_WRITERS) as writers:
            for group in self._groups(plan, store, parts):
                known = self._recorded(group.name)
                if known is None or not _stands(known, group, there):
                    known = self._write(plan, group, store, there, count, writers)
                    self._record(
                        f"{PARTITIONS}{group.name}.json", {"digest": known.digest, "files": known.files}
                    )
                else:
                    count.add([name.rpartition("/")[0] for name, _, _ in known.files])
                made[group.name] = known
        self._remove_others(made)
        sizes = [size for each in made.values() for _, _, size in each.files]
        self._record(_TOTAL, {"files": len(sizes), "bytes": sum(sizes)})

    def problems(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> Iterator[tuple[str, str]]:
        """What is wrong with the files of a finished job: name and message. Reads everything; memory is bounded."""
        wanted: set[str] = set()
        for group in self._groups(plan, store, parts):
            known = self._recorded(group.name)
            if known is None or known.digest != group.digest:
                yield (
                    "",
                    f"lacks the rows of the parts from {group.name} on: the run's command makes their files",
                )
                continue
            if sum(rows for _, rows, _ in known.files) != group.rows:
                yield "", f"has not {group.rows:,} rows from {group.name} on"
            for name, rows, _ in known.files:
                wanted.add(name)
                if message := self._problem(plan, group, name, rows):
                    yield name, message
        for entry in self._target.list():
            if entry.name not in wanted and not is_invisible(entry.name):
                yield entry.name, "is there and belongs to no part"

    # -- groups ----------------------------------------------------------------------------------------------

    def _groups(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> Iterator[Group]:
        values = load_manifest_values(self._state)
        listed = {each["name"]: each for each in values["parts"]} if values is not None else {}
        for generation in range(1, plan.generation + 1):
            files = plan.files_of(generation)
            members = [part for part in parts if part.block.file in files and part.block.rows]
            if not members:
                continue
            starts = self._grid(generation, store, members)
            grouped: dict[int, list[PartInfo]] = {}
            for part in members:
                at = bisect_right(starts, (part.block.file, part.block.start)) - 1
                grouped.setdefault(at, []).append(part)
            for at, each in sorted(grouped.items()):
                digests = [listed[part.name]["footer_sha256"] for part in each]
                yield Group(
                    name="{:08d}-{:012d}".format(*starts[at]),
                    parts=tuple(each),
                    digest=hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
                    rows=sum(int(listed[part.name]["rows_out"]) for part in each),
                )

    def _grid(self, generation: int, store: Store, parts: Sequence[PartInfo]) -> list[tuple[int, int]]:
        """Where the groups begin: settled once, because the sizes of parts change when they are scored again."""
        name = f"{PARTITIONS}grid-{generation:06d}.json"
        if (known := self._load(name)) is None:
            starts = group_starts(parts, _GROUP_BYTES / _inflation(store, parts[0]))
            content = json.dumps({"starts": starts}).encode() + b"\n"
            self._state.create_if_absent(name, lambda file: file.write(content))
            known = self._load(name)
        if known is None:
            raise OutputError(
                f"{self._state.root}/{name} vanished", hint="is something else removing files there?"
            )
        return [(int(file), int(start)) for file, start in known["starts"]]

    # -- files -----------------------------------------------------------------------------------------------

    def _write(
        self,
        plan: Plan,
        group: Group,
        store: Store,
        there: Mapping[str, Entry],
        count: FolderCount,
        writers: ThreadPoolExecutor,
    ) -> Made:
        import pyarrow as pa

        schema = plan.schema.remove_metadata()
        batches = [
            batch if batch.schema.equals(schema) else batch.cast(schema)
            for batch in read_pieces([Piece(store=store, name=part.name) for part in group.parts])
        ]
        table = pa.Table.from_batches(batches, schema)
        del batches
        rows, folders = split(table, self._columns)
        del table
        count.add([folder for folder, _ in folders])
        marks = {_JOB: plan.job_id, _SOURCE: group.digest}

        def write(folder: str, numbers: "np.ndarray[Any, Any]") -> tuple[str, int, int]:
            name = f"{folder}part-{group.name}.parquet"
            size = self._write_file(name, rows.take(numbers), marks, there.get(name))
            return name, len(numbers), size

        waiting = [writers.submit(write, *each) for each in folders]
        made = Made(digest=group.digest, files=tuple(each.result() for each in waiting))
        pa.default_memory_pool().release_unused()  # each writer's heap keeps what it had: 40 MB less in all
        return made

    def _write_file(self, name: str, rows: "pa.Table", marks: Mapping[str, str], entry: Entry | None) -> int:
        """Its bytes, when it stands there as it should."""
        if entry is None and self._target.create_if_absent(
            name, lambda file: write_part(file, rows, marks, rows.schema)
        ):
            return self._size(name)
        found = self._marks(name)
        if found.get(_JOB) != marks[_JOB]:
            raise OutputError(
                f"{self._target.root}/{name} was not written by this job",
                hint="move it away and run the same command again: every row is scored already",
            )
        if found.get(_SOURCE) != marks[_SOURCE]:
            self._target.replace(
                name,
                lambda file: write_part(file, rows, marks, rows.schema),
                expected=self._target.stat(name),
            )
        return self._size(name)

    def _marks(self, name: str) -> dict[str, str]:
        try:
            values = read_raw_footer(self._target, name).key_values or {}
        except OutputError:
            return {}
        return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in values.items()}

    def _size(self, name: str) -> int:
        entry = self._target.stat(name)
        if entry is None:
            raise OutputError(f"{self._target.root}/{name} vanished", hint="run the same command again")
        return entry.size_bytes

    def _remove_others(self, made: Mapping[str, Made]) -> None:
        """Files and records of no group: rows that a retry moved to another folder, or files of the input that changed."""
        wanted = {name for each in made.values() for name, _, _ in each.files}
        stale = [
            entry.name
            for entry in self._target.list()
            if _NAME.fullmatch(entry.name) and entry.name not in wanted
        ]
        if stale:
            self._target.delete(*stale)
            self._target.remove_empty_folders()
        records = (entry.name.removeprefix(PARTITIONS) for entry in self._state.list(f"{PARTITIONS}0"))
        self._state.delete(*(PARTITIONS + name for name in records if name.removesuffix(".json") not in made))

    def _problem(self, plan: Plan, group: Group, name: str, rows: int) -> str | None:
        try:
            found = sum(batch.num_rows for batch in read_pieces([Piece(store=self._target, name=name)]))
            raw = read_raw_footer(self._target, name)
        except (OutputError, FileNotFoundError) as error:
            return str(error).removeprefix(f"{self._target.root}/{name} ")
        if raw.schema.names != [each for each in plan.schema.names if each not in self._columns]:
            return "has other columns than the plan"
        if self._marks(name).get(_SOURCE) != group.digest:
            return "was made of other parts"
        return None if found == rows else f"has {found:,} rows instead of {rows:,}"

    # -- records ---------------------------------------------------------------------------------------------

    def _recorded(self, group: str) -> Made | None:
        values = self._load(f"{PARTITIONS}{group}.json")
        if values is None:
            return None
        files = tuple((str(name), int(rows), int(size)) for name, rows, size in values["files"])
        return Made(digest=str(values["digest"]), files=files)

    def _record(self, name: str, values: Mapping[str, Any]) -> None:
        content = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        self._state.replace(name, lambda file: file.write(content))

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            values: dict[str, Any] = json.loads(read_bytes(self._state, name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise OutputError(
                f"{self._state.root}/{name} is damaged",
                hint="remove the partitions folder there, and run the same command again",
            ) from error
        return values


def partition_files(target: Store) -> list[str]:
    """The files of partition folders below `target`, whoever made them."""
    return [entry.name for entry in target.list() if _NAME.fullmatch(entry.name)]


def is_partition_file(target: Store, name: str, *, has_plan: bool) -> bool:
    """Whether `name` is a file of partition folders; where no plan tells whose, its footer has to say so."""
    if _NAME.fullmatch(name) is None:
        return False
    try:
        return has_plan or _SOURCE.encode() in (read_raw_footer(target, name).key_values or {})
    except (OutputError, FileNotFoundError):
        return False


def group_starts(parts: Sequence[PartInfo], stored_bytes: float) -> list[tuple[int, int]]:
    """File and row where each group of neighbours begins, as many as fit into `stored_bytes` of the store. Pure."""
    starts: list[tuple[int, int]] = []
    size = 0
    for part in parts:
        if not starts or size + part.size_bytes > stored_bytes:
            starts.append((part.block.file, part.block.start))
            size = 0
        size += part.size_bytes
    return starts


def _inflation(store: Store, part: PartInfo) -> float:
    """How many bytes in memory one byte of a part is, by the first rows of `part`."""
    batch = next(read_pieces([Piece(store=store, name=part.name)]), None)
    if batch is None or not batch.num_rows:
        return 1.0
    return max(1.0, batch.nbytes / batch.num_rows * part.block.rows / part.size_bytes)


def _stands(known: Made, group: Group, there: Mapping[str, Entry]) -> bool:
    """Whether the group's files are there and of its parts."""
    return known.digest == group.digest and all(
        name in there and there[name].size_bytes == size for name, _, size in known.files
    )
