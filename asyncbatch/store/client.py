"""The seam to one bucket: what an object store's own library is asked to do, and how its failures come back.

Each client maps its library's errors here, at the call: to `Unavailable` where the same call may succeed later (and may
already have), to `ConditionFailedError` where the store refused a condition, to FileNotFoundError where there is no such
object, and to StorageError, as one sentence, where asking again is no use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asyncbatch.errors import AsyncBatchError

ATTEMPT = "asyncbatch-attempt"
"""Name of the metadata that marks which call wrote an object."""


class UnavailableError(AsyncBatchError):
    """The call failed for now: a timeout, a lost connection, 409, 429 or 5xx. Whether it took effect is not known."""


class ConditionFailedError(AsyncBatchError):
    """The object is there already, or is no longer the one that was named (412)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """When a write may take effect."""

    token: str | None = None
    """Only on this state of the object, by its `ObjectInfo.token`; None: only if there is no object."""


ABSENT = Condition()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as the store describes it."""

    key: str
    size_bytes: int
    version: str
    """ETag, the same from a listing as from a look at the object."""
    token: str = ""
    """What a `Condition` names: ETag or generation."""
    attempt: str = ""
    """The mark of the call that wrote it. Empty in listings and for objects of others."""
    age_s: float | None = field(default=None, compare=False)
    """In listings, how long ago it was written, by the store's clock where it tells the time; None elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A multipart upload that was neither completed nor given up."""

    key: str
    upload: str
    begun_s: float
    """Seconds since 1970."""


class Upload(Protocol):
    """A large object on its way. Nothing is visible before `complete`, and then all of it."""

    @property
    def id(self) -> str:
        """With it another process can give the upload up; empty where the store forgets unfinished uploads by itself."""
        ...

    @property
    def parallel(self) -> bool:
        """Pieces may be sent in any order and from several threads."""
        ...

    def add(self, number: int, data: bytes) -> None:
        """Send piece `number`, from 1; all but the last have 16 MiB or a multiple. Repeatable."""
        ...

    def complete(self) -> None:
        """Commit, if the condition that the upload was begun with holds. Repeatable."""
        ...

    def abort(self) -> None:
        """Give it up. Quiet if it is gone."""
        ...


class Readable(Protocol):
    """Objects that can be read. Each call is one attempt (no retries of its own) and safe from several threads."""

    @property
    def place(self) -> str:
        """How messages call the bucket: `s3://bucket`."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        """Bytes `[start, stop)`, of the state named by `token` if one is given.

        Raises:
            FileNotFoundError: there is no such object.
            ConditionFailedError: it is another state by now.
        """
        ...

    def tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """The last `length` bytes, fewer of a smaller object, and what it is.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...


class ObjectClient(Readable, Protocol):
    """One bucket."""

    def put(self, key: str, data: bytes, *, condition: Condition | None, attempt: str) -> None:
        """Write a whole object in one request.

        Raises:
            ConditionFailedError: the condition does not hold.
        """
        ...

    def upload(self, key: str, *, condition: Condition | None, attempt: str) -> Upload:
        """Begin an object that is too large for one request."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`. A failure on the way raises: no listing ends early."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove them; it is no error if one is not there."""
        ...

    def unfinished(self, prefix: str) -> "Sequence[Unfinished]":
        """Uploads under way, or left behind; none where the store forgets them by itself."""
        ...

    def abort(self, unfinished: Unfinished) -> None:
        """Give up an upload of any process. Quiet if it is gone."""
        ...
