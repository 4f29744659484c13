"""AWS Signature Version 4 for requests that differ in body and time only. Pure: time and credentials are arguments.

What is the same for every request of a run is put into canonical form once; what is the same for a second (the date) and
for a day (the signing key) is kept. A request then costs the hash of its body and two short ones. Rules: "Create a signed
AWS API request" in the AWS documentation; equal to botocore's `SigV4Auth`, which a property test compares it with.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from asyncbatch.endpoint.clock import amz_date
from asyncbatch.model import Buffer

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_HEADERS = frozenset(("expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"))
"""Headers that proxies may change; botocore leaves them out of signatures too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Credentials as they are used to sign."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Session token of temporary credentials; sent as a header, and signed."""


def payload_hash(pieces: Iterable[Buffer]) -> str:
    """SHA-256 of the pieces one after the other, in hexadecimal; 0.8 µs a KB."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


class RequestSigner:
    """Signs requests with one method, address and set of headers."""

    def __init__(
        self,
        *,
        keys: Keys,
        region: str,
        service: str,
        method: str,
        host: str,
        path: str,
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Put what does not change into canonical form.

        Args:
            host: as the Host header says it.
            path: as on the wire, percent-encoded; it is encoded once more, as every service but S3 wants it.
            query: as on the wire, without `?`.
            headers: every other header, in order, but the date and the token. Names in `UNSIGNED_HEADERS` are skipped.
        """
        values: dict[str, list[str]] = {"host": [host]}
        for name, value in headers:
            lower = name.lower()
            if lower not in UNSIGNED_HEADERS:
                values.setdefault(lower, []).append(value)
        values["x-amz-date"] = []
        if keys.token:
            values["x-amz-security-token"] = [keys.token]
        names = sorted(values)
        lines = {name: f"{name}:{','.join(map(_trimmed, values[name]))}\n" for name in names}
        at = names.index("x-amz-date")
        self._signed = ";".join(names)
        self._before = "\n".join((method.upper(), _canonical_path(path), _canonical_query(query), ""))
        self._before += "".join(lines[name] for name in names[:at]) + "x-amz-date:"
        self._after = "\n" + "".join(lines[name] for name in names[at + 1 :]) + f"\n{self._signed}\n"
        self._keys = keys
        self._region = region
        self._service = service
        self._second = self._day = -1

    def sign(self, body_hash: str, *, now_s: float) -> tuple[str, str]:
        """The `X-Amz-Date` and `Authorization` headers of a request at Unix time `now_s`.

        Args:
            body_hash: by `payload_hash`.
        """
        second = int(now_s)
        if second != self._second:
            self._turn(second)
        canonical = self._canonical.copy()
        canonical.update(body_hash.encode())
        to_sign = self._to_sign + canonical.hexdigest()
        return self._date, self._authorization + hmac.digest(self._key, to_sign.encode(), "sha256").hex()

    def _turn(self, second: int) -> None:
        """What is the same for all requests of a second, and of a day."""
        self._second = second
        self._date = amz_date(second)
        scope = f"{self._date[:8]}/{self._region}/{self._service}/aws4_request"
        if (day := int(self._date[:8])) != self._day:
            self._day = day
            key = f"AWS4{self._keys.secret_key}".encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = key
        self._canonical = hashlib.sha256((self._before + self._date + self._after).encode())
        self._to_sign = f"{ALGORITHM}\n{self._date}\n{scope}\n"
        self._authorization = f"{ALGORITHM} Credential={self._keys.access_key}/{scope}, SignedHeaders={self._signed}, Signature="


def _trimmed(value: str) -> str:
    return " ".join(value.split())


def _canonical_path(path: str) -> str:
    """Without dot segments and empty ones (RFC 3986, 5.2.4, and AWS), encoded."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment and segment != ".":
            kept.append(segment)
    closing = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + closing, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    return "&".join(f"{name}={value}" for name, value in sorted((name, value) for name, _, value in pairs))
