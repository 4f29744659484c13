"""Google Cloud Storage through its own library, with application default credentials.

Conditions are generations: https://cloud.google.com/storage/docs/request-preconditions
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from asyncbatch.errors import AsyncBatchError, ConfigError, StoppedError, StorageError
from asyncbatch.store.access import Access
from asyncbatch.store.client import (
    ATTEMPT,
    Condition,
    ConditionFailedError,
    ObjectInfo,
    UnavailableError,
    Unfinished,
    Upload,
)
from asyncbatch.store.clock import StoreClock
from asyncbatch.store.pieces import PIECE_BYTES

_TIMEOUT_S = 60.0
_FIELDS = "items(name,size,generation,updated),nextPageToken"
_BUSY_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
_DELETES = 8


class GcsClient:
    """An `ObjectClient` of one bucket. `STORAGE_EMULATOR_HOST` names another server, as for Google's own tools.

    Raises:
        ConfigError: there are no credentials.
    """

    def __init__(self, bucket: str, access: Access) -> None:
        from google.auth import exceptions as auth
        from google.cloud import storage

        self._name = bucket
        self._access = access
        try:
            client: Any = storage.Client.create_anonymous_client() if access.anonymous else storage.Client()
        except (auth.DefaultCredentialsError, OSError) as error:  # OSError: no project is known
            raise ConfigError(
                "no Google credentials were found",
                hint="run: gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS;"
                " --anonymous reads a public bucket",
            ) from error
        self._client = client
        self._clock = StoreClock()
        # The library shows no reply; its session does.
        client._http.hooks["response"].append(
            lambda reply, *_, **__: self._clock.heard(reply.headers.get("Date"))
        )
        payer = client.project if access.requester_pays else None
        self._bucket: Any = client.bucket(bucket, user_project=payer)

    @property
    def place(self) -> str:
        return f"gs://{self._name}"

    def head(self, key: str) -> ObjectInfo | None:
        with self._errors("reading", key):
            blob = self._bucket.get_blob(key, retry=None, timeout=_TIMEOUT_S)
        return None if blob is None else _info(blob)

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        with self._errors("reading", key):
            return bytes(
                self._bucket.blob(key).download_as_bytes(
                    start=start,
                    end=stop - 1,
                    raw_download=True,
                    if_generation_match=int(token) if token else None,
                    checksum=None,  # only whole objects have one
                    retry=None,
                    timeout=_TIMEOUT_S,
                )
            )

    def tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        info = self.head(key)
        if info is None:
            raise FileNotFoundError(f"{self.place}/{key}")
        if not info.size_bytes:
            return b"", info
        start = max(0, info.size_bytes - length)
        return self.read(key, start, info.size_bytes, token=info.token), info

    def put(self, key: str, data: bytes, *, condition: Condition | None, attempt: str) -> None:
        with self._errors("writing", key):
            self._blob(key, attempt).upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=_generation(condition),
                retry=None,
                timeout=_TIMEOUT_S,
            )

    def upload(self, key: str, *, condition: Condition | None, attempt: str) -> Upload:
        with self._errors("writing", key):
            writer = self._blob(key, attempt).open(
                "wb",
                chunk_size=PIECE_BYTES,
                ignore_flush=True,
                content_type="application/octet-stream",
                if_generation_match=_generation(condition),
                timeout=_TIMEOUT_S,
            )
        return _GcsUpload(self, key, writer, attempt)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("listing", prefix):
            for blob in self._client.list_blobs(
                self._bucket, prefix=prefix, fields=_FIELDS, retry=None, timeout=_TIMEOUT_S
            ):
                generation = str(blob.generation)
                yield ObjectInfo(
                    key=blob.name,
                    size_bytes=int(blob.size),
                    version=generation,
                    token=generation,
                    age_s=None if blob.updated is None else self._clock.age_s(blob.updated),
                )

    def delete(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self._delete(keys[0])
            return
        with ThreadPoolExecutor(_DELETES, thread_name_prefix="asyncbatch-delete") as pool:
            list(pool.map(self._delete, keys))

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """None: a session that nobody goes on with ends after a week."""
        return ()

    def abort(self, unfinished: Unfinished) -> None:
        """Nothing: see `unfinished`."""

    def _delete(self, key: str) -> None:
        try:
            with self._errors("removing", key):
                self._bucket.blob(key).delete(retry=None, timeout=_TIMEOUT_S)
        except FileNotFoundError:
            pass

    def _blob(self, key: str, attempt: str) -> Any:
        blob = self._bucket.blob(key, kms_key_name=self._access.kms_key)
        blob.metadata = {ATTEMPT: attempt}
        return blob

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        import requests
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth
        from google.resumable_media import common as media

        try:
            yield
        except api.GoogleAPICallError as error:
            raise self._refused(int(error.code or 0), doing, key) from error
        except media.InvalidResponse as error:
            raise self._refused(int(error.response.status_code), doing, key) from error
        except auth.RefreshError as error:
            raise StoppedError(
                f"the Google login for {self.place} has expired",
                hint="run: gcloud auth application-default login; then the same command goes on",
            ) from error
        except (
            requests.exceptions.RequestException,
            media.DataCorruption,
            auth.TransportError,
            ConnectionError,
        ) as error:
            raise UnavailableError(f"{self.place} did not answer ({type(error).__name__})") from error

    def _refused(self, status: int, doing: str, key: str) -> Exception:
        """What an error reply means."""
        what = f"{doing} {self.place}/{key}"
        if status == 412:
            return ConditionFailedError(f"the condition of {what} does not hold")
        if status == 404 and doing in ("writing", "listing"):
            return StorageError(f"the bucket {self.place} does not exist", hint="check its name")
        if status == 404:
            return FileNotFoundError(f"{self.place}/{key}")
        if status in (401, 403):
            return StorageError(
                f"access denied while {what}",
                hint="the credentials need storage.objects.get, list, create and delete there",
            )
        if status in _BUSY_STATUS:
            return UnavailableError(f"{self.place} answered {status}")
        return StorageError(f"{self.place} answered {status} while {what}", hint="look into the cause")


class _GcsUpload:
    """A resumable upload. The library itself goes on after what passes; what it gives up is given up."""

    parallel = False
    id = ""

    def __init__(self, client: GcsClient, key: str, writer: Any, attempt: str) -> None:
        self._client = client
        self._key = key
        self._writer = writer
        self._attempt = attempt

    def add(self, number: int, data: bytes) -> None:
        try:
            with self._client._errors("writing", self._key):
                self._writer.write(data)
        except UnavailableError as error:
            raise StorageError(error.message, hint="run the same command again") from error

    def complete(self) -> None:
        try:
            with self._client._errors("writing", self._key):
                self._writer.close()
        except UnavailableError as error:
            info = self._client.head(self._key)
            if info is None or info.attempt != self._attempt:
                raise StorageError(error.message, hint="run the same command again") from error

    def abort(self) -> None:
        """At once: a writer that is merely dropped completes what it has."""
        try:
            with self._client._errors("writing", self._key):
                self._writer.terminate()
        except (AsyncBatchError, FileNotFoundError):
            self._writer._buffer.close()  # then it has nothing to complete; the session ends in a week


def _generation(condition: Condition | None) -> int | None:
    if condition is None:
        return None
    return 0 if condition.token is None else int(condition.token)


def _info(blob: Any) -> ObjectInfo:
    return ObjectInfo(
        key=blob.name,
        size_bytes=int(blob.size),
        version=str(blob.generation),
        token=str(blob.generation),
        attempt=(blob.metadata or {}).get(ATTEMPT, ""),
    )
