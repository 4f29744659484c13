"""The one place where input files are listed and opened: the seam for other file systems."""

import gzip
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from asyncbatch.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from asyncbatch.store.ranged import RangedFile

SCHEMES = ("file", "s3", "gs", "az", "https")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What identifies a state of a file."""

    size_bytes: int
    mtime_ns: int
    age_s: float | None = None
    """How long ago it was written, by the clock of where it is; None where that is not told."""


class Files(Protocol):
    """Where input files are: on this machine, or behind a client. Every method raises InputError for what it cannot do."""

    @property
    def parallel(self) -> int:
        """How many files are looked at at once: more than one where each look is a request."""
        ...

    def stat(self, path: str) -> FileStat: ...

    def fingerprint(self, path: str) -> dict[str, str | int]:
        """What must not change between a run and its resumption; its `size` is in bytes."""
        ...

    def open_binary(self, path: str, *, compressed: bool = False, offset: int = 0) -> IO[bytes]: ...

    def open_arrow(self, path: str, *, mapped: bool = False) -> "pa.NativeFile": ...

    def open_ranged(self, path: str) -> "RangedFile | None":
        """For a reader that can say which ranges it will want; None where that is of no use."""
        ...

    def read_range(self, path: str, start: int, length: int) -> bytes: ...


class LocalFiles:
    """The files of this machine, by path. Stateless."""

    parallel = 1

    def stat(self, path: str) -> FileStat:
        return stat(path)

    def fingerprint(self, path: str) -> dict[str, str | int]:
        from asyncbatch.source.fingerprint import file_fingerprint

        return file_fingerprint(path)

    def open_binary(self, path: str, *, compressed: bool = False, offset: int = 0) -> IO[bytes]:
        return open_binary(path, compressed=compressed, offset=offset)

    def open_arrow(self, path: str, *, mapped: bool = False) -> "pa.NativeFile":
        return open_arrow(path, mapped=mapped)

    def open_ranged(self, path: str) -> None:
        return None

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return read_range(path, start, length)


LOCAL = LocalFiles()


def local_path(spec: str) -> str:
    """The path of a spec: itself without `./` and doubled slashes, or what a `file://` URI names.

    Raises:
        InputError: a URI of another scheme, or of another host.
    """
    match = _SCHEME.match(spec)
    if match is None:
        return os.path.normpath(spec) if spec != "-" else spec
    scheme = match[1].lower()
    if scheme != "file":
        raise InputError(
            f"the source has the scheme {scheme}://, which cannot be read",
            hint=f"give a local path, or one of {', '.join(each + '://' for each in SCHEMES)}",
        )
    parts = urlsplit(spec.replace("?", "%3F").replace("#", "%23"))
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"{spec} names the host {parts.netloc}", hint="a local file is file:///path, with three slashes"
        )
    return url2pathname(parts.path) if "%" in parts.path else unquote(parts.path)


def is_gzip(path: str, files: Files = LOCAL) -> bool:
    """True when the file's first two bytes are those of gzip (RFC 1952), whatever its name."""
    return files.read_range(path, 0, 2) == b"\x1f\x8b"


def stat(path: str) -> FileStat:
    """Size and modification time.

    Raises:
        InputError: the file is missing or not readable.
    """
    with reading(path):
        found = Path(path).stat()
    return FileStat(size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, age_s=time.time() - found.st_mtime)


def open_binary(path: str, *, compressed: bool = False, offset: int = 0) -> IO[bytes]:
    """Open for reading at byte `offset`; inflated while read when `compressed` (then `offset` must be 0).

    Raises:
        InputError: the file is missing or not readable.
    """
    with reading(path):
        if compressed:
            return cast("IO[bytes]", gzip.GzipFile(path, "rb"))
        stream = Path(path).open("rb", buffering=0)  # noqa: SIM115  # the caller closes it
        stream.seek(offset)
        return stream


def open_arrow(path: str, *, mapped: bool = False) -> "pa.NativeFile":
    """Open for random access by pyarrow, outside the interpreter lock; `mapped` into memory when asked.

    Raises:
        InputError: the file is missing or not readable.
    """
    import pyarrow as pa

    with reading(path):
        return pa.memory_map(path, "r") if mapped else pa.OSFile(path, "rb")


def read_range(path: str, start: int, length: int) -> bytes:
    """At most `length` bytes from `start`.

    Raises:
        InputError: the file is missing or not readable.
    """
    with reading(path), Path(path).open("rb", buffering=0) as stream:
        stream.seek(start)
        return _read_full(stream, length)


def _read_full(stream: IO[bytes], length: int) -> bytes:
    pieces = []
    while length > 0 and (piece := stream.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_block(path: str, stream: IO[bytes], length: int) -> bytes:
    """The next `length` bytes of an open stream; fewer only at its end.

    Raises:
        InputError: reading failed, or the gzip data are damaged or end early.
    """
    with reading(path):
        return _read_full(stream, length)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what reading `path` may raise into an `InputError` that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is a damaged or truncated gzip file", hint="copy it again, or test it with gzip -t"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist", hint="check the path; quote it if it holds * or spaces"
        ) from error
    except OSError as error:
        if error.errno is None:  # not of the system: pyarrow's verdict on the bytes
            raise InputError(
                f"{path} is truncated or damaged", hint="copy it again, or leave it out"
            ) from error
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error
