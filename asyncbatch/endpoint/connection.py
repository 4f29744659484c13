"""One HTTP/1.1 connection: a request out, its reply in, one at a time.

Head and body of a small request go out in one write. Nothing is awaited but the reply, and room in the socket for large
bodies; time limits are one timer. A request that is cancelled, or fails, takes its connection with it.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from time import monotonic
from typing import cast

from asyncbatch.endpoint.reply import Broken, ReplyReader, WireReply
from asyncbatch.errors import InvocationError
from asyncbatch.model import Buffer, Failure, Transport, WireTimes

_JOIN_BYTES = 65_536
"""Below this, joining the pieces costs less than a system call each."""
_WRITE_BYTES = 262_144
"""Larger bodies are written in slices of this size: neither the loop nor the socket buffer holds a whole one."""
_LAST_WORDS_BYTES = 1_048_576
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """A connection to `where` (host and port, for messages). Made by `connecting.Connector`.

    Args:
        reader: what its replies are read with.
        on_made: called once it stands, TLS and all; not when the handshake fails.
        on_lost: called once, when one that stood has ended.
    """

    def __init__(
        self,
        *,
        where: str,
        reader: ReplyReader,
        on_made: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._where = where
        self._reader = reader
        self._on_made = on_made
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = float("inf")
        self._of_s: float | None = None
        self._socket: socket.socket | None = None
        self.opened_s = self.idle_since_s = self._loop.time()
        self._began_s = self._written_s = 0.0
        self.requests = 0
        self.usable = True
        """Another request may be sent."""

    def keep_socket(self, sock: socket.socket) -> None:
        """The plain socket under it, for reading what a server said before it hung up."""
        self._socket = sock

    # -- a request -------------------------------------------------------------------------------------------------

    async def exchange(
        self,
        head: bytes,
        pieces: Sequence[Buffer],
        nbytes: int,
        *,
        timeout_s: float | None,
        of_s: float | None,
    ) -> WireReply:
        """Send one request and read its reply.

        Args:
            head: request line and headers, the empty line included.
            timeout_s: for all of it; None: no limit.
            of_s: the limit as messages name it, where part of it was spent on connecting.

        Raises:
            InvocationError: there is no complete HTTP reply, or a 2xx reply over the bound.
        """
        transport = self._transport
        assert self._waiter is None, "one request at a time"
        reader = self._reader
        reader.start()
        self.requests += 1
        if transport is None or not self.usable:
            reader.end(clean=True)
            assert type(reader.result) is Broken
            raise InvocationError(self._failure(reader.result))
        self._waiter = waiter = self._loop.create_future()
        self._of_s = of_s
        if timeout_s is None:
            self._deadline_s = float("inf")
        else:
            self._deadline_s = deadline_s = self._loop.time() + timeout_s
            # One timer outlives many requests; it looks at the deadline of the one under way when it rings.
            if self._timer is None or self._timer.when() > deadline_s:
                self._set_timer(deadline_s)
        self._began_s = self._written_s = monotonic()
        try:
            if nbytes <= _JOIN_BYTES:
                transport.write(b"".join((head, *pieces)))
            else:
                await self._write(transport, waiter, head, pieces)
            self._written_s = monotonic()
            await waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiter = None
        result = reader.result
        if type(result) is WireReply:
            # A reply before its request was all sent is one, but the connection is out of step.
            if not (reader.in_step and self.usable) or transport.get_write_buffer_size():
                self.abort()
            return result
        self.abort()
        assert result is not None
        assert type(result) is Broken
        raise InvocationError(self._failure(result))

    async def _write(
        self,
        transport: asyncio.Transport,
        waiter: "asyncio.Future[None]",
        head: bytes,
        pieces: Sequence[Buffer],
    ) -> None:
        """Write a large body as the socket takes it; stops when the reply is there."""
        first = True
        for piece in pieces:
            view = memoryview(piece).cast("B")
            start = 0
            while start < len(view):
                part: Buffer = view[start : start + (_JOIN_BYTES if first else _WRITE_BYTES)]
                start += len(part)
                transport.write(head + part if first else part)
                first = False
                await self._until_room()
                if waiter.done():  # answered, or lost, while it was being sent
                    self._reader.in_step = False
                    return

    async def _until_room(self) -> None:
        if self._full:
            self._room = self._loop.create_future()
            await self._room

    def _failure(self, broken: Broken) -> Failure:
        where = "" if broken.transport is Transport.REPLY_TOO_LARGE else f"{self._where} "
        return Failure(
            transport=broken.transport,
            message=where + broken.message,
            status=broken.status,
            reused_connection=self.requests > 1,
        )

    def _set_timer(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None:
            return  # the next request sets it again
        if self._loop.time() < self._deadline_s:
            if self._deadline_s < float("inf"):
                self._set_timer(self._deadline_s)
            return
        if self._reader.result is None:
            message = f"gave no complete reply in {self._of_s or 0:g} s"
            self._reader.result = Broken(transport=Transport.TIMEOUT, message=message)
        self._settle()

    def _settle(self) -> None:
        """The reader has a result: whoever waits goes on."""
        waiter, room = self._waiter, self._room
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if room is not None and not room.done():
            room.set_result(None)

    # -- its end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close an idle connection, with a goodbye under TLS."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection, dropping what is still to be sent.

        Closing would wait for a peer that may never read; a reset also tells the peer to stop working on it.
        """
        self.usable = False
        transport = self._transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                except OSError:
                    pass  # the peer was faster
            transport.abort()

    # -- called by the event loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if self._waiter is None or reader.result is not None:
            # Nothing was asked for: the next reply could not be told from this.
            self.abort()
            return
        if not reader.received:
            reader.times = WireTimes(self._began_s, self._written_s, monotonic())
        if reader.feed(data):
            self._settle()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._waiter is not None and self._reader.result is None:
            if isinstance(exc, ssl.SSLError) and not self._reader.received:
                reason = str(exc.reason or type(exc).__name__).replace("_", " ").lower()
                self._reader.result = Broken(
                    transport=Transport.TLS, message=f"ended the TLS connection: {reason}"
                )
            else:
                if exc is not None:
                    self._hear_last_words()
                self._reader.end(clean=exc is None)
        self._settle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport = None
        self._on_lost(self)

    def _hear_last_words(self) -> None:
        """A server that refuses a body answers and hangs up while it is still being sent. Sending then fails before the
        answer is read: it is in the socket's buffer yet."""
        left = _LAST_WORDS_BYTES
        try:
            while self._socket is not None and left > 0:
                data = self._socket.recv(65_536)
                left -= len(data)
                if not data or self._reader.feed(data):
                    return
        except (OSError, ValueError):
            pass  # there was nothing
