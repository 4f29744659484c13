"""Parts of files that changed (`--reprocess`): the new ones wait in the state until they take the place of the old.

A plan that lists a changed file again, under a new number, says that the old number is replaced. From then on the job's
parts are those of the new number, wherever they lie; readers of the output see the old ones until every row is there.
Then the new go in and the old go, on a disk that can exchange folders in one step. It may be repeated after a crash at
any point: names of the new number are no names of the old one.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

from asyncbatch.sink.layout import AGAIN, JOINED, REJECTS, file_record_name, parse_part_name
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Entry, Store, Swap, Write, replaced_meanwhile

Names: TypeAlias = list[str]  # inside the class `list` is a method


class ReplacingParts:
    """A `Store` of a job's parts: those in the output, and those that wait in the state; none of a replaced file.

    Args:
        plan: one that replaces files.
        parts: the output's folder.
        state: the state folder.
    """

    def __init__(self, plan: Plan, parts: Store, state: Store) -> None:
        self._parts = parts
        self._state = state
        self._waiting = state.below(AGAIN)
        self._old = frozenset(plan.replaced)
        self._new = frozenset(plan.replaced.values()) - self._old

    @property
    def root(self) -> str:
        """How messages call the place."""
        return self._parts.root

    def prepare(self, *, expected_bytes: int = 0) -> None:
        """Prove that the output can be written."""
        self._parts.prepare(expected_bytes=expected_bytes)

    def list(self, prefix: str = "") -> list[Entry]:
        """Of a part that lies in both places, after a crash, that of the output."""
        found = {entry.name: entry for entry in self._waiting.list(prefix) if self._is_new(entry.name)}
        found |= {entry.name: entry for entry in self._parts.list(prefix) if not self._is_old(entry.name)}
        return sorted(found.values(), key=lambda entry: entry.name)

    def stat(self, name: str) -> Entry | None:
        """None if there is no such part."""
        there = self._parts.stat(name)
        return self._waiting.stat(name) if there is None and self._is_new(name) else there

    def open(self, name: str) -> BinaryIO:
        """Wherever it lies."""
        try:
            return self._parts.open(name)
        except FileNotFoundError:
            if not self._is_new(name):
                raise
            return self._waiting.open(name)

    def local_path(self, name: str) -> Path | None:
        """Wherever it lies."""
        return self._store_of(name).local_path(name)

    def create_if_absent(self, name: str, write: Write) -> bool:
        """Of a changed file: among those that wait, unless it is in the output already."""
        if not self._is_new(name):
            return self._parts.create_if_absent(name, write)
        return self._parts.stat(name) is None and self._waiting.create_if_absent(name, write)

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        """In the output."""
        self._parts.replace(name, write, expected=expected)

    def swap(self, swaps: Sequence[Swap]) -> bool:
        """In the output."""
        return self._parts.swap(swaps)

    def delete(self, *names: str) -> None:
        """In both places."""
        self._parts.delete(*names)
        self._waiting.delete(*(name for name in names if self._is_new(name)))

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        """In the output."""
        self._parts.sweep(live=live, dead=dead, before=before)

    def below(self, folder: str) -> Store:
        """Of the output."""
        return self._parts.below(folder)

    def remove_empty_folders(self) -> None:
        """Those of the output."""
        self._parts.remove_empty_folders()

    def old(self) -> Names:
        """Parts of replaced files that still lie in the output."""
        return [entry.name for entry in self._parts.list() if self._is_old(entry.name)]

    def take_their_place(self) -> None:
        """Put the new parts where the old ones are; every row of the new files must be there.

        Raises:
            StorageError: the store failed; every row is there, in old parts or new ones.
        """
        there = [entry.name for entry in self._parts.list()]
        old = [name for name in there if self._is_old(name)]
        new = [entry.name for entry in self._waiting.list() if self._is_new(entry.name)]
        added = [name for name in new if name not in there]
        if old or added:
            # From here on a late commit of an old part looks first, and takes itself back: see `PartsSink`.
            self._state.create_if_absent(JOINED, lambda file: file.write(b"{}\n"))
        swaps = [Swap(added=name, write=self._copy(name), removed=()) for name in added]
        if swaps and not any("/" in name for name in (*added, *old)):
            swaps[-1] = Swap(added=swaps[-1].added, write=swaps[-1].write, removed=tuple(old))
            self._parts.swap(swaps)
        else:
            for each in swaps:
                if not self._parts.create_if_absent(each.added, each.write):
                    raise replaced_meanwhile(f"{self.root}/{each.added}")
            self._parts.delete(*old)
        self._forget(new)

    def _forget(self, new: Sequence[str]) -> None:
        """Remove what nobody needs any more: copies of what is in the output, and what belonged to replaced parts."""
        self._waiting.delete(*new)
        self._waiting.remove_empty_folders()
        rejects = [entry.name for entry in self._state.list(REJECTS) if self._is_old(_part_of(entry.name))]
        self._state.delete(*rejects, *(file_record_name(number) for number in sorted(self._old)))

    def _copy(self, name: str) -> Write:
        def write(file: BinaryIO) -> None:
            with self._waiting.open(name) as source:
                shutil.copyfileobj(source, file, 2**20)

        return write

    def _store_of(self, name: str) -> Store:
        waits = self._is_new(name) and self._parts.stat(name) is None
        return self._waiting if waits else self._parts

    def _is_old(self, name: str) -> bool:
        block = parse_part_name(name)
        return block is not None and block.file in self._old

    def _is_new(self, name: str) -> bool:
        block = parse_part_name(name)
        return block is not None and block.file in self._new


def parts_of(plan: Plan | None, parts: Store, state: Store) -> Store:
    """Where the parts of a job are, of which `parts` is the output's folder."""
    return ReplacingParts(plan, parts, state) if plan is not None and plan.replaced else parts


def _part_of(rejects: str) -> str:
    """The name of the part that a rejects file belongs to."""
    return f"part-{rejects.removeprefix(REJECTS).rpartition('-')[0]}.parquet"
