"""The bytes that come back on a connection, as replies. No socket, no event loop.

llhttp (through httptools) parses; here is what it leaves open: interim replies, replies that end with the connection, bounds
on everything a server can send, and whether the connection is still in step afterwards. Whatever the bytes and however they
are split, a reply is either exactly what the framing says (RFC 9112, section 6.3) or a named failure.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import httptools

from asyncbatch.model import Transport, WireTimes

ERROR_BYTES = 65_536
"""How much of an error's body is read; SageMaker's own are below 7 KB."""
_HEAD_BYTES = 131_072
"""Headers, interim replies and trailers together; common servers and clients take 8 to 64 KB."""
_OVERHEAD = 16
"""Most bytes of chunk framing for each byte of body, beside `_HEAD_BYTES`."""


class WireReply(NamedTuple):
    """A complete HTTP reply of any status."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of several lines with one name, the last."""
    body: bytes
    """Of an error, the first 64 KiB."""
    times: WireTimes | None = None
    """When its parts happened, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Why there is no reply; `message` goes on after the server's name."""

    transport: Transport
    message: str
    status: int | None = None


class _EnoughError(Exception):
    """Stops the parser: nothing after this is wanted."""


class ReplyReader:
    """Reads the replies of one connection, one after the other.

    `start` before each request; `feed` until `result` is set, or `end` when the connection ends first.

    Args:
        max_reply_bytes: a 2xx body is read no further, before and after decompression.
        decompress: undo the Content-Encodings gzip and deflate.
    """

    def __init__(self, *, max_reply_bytes: int, decompress: bool) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._decompress = decompress
        self._parser = httptools.HttpResponseParser(self)
        self.in_step = True
        """False: what follows on this connection cannot be told from this reply."""
        self.start()

    def start(self) -> None:
        """Expect the reply to a new request."""
        self.result: WireReply | Broken | None = None
        self._headers: dict[str, str] = {}
        self._status = 0
        self._in_body = False
        self._until_end = False
        self._bound = self._max_reply_bytes
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.received = 0
        """Bytes of this reply so far."""
        self.times: WireTimes | None = None
        """Set by whoever feeds; goes into the reply."""

    def feed(self, data: bytes) -> bool:
        """Take bytes as they arrive, split anywhere; True once there is a result."""
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.in_step = False
            if self.result is None:
                self._break(Transport.PROTOCOL, "what it answered is no HTTP")
        else:
            if self.result is None and self.received > _HEAD_BYTES + (1 + _OVERHEAD) * self._body_bytes:
                self._break(Transport.PROTOCOL, "sent more headers than a reply has")
        return self.result is not None

    def end(self, *, clean: bool) -> None:
        """The connection ended; `clean`: by the server's own closing. Sets `result` if it is not set."""
        self.in_step = False
        if self.result is not None:
            return
        if not self.received:
            self._break(Transport.RESET, "closed the connection before it answered")
        elif not self._in_body:
            self._break(Transport.TRUNCATED, "ended its reply inside its headers")
        elif self._until_end and clean:
            self._complete()
        else:
            self._break(Transport.TRUNCATED, "ended its reply early")

    # -- called by the parser --------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else a trailer, which may not change what was said before the body
            self._headers[name.decode("ascii", "replace").lower()] = value.decode(
                "utf-8", "surrogateescape"
            ).strip()

    def on_headers_complete(self) -> None:
        if self.result is not None:
            raise _EnoughError
        self._status = status = self._parser.get_status_code()
        if status < 200:
            if status == 101 or status < 100:
                raise _EnoughError
            return
        self._in_body = True
        headers = self._headers
        coding = headers.get("transfer-encoding", "")
        if coding and coding.lower() != "chunked":
            raise _EnoughError
        length = headers.get("content-length")
        self._until_end = length is None and not coding and status not in (204, 304)
        if not 200 <= status < 300:
            self._bound = ERROR_BYTES
        elif length is not None and not coding and int(length) > self._bound:
            self._too_large()
            raise _EnoughError

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._bound:
            if 200 <= self._status < 300:
                self._too_large()
            else:
                self._complete()
            raise _EnoughError

    def on_message_complete(self) -> None:
        if self.result is not None:
            raise _EnoughError
        if self._status < 200:  # an interim reply, such as 100 Continue: the real one follows
            self._headers = {}
            return
        self.in_step = self._parser.should_keep_alive()
        self._complete()

    # -- the result ------------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if len(body) > self._bound:
            body = body[: self._bound]
        if self._decompress and body and (coding := self._headers.get("content-encoding")):
            good = 200 <= self._status < 300
            plain = _decompressed(body, coding.lower(), bound=self._bound)
            if plain is None and good:
                self._break(Transport.PROTOCOL, f"its reply is no {coding[:20]}")
                return
            if plain is not None:
                body = plain
            if len(body) > self._bound:
                if good:
                    self._too_large()
                    return
                body = body[: self._bound]
        self.result = WireReply(self._status, self._headers, body, self.times)

    def _too_large(self) -> None:
        text = f"the reply is larger than {self._max_reply_bytes:,} bytes"
        self._break(Transport.REPLY_TOO_LARGE, text, status=self._status)

    def _break(self, transport: Transport, message: str, *, status: int | None = None) -> None:
        self.in_step = False
        self.result = Broken(transport=transport, message=message, status=status)


def _decompressed(body: bytes, coding: str, *, bound: int) -> bytes | None:
    """At most a byte more than `bound`; None if `body` is not wholly of that coding."""
    if coding in ("identity", ""):
        return body
    if coding in ("gzip", "x-gzip"):
        wbits = 16 + zlib.MAX_WBITS
    elif coding == "deflate":  # zlib's format by the RFC, bare deflate by habit
        wbits = (
            zlib.MAX_WBITS
            if body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
            else -zlib.MAX_WBITS
        )
    else:
        return None
    found = b""
    try:
        while body:  # gzip may have several members
            unpacking = zlib.decompressobj(wbits)
            found += unpacking.decompress(body, bound + 1 - len(found))
            if len(found) > bound:
                return found
            if not unpacking.eof:
                return None
            body = unpacking.unused_data
    except zlib.error:
        return None
    return found
