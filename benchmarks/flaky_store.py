"""A bucket in memory, and clients of it that fail in every way that a store over a network can.

A request may not reach it; reach it and its answer be lost; take effect later, when whoever sent it has given up; be
throttled (503), conflict (409), or be refused. A listing may lack keys that are there. The process may die at any call.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from asyncbatch.store.client import (
    Condition,
    ConditionFailedError,
    ObjectInfo,
    UnavailableError,
    Unfinished,
)

T = TypeVar("T")


class CrashError(BaseException):
    """The process is gone."""


@dataclass(slots=True)
class Stored:
    data: bytes
    etag: str
    attempt: str


@dataclass(slots=True)
class Bucket:
    """What is there, and the requests that have not arrived yet."""

    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    late: list[Callable[[], object]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    honours_conditions: bool = True

    def put(self, key: str, data: bytes, condition: Condition | None, attempt: str) -> None:
        self.check(key, condition)
        self.objects[key] = Stored(data, f"e{next(self.numbers)}", attempt)

    def check(self, key: str, condition: Condition | None) -> None:
        if condition is None or not self.honours_conditions:
            return
        there = self.objects.get(key)
        if (there.etag if there is not None else None) != condition.token:
            raise ConditionFailedError(f"412 for {key}")

    def complete(self, upload: str, condition: Condition | None, attempt: str) -> None:
        if upload not in self.uploads:
            raise FileNotFoundError(upload)
        key, pieces = self.uploads[upload]
        self.put(key, b"".join(pieces[number] for number in sorted(pieces)), condition, attempt)
        del self.uploads[upload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Shares of calls."""

    unreached: float = 0.03
    lost_answer: float = 0.05
    late: float = 0.03
    torn_listing: float = 0.1
    crash: float = 0.0


NONE = Faults(unreached=0, lost_answer=0, late=0, torn_listing=0)


class FlakyClient:
    """An `ObjectClient` of a bucket, of one process."""

    place = "mem://bucket"

    def __init__(self, bucket: Bucket, rng: random.Random, faults: Faults) -> None:
        self._bucket = bucket
        self._rng = rng
        self._faults = faults
        self.calls = 0

    def head(self, key: str) -> ObjectInfo | None:
        def look() -> ObjectInfo | None:
            there = self._bucket.objects.get(key)
            return None if there is None else _info(key, there)

        return self._reading(look)

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        def read() -> bytes:
            there = self._stored(key)
            if token and there.etag != token:
                raise ConditionFailedError(key)
            return there.data[start:stop]

        return self._reading(read)

    def tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        def read() -> tuple[bytes, ObjectInfo]:
            there = self._stored(key)
            return there.data[max(0, len(there.data) - length) :], _info(key, there)

        return self._reading(read)

    def put(self, key: str, data: bytes, *, condition: Condition | None, attempt: str) -> None:
        self._writing(lambda: self._bucket.put(key, data, condition, attempt))

    def upload(self, key: str, *, condition: Condition | None, attempt: str) -> "_Upload":
        def begin() -> str:
            upload = f"u{next(self._bucket.numbers)}"
            self._bucket.uploads[upload] = (key, {})
            return upload

        return _Upload(self, self._reading(begin), condition, attempt)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        def look() -> Sequence[ObjectInfo]:
            found = [_info(key, each) for key, each in self._bucket.objects.items() if key.startswith(prefix)]
            if self._rng.random() < self._faults.torn_listing:
                found = [each for each in found if self._rng.random() < 0.7]
            return found

        yield from self._reading(look)

    def delete(self, keys: Sequence[str]) -> None:
        def remove() -> None:
            for key in keys:
                self._bucket.objects.pop(key, None)

        # A removal that arrives late is not modelled: stores order it before what the same client asks next.
        self._writing(remove, may_be_late=False)

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        return self._reading(
            lambda: [
                Unfinished(key=key, upload=upload, begun_s=0.0)
                for upload, (key, _) in self._bucket.uploads.items()
                if key.startswith(prefix)
            ]
        )

    def abort(self, unfinished: Unfinished) -> None:
        self._writing(lambda: self._bucket.uploads.pop(unfinished.upload, None), may_be_late=False)

    def _stored(self, key: str) -> Stored:
        if key not in self._bucket.objects:
            raise FileNotFoundError(key)
        return self._bucket.objects[key]

    def _before(self) -> None:
        self.calls += 1
        if self._rng.random() < self._faults.crash:
            raise CrashError
        while self._bucket.late and self._rng.random() < 0.3:
            late = self._bucket.late.pop(self._rng.randrange(len(self._bucket.late)))
            try:
                late()
            except (ConditionFailedError, FileNotFoundError):
                pass  # nobody waits for the answer any more
        if self._rng.random() < self._faults.unreached:
            raise UnavailableError("503 SlowDown")

    def _reading(self, call: Callable[[], T]) -> T:
        self._before()
        return call()

    def _writing(self, call: Callable[[], object], *, may_be_late: bool = True) -> None:
        self._before()
        chance = self._rng.random()
        if may_be_late and chance < self._faults.late:
            self._bucket.late.append(call)
            raise UnavailableError("ReadTimeout")
        call()
        if chance > 1 - self._faults.lost_answer:
            raise UnavailableError("ConnectionClosed")
        if self._rng.random() < self._faults.crash:
            raise CrashError


class _Upload:
    parallel = False

    def __init__(self, client: FlakyClient, upload: str, condition: Condition | None, attempt: str) -> None:
        self._client = client
        self.id = upload
        self._condition = condition
        self._attempt = attempt

    def add(self, number: int, data: bytes) -> None:
        def keep() -> None:
            found = self._client._bucket.uploads.get(self.id)
            if found is None:
                raise FileNotFoundError(self.id)
            found[1][number] = data

        self._client._writing(keep, may_be_late=False)

    def complete(self) -> None:
        bucket = self._client._bucket
        self._client._writing(lambda: bucket.complete(self.id, self._condition, self._attempt))

    def abort(self) -> None:
        self._client._bucket.uploads.pop(self.id, None)


def _info(key: str, stored: Stored) -> ObjectInfo:
    return ObjectInfo(
        key=key, size_bytes=len(stored.data), version=stored.etag, token=stored.etag, attempt=stored.attempt
    )
