"""The calls to the operating system that the local store makes, and no others.

They are a seam: the tests drive the same store over a model of a disk that loses whatever was not synced.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS, errno.EBADF})
"""A folder's sync may be refused so by network and read-only file systems: they have no such operation,
nothing failed."""


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""renameat2(2), Linux 3.15: ext4, xfs, btrfs, tmpfs."""
_RENAME_SWAP = 2
"""renamex_np(2) of macOS: APFS."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """One name in a folder."""

    name: str
    is_folder: bool
    size_bytes: int
    version: str
    modified_s: float
    """Seconds since 1970."""


class FileSystem(Protocol):
    """Each method is one call, and raises OSError as the call does."""

    def create(self, path: Path) -> BinaryIO:
        """A new file for writing; it must not exist."""
        ...

    def sync(self, file: BinaryIO) -> None:
        """The file's content survives a power loss; its name needs `sync_folder`."""
        ...

    def sync_folder(self, path: Path) -> None:
        """The names in the folder survive a power loss."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """A second name; fails if `target` exists."""
        ...

    def link_count(self, path: Path) -> int: ...

    def rename(self, source: Path, target: Path) -> None:
        """Atomic; replaces `target`."""
        ...

    def exchange(self, one: Path, other: Path) -> None:
        """Atomic: each has the other's name. ENOSYS, ENOTSUP or EINVAL where that cannot be done."""
        ...

    def copy_attributes(self, source: Path, target: Path) -> None:
        """Owner, permissions and the like, as far as this process may."""
        ...

    def unlink(self, path: Path) -> None: ...

    def make_folder(self, path: Path) -> None: ...

    def remove_folder(self, path: Path) -> None:
        """Only if empty."""
        ...

    def scan(self, path: Path) -> list[Scanned]: ...

    def stat(self, path: Path) -> Scanned: ...

    def open(self, path: Path) -> BinaryIO: ...

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Held by one thread of one process at a time; released when its holder dies."""
        ...

    def free_bytes(self, path: Path) -> int: ...

    def device(self, path: Path) -> int: ...

    def writable(self, path: Path) -> bool: ...


class OsFileSystem:
    """The real one."""

    def create(self, path: Path) -> BinaryIO:
        return cast(BinaryIO, path.open("xb"))

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        if sys.platform == "darwin":
            # fsync leaves the data in the drive's cache there: see fsync(2) of macOS.
            import fcntl

            try:
                fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                    raise
        os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        if sys.platform == "win32":
            return  # folders cannot be opened there; no promise about power loss is made
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise
        finally:
            os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def link_count(self, path: Path) -> int:
        return path.stat().st_nlink

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def exchange(self, one: Path, other: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        if sys.platform == "linux" and hasattr(library, "renameat2"):
            failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
        elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
            failed = library.renamex_np(*names, _RENAME_SWAP)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if failed:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(one))

    def copy_attributes(self, source: Path, target: Path) -> None:
        shutil.copystat(source, target)
        there, here = source.stat(), target.stat()
        if (there.st_uid, there.st_gid) != (here.st_uid, here.st_gid):
            os.chown(target, there.st_uid, there.st_gid)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def scan(self, path: Path) -> list[Scanned]:
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                    state = entry.stat()
                except FileNotFoundError:  # removed while we look
                    continue
                found.append(_scanned(entry.name, is_folder, state))
        return found

    def stat(self, path: Path) -> Scanned:
        return _scanned(path.name, path.is_dir(), path.stat())

    def open(self, path: Path) -> BinaryIO:
        return cast(BinaryIO, path.open("rb"))

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        import fcntl  # POSIX only: Windows file systems have hard links, so no lock is needed there

        with path.open("ab") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def device(self, path: Path) -> int:
        return path.stat().st_dev

    def writable(self, path: Path) -> bool:
        return os.access(path, os.W_OK | os.X_OK)


def _scanned(name: str, is_folder: bool, state: os.stat_result) -> Scanned:
    return Scanned(name, is_folder, state.st_size, str(state.st_mtime_ns), state.st_mtime)
