"""A disk that loses whatever may be lost: a model of one, for the store to be driven over.

It crashes before any operation. After that, of every file any prefix of what was not synced is left (or its length,
filled with zeros), and of every folder any subset of the changes of names that were not synced.
"""

import contextlib
import errno
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from asyncbatch.store.filesystem import Scanned

HOME = Path("/data")
"""The one folder that is always there."""

Change: TypeAlias = tuple[Path, int | Path | None, bool]


class Crash(BaseException):
    """The power goes."""


def nothing() -> None:
    """The hook that does nothing."""


class ModelFile(io.BytesIO):
    def __init__(self, disk: "ModelDisk", inode: int) -> None:
        super().__init__()
        self._disk, self.inode = disk, inode

    def write(self, data: object) -> int:  # type: ignore[override]
        self._disk.step("write")
        content = bytes(cast(bytes, data))
        self._disk.content[self.inode] += content
        return len(content)


class ModelDisk:
    """A `FileSystem`: what is there now, what is there after a crash, and the names in between, by folder."""

    def __init__(self, seed: str, *, links: bool = True) -> None:
        self.rng = random.Random(seed)
        self.links = links
        self.began = time.time()
        """When every file was last written, as far as anybody can see."""
        self.content: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self.names: dict[Path, int | None] = {HOME: None, HOME.parent: None}  # None: a folder
        self.durable = dict(self.names)
        # Name, inode, added (else removed); or two folders that change places.
        self.pending: list[Change] = []
        self.steps = 0
        self.crash_at: int | None = None
        self.fail_at: int | None = None
        self.fail_with = 0
        self.dead = False
        self.crashed_before = ""
        self.locked = False
        self.exchanges = True
        self.hook: Callable[[], None] = nothing
        self._inodes = 0

    def step(self, operation: str) -> None:
        if self.dead:
            raise Crash
        self.steps += 1
        crashes, fails = self.steps == self.crash_at, self.steps == self.fail_at
        self.hook()  # others may do something just before it
        if crashes:
            self.dead = True
            self.crashed_before = operation
            raise Crash
        if fails:
            raise OSError(self.fail_with, os.strerror(self.fail_with))

    def reboot(self) -> None:
        keep = self.rng.choice([0.0, 0.5, 0.5, 0.9, 1.0])
        names = dict(self.durable)
        for change in self.pending:
            if self.rng.random() < keep:
                self._apply(names, change)
        self.names = {path: inode for path, inode in names.items() if self._reachable(path, names)}
        for inode in {inode for inode in self.names.values() if inode is not None}:
            full, safe = self.content[inode], self.synced.get(inode, b"")
            if full != safe:
                kept = full[: self.rng.randint(len(safe), len(full))]
                zeros = bytes(len(full) - len(kept)) if self.rng.random() < 0.3 else b""
                self.content[inode] = kept + zeros
            self.synced[inode] = self.content[inode]
        self.durable = dict(self.names)
        self.pending = []
        self.crash_at, self.dead, self.locked, self.steps = None, False, False, 0
        self.hook = nothing

    @staticmethod
    def _reachable(path: Path, names: dict[Path, int | None]) -> bool:
        return all(parent in names for parent in path.parents)

    @staticmethod
    def _apply(names: dict[Path, int | None], change: Change) -> None:
        path, inode, added = change
        if isinstance(inode, Path):
            moved = {
                new / each.relative_to(old): names.pop(each)
                for old, new in ((path, inode), (inode, path))
                for each in list(names)
                if each.is_relative_to(old)
            }
            names.update(moved)
        elif added:
            names[path] = inode
        else:
            names.pop(path, None)

    def _change(self, path: Path, inode: int | None, *, added: bool) -> None:
        self._apply(self.names, (path, inode, added))
        self.pending.append((path, inode, added))

    def _inode(self, path: Path) -> int:
        inode = self.names.get(path)
        if inode is None:
            raise FileNotFoundError(2, "no such file", str(path))
        return inode

    def create(self, path: Path) -> BinaryIO:
        self.step("create")
        if path in self.names:
            raise FileExistsError(17, "exists")
        if path.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        inode = self._inodes = self._inodes + 1
        self.content[inode] = b""
        self._change(path, inode, added=True)
        return ModelFile(self, inode)

    def sync(self, file: BinaryIO) -> None:
        self.step("sync")
        inode = cast(ModelFile, file).inode
        self.synced[inode] = self.content[inode]

    def exchange(self, one: Path, other: Path) -> None:
        self.step("exchange")
        if not self.exchanges:
            raise OSError(errno.ENOSYS, "not supported")
        assert not [each for each in self.pending if one in each[0].parents or other in each[0].parents]
        self._apply(self.names, (one, other, True))
        self.pending.append((one, other, True))

    def copy_attributes(self, source: Path, target: Path) -> None:
        self.step("copy_attributes")

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder")
        if path not in self.names:
            raise FileNotFoundError(2, "no folder")
        for change in [each for each in self.pending if each[0].parent == path]:
            self._apply(self.durable, change)
            self.pending.remove(change)

    def link(self, source: Path, target: Path) -> None:
        self.step("link")
        if not self.links:
            raise OSError(95, "not supported")
        inode = self._inode(source)
        if target in self.names:
            raise FileExistsError(17, "exists")
        if target.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        self._change(target, inode, added=True)

    def link_count(self, path: Path) -> int:
        inode = self._inode(path)
        return sum(each == inode for each in self.names.values())

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        inode = self._inode(source)
        self._change(target, inode, added=True)
        self._change(source, inode, added=False)

    def unlink(self, path: Path) -> None:
        self.step("unlink")
        self._change(path, self._inode(path), added=False)

    def make_folder(self, path: Path) -> None:
        self.step("make_folder")
        if path in self.names:
            raise FileExistsError(17, "exists")
        if path.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        self._change(path, None, added=True)

    def remove_folder(self, path: Path) -> None:
        self.step("remove_folder")
        if any(each.parent == path for each in self.names):
            raise OSError(39, "not empty")
        self._change(path, None, added=False)

    def scan(self, path: Path) -> list[Scanned]:
        self.step("scan")
        if path not in self.names:
            raise FileNotFoundError(2, "no folder")
        return [self.stat(each) for each in sorted(self.names) if each.parent == path and each != path]

    def stat(self, path: Path) -> Scanned:
        if path not in self.names:
            raise FileNotFoundError(2, "no such file")
        inode = self.names[path]
        size = 0 if inode is None else len(self.content[inode])
        return Scanned(path.name, inode is None, size, str(inode), self.began)

    def open(self, path: Path) -> BinaryIO:
        return io.BytesIO(self.content[self._inode(path)])

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        self.step("lock")
        self.locked = True
        try:
            yield
        finally:
            self.locked = False

    def free_bytes(self, path: Path) -> int:
        return 10**9

    def device(self, path: Path) -> int:
        return 1

    def writable(self, path: Path) -> bool:
        return True
