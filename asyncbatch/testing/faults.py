"""Peers that misbehave on purpose: an HTTP server and a function that do what a plan says.

The server is raw asyncio, so that it can break the rules of HTTP; it answers on 127.0.0.1 only.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self


class Fault(Enum):
    """What goes wrong with one request."""

    NONE = "none"
    CLOSE = "close"
    """The connection is closed properly, without an answer."""
    RESET = "reset"
    """The connection is reset, without an answer."""
    EARLY = "early"
    """The answer comes before the body is read; then the connection is half-closed, the body dropped."""
    HEADERS = "headers"
    """The answer ends inside its headers."""
    TRUNCATE = "truncate"
    """The answer ends after half its body; its Content-Length promised all of it."""
    TRUNCATE_CHUNKED = "truncate_chunked"
    """The answer is chunked and ends after its first chunk, without the last one."""
    RESET_BODY = "reset_body"
    """The connection is reset after half the body."""
    STALL = "stall"
    """No answer, ever; the connection stays open."""
    STALL_BODY = "stall_body"
    """Half the body, then nothing; the connection stays open."""
    DEAF = "deaf"
    """The headers are read, the body is not; no answer."""
    TRICKLE = "trickle"
    """One byte of the body every 10 ms."""
    ENDLESS = "endless"
    """A chunked body without an end, as fast as it is taken."""
    GARBAGE = "garbage"
    """Bytes that are no HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done about one request."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    fault: Fault = Fault.NONE
    delay_s: float = 0.0
    """Before the answer, or before the fault."""
    chunked: bool = False
    """The body goes as chunks of at most 1,000 bytes, without a Content-Length."""
    close: bool = False
    """The connection is closed after the answer, and the answer says so."""
    exception: Exception | None = None
    """What a function raises; a server ignores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    """In order, as spelled."""
    body: bytes
    connection: int
    """Which connection of the server, from 0."""

    def header(self, name: str) -> list[str]:
        """The values of a header, byte for byte as decoded from Latin-1."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


_ESTABLISHED = 1  # of TCP_INFO
Planner = Callable[[Seen], Plan]


@dataclass(slots=True, kw_only=True)
class _Script:
    """Plans used up one after the other, then the last instruction for all that follow."""

    queue: deque[Plan] = field(default_factory=deque)
    then: "Plan | Planner" = Plan()

    def next(self, seen: Seen) -> Plan:
        if self.queue:
            return self.queue.popleft()
        return self.then(seen) if callable(self.then) else self.then


class FaultServer:
    """An HTTP/1.1 server on a free port of 127.0.0.1.

    ```python
    async with FaultServer() as server:
        server.script([Plan(status=503), Plan(body=b"1.0")])
        ...  # requests to server.url
        assert server.seen[1].body == b"…"
    ```
    Plans are taken in the order in which requests have been read whole (DEAF and EARLY: their headers).
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._script = _Script()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.seen: list[Seen] = []
        """Every request, as far as it was read."""
        self.connections = 0
        """Connections accepted so far."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.faulty = frozenset(Fault)
        """The faults it can make."""

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """Connections whose peer has not gone yet."""
        return len(self._writers)

    def script(self, plans: Iterable[Plan] = (), *, then: "Plan | Planner" = Plan()) -> None:
        """Do `plans` one after the other, then `then` for every request; forget what was seen."""
        self._script = _Script(queue=deque(plans), then=then)
        self.seen.clear()
        self.most_in_flight = self.in_flight

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Refuse connections for a while, on the same port."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        try:
            yield
        finally:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._tls, backlog=1024, limit=2**20
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        number = self.connections
        self.connections += 1
        try:
            while await self._answer(reader, writer, number):
                pass
        except (OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer has gone (uvloop says so with a RuntimeError), or the server closes
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """Read one request and do its plan; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = tuple((name, value.strip()) for name, _, value in pairs)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            seen = Seen(method=method, target=target, headers=headers, body=b"", connection=number)
            if self._next_is(Fault.EARLY, Fault.DEAF):
                plan = self._script.next(seen)
            else:
                length = int(next(iter(seen.header("content-length")), "0"))
                body = await reader.readexactly(length)
                seen = Seen(method=method, target=target, headers=headers, body=body, connection=number)
                plan = self._script.next(seen)
            self.seen.append(seen)
            return await self._do(plan, reader, writer)
        finally:
            self.in_flight -= 1

    def _next_is(self, *faults: Fault) -> bool:
        queue, then = self._script.queue, self._script.then
        plan = queue[0] if queue else then
        return isinstance(plan, Plan) and plan.fault in faults

    async def _do(self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        # While an answer is awaited, a peer that goes away must be noticed.
        gone = asyncio.ensure_future(_gone(reader, writer))
        doing = asyncio.ensure_future(self._write(plan, reader, writer))
        try:
            await asyncio.wait((gone, doing), return_when=asyncio.FIRST_COMPLETED)
            return doing.done() and doing.result()
        finally:
            for task in (gone, doing):
                task.cancel()
            await asyncio.gather(gone, doing, return_exceptions=True)

    async def _write(self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if plan.delay_s:
            await asyncio.sleep(plan.delay_s)
        head, half = self._head(plan), plan.body[: max(1, len(plan.body) // 2)]
        match plan.fault:
            case Fault.NONE:
                writer.write(head + (_chunks(plan.body) if plan.chunked else plan.body))
                await writer.drain()
                return not plan.close
            case Fault.CLOSE:
                await _close(writer)
            case Fault.RESET:
                _reset(writer)
            case Fault.EARLY:
                writer.write(head + plan.body)
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(65_536):
                    pass
            case Fault.HEADERS:
                writer.write(head[: len(head) // 2])
                await _close(writer)
            case Fault.TRUNCATE:
                writer.write(head + half)
                await _close(writer)
            case Fault.TRUNCATE_CHUNKED:
                writer.write(_chunked_head(plan) + b"%x\r\n%s\r\n" % (len(half), half))
                await _close(writer)
            case Fault.RESET_BODY:
                writer.write(head + half)
                await writer.drain()
                await asyncio.sleep(0.02)  # so that the peer reads what came before the reset
                _reset(writer)
            case Fault.STALL | Fault.DEAF:
                if plan.fault is Fault.DEAF:
                    writer.transport.pause_reading()  # type: ignore[attr-defined]  # every stream transport has it
                await asyncio.Event().wait()
            case Fault.STALL_BODY:
                writer.write(head + half)
                await asyncio.Event().wait()
            case Fault.TRICKLE:
                writer.write(head)
                for position in range(len(plan.body)):
                    writer.write(plan.body[position : position + 1])
                    await writer.drain()
                    await asyncio.sleep(0.01)
                return True
            case Fault.ENDLESS:
                writer.write(_chunked_head(plan))
                while True:
                    writer.write(b"10000\r\n%s\r\n" % (b"7" * 0x10000))
                    await writer.drain()
            case Fault.GARBAGE:
                writer.write(b"\x16\x03\x01 this is not what was asked for\r\n\r\n")
                await _close(writer)
        return False

    def _head(self, plan: Plan) -> bytes:
        if plan.chunked:
            return _chunked_head(plan)
        lines = [f"HTTP/1.1 {plan.status} Planned", *(f"{name}: {value}" for name, value in plan.headers)]
        lines.append(f"Content-Length: {len(plan.body)}")
        if plan.close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunked_head(plan: Plan) -> bytes:
    lines = [f"HTTP/1.1 {plan.status} Planned", *(f"{name}: {value}" for name, value in plan.headers)]
    return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode("latin-1")


def _chunks(body: bytes) -> bytes:
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def _gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return when the peer has closed or reset. Looks now and then: reading would eat the next request."""
    sock = writer.get_extra_info("socket")
    while not (writer.transport.is_closing() or reader.at_eof() or _is_closed(sock)):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def _is_closed(sock: Any) -> bool:
    """What the kernel knows, also of connections not being read; False where it does not tell (macOS)."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED)
    except OSError:
        return True


async def _close(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultFunction:
    """A function of rows that does what plans say: the peer of an endpoint that calls Python.

    NONE returns 1.0 for each row, STALL blocks until `release`, a plan's exception is raised; the other
    faults belong to servers.
    """

    def __init__(self) -> None:
        self._script = _Script()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.in_flight = 0
        self.most_in_flight = 0
        self.calls = 0
        self.faulty = frozenset((Fault.NONE, Fault.STALL))

    def script(self, plans: Iterable[Plan] = (), *, then: Plan = Plan()) -> None:
        """As `FaultServer.script`."""
        with self._lock:
            self._script = _Script(queue=deque(plans), then=then)
            self.most_in_flight = self.in_flight
            self.calls = 0
        self._released.clear()

    def release(self) -> None:
        """Let every stalled call return."""
        self._released.set()

    def __call__(self, rows: Any) -> list[float]:
        with self._lock:
            seen = Seen(method="", target="", headers=(), body=b"", connection=0)
            plan = self._script.next(seen)
            self.calls += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if plan.delay_s:
                time.sleep(plan.delay_s)
            if plan.fault is Fault.STALL:
                self._released.wait(10.0)
            if plan.exception is not None:
                raise plan.exception
            return [1.0] * len(rows)
        finally:
            with self._lock:
                self.in_flight -= 1
