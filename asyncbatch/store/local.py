"""Files on a disk, committed so that a crash at any moment leaves each of them whole or absent.

A file is written under a name of its own in `tmp/` of the state folder, synced, and only then given its real
name by a hard link, which fails if the name is taken: of several writers exactly one wins. Then the folder is
synced, and only then is the commit reported. A failed sync ends the attempt and is never tried again: the
kernel may have dropped the pages it could not write and reports that once only (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

import contextlib
import errno
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from asyncbatch.errors import OutputError, StorageError
from asyncbatch.store.base import Entry, Swap, Write, replaced_meanwhile
from asyncbatch.store.faults import output_error, storage_error
from asyncbatch.store.filesystem import FileSystem, OsFileSystem, Scanned

Entries: TypeAlias = list[Entry]  # inside the class `list` is a method

_log = logging.getLogger(__name__)

NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
NO_EXCHANGE = NO_HARD_LINKS | {errno.EINVAL, errno.EBUSY, errno.EXDEV, errno.EACCES}
"""Two folders cannot change places: an old system, a network disk, a mount point, or rights are lacking."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
MINIMUM_FREE_BYTES = 16 * 2**20
"""Less than this left on the disk and a run is not started."""


@dataclass(slots=True)
class _Links:
    """Whether the file system has hard links: found out, and said, once for all stores on it."""

    usable: bool = True


class LocalStore:
    """A `Store` below `root`; unfinished files lie in `state_root/tmp`, which must be on the same file
    system.

    Args:
        root: where the names are.
        state_root: the state folder; may be `root` itself.
        files: the calls to the operating system.
        owner: marks the unfinished files of this process, so that others can `sweep` them when it is gone.
    """

    def __init__(
        self, root: Path, state_root: Path, *, files: FileSystem | None = None, owner: str | None = None
    ) -> None:
        self._root = root
        self._state_root = state_root
        self._temp = state_root / "tmp"
        self._files = files if files is not None else OsFileSystem()
        self._owner = owner or uuid.uuid4().hex[:12]
        self._ready: set[Path] = set()
        self._links = _Links()

    def beside(self, root: Path) -> "LocalStore":
        """A store below another root of the same file system, with the same state folder and owner."""
        other = LocalStore(root, self._state_root, files=self._files, owner=self._owner)
        other._links = self._links
        return other

    def below(self, folder: str) -> "LocalStore":
        return self.beside(self._root / folder)

    @property
    def root(self) -> str:
        return str(self._root)

    def prepare(self, *, expected_bytes: int = 0) -> None:
        try:
            self._ensure_folder(self._root)
            if not self._files.stat(self._root).is_folder:
                raise NotADirectoryError(errno.ENOTDIR, "not a folder")
            self._ensure_folder(self._temp)
            if self._files.device(self._root) != self._files.device(self._temp):
                raise OutputError(
                    f"{self._root} and its state folder {self._temp.parent} are on different file systems",
                    hint=f"choose a folder below it, such as {self._root / 'scored'}",
                )
            # Not tried out in the root: readers of the output would see the file.
            probe = self._temp / f"{self._owner}-{uuid.uuid4().hex}"
            self._files.create(probe).close()
            self._discard(probe)  # gone, where another process takes this one for dead
            if not self._files.writable(self._root):
                raise OSError(errno.EACCES, "not writable")
            free = self._files.free_bytes(self._root)
        except OSError as error:
            raise output_error(error, path=str(self._root)) from error
        if free < max(expected_bytes, MINIMUM_FREE_BYTES):
            raise OutputError(
                f"{self._root} has {free / 1e6:,.0f} MB free, and about"
                f" {max(expected_bytes, MINIMUM_FREE_BYTES) / 1e6:,.0f} MB are needed",
                hint="free some space, or choose an output on another disk",
            )

    def list(self, prefix: str = "") -> list[Entry]:
        found: Entries = []
        folder = prefix.rpartition("/")[0]
        try:
            self._walk(self._root / folder, f"{folder}/" if folder else "", found)
        except OSError as error:
            raise storage_error(error, doing=f"listing {self._root / folder}") from error
        return sorted(
            (entry for entry in found if entry.name.startswith(prefix)), key=lambda entry: entry.name
        )

    def stat(self, name: str) -> Entry | None:
        try:
            found = self._files.stat(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(error, doing=f"looking at {self._root / name}") from error
        return None if found.is_folder else _entry(name, found)

    def open(self, name: str) -> BinaryIO:
        try:
            return self._files.open(self._root / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(error, doing=f"reading {self._root / name}") from error

    def local_path(self, name: str) -> Path | None:
        return self._root / name

    def create_if_absent(self, name: str, write: Write) -> bool:
        final = self._root / name
        temp = self._write_temp(final, write)
        try:
            created = self._link(temp, final) if self._links.usable else self._claim(temp, final)
            # Also when another writer was first: it may not have synced the folder yet, and the answer
            # "it is there" must survive a crash.
            self._files.sync_folder(final.parent)
        except OSError as error:
            raise storage_error(error, doing=f"committing {final}") from error
        finally:
            self._discard(temp)
        return created

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        final = self._root / name
        temp = self._write_temp(final, write)
        try:
            with contextlib.nullcontext() if expected is None else self._others_wait():
                if expected is not None and self.stat(name) != expected:
                    self._discard(temp)
                    raise replaced_meanwhile(str(final))
                self._files.rename(temp, final)
            self._files.sync_folder(final.parent)
        except OSError as error:
            self._discard(temp)
            raise storage_error(error, doing=f"replacing {final}") from error

    def swap(self, swaps: Sequence[Swap]) -> bool:
        root = self._root.resolve()  # of a link, what it points to is exchanged
        fresh = self._temp / f"{self._owner}-{uuid.uuid4().hex}"
        try:
            self._ensure_folder(self._temp)
            self._files.make_folder(fresh)
            for each in swaps:
                with self._files.create(fresh / each.added) as file:
                    each.write(file)
                    self._files.sync(file)
            at_once = self._exchange(root, fresh, removed={name for each in swaps for name in each.removed})
            if not at_once:
                self._one_by_one(root, fresh, swaps)
        except OSError as error:
            self._discard_folder(fresh)
            raise storage_error(error, doing=f"joining files of {self._root}") from error
        except BaseException:
            self._discard_folder(fresh)
            raise
        self._discard_folder(fresh)
        return at_once

    def _exchange(self, root: Path, fresh: Path, *, removed: set[str]) -> bool:
        """Give `fresh` the rest of the root's files, and then the root's name; False: not possible here."""
        linked: list[Path] = []
        try:
            for each in self._files.scan(root):
                if each.is_folder:
                    raise OSError(errno.EINVAL, "a folder has no second name")
                if each.name not in removed:
                    self._files.link(root / each.name, fresh / each.name)
                    linked.append(fresh / each.name)
            self._files.copy_attributes(root, fresh)
            # All of both folders is durable before they change places, and the change before anything goes.
            self._files.sync_folder(root)
            self._files.sync_folder(fresh)
            self._files.sync_folder(fresh.parent)
            self._files.exchange(root, fresh)
        except OSError as error:
            if error.errno not in NO_EXCHANGE:
                raise
            for path in linked:
                self._files.unlink(path)
            return False
        self._files.sync_folder(root.parent)
        self._files.sync_folder(fresh.parent)
        return True

    def _one_by_one(self, root: Path, fresh: Path, swaps: Sequence[Swap]) -> None:
        for each in swaps:
            final = root / each.added
            if self._links.usable:
                self._link(fresh / each.added, final)
            else:
                self._claim(fresh / each.added, final)
            self._files.sync_folder(root)
            for name in each.removed:
                try:
                    self._files.unlink(root / name)
                except FileNotFoundError:
                    pass  # another process joins the same parts
            self._files.sync_folder(root)

    def delete(self, *names: str) -> None:
        folders = set()
        for name in names:
            path = self._root / name
            try:
                self._files.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error, doing=f"removing {path}") from error
            folders.add(path.parent)
        for folder in sorted(folders):
            try:
                self._files.sync_folder(folder)
            except OSError as error:
                raise storage_error(error, doing=f"removing files in {folder}") from error

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        try:
            left = self._files.scan(self._temp)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, doing=f"listing {self._temp}") from error
        for each in left:
            owner = each.name.partition("-")[0]
            if owner == self._owner or owner in live:
                continue
            if owner in dead or each.modified_s < before:
                if each.is_folder:
                    self._discard_folder(self._temp / each.name)
                else:
                    self._discard(self._temp / each.name)

    def remove_empty_folders(self) -> None:
        """Remove the folders below the root, and the root itself, as far as they hold no file."""
        self._ready.clear()
        self._prune(self._root)

    def _prune(self, folder: Path) -> None:
        try:
            for each in self._files.scan(folder):
                if each.is_folder:
                    self._prune(folder / each.name)
            self._files.remove_folder(folder)
        except OSError:
            pass  # not empty, or gone already: both are fine

    def _walk(self, folder: Path, prefix: str, found: Entries) -> None:
        try:
            # A name may be seen before it is durable; whoever acts on this list must not lose it in a crash.
            self._files.sync_folder(folder)
            names = self._files.scan(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        for each in names:
            if each.is_folder:
                self._walk(folder / each.name, f"{prefix}{each.name}/", found)
            else:
                found.append(_entry(prefix + each.name, each))

    def _write_temp(self, final: Path, write: Write) -> Path:
        """A complete, synced file under a name of its own."""
        temp = self._temp / f"{self._owner}-{uuid.uuid4().hex}"
        try:
            self._ensure_folder(final.parent)
            self._ensure_folder(self._temp)
            with self._files.create(temp) as file:
                write(file)
                self._files.sync(file)
        except OSError as error:
            self._discard(temp)
            raise storage_error(error, doing=f"writing {final}") from error
        except BaseException:
            self._discard(temp)
            raise
        return temp

    def _link(self, temp: Path, final: Path) -> bool:
        try:
            self._files.link(temp, final)
            return True
        except OSError as error:
            # On network disks a link may succeed and its answer be lost; the link count tells (open(2), NFS).
            if self._linked(temp):
                return True
            if isinstance(error, FileExistsError):
                return False
            if error.errno not in NO_HARD_LINKS:
                raise
        if self._links.usable:
            self._links.usable = False
            _log.warning("%s has no hard links: files are committed by rename under a lock", self._root)
        return self._claim(temp, final)

    def _linked(self, temp: Path) -> bool:
        try:
            return self._files.link_count(temp) == 2
        except OSError:
            return False

    def _claim(self, temp: Path, final: Path) -> bool:
        """Without hard links: look and rename while no other writer can."""
        try:
            with self._files.lock(self._temp.parent / "lock"):
                if self._exists(final):
                    return False
                self._files.rename(temp, final)
                return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise StorageError(
                    f"{self._root} has neither hard links nor locks: nothing can be committed there safely",
                    hint="write to a local disk and copy the result",
                ) from error
            raise

    @contextlib.contextmanager
    def _others_wait(self) -> Iterator[None]:
        """No other process is between a look and a rename; where there are no locks, that is only unlikely."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._files.lock(self._temp.parent / "lock"))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield

    def _exists(self, path: Path) -> bool:
        try:
            self._files.stat(path)
        except FileNotFoundError:
            return False
        return True

    def _ensure_folder(self, path: Path) -> None:
        """Make `path` and whatever is missing above it, durably."""
        if path in self._ready:
            return
        missing = []
        folder = path
        while not self._exists(folder):
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            try:
                self._files.make_folder(each)
            except FileExistsError:
                pass  # another process was faster
        # Another process may have made it and not synced it yet: a folder that exists is synced too.
        for each in dict.fromkeys([*missing, path]):
            self._files.sync_folder(each.parent)
        self._ready.add(path)

    def _discard_folder(self, temp: Path) -> None:
        try:
            for each in self._files.scan(temp):
                self._files.unlink(temp / each.name)
            self._files.remove_folder(temp)
        except OSError:
            pass  # swept later

    def _discard(self, temp: Path) -> None:
        try:
            self._files.unlink(temp)
        except OSError:
            pass  # swept already, or swept later: an unfinished file is never read


def _entry(name: str, found: Scanned) -> Entry:
    return Entry(name=name, size_bytes=found.size_bytes, version=found.version, modified_s=found.modified_s)
