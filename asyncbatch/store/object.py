"""A `Store` in a bucket: files are created by conditional requests, since there is no rename.

A part is created by one request that the store refuses if the name is taken. When the answer is lost, or says that the
name is taken, a look at the object tells whose it is: every write carries a mark of its own. So no outcome is guessed,
a request that took effect after it was given up does no harm, and of several writers exactly one gets True.
What is too large for one request is sent in pieces, and its completion is the commit.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar, cast

from asyncbatch.errors import AsyncBatchError, OutputError, StorageError
from asyncbatch.store.base import Entry, Swap, Write, replaced_meanwhile
from asyncbatch.store.client import (
    ABSENT,
    Condition,
    ConditionFailedError,
    ObjectClient,
    ObjectInfo,
    UnavailableError,
    Unfinished,
    Upload,
)
from asyncbatch.store.patience import Patience
from asyncbatch.store.pieces import PieceWriter
from asyncbatch.store.ranged import RangedFile, plain_segments

T = TypeVar("T")
Entries: TypeAlias = list[Entry]  # inside the class `list` is a method

_log = logging.getLogger(__name__)

_TAIL_BYTES = 64 * 1024
_REPLACE_TRIES = 20
UPLOADS = "uploads/"
"""Records of uploads under way, in the state folder: whose they are, so that others can end them."""


class ObjectStore:
    """A `Store` of the keys below `prefix`; what is unfinished is recorded below `state_prefix`.

    Args:
        prefix: empty, or ends with a slash.
        state_prefix: the state folder; may be `prefix` itself.
        owner: marks the uploads of this process, so that others can `sweep` them when it is gone.
    """

    def __init__(
        self,
        client: ObjectClient,
        prefix: str,
        state_prefix: str,
        *,
        owner: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._state = state_prefix
        self._owner = owner or uuid.uuid4().hex[:12]
        self._patience = patience if patience is not None else Patience()
        self._lock = threading.Lock()
        self._made: dict[str, bool] = {}
        """Names that this object created (True) or removed (False): a listing that is behind is put right."""
        self._proven = threading.Event()
        """The bucket was written to, and honours conditions; for all stores in it."""

    def beside(self, prefix: str) -> "ObjectStore":
        """A store below another prefix of the bucket, with the same state folder and owner."""
        other = ObjectStore(self._client, prefix, self._state, owner=self._owner, patience=self._patience)
        other._proven = self._proven
        return other

    def below(self, folder: str) -> "ObjectStore":
        return self.beside(f"{self._prefix}{folder.strip('/')}/")

    @property
    def root(self) -> str:
        return f"{self._client.place}/{self._prefix}".rstrip("/")

    def prepare(self, *, expected_bytes: int = 0) -> None:
        """Prove that it can be written, and that the store refuses to create what is there: some ignore the condition."""
        if self._proven.is_set():
            return
        name = f"{self._state}tmp/{self._owner}-{uuid.uuid4().hex}"
        try:
            both = self._create(name, b"1") and self._create(name, b"2")
            self._persist(lambda: self._client.delete([name]), f"removing {self._client.place}/{name}")
        except StorageError as error:
            raise OutputError(error.message, hint=error.hint) from error
        if both:
            raise OutputError(
                f"{self._client.place} creates objects that are there already: it ignores If-None-Match",
                hint="nothing can be committed there safely; write to a local disk and copy the result",
            )
        self._proven.set()

    def list(self, prefix: str = "") -> list[Entry]:
        def once() -> Entries:
            return [
                self._entry(info)
                for info in self._client.list(self._prefix + prefix)
                if not info.key.endswith("/")  # what consoles make for an empty folder
            ]

        found = {entry.name: entry for entry in self._persist(once, f"listing {self.root}")}
        with self._lock:
            made = {name: there for name, there in self._made.items() if name.startswith(prefix)}
        for name, there in made.items():
            if there != (name in found):  # the listing is behind, or someone else was at it
                entry = self.stat(name)
                if entry is not None:
                    found[name] = entry
                else:
                    found.pop(name, None)
        return sorted(found.values(), key=lambda entry: entry.name)

    def stat(self, name: str) -> Entry | None:
        info = self._head(self._prefix + name)
        return self._entry(info) if info is not None else None

    def open(self, name: str) -> BinaryIO:
        key = self._prefix + name
        doing = f"reading {self._client.place}/{key}"

        def end() -> tuple[bytes, ObjectInfo]:
            try:
                return self._client.tail(key, _TAIL_BYTES)
            except ConditionFailedError as error:  # replaced between two requests
                raise UnavailableError(error.message) from error

        tail, info = self._persist(end, doing)

        def read(start: int, stop: int) -> bytes:
            try:
                return self._persist(
                    lambda: self._client.read(key, start, stop, token=info.token), f"reading {key}"
                )
            except ConditionFailedError as error:
                raise StorageError(
                    f"{self._client.place}/{key} was replaced while it was read",
                    hint="run the same command again",
                ) from error

        file = RangedFile(read, info.size_bytes, segments=plain_segments(info.size_bytes), known=tail)
        return cast(BinaryIO, file)

    def local_path(self, name: str) -> Path | None:
        return None

    def create_if_absent(self, name: str, write: Write) -> bool:
        return self._write(self._prefix + name, write, lambda: ABSENT)

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        """By `If-Match`: a request that is carried out late never goes over what was written after it."""
        key = self._prefix + name

        def condition() -> Condition:
            info = self._head(key)
            if expected is not None and (info is None or info.version != expected.version):
                raise replaced_meanwhile(f"{self._client.place}/{key}")
            return Condition(token=info.token) if info is not None else ABSENT

        if not self._write(key, write, condition, again=expected is None):
            raise replaced_meanwhile(f"{self._client.place}/{key}")

    def swap(self, swaps: Sequence[Swap]) -> bool:
        for each in swaps:
            self.create_if_absent(each.added, each.write)
            self.delete(*each.removed)
        return False

    def delete(self, *names: str) -> None:
        if not names:
            return
        keys = [self._prefix + name for name in names]
        self._persist(lambda: self._client.delete(keys), f"removing {self.root}/{names[0]}")
        with self._lock:
            self._made.update(dict.fromkeys(names, False))

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        """Ends uploads that nobody goes on with: those recorded by others than `live`, and old unrecorded ones."""
        doing = f"removing what was left unfinished in {self.root}"
        records = self.beside(f"{self._state}{UPLOADS}")
        known: set[str] = set()
        for entry in records.list():
            owner = entry.name.partition("-")[0]
            try:
                with records.open(entry.name) as file:
                    values = json.loads(file.read())
                upload = Unfinished(key=values["key"], upload=values["upload"], begun_s=values["begun_s"])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError):
                records.delete(entry.name)
                continue
            if owner == self._owner or owner in live or (owner not in dead and upload.begun_s >= before):
                known.add(upload.upload)
                continue
            self._persist(lambda upload=upload: self._client.abort(upload), doing)  # type: ignore[misc]
            records.delete(entry.name)
        # Begun by a process that died before it could say so.
        target = self._state.rstrip("/").removesuffix(".asyncbatch")
        try:
            for upload in self._persist(lambda: self._client.unfinished(target), doing):
                if upload.upload not in known and upload.begun_s < before:
                    self._persist(lambda upload=upload: self._client.abort(upload), doing)  # type: ignore[misc]
        except StorageError as error:
            _log.info("uploads that were left behind were not looked for: %s", error.message)
        temp = self.beside(f"{self._state}tmp/")
        temp.delete(*(each.name for each in temp.list() if each.name.partition("-")[0] in dead))

    def remove_empty_folders(self) -> None:
        """Nothing: there are no folders."""

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(
        self, key: str, write: Write, condition: Callable[[], Condition], *, again: bool = False
    ) -> bool:
        """False: the condition did not hold; `again`: a new condition was asked for then, again and again."""
        attempt = uuid.uuid4().hex
        doing = f"writing {self._client.place}/{key}"
        records: Entries = []

        def begin() -> Upload:
            wanted = condition()
            upload = self._persist(lambda: self._client.upload(key, condition=wanted, attempt=attempt), doing)
            if upload.id:
                records.append(self._record(key, upload.id))
            return upload

        try:
            with PieceWriter(begin, patience=self._patience, doing=doing) as file:
                write(cast(BinaryIO, file))
                if file.in_pieces:
                    written = self._complete(key, file, attempt)
                else:
                    data = file.whole()
                    for _ in range(_REPLACE_TRIES if again else 1):
                        written = self._put(key, data, condition(), attempt)
                        if written:
                            break
        finally:
            for record in records:
                self._forget(record.name)
        if written:
            with self._lock:
                self._made[key.removeprefix(self._prefix)] = True
        return written

    def _create(self, key: str, data: bytes) -> bool:
        return self._put(key, data, ABSENT, uuid.uuid4().hex)

    def _put(self, key: str, data: bytes, condition: Condition, attempt: str) -> bool:
        def once() -> bool:
            try:
                self._client.put(key, data, condition=condition, attempt=attempt)
            except ConditionFailedError:
                return self._is_ours(key, condition, attempt)
            return True

        return self._persist(once, f"writing {self._client.place}/{key}")

    def _complete(self, key: str, file: PieceWriter, attempt: str) -> bool:
        def once() -> bool:
            try:
                file.complete()
            except ConditionFailedError:
                return self._is_ours(key, ABSENT, attempt)
            except FileNotFoundError as error:
                info = self._client.head(key)
                if info is not None and info.attempt == attempt:
                    return True  # completed by the try before this one
                raise StorageError(
                    f"the upload of {self._client.place}/{key} was ended by someone else",
                    hint="run the same command again: what is committed is kept",
                ) from error
            return True

        return self._persist(once, f"completing {self._client.place}/{key}")

    def _is_ours(self, key: str, condition: Condition, attempt: str) -> bool:
        """After the store refused: whether that is because an earlier try of the same call took effect."""
        info = self._client.head(key)
        if info is None and condition.token is None:
            raise UnavailableError(f"{self._client.place}/{key} was there and is gone")
        return info is not None and info.attempt == attempt

    def _record(self, key: str, upload: str) -> Entry:
        """Make it known whose the upload is, before there is much of it."""
        name = f"{UPLOADS}{self._owner}-{uuid.uuid4().hex}.json"
        content = json.dumps({"key": key, "upload": upload, "begun_s": time.time()}).encode()
        self._create(f"{self._state}{name}", content)
        return Entry(name=name, size_bytes=len(content), version="")

    def _forget(self, record: str) -> None:
        try:
            self._persist(lambda: self._client.delete([f"{self._state}{record}"]), f"removing {record}")
        except AsyncBatchError:
            pass  # swept later: the upload is gone by then

    # -- calls -----------------------------------------------------------------------------------------------

    def _head(self, key: str) -> ObjectInfo | None:
        return self._persist(lambda: self._client.head(key), f"looking at {self._client.place}/{key}")

    def _entry(self, info: ObjectInfo) -> Entry:
        return Entry(
            name=info.key.removeprefix(self._prefix),
            size_bytes=info.size_bytes,
            version=info.version,
            modified_s=None if info.age_s is None else time.time() - info.age_s,
        )

    def _persist(self, call: Callable[[], T], doing: str) -> T:
        return self._patience.persist(call, doing)
