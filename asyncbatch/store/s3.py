"""S3 and what speaks its protocol, through botocore: its credentials (SSO, assumed roles, instance roles, with renewal),
its regions, endpoints and configuration are those of the SageMaker endpoint too.

Errors: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
Conditional writes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asyncbatch.aws import credential_errors
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

_DELETED_AT_ONCE = 1000
_GONE = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_BAD_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"})
_BUSY = frozenset(
    {
        "ConditionalRequestConflict",  # 409: another write of the same key is under way
        "OperationAborted",  # 409
        "RequestTimeout",  # 400: the body came too slowly
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
    }
)
_BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_ACTIONS = {
    "reading": "s3:GetObject (and s3:ListBucket, without which S3 answers 403 for what does not exist)",
    "listing": "s3:ListBucket",
    "writing": "s3:PutObject, and of the KMS key kms:GenerateDataKey and kms:Decrypt",
    "removing": "s3:DeleteObject",
    "ending an upload to": "s3:AbortMultipartUpload",
    "listing uploads to": "s3:ListBucketMultipartUploads",
}


class S3Client:
    """An `ObjectClient` of one bucket. Credentials are looked up when it is made.

    Raises:
        ConfigError: there are none, the login has expired, or an unknown profile.
    """

    def __init__(self, bucket: str, access: Access) -> None:
        self._bucket = bucket
        self._access = access
        self._lock = threading.Lock()
        self._client, self._key_id = _client_and_key(access)
        self._clock = StoreClock()
        self._common: dict[str, Any] = {"Bucket": bucket}
        if access.bucket_owner is not None:
            self._common["ExpectedBucketOwner"] = access.bucket_owner
        if access.requester_pays:
            self._common["RequestPayer"] = "requester"
        self._encryption: dict[str, Any] = {}
        if access.kms_key is not None:
            self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": access.kms_key}

    @property
    def place(self) -> str:
        return f"s3://{self._bucket}"

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors("reading", key):
                try:
                    return _info(key, self._client.head_object(Key=key, **self._common))
                except self._client.exceptions.ClientError as error:
                    if _status(error) not in (400, 403):
                        raise
                    # A reply to HEAD has no body: that to GET says whether it was an expired token, or what else.
                    self._client.get_object(Key=key, Range="bytes=0-0", **self._common)["Body"].close()
                    raise UnavailableError(f"{self.place} answered {_status(error)} to HEAD alone") from error
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        match = {"IfMatch": token} if token else {}
        with self._errors("reading", key):
            reply = self._client.get_object(
                Key=key, Range=f"bytes={start}-{stop - 1}", **match, **self._common
            )
            return bytes(reply["Body"].read())

    def tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        with self._errors("reading", key):
            try:
                reply = self._client.get_object(Key=key, Range=f"bytes=-{length}", **self._common)
            except self._client.exceptions.ClientError as error:
                if _code(error) != "InvalidRange":  # of an empty object
                    raise
                reply = self._client.get_object(Key=key, **self._common)
            data = bytes(reply["Body"].read())
        size = int(reply.get("ContentRange", f"/{len(data)}").rpartition("/")[2])
        return data, _info(key, {**reply, "ContentLength": size})

    def put(self, key: str, data: bytes, *, condition: Condition | None, attempt: str) -> None:
        with self._errors("writing", key):
            self._client.put_object(
                Key=key,
                Body=data,
                Metadata={ATTEMPT: attempt},
                **_condition(condition),
                **self._common,
                **self._encryption,
            )

    def upload(self, key: str, *, condition: Condition | None, attempt: str) -> Upload:
        with self._errors("writing", key):
            reply = self._client.create_multipart_upload(
                Key=key, Metadata={ATTEMPT: attempt}, **self._common, **self._encryption
            )
        return _S3Upload(self, key, str(reply["UploadId"]), condition)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("listing", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Prefix=prefix, **self._common)
            for page in pages:
                self._clock.heard(page["ResponseMetadata"]["HTTPHeaders"].get("date"))
                for each in page.get("Contents", ()):
                    yield ObjectInfo(
                        key=each["Key"],
                        size_bytes=int(each["Size"]),
                        version=each["ETag"].strip('"'),
                        token=each["ETag"],
                        age_s=self._clock.age_s(each["LastModified"]),
                    )

    def delete(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[at : at + _DELETED_AT_ONCE]]
            with self._errors("removing", keys[at]):
                reply = self._client.delete_objects(
                    Delete={"Objects": objects, "Quiet": True}, **self._common
                )
            for refused in reply.get("Errors", ()):
                raise self._refused(str(refused["Code"]), 0, "removing", str(refused["Key"]))

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        found = []
        with self._errors("listing uploads to", prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Prefix=prefix, **self._common
            )
            for page in pages:
                found += [
                    Unfinished(
                        key=each["Key"], upload=each["UploadId"], begun_s=each["Initiated"].timestamp()
                    )
                    for each in page.get("Uploads", ())
                ]
        return found

    def abort(self, unfinished: Unfinished) -> None:
        try:
            with self._errors("ending an upload to", unfinished.key):
                self._client.abort_multipart_upload(
                    Key=unfinished.key, UploadId=unfinished.upload, **self._common
                )
        except FileNotFoundError:
            pass

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError
        from urllib3 import exceptions as http

        try:
            yield
        except boto.ClientError as error:
            raise self._refused(_code(error), _status(error), doing, key) from error
        except (
            boto.ConnectionError,  # refused, no such host, TLS: no kind of the next one
            boto.HTTPClientError,
            boto.ResponseStreamingError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
            ResponseParserError,
            http.HTTPError,
        ) as error:
            raise UnavailableError(f"{self.place} did not answer ({type(error).__name__})") from error
        except (boto.ParamValidationError, boto.InvalidRegionError, boto.UnsupportedS3ArnError) as error:
            raise ConfigError(f"{self.place} cannot be used: {type(error).__name__}") from error
        except boto.BotoCoreError as error:
            raise self._login(error) from error
        except RuntimeError as error:  # botocore's, where renewed keys have expired too
            raise self._expired(f"{doing} {self.place}/{key}") from error

    def _refused(self, code: str, status: int, doing: str, key: str) -> Exception:
        """What an error reply means."""
        what = f"{doing} {self.place}/{key}"
        if status == 412 or code == "PreconditionFailed":
            return ConditionFailedError(f"the condition of {what} does not hold")
        if code == "NoSuchBucket":
            return StorageError(f"the bucket {self.place} does not exist", hint="check its name and region")
        if code in _GONE or status == 404:
            return FileNotFoundError(f"{self.place}/{key}")
        if code in _EXPIRED:
            return self._expired(what)
        if code in _BAD_KEYS:
            return StorageError(
                f"{self.place} does not take these AWS credentials ({code})",
                hint=f"check with: aws sts get-caller-identity{self._profile_option()}",
            )
        if code in _BUSY or status in _BUSY_STATUS:
            return UnavailableError(f"{self.place} answered {status or ''} {code}".replace("  ", " "))
        if status == 403 or code in ("AccessDenied", "403"):
            return StorageError(
                f"access denied while {what}",
                hint=f"the credentials need {_ACTIONS[doing]}"
                + (
                    f"; the bucket must belong to {self._access.bucket_owner}"
                    if self._access.bucket_owner
                    else ""
                ),
            )
        if code == "RequestTimeTooSkewed":
            return StorageError(f"the clock of this machine is wrong ({code})", hint="set it, e.g. by NTP")
        return StorageError(f"{self.place} answered {status} {code} while {what}", hint="look into the cause")

    def _expired(self, what: str) -> AsyncBatchError:
        """Keys have run out. What the chain gives now may be newer: a login in another terminal, another file."""
        with self._lock:
            client, key_id = _client_and_key(self._access)
            if key_id != self._key_id:
                self._client, self._key_id = client, key_id
                return UnavailableError(f"the AWS credentials had expired while {what}")
        return self._login(None)

    def _login(self, error: Exception | None) -> StoppedError:
        why = f" ({type(error).__name__})" if error is not None else ""
        return StoppedError(
            f"the AWS login for {self.place} has expired{why}",
            hint=f"run: aws sso login{self._profile_option()}, or set new keys; then the same command goes on",
        )

    def _profile_option(self) -> str:
        return f" --profile {self._access.profile}" if self._access.profile else ""


class _S3Upload:
    """A multipart upload."""

    parallel = True

    def __init__(self, client: S3Client, key: str, upload: str, condition: Condition | None) -> None:
        self._client = client
        self._key = key
        self._upload = upload
        self._condition = condition
        self._etags: dict[int, str] = {}

    @property
    def id(self) -> str:
        return self._upload

    def add(self, number: int, data: bytes) -> None:
        with self._client._errors("writing", self._key):
            reply = self._client._client.upload_part(
                Key=self._key, UploadId=self._upload, PartNumber=number, Body=data, **self._client._common
            )
        self._etags[number] = reply["ETag"]

    def complete(self) -> None:
        parts = [{"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)]
        with self._client._errors("writing", self._key):
            self._client._client.complete_multipart_upload(
                Key=self._key,
                UploadId=self._upload,
                MultipartUpload={"Parts": parts},
                **_condition(self._condition),
                **self._client._common,
            )

    def abort(self) -> None:
        try:
            self._client.abort(Unfinished(key=self._key, upload=self._upload, begun_s=0.0))
        except AsyncBatchError:
            pass  # swept later


def _client_and_key(access: Access) -> tuple[Any, str]:
    """A client, and the id of the key that it signs with."""
    client, credentials = _client(access)
    return client, "" if credentials is None else credentials.get_frozen_credentials().access_key


def _client(access: Access) -> tuple[Any, Any]:
    """A client, and botocore's credentials that it signs with; None for an anonymous one."""
    import boto3
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},  # one place decides: `Patience`
        max_pool_connections=32,
        connect_timeout=10,
        read_timeout=60,
        signature_version=UNSIGNED if access.anonymous else None,
    )
    with credential_errors(access.profile):
        region = access.region
        given = getattr(access.session, "boto_session", access.session)
        if access.profile is None and isinstance(given, boto3.Session) and not _is_async(given):
            core = given._session
            region = region or given.region_name
        else:
            core = botocore.session.Session()
            profile = access.profile
            if profile is None and isinstance(given, boto3.Session) and given.profile_name != "default":
                profile = given.profile_name
            if profile is not None:
                core.set_config_variable("profile", profile)
                core.get_scoped_config()  # raises for an unknown profile
        # AWS_REGION is what every AWS SDK but boto3 reads first.
        region = region or os.environ.get("AWS_REGION") or core.get_config_variable("region")
        credentials = None
        if not access.anonymous:
            credentials = core.get_credentials()
            if credentials is None:
                option = f" --profile {access.profile}" if access.profile else ""
                raise ConfigError(
                    "no AWS credentials were found for S3",
                    hint=f"run: aws configure{option}, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"
                    " --anonymous reads a public bucket",
                )
            credentials.get_frozen_credentials()  # raises here where they cannot be had
        client = core.create_client("s3", region_name=region, config=config, verify=access.ca_bundle)
    return client, credentials


def delta_options(access: Access) -> dict[str, str]:
    """How delta-rs reaches S3 with the same credentials: as they are now, for one commit."""
    client, found = _client(access)
    credentials = found.get_frozen_credentials()
    endpoint = client.meta.endpoint_url
    options = {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_REGION": client.meta.region_name,
        "conditional_put": "etag",
    }
    if credentials.token:
        options["AWS_SESSION_TOKEN"] = credentials.token
    if not endpoint.endswith(".amazonaws.com"):
        options["AWS_ENDPOINT_URL"] = endpoint
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def _is_async(session: Any) -> bool:
    """An aioboto3 session: its credentials cannot be asked for here."""
    return type(session).__module__.startswith("aioboto3")


def _condition(condition: Condition | None) -> dict[str, str]:
    if condition is None:
        return {}
    return {"IfNoneMatch": "*"} if condition.token is None else {"IfMatch": condition.token}


def _info(key: str, reply: Any) -> ObjectInfo:
    metadata = {name.lower(): value for name, value in reply.get("Metadata", {}).items()}
    return ObjectInfo(
        key=key,
        size_bytes=int(reply["ContentLength"]),
        version=str(reply["ETag"]).strip('"'),
        token=str(reply["ETag"]),
        attempt=metadata.get(ATTEMPT, ""),
    )


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
