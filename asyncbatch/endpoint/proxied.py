"""The wire through a proxy: aiohttp, which knows tunnels, logins and TLS inside them.

It costs 100 µs of CPU a request, so it is used where a proxy asks for it and nowhere else.
"""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from asyncbatch.endpoint.reply import ERROR_BYTES, WireReply
from asyncbatch.endpoint.target import Target
from asyncbatch.errors import InvocationError
from asyncbatch.model import Buffer, Failure, Transport

_WRITE_BYTES = 262_144
"""Pieces are written in slices of this size: neither the loop nor the socket buffer holds a whole body."""
_JOIN_BYTES = 65_536
"""Below this, joining the pieces costs less than a system call each."""
_KEEPALIVE_S = 12.0
"""As long as botocore keeps idle connections; common servers keep them for 5 to 60 s."""
_CLOSE_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_AUTOMATIC = frozenset(("Accept", "Accept-Encoding", "Content-Type", "User-Agent"))
"""Headers that aiohttp would add by itself."""


class ProxiedWire:
    """Connections to one host through `proxy`; the other arguments are those of `wire.make_wire`."""

    def __init__(
        self,
        *,
        proxy: str,
        concurrency: int,
        max_reply_bytes: int,
        connect_timeout_s: float,
        trust: ssl.SSLContext | None,
        decompress: bool,
    ) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout_s = connect_timeout_s
        self._timeout = aiohttp.ClientTimeout(total=0)
        self._proxy = proxy
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reused)
        self._session: aiohttp.ClientSession | None = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=concurrency, keepalive_timeout=_KEEPALIVE_S, ssl=trust if trust is not None else True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC,
            auto_decompress=decompress,
            trace_configs=[tracing],
        )

    async def post(
        self,
        target: Target,
        *,
        headers: bytes = b"",
        pieces: Sequence[Buffer],
        nbytes: int,
        timeout_s: float | None,
    ) -> WireReply:
        """See `wire.Wire`."""
        assert self._session is not None, "it is closed"
        url = target.url
        sent = CIMultiDict(target.headers)
        for line in headers.decode("utf-8", "surrogateescape").split("\r\n")[:-1]:
            name, _, value = line.partition(": ")
            sent.add(name, value)
        body = _Pieces(pieces, nbytes)
        trace = _Trace()
        response: aiohttp.ClientResponse | None = None
        whole = False
        try:
            response = await self._session.post(
                url,
                data=body,
                headers=sent,
                allow_redirects=False,
                proxy=self._proxy,
                timeout=self._deadline(timeout_s),
                trace_request_ctx=trace,
            )
            content = await self._read(response)
            whole = body.written and response.content.at_eof()
            return WireReply(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=content,
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            _raise(error, url=url, in_body=response is not None, reused=trace.reused, timeout_s=timeout_s)
        finally:
            if not whole:
                if response is not None:
                    response.close()
                body.abort()

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        session, self._session = self._session, None
        if session is not None and not session.closed:
            # TLS peers are given a moment to say goodbye, no more.
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await session.close()
            except TimeoutError:
                pass
            # Transports close in a callback of the loop; without this turn they would count as unclosed.
            await asyncio.sleep(0)

    def _deadline(self, timeout_s: float | None) -> aiohttp.ClientTimeout:
        if self._timeout.total != timeout_s:
            self._timeout = aiohttp.ClientTimeout(
                total=timeout_s, sock_connect=self._connect_timeout_s, ceil_threshold=3600
            )
        return self._timeout

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        good = 200 <= response.status < 300
        bound = self._max_reply_bytes if good else ERROR_BYTES
        if good and (response.content_length or 0) > bound:
            raise InvocationError(_too_large(bound, response.status))
        found: list[bytes] = []
        total = 0
        async for piece in response.content.iter_any():
            found.append(piece)
            total += len(piece)
            if total > bound:
                if good:
                    raise InvocationError(_too_large(bound, response.status))
                break
        return found[0] if len(found) == 1 and total <= bound else b"".join(found)[:bound]


class _Pieces(aiohttp.Payload):
    """A request body of known size, written piece by piece without joining large ones."""

    def __init__(self, pieces: Sequence[Buffer], nbytes: int) -> None:
        super().__init__(None, content_type="application/octet-stream")
        self._pieces = pieces
        self._size = nbytes
        self._transport: asyncio.Transport | None = None
        self.written = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        # Kept because aiohttp forgets it when it closes, though it may have much left to flush.
        self._transport = getattr(writer, "transport", None)
        if self._size is not None and self._size <= _JOIN_BYTES:
            await writer.write(b"".join(self._pieces))
        else:
            for piece in self._pieces:
                view = memoryview(piece).cast("B")
                for start in range(0, len(view), _WRITE_BYTES):
                    await writer.write(view[start : start + _WRITE_BYTES])
        self.written = True

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        # The Content-Length header is made from `size`, so the two never differ.
        await self.write(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._pieces).decode(encoding, errors)

    def abort(self) -> None:
        """Reset the connection, dropping what is still to be sent.

        Closing would wait for a peer that may never read; a reset also tells the peer to stop working on it.
        """
        transport = self._transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()


class _Trace:
    """What tracing tells of one request."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


async def _note_reused(_session: aiohttp.ClientSession, context: Any, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _too_large(bound: int, status: int) -> Failure:
    message = f"the reply is larger than {bound:,} bytes"
    return Failure(transport=Transport.REPLY_TOO_LARGE, status=status, message=message)


def _raise(error: Exception, *, url: URL, in_body: bool, reused: bool, timeout_s: float | None) -> NoReturn:
    """Name a failure below HTTP. Messages hold host and port, never the path's query, headers or rows."""
    where = f"{url.host}:{url.port}"
    transport: Transport
    match error:
        case aiohttp.ClientHttpProxyError():
            transport, message = Transport.CONNECT, f"the proxy answered {error.status} for {where}"
        case aiohttp.ClientConnectorCertificateError():
            transport, message = Transport.TLS, f"{where} is not trusted: {_tls(error)}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            transport, message = Transport.TLS, f"no TLS connection to {where}: {_tls(error)}"
        case aiohttp.ClientConnectorDNSError():
            transport, message = Transport.CONNECT, f"the name {url.host} is not known"
        case aiohttp.ClientConnectorError():
            transport, message = Transport.CONNECT, f"no connection to {where}: {_reason(error)}"
        case aiohttp.ConnectionTimeoutError():
            transport, message = Transport.CONNECT, f"no connection to {where} in time"
        case TimeoutError():
            transport, message = Transport.TIMEOUT, f"no complete reply from {where} in {timeout_s or 0:g} s"
        case aiohttp.ClientPayloadError():
            transport, message = Transport.TRUNCATED, f"the reply of {where} ended early"
        case aiohttp.ClientResponseError() | ValueError():
            transport, message = Transport.PROTOCOL, f"what {where} answered is no HTTP"
        case aiohttp.ServerDisconnectedError() if not in_body and not isinstance(error.message, str):
            transport, message = Transport.TRUNCATED, f"the reply of {where} ended inside its headers"
        case _ if in_body:
            transport, message = Transport.TRUNCATED, f"the reply of {where} ended early: {_reason(error)}"
        case _:
            transport, message = Transport.RESET, f"{where} closed the connection before it answered"
    failure = Failure(transport=transport, message=message, reused_connection=reused)
    raise InvocationError(failure) from error


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return type(error).__name__


def _tls(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    text = getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or type(inner).__name__
    return str(text).replace("_", " ").lower()
