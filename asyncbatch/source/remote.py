"""Input files in a bucket or behind https://, found by key, prefix or glob, and read by ranges.

A file is known by its ETag or generation from the moment it is listed: every later request names that state, so a file
that is replaced while it is read ends the run and never mixes in.
"""

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TypeVar, cast

from asyncbatch.errors import InputError, StorageError
from asyncbatch.source import opening
from asyncbatch.source.opening import FileStat
from asyncbatch.source.paths import FoundFile, in_order, is_glob, is_hidden, matches
from asyncbatch.store.access import Access
from asyncbatch.store.client import ConditionFailedError, ObjectClient, ObjectInfo, Readable
from asyncbatch.store.connect import connect
from asyncbatch.store.http import HttpClient
from asyncbatch.store.patience import Patience
from asyncbatch.store.ranged import RangedFile, plain_segments
from asyncbatch.store.uri import ObjectUri, parse_uri, scheme_of, shown

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_TAIL_BYTES = 64 * 1024
_HEAD_BYTES = 64 * 1024
_PARALLEL = 16


def find_remote(
    spec: str, access: Access, *, allow_empty: bool
) -> tuple["RemoteFiles", list[FoundFile], bool]:
    """The files that a URI names, in natural order, and whether a prefix or glob named them.

    `s3://bucket/key` is that object, or all below `key/`; `*`, `?`, `[…]` and `**` match as in paths.

    Raises:
        InputError: another scheme, nothing there (unless `allow_empty`), or no access.
        ConfigError: there are no credentials.
    """
    patience = Patience()
    if scheme_of(spec) in ("http", "https"):
        path = shown(spec)
        client = HttpClient(spec, ca_bundle=access.ca_bundle)
        files = RemoteFiles(client, {path: ""}, {}, patience)
        files.stat(path)  # raises where there is none
        return files, [FoundFile(path=path)], False
    uri = parse_uri(spec)
    if uri is None:
        opening.local_path(spec)  # raises, naming the schemes there are
        raise InputError(f"{spec} cannot be read")
    bucket = connect(uri, access)
    with _errors(spec):
        found, root = _look(bucket, uri, patience)
    paths = {f"{uri.place}/{info.key}": info for info in found}
    listed = root is not None
    if not paths and not allow_empty:
        what = f"the glob {spec} matches no object" if is_glob(uri.key) else f"{spec} does not exist"
        raise InputError(what, hint="check bucket and key, or say --allow-empty if that is fine")
    files = RemoteFiles(bucket, {path: info.key for path, info in paths.items()}, paths, patience)
    base = f"{uri.place}/{root}" if listed else ""
    return files, in_order(list(paths), base) if listed else [FoundFile(path=path) for path in paths], listed


def _look(client: ObjectClient, uri: ObjectUri, patience: Patience) -> tuple[list[ObjectInfo], str | None]:
    """What is there, and the prefix that it was looked for below; None if the key is an object's."""
    key = uri.key

    def listed(prefix: str) -> list[ObjectInfo]:
        found = patience.persist(
            lambda: [each for each in client.list(prefix) if not each.key.endswith("/")],
            f"listing {uri.place}/{prefix}",
        )
        return [each for each in found if each.size_bytes or not each.key.endswith("_$folder$")]

    if key and not key.endswith("/"):
        info = patience.persist(lambda: client.head(key), f"reading {uri}")
        if info is not None:
            return [info], None
    parts = key.split("/")
    fixed = next((number for number, part in enumerate(parts) if is_glob(part)), None)
    if fixed is None:
        root = key.rstrip("/") + "/" if key.strip("/") else ""
        below = ((each, each.key[len(root) :].split("/")) for each in listed(root))
        return [each for each, names in below if not any(map(is_hidden, names))], root
    root = "".join(f"{part}/" for part in parts[:fixed])
    pattern = parts[fixed:]
    spelled = any(map(is_hidden, pattern))
    start = root + pattern[0][: min(at for at in map(pattern[0].find, "*?[") if at >= 0)]
    found = []
    for each in listed(start):
        names = each.key[len(root) :].split("/")
        if (spelled or not any(map(is_hidden, names))) and _named(names, pattern):
            found.append(each)
    return found, root


def _named(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """The glob matches the file, or a folder above it."""
    if "**" in pattern:
        return matches(names, pattern)
    return len(names) >= len(pattern) and matches(names[: len(pattern)], pattern)


class RemoteFiles:
    """`opening.Files` behind a client.

    Args:
        keys: of each path.
        infos: what a listing said of them.
    """

    parallel = _PARALLEL

    def __init__(
        self, client: Readable, keys: Mapping[str, str], infos: Mapping[str, ObjectInfo], patience: Patience
    ) -> None:
        self._client = client
        self._keys = dict(keys)
        self._infos = dict(infos)
        self._patience = patience
        self._lock = threading.Lock()
        self._head: tuple[str, bytes] = ("", b"")

    def stat(self, path: str) -> FileStat:
        info = self._info(path)
        return FileStat(size_bytes=info.size_bytes, mtime_ns=0, age_s=info.age_s)

    def fingerprint(self, path: str) -> dict[str, str | int]:
        info = self._info(path)
        return {"size": info.size_bytes, "etag": info.version}

    def open_binary(self, path: str, *, compressed: bool = False, offset: int = 0) -> IO[bytes]:
        info = self._info(path)
        file = RangedFile(
            self._reader(path), info.size_bytes, segments=plain_segments(info.size_bytes, start=offset)
        )
        file.seek(offset)
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb") if compressed else file)

    def open_arrow(self, path: str, *, mapped: bool = False) -> "pa.NativeFile":
        import pyarrow as pa

        size = self._info(path).size_bytes
        file = RangedFile(self._reader(path), size, segments=plain_segments(size))
        return pa.PythonFile(file, mode="r")

    def open_ranged(self, path: str) -> RangedFile:
        with _errors(path):
            tail, info = self._persist(
                lambda: self._client.tail(self._keys[path], _TAIL_BYTES), f"reading {path}"
            )
            if info.version != self._info(path).version:
                raise ConditionFailedError(f"{path} is another")
        return RangedFile(self._reader(path), info.size_bytes, known=tail)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        stop = min(start + length, self._info(path).size_bytes)
        if stop <= start:
            return b""
        if stop > _HEAD_BYTES:
            return self._reader(path)(start, stop)
        known, head = self._head
        if known != path:  # the first bytes are asked for again and again while a file is opened
            head = self._reader(path)(0, min(_HEAD_BYTES, self._info(path).size_bytes))
            self._head = (path, head)
        return head[start:stop]

    def _info(self, path: str) -> ObjectInfo:
        with self._lock:
            info = self._infos.get(path)
        if info is None:
            with _errors(path):
                info = self._persist(lambda: self._client.head(self._keys[path]), f"reading {path}")
                if info is None:
                    raise FileNotFoundError(path)
            with self._lock:
                self._infos[path] = info
        return info

    def _reader(self, path: str) -> Callable[[int, int], bytes]:
        key, token = self._keys[path], self._info(path).token

        def read(start: int, stop: int) -> bytes:
            with _errors(path):
                return self._persist(
                    lambda: self._client.read(key, start, stop, token=token), f"reading {path}"
                )

        return read

    def _persist(self, call: Callable[[], T], doing: str) -> T:
        return self._patience.persist(call, doing)


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """What the store has against reading, as an `InputError`."""
    try:
        yield
    except StorageError as error:
        raise InputError(error.message, hint=error.hint) from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint="check bucket and key") from error
    except ConditionFailedError as error:
        raise InputError(
            f"{path} was changed since the run began to read it",
            hint="use the same input, or another output",
        ) from error
