"""What a reply that is no 2xx says: status, headers and body into a `Failure`. Pure."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from asyncbatch.model import Failure

MESSAGE_BYTES = 2048
"""Of an error's text this much is kept; the service model bounds its own messages by the same number."""
_ORIGINAL_STATUS = re.compile(r"(?:client|server) error \((\d{1,3})\) from")


def read_refusal(status: int, headers: Mapping[str, str], body: bytes, *, aws: bool) -> Failure:
    """The `Failure` for a complete reply whose status is not 2xx.

    A name is taken from `x-amzn-ErrorType`, whoever sends it; only for `aws` also from the body, as SageMaker
    Runtime and the gateways before it write it. For a plain HTTP server the message is the start of its text.

    Args:
        headers: names in lower case.
        body: as much of it as was read.
        aws: the body is an AWS error document.
    """
    name = _short_name(headers.get("x-amzn-errortype", ""))
    message = _text(body)
    original_status: int | None = None
    original_message = log_stream_arn = ""
    document = _object(body) if aws or name else None
    if document is not None:
        name = name or _short_name(_first_text(document, "__type", "code", "Code"))
        message = _first_text(document, "message", "Message")
        original_status = _whole_number(document.get("OriginalStatusCode"))
        original_message = _first_text(document, "OriginalMessage")
        log_stream_arn = _first_text(document, "LogStreamArn")
    if original_status is None and name == "ModelError" and (said := _ORIGINAL_STATUS.search(message)):
        original_status = int(said[1])
    if not message and 300 <= status < 400:
        message = "redirect"
    if 300 <= status < 400 and "location" in headers:
        message = f"redirects to {_host(headers['location'])}"
    return Failure(
        status=status,
        error_name=name,
        message=message[:MESSAGE_BYTES],
        original_status=original_status,
        original_message=original_message[:MESSAGE_BYTES],
        log_stream_arn=log_stream_arn,
        retry_after_s=retry_after_s(headers),
        server_date=headers.get("date", ""),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds asked for by `Retry-After`, a number or a date (RFC 9110, 10.2.3); None if there is none.

    A date is taken against the reply's own `Date`, so that a wrong local clock does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", text):
        return float(text)
    then = _date(text)
    if then is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _short_name(name: str) -> str:
    """`com.amazon.coral.service#ThrottlingException:http://…` -> `ThrottlingException`."""
    return name.split(":", 1)[0].rsplit("#", 1)[-1].strip()


def _text(body: bytes) -> str:
    return body[:MESSAGE_BYTES].decode("utf-8", errors="replace").strip()


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _first_text(document: dict[str, Any], *keys: str) -> str:
    """The first of `keys` that holds text; `{"message": null}` is how SageMaker throttles."""
    for key in keys:
        value = document.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def _whole_number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return None


def _host(location: str) -> str:
    """`https://host:port/path` of a Location header, without user and query: they may hold secrets."""
    match = re.match(r"(?i)(https?:)?//(?:[^/?#@]*@)?([^/?#]*)([^?#]*)", location)
    if match is None:
        return location.split("?", 1)[0].split("#", 1)[0][:200]
    return f"{match[1] or ''}//{match[2]}{match[3]}"[:200]
