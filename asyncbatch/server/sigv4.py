"""Checks AWS Signature Version 4, recomputed from the request as it arrived.

The rules and the names of the errors are those of the "Signature Version 4 signing process" and "Common
errors" pages of the AWS documentation. Pure: the time is an argument.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from asyncbatch.server.answers import ServiceError
from asyncbatch.server.config import Credential

SERVICE = "sagemaker"
MAX_SKEW_S = 300.0
"""A signature is good for five minutes, both ways."""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[^/,\s]*)/(?P<service>[^/,\s]*)"
    r"/aws4_request\s*,\s*SignedHeaders=(?P<headers>[^,\s]+)\s*,\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a signature covers."""

    method: str
    raw_path: str
    """As on the wire, without the query."""
    raw_query: str
    headers: Mapping[str, str]
    """Lower-case names; several values of one name joined with a comma."""
    body: bytes


class SignatureVerifier:
    """Accepts requests signed by one of some credentials for one region."""

    def __init__(self, *, credentials: Sequence[Credential], region: str) -> None:
        self._credentials = {each.access_key: each for each in credentials}
        self._region = region

    def check(self, request: SignedRequest, *, now_s: float, service: str = SERVICE) -> None:
        """Do nothing if `request` is signed well for `service` at Unix time `now_s`.

        Raises:
            ServiceError: 403, named as AWS names it.
        """
        authorization = request.headers.get("authorization", "")
        if not authorization:
            raise ServiceError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        found = _AUTHORIZATION.fullmatch(authorization.strip())
        sent_at = _parse_date(request.headers.get("x-amz-date", ""))
        if found is None or sent_at is None:
            raise ServiceError(
                403,
                "IncompleteSignatureException",
                "Authorization header requires 'Credential' parameter, 'SignedHeaders' parameter, "
                "'Signature' parameter and existence of 'X-Amz-Date' header.",
            )
        credential = self._credential(found["key"], request.headers.get("x-amz-security-token"), now_s)
        self._check_scope(found, sent_at, now_s, service)
        signed = found["headers"].split(";")
        payload_hash = hashlib.sha256(request.body).hexdigest()
        if "host" not in signed or request.headers.get("x-amz-content-sha256", payload_hash) != payload_hash:
            raise _mismatch()
        scope = f"{found['date']}/{found['region']}/{found['service']}/aws4_request"
        to_sign = "\n".join(
            (
                "AWS4-HMAC-SHA256",
                request.headers["x-amz-date"],
                scope,
                _digest(_canonical(request, signed, payload_hash)),
            )
        )
        key = f"AWS4{credential.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), found["signature"]):
            raise _mismatch()

    def _credential(self, access_key: str, token: str | None, now_s: float) -> Credential:
        credential = self._credentials.get(access_key)
        if credential is None or (credential.session_token or "") != (token or ""):
            raise ServiceError(
                403, "UnrecognizedClientException", "The security token included in the request is invalid."
            )
        if credential.expires_at is not None and now_s >= credential.expires_at:
            raise ServiceError(
                403, "ExpiredTokenException", "The security token included in the request is expired"
            )
        return credential

    def _check_scope(self, found: re.Match[str], sent_at: datetime, now_s: float, service: str) -> None:
        if found["region"] != self._region:
            raise _invalid(f"Credential should be scoped to a valid region, not '{found['region']}'.")
        if found["service"] != service:
            raise _invalid(f"Credential should be scoped to correct service: '{service}'.")
        if found["date"] != f"{sent_at:%Y%m%d}":
            raise _invalid(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"
            )
        late_s = now_s - sent_at.timestamp()
        if abs(late_s) > MAX_SKEW_S:
            now = datetime.fromtimestamp(now_s, UTC)
            word, how = ("expired", "earlier") if late_s > 0 else ("not yet current", "later")
            raise _invalid(
                f"Signature {word}: {sent_at:%Y%m%dT%H%M%SZ} is now {how} than {now:%Y%m%dT%H%M%SZ}, 5 min."
            )


def _canonical(request: SignedRequest, signed: Sequence[str], payload_hash: str) -> str:
    """The canonical request. Every service but S3 encodes the path once more than it is on the wire."""
    pairs = [part.partition("=") for part in request.raw_query.split("&") if part]
    query = sorted(
        (quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~")) for name, _, value in pairs
    )
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed)
    return "\n".join(
        (
            request.method,
            quote(request.raw_path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            headers,
            ";".join(signed),
            payload_hash,
        )
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _parse_date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _invalid(message: str) -> ServiceError:
    return ServiceError(403, "InvalidSignatureException", message)


def _mismatch() -> ServiceError:
    return _invalid(
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )
