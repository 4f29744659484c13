"""How bytes go to a host and come back: a POST, a bounded reply, every failure below HTTP named by what happened.

No cookies, no redirects, no retries, no environment read per request. Both the plain HTTP endpoint and the SageMaker
endpoint send through it, so they fail alike. There are two: connections of our own, and aiohttp's where a proxy stands
between, whose tunnels and logins it knows.
"""

import ssl
from collections.abc import Sequence
from typing import Protocol

from yarl import URL

from asyncbatch.endpoint.network import proxy_for
from asyncbatch.endpoint.reply import WireReply
from asyncbatch.endpoint.target import Target
from asyncbatch.model import Buffer


class Wire(Protocol):
    """Connections to one host."""

    async def post(
        self,
        target: Target,
        *,
        headers: bytes = b"",
        pieces: Sequence[Buffer],
        nbytes: int,
        timeout_s: float | None,
    ) -> WireReply:
        """Send one request and read its reply.

        When it is cancelled, or fails, its connection is torn down at once: nothing is left to be flushed.

        Args:
            headers: more header lines, by `header_lines`; Content-Length is added.
            timeout_s: for all of it; None: no limit.

        Raises:
            InvocationError: there is no complete HTTP reply, or a 2xx reply over the bound.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; requests under way fail. Idempotent."""
        ...


def make_wire(
    url: URL,
    *,
    concurrency: int,
    max_reply_bytes: int,
    connect_timeout_s: float,
    trust: ssl.SSLContext | None,
    decompress: bool,
    proxy: str | None = None,
) -> Wire:
    """The wire to the host of `url`, for up to `concurrency` requests at once; sends nothing.

    Args:
        max_reply_bytes: a 2xx body is read no further (after decompression).
        connect_timeout_s: for the TCP and TLS handshakes together.
        trust: what verifies the server; made by `tls_context` in a thread.
        decompress: undo Content-Encoding.
        proxy: the proxy to go through; None: what the environment says.
    """
    proxy = proxy or proxy_for(url)
    if proxy is not None:
        from asyncbatch.endpoint.proxied import ProxiedWire

        return ProxiedWire(
            proxy=proxy,
            concurrency=concurrency,
            max_reply_bytes=max_reply_bytes,
            connect_timeout_s=connect_timeout_s,
            trust=trust,
            decompress=decompress,
        )
    from asyncbatch.endpoint.pool import PooledWire

    assert url.host is not None
    assert url.port is not None
    return PooledWire(
        host=url.host,
        port=url.port,
        max_reply_bytes=max_reply_bytes,
        connect_timeout_s=connect_timeout_s,
        trust=trust,
        decompress=decompress,
    )
