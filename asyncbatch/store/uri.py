"""Where a URI of an object store points. Pure."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from asyncbatch.errors import ConfigError
from asyncbatch.units import SECRET_NAMES

Scheme = Literal["s3", "gs", "az"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_ALIASES: Final[dict[str, Scheme]] = {
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
}
SCHEMES: Final = ("s3", "gs", "az", "abfs")
"""Those that are named to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectUri:
    """`s3://bucket/key`, `gs://bucket/key`, `az://container/key` or `abfs://container@account.dfs.core.windows.net/key`."""

    scheme: Scheme
    bucket: str
    """Bucket or container."""
    key: str
    """Without a slash at the beginning; empty for the whole bucket."""
    account: str = ""
    """Of Azure, where the URI names it; else AZURE_STORAGE_ACCOUNT or a connection string does."""

    @property
    def place(self) -> str:
        """`s3://bucket`."""
        account = f"@{self.account}" if self.account else ""
        return f"{self.scheme}://{self.bucket}{account}"

    @property
    def path(self) -> PurePosixPath:
        """The key as a path."""
        return PurePosixPath(self.key)

    def __str__(self) -> str:
        return f"{self.place}/{self.key}"


def scheme_of(spec: str) -> str:
    """The scheme of a URI in lower case; empty for a path."""
    match = _SCHEME.match(spec)
    return match[1].lower() if match is not None else ""


def parse_uri(spec: str) -> ObjectUri | None:
    """None for a path or a URI of another kind.

    Raises:
        ConfigError: it names no bucket.
    """
    scheme = _ALIASES.get(scheme_of(spec))
    if scheme is None:
        return None
    bucket, _, key = spec.partition("://")[2].partition("/")
    bucket, _, account = bucket.partition("@")
    if not bucket:
        raise ConfigError(f"{spec} names no bucket", hint=f"such as {scheme}://bucket/folder/")
    account = account.partition(".")[0]
    if account and scheme != "az":
        raise ConfigError(
            f"{scheme}://{bucket}@{account} names an account", hint=f"{scheme}://bucket/folder/"
        )
    return ObjectUri(scheme=scheme, bucket=bucket, key=_clean(key), account=account)


def _clean(key: str) -> str:
    """Without doubled slashes, `.` and a slash at the beginning: stores take keys byte for byte."""
    slash = "/" if key.endswith("/") and key.strip("/") else ""
    return "/".join(part for part in key.split("/") if part not in ("", ".")) + slash


def shown(spec: str) -> str:
    """A URI as it is stored and shown: of http(s), without user name, fragment, and a query that holds a secret."""
    if scheme_of(spec) not in ("http", "https"):
        return spec
    parts = urlsplit(spec)
    secret = any(SECRET_NAMES.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    return parts._replace(
        netloc=parts.netloc.rpartition("@")[2], query="" if secret else parts.query, fragment=""
    ).geturl()
