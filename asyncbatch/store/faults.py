"""What a failed call to the operating system means to a person, and what to do next."""

import errno
from pathlib import Path

from asyncbatch.errors import OutputError, StorageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
AGAIN = "then run the same command again: what is committed is kept"


def storage_error(error: OSError, *, doing: str) -> StorageError:
    """While a run writes. `doing` is like `writing out/part-0`."""
    if error.errno in _FULL:
        return StorageError(f"no space left while {doing}", hint=f"free some space, {AGAIN}")
    if error.errno == errno.EIO:
        return StorageError(
            f"the disk failed while {doing} (input/output error)", hint=f"check the disk, {AGAIN}"
        )
    if error.errno in _READ_ONLY:
        return StorageError(f"permission denied while {doing}", hint=f"make it writable, {AGAIN}")
    if error.errno == errno.ENOENT:
        return StorageError(
            f"a file or folder vanished while {doing}", hint="is something else removing files there?"
        )
    if error.errno == errno.EMFILE:
        return StorageError(f"too many open files while {doing}", hint=f"raise `ulimit -n`, {AGAIN}")
    return StorageError(f"{_reason(error)} while {doing}", hint=f"look into the cause, {AGAIN}")


def output_error(error: OSError, *, path: str) -> OutputError:
    """Before anything was written: `path` cannot become an output."""
    if error.errno in _READ_ONLY:
        return OutputError(
            f"{path} is not writable", hint="choose another output, or make its folder writable"
        )
    if error.errno in _FULL:
        return OutputError(
            f"no space left for {path}", hint="free some space, or choose an output on another disk"
        )
    # A file system without files of its own, such as /proc, says so too.
    if error.errno == errno.ENOENT and Path(path).absolute().parent.is_dir():
        return OutputError(f"{path} cannot be created there", hint="choose another output")
    if error.errno == errno.ENOENT:
        return OutputError(
            f"the folder of {path} does not exist", hint="create it first, or correct the name"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(
            f"a file is where {path} needs a folder", hint="choose another output, or move that file"
        )
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(f"the name {path[:60]}… is too long", hint="choose a shorter one")
    return OutputError(f"{path} cannot be written: {_reason(error)}", hint="choose another output")


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
