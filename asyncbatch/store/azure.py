"""Azure Blob Storage through its own library.

Conditions: https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations
"""

import base64
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from asyncbatch.errors import ConfigError, MissingExtraError, StoppedError, StorageError
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
from asyncbatch.store.pieces import WHOLE_BYTES

_MARK = ATTEMPT.replace("-", "_")  # names of metadata are identifiers there
_BUSY_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
_DELETES = 8


class AzureClient:
    """An `ObjectClient` of one container.

    The account comes from the URI, `AZURE_STORAGE_CONNECTION_STRING` or `AZURE_STORAGE_ACCOUNT`; the credentials from
    there too, from `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`, or from the login that azure-identity finds.

    Raises:
        ConfigError: no account is named.
    """

    def __init__(self, container: str, account: str, access: Access) -> None:
        from azure.storage.blob import BlobServiceClient

        self._name = container
        self._account = account
        self._scope = {"encryption_scope": access.kms_key} if access.kms_key is not None else {}
        options: dict[str, Any] = {
            "retry_total": 0,  # one place decides: `Patience`
            "max_single_put_size": WHOLE_BYTES + 1,
            "max_block_size": WHOLE_BYTES,
            "connection_timeout": 10,
            "read_timeout": 60,
        }
        connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        named = (
            account or os.environ.get("AZURE_STORAGE_ACCOUNT") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        )
        try:
            if connection and not account:
                service = BlobServiceClient.from_connection_string(connection, **options)
            elif named:
                url = f"https://{named}.blob.core.windows.net"
                service = BlobServiceClient(url, credential=_credential(access), **options)
            else:
                raise ConfigError(
                    f"az://{container} names no storage account",
                    hint="set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING, or write"
                    f" abfs://{container}@ACCOUNT/…",
                )
        except ValueError as error:
            raise ConfigError(
                "AZURE_STORAGE_CONNECTION_STRING is no connection string",
                hint="copy it again from the portal: Access keys",
            ) from error
        self._container: Any = service.get_container_client(container)
        self._clock = StoreClock()

    @property
    def place(self) -> str:
        return f"az://{self._name}" + (f"@{self._account}" if self._account else "")

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors("reading", key):
                return _info(key, self._container.get_blob_client(key).get_blob_properties())
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        with self._errors("reading", key):
            reply = self._container.get_blob_client(key).download_blob(
                offset=start, length=stop - start, **(_only_if(Condition(token=token)) if token else {})
            )
            return bytes(reply.readall())

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
            self._container.get_blob_client(key).upload_blob(
                data,
                length=len(data),
                metadata={_MARK: attempt},
                overwrite=condition is None or condition.token is not None,
                **(_only_if(condition) if condition is not None and condition.token is not None else {}),
                **self._scope,
            )

    def upload(self, key: str, *, condition: Condition | None, attempt: str) -> Upload:
        return _AzureUpload(self, key, condition, attempt)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("listing", prefix):
            for blob in self._container.list_blobs(name_starts_with=prefix, raw_response_hook=self._heard):
                etag = blob.etag.strip('"')
                yield ObjectInfo(
                    key=blob.name,
                    size_bytes=int(blob.size),
                    version=etag,
                    token=f'"{etag}"',
                    age_s=self._clock.age_s(blob.last_modified),
                )

    def delete(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self._delete(keys[0])
            return
        with ThreadPoolExecutor(_DELETES, thread_name_prefix="asyncbatch-delete") as pool:
            list(pool.map(self._delete, keys))

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """None: blocks that were not committed are removed after a week."""
        return ()

    def abort(self, unfinished: Unfinished) -> None:
        """Nothing: see `unfinished`."""

    def _delete(self, key: str) -> None:
        try:
            with self._errors("removing", key):
                self._container.get_blob_client(key).delete_blob()
        except FileNotFoundError:
            pass

    def _heard(self, response: Any) -> None:
        self._clock.heard(response.http_response.headers.get("Date"))

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        from azure.core import exceptions as azure

        what = f"{doing} {self.place}/{key}"
        try:
            yield
        except (azure.ServiceRequestError, azure.ServiceResponseError, azure.IncompleteReadError) as error:
            raise UnavailableError(f"{self.place} did not answer ({type(error).__name__})") from error
        except azure.ClientAuthenticationError as error:
            if error.status_code in (401, 403):
                raise self._denied(what) from error
            raise StoppedError(
                f"there is no Azure login for {self.place}",
                hint="run: az login; then the same command goes on",
            ) from error
        except azure.HttpResponseError as error:
            status = int(error.status_code or 0)
            code = str(getattr(error, "error_code", "") or "")
            if status == 412 or code.endswith("BlobAlreadyExists"):
                raise ConditionFailedError(f"the condition of {what} does not hold") from error
            if code.endswith("ContainerNotFound"):
                raise StorageError(
                    f"the container {self.place} does not exist", hint="check its name and the account"
                ) from error
            if status == 404:
                raise FileNotFoundError(f"{self.place}/{key}") from error
            if status in (401, 403):
                raise self._denied(what) from error
            if status in _BUSY_STATUS:
                raise UnavailableError(f"{self.place} answered {status} {code}".rstrip()) from error
            raise StorageError(
                f"{self.place} answered {status} {code} while {what}", hint="look into the cause"
            ) from error

    def _denied(self, what: str) -> StorageError:
        return StorageError(
            f"access denied while {what}",
            hint="the login needs the role Storage Blob Data Contributor, or Reader for a source",
        )


class _AzureUpload:
    """Blocks that become a blob when their list is committed."""

    parallel = True
    id = ""

    def __init__(self, client: AzureClient, key: str, condition: Condition | None, attempt: str) -> None:
        self._client = client
        self._key = key
        self._condition = condition
        self._attempt = attempt
        self._blob = client._container.get_blob_client(key)
        self._numbers: set[int] = set()

    def add(self, number: int, data: bytes) -> None:
        with self._client._errors("writing", self._key):
            self._blob.stage_block(self._block(number), data, length=len(data), **self._client._scope)
        self._numbers.add(number)

    def complete(self) -> None:
        from azure.storage.blob import BlobBlock

        with self._client._errors("writing", self._key):
            self._blob.commit_block_list(
                [BlobBlock(self._block(number)) for number in sorted(self._numbers)],
                metadata={_MARK: self._attempt},
                **_only_if(self._condition),
                **self._client._scope,
            )

    def abort(self) -> None:
        """Nothing is kept of it but for a week, and nothing of it is seen."""

    def _block(self, number: int) -> str:
        """Of one length for all, and of this attempt: another writer's blocks of the same key are others."""
        return base64.b64encode(f"{self._attempt}-{number:06d}".encode()).decode()


def _credential(access: Access) -> Any:
    if access.anonymous:
        return None
    key = os.environ.get("AZURE_STORAGE_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    if key:
        return key
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise MissingExtraError(
            "an Azure login needs azure-identity", hint="pip install 'asyncbatch[azure]'"
        ) from error
    return DefaultAzureCredential()


def _only_if(condition: Condition | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    if condition is None:
        return {}
    if condition.token is None:
        return {"match_condition": MatchConditions.IfMissing}
    return {"etag": condition.token, "match_condition": MatchConditions.IfNotModified}


def _info(key: str, properties: Any) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size_bytes=int(properties.size),
        version=str(properties.etag).strip('"'),
        token=str(properties.etag),
        attempt=(properties.metadata or {}).get(_MARK, ""),
    )
