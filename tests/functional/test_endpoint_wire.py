"""Connections: which are made, kept and given up, and servers that answer in unusual ways."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from yarl import URL

from asyncbatch.endpoint import connecting, pool
from asyncbatch.endpoint.reply import WireReply
from asyncbatch.endpoint.target import header_lines, target
from asyncbatch.endpoint.wire import Wire, make_wire
from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, Transport
from asyncbatch.testing.faults import FaultServer, Plan

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPS: list[Any] = [asyncio.run]
try:
    import uvloop

    LOOPS.append(uvloop.run)
except ImportError:
    pass
each_loop = pytest.mark.parametrize("run", LOOPS, ids=lambda run: run.__module__.split(".")[0])


@asynccontextmanager
async def wired(url: str, **more: Any) -> AsyncIterator[Wire]:
    options = {
        "concurrency": 8,
        "max_reply_bytes": 1_000_000,
        "connect_timeout_s": 5,
        "trust": None,
        "decompress": True,
    }
    wire = make_wire(URL(url), **{**options, **more})
    try:
        yield wire
    finally:
        await wire.aclose()


async def post(wire: Wire, url: str, body: bytes = b"1,2\n", *, timeout_s: float = 5.0) -> WireReply:
    return await wire.post(target(URL(url), []), pieces=(body,), nbytes=len(body), timeout_s=timeout_s)


async def failure(wire: Wire, url: str, body: bytes = b"1,2\n", *, timeout_s: float = 5.0) -> Failure:
    with pytest.raises(InvocationError) as caught:
        await post(wire, url, body, timeout_s=timeout_s)
    return caught.value.failure


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A server that does with each connection what `serve` says; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def saying(*replies: bytes) -> Serve:
    """Answers each request of a connection with the next of `replies`, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await request(reader)
            writer.write(reply)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return serve


def replies_of(serve: Serve, run: Any, *, requests: int = 1) -> list[bytes]:
    async def scenario() -> list[bytes]:
        async with listening(serve) as port, wired(url := f"http://127.0.0.1:{port}/") as wire:
            return [(await post(wire, url)).body for _ in range(requests)]

    found: list[bytes] = run(scenario())
    return found


@each_loop
def test_interim_replies_are_no_replies(run: Any) -> None:
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n0.5"
    assert replies_of(saying(reply, reply), run, requests=2) == [b"0.5", b"0.5"]


@each_loop
def test_http_1_0_ends_with_the_connection(run: Any) -> None:
    assert replies_of(saying(b"HTTP/1.0 200 OK\r\n\r\n0.5\n0.25"), run, requests=3) == [b"0.5\n0.25"] * 3


@each_loop
def test_bytes_nobody_asked_for_never_become_a_reply(run: Any) -> None:
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    assert replies_of(saying(extra, extra), run, requests=3) == [b"1"] * 3


@each_loop
def test_a_refusal_before_the_body_is_read_is_heard_though_the_server_hangs_up(run: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
        await writer.drain()
        # The rest of the body is left unread, so closing resets the connection.

    async def scenario() -> None:
        async with listening(serve) as port, wired(url := f"http://127.0.0.1:{port}/") as wire:
            for _ in range(20):
                assert (await post(wire, url, b"x" * 20_000_000)).status == 413

    run(scenario())


@each_loop
def test_head_and_body_go_out_at_once_and_without_delay(run: Any) -> None:
    segments: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            segments.append(data)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def scenario() -> None:
        async with listening(serve) as port, wired(url := f"http://127.0.0.1:{port}/") as wire:
            for _ in range(20):
                await post(wire, url, b"y" * 10_000)
            (connection,) = wire._open  # type: ignore[attr-defined]
            assert connection._transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )

    run(scenario())
    assert len(segments) == 20
    assert all(segment.endswith(b"\r\n\r\n" + b"y" * 10_000) for segment in segments)


@each_loop
def test_large_bodies_in_pieces_arrive_as_they_are(run: Any) -> None:
    pieces = (
        b"a" * 3,
        memoryview(b"b" * 300_000),
        bytearray(b"c" * 70_000),
        b"",
        memoryview(b"d" * 2_000_000),
    )

    async def scenario() -> None:
        async with FaultServer() as server, wired(server.url) as wire:
            server.script(then=Plan(body=b"1"))
            for _ in range(3):
                nbytes = sum(len(piece) for piece in pieces)
                await wire.post(target(URL(server.url), []), pieces=pieces, nbytes=nbytes, timeout_s=5)
            assert all(seen.body == b"".join(pieces) for seen in server.seen)
            assert {seen.connection for seen in server.seen} == {0}

    run(scenario())


@pytest.mark.parametrize(
    ("setting", "value", "connections"),
    [
        ("_MAX_REQUESTS", 3, 3),
        ("_MAX_AGE_S", -1.0, 7),
        ("_KEEPALIVE_S", -1.0, 7),
        ("_MAX_REQUESTS", 10_000, 1),
    ],
)
def test_connections_are_replaced(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: float, connections: int
) -> None:
    monkeypatch.setattr(pool, setting, value)

    async def scenario() -> None:
        async with FaultServer() as server, wired(server.url) as wire:
            for _ in range(7):
                await post(wire, server.url)
            assert server.connections == connections

    asyncio.run(scenario())


def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used() -> None:
    async def scenario() -> None:
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"
        async with listening(saying(reply)) as port, wired(url := f"http://127.0.0.1:{port}/") as wire:
            for _ in range(5):
                await post(wire, url)
                await asyncio.sleep(0.02)

    asyncio.run(scenario())


# -- addresses -------------------------------------------------------------------------------------------------------


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> list[str]:
    """Let the name `model.test` have these addresses; notes each question."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "model.test":
            return real(host, port, *more, **named)
        if named.get("flags"):
            raise socket.gaierror("not a number")
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def named(name: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())
            await asyncio.sleep(0.05)

    return serve


def test_every_address_of_a_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with listening(named("a")) as port, listening(named("b"), "127.0.0.2", port):
            asked = answers(monkeypatch, ("127.0.0.1", port), ("127.0.0.2", port))
            async with wired(url := f"http://model.test:{port}/") as wire:
                found = await asyncio.gather(*(post(wire, url) for _ in range(8)))
            bodies = sorted(reply.body for reply in found)
            assert bodies == [b"a"] * 4 + [b"b"] * 4
            assert len(asked) == 1

    asyncio.run(scenario())


def test_a_dead_address_costs_a_moment_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with listening(named("b"), "127.0.0.2") as port:
            with socket.socket() as full:  # takes no more connections, and does not refuse them either
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                deaf = full.getsockname()
                fillers = [socket.socket() for _ in range(3)]
                for filler in fillers:
                    filler.setblocking(False)
                    filler.connect_ex(deaf)
                answers(monkeypatch, ("127.0.0.3", port), deaf, ("127.0.0.2", port))
                async with wired(url := f"http://model.test:{port}/") as wire:
                    started = asyncio.get_running_loop().time()
                    found = await asyncio.gather(*(post(wire, url) for _ in range(6)))
                    assert [reply.body for reply in found] == [b"b"] * 6
                    assert asyncio.get_running_loop().time() - started < 4 * connecting._NEXT_ADDRESS_S
                for filler in fillers:
                    filler.close()

    asyncio.run(scenario())


def test_after_a_failure_the_name_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with listening(named("a"), "127.0.0.2") as port:
            asked = answers(monkeypatch, ("127.0.0.1", port))
            async with wired(url := f"http://model.test:{port}/") as wire:
                assert (await failure(wire, url)).transport is Transport.CONNECT
                answers(monkeypatch, ("127.0.0.2", port))
                assert (await post(wire, url)).body == b"a"
                assert len(asked) == 1

    asyncio.run(scenario())


# -- limits ----------------------------------------------------------------------------------------------------------


@each_loop
def test_connecting_counts_against_the_requests_own_limit(run: Any) -> None:
    async def scenario() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with wired(url := f"http://127.0.0.1:{full.getsockname()[1]}/") as wire:
                assert (await failure(wire, url, timeout_s=0.1)).transport is Transport.TIMEOUT
            for filler in fillers:
                filler.close()

    run(scenario())


@each_loop
def test_a_closed_wire_refuses(run: Any) -> None:
    async def scenario() -> None:
        async with FaultServer() as server:
            async with wired(server.url) as wire:
                await post(wire, server.url)
            assert (await failure(wire, server.url)).transport is Transport.RESET

    run(scenario())


@pytest.mark.parametrize(("name", "value"), [("A", "b\r\nC: d"), ("A\n", "b"), ("A", "b\0")])
def test_no_header_becomes_two(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        header_lines([(name, value)])


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://h", b"POST / HTTP/1.1", "h"),
        ("http://h:80/a", b"POST /a HTTP/1.1", "h"),
        ("https://H:443/a?b=c%2F&d", b"POST /a?b=c%2F&d HTTP/1.1", "h"),
        ("http://h:8080/a%20b#frag", b"POST /a%20b HTTP/1.1", "h:8080"),
        ("http://[::1]:8080/", b"POST / HTTP/1.1", "[::1]:8080"),
        ("http://b\u00fccher.example/\u00e4", b"POST /%C3%A4 HTTP/1.1", "xn--bcher-kva.example"),
    ],
)
def test_addresses_as_they_are_sent(url: str, line: bytes, host: str) -> None:
    found = target(URL(url, encoded="%2F" in url), [])
    assert found.head.split(b"\r\n")[0] == line
    assert found.headers[0] == ("Host", host)
