"""What the requests of a run have in common: address and headers, put into bytes once."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from yarl import URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go, and every header but those of the body and the signature."""

    url: URL
    """Without user and fragment; those are in `headers` and nowhere."""
    headers: tuple[tuple[str, str], ...]
    """In order, Host first."""
    head: bytes
    """Request line and header lines as they are sent."""


def target(url: URL, headers: Sequence[tuple[str, str]]) -> Target:
    """A target for POST requests. A user in the URL becomes Basic authorization (RFC 7617).

    Raises:
        ValueError: a header holds a line end or a NUL.
    """
    found = [
        ("Host", host_header(url)),
        *((name, value) for name, value in headers if name.lower() != "host"),
    ]
    if url.user is not None or url.password is not None:
        secret = b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
        if not any(name.lower() == "authorization" for name, _ in found):
            found.append(("Authorization", f"Basic {secret}"))
    address = url.with_user(None).with_fragment(None)
    line = f"POST {address.raw_path_qs or '/'} HTTP/1.1\r\n".encode("ascii")
    return Target(url=address, headers=tuple(found), head=line + header_lines(found))


def header_lines(headers: Sequence[tuple[str, str]]) -> bytes:
    """`Name: value` lines, each with its line end.

    Raises:
        ValueError: a header holds a line end or a NUL.
    """
    for name, value in headers:
        if any(each in name or each in value for each in "\r\n\0"):
            raise ValueError(f"header {name!r} holds a line end")
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("utf-8", "surrogateescape")


def host_header(url: URL) -> str:
    """Host, and the port where it is not the scheme's own; IPv6 in brackets."""
    host = (url.raw_host or "").lower()
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"
