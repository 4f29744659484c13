"""Does an endpoint keep the promises of the `Endpoint` protocol? Public: third parties can prove theirs.

```python
async with FaultServer() as server:
    await check_endpoint(lambda: MyEndpoint(server.url, max_reply=10**6), server, max_reply_bytes=10**6)
```
Works under asyncio and under anyio's asyncio backend, needs no test framework, and raises `AssertionError`
with the promise that was broken. Takes about five seconds.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from asyncbatch.errors import InvocationError
from asyncbatch.model import BatchPayload, BytesPayload, Failure, Payload, Reply, Transport
from asyncbatch.protocols import Endpoint
from asyncbatch.testing.faults import Fault, FaultFunction, FaultServer, Plan

_PATIENCE_S = 60.0
_TIMEOUT_S = 20.0
_SHORT_S = 0.25
_LATE_S = 5.0
"""By so much may it end after its timeout on a busy machine; an endpoint that knows no timeout does not end at all."""
_MANY = 24  # more than any client library's default pool


async def check_endpoint(
    make: Callable[[], Endpoint], peer: FaultServer | FaultFunction, *, max_reply_bytes: int = 1_000_000
) -> None:
    """Prove an endpoint against a peer that fails on purpose.

    Args:
        make: a new endpoint that invokes `peer`; it is opened and closed many times.
        peer: a running `FaultServer` for endpoints that speak HTTP, or a `FaultFunction`.
        max_reply_bytes: the bound that `make` sets on replies; at most a few MB.

    Raises:
        AssertionError: a promise of the protocol is broken; the message says which.
    """
    case = _Case(make=make, max_reply_bytes=max_reply_bytes)
    checks: list[Callable[[], Awaitable[None]]]
    if isinstance(peer, FaultServer):
        server = _ServerChecks(case, peer)
        checks = [
            server.answers,
            server.request_is_byte_for_byte,
            server.uses_its_concurrency,
            server.reuses_connections,
            server.sends_once,
            server.names_refusals,
            server.names_broken_connections,
            server.keeps_to_the_timeout,
            server.reads_no_further_than_the_bound,
            server.reads_an_early_refusal,
            server.names_an_unreachable_host,
            server.leaves_nothing_when_cancelled,
        ]
    else:
        function = _FunctionChecks(case, peer)
        checks = [
            function.answers,
            function.uses_its_concurrency,
            function.names_exceptions,
            function.keeps_to_the_timeout,
            function.leaves_nothing_when_cancelled,
        ]
    for check in [case.has_the_members, case.closes_twice, *checks]:
        tasks = asyncio.all_tasks()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await check()
        except TimeoutError:
            raise AssertionError(f"{check.__name__}: hangs, even after {_PATIENCE_S:g} s") from None
        if isinstance(peer, FaultServer):
            await _settled(lambda: peer.open_connections == 0, "connections stay open after aclose()")
        await _settled(functools.partial(_no_more_than, tasks), f"{check.__name__}: tasks are left")


def _promise(kept: object, text: str) -> None:
    """`assert`, but not compiled away by -O."""
    if not kept:
        raise AssertionError(text)


def _no_more_than(tasks: "set[asyncio.Task[Any]]") -> bool:
    return asyncio.all_tasks() <= tasks


async def _settled(condition: Callable[[], bool], text: str) -> None:
    """Wait for what happens within a few turns of the loop."""
    until = time.monotonic() + 2.0
    while not condition():
        _promise(time.monotonic() < until, text)
        await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    make: Callable[[], Endpoint]
    max_reply_bytes: int

    async def has_the_members(self) -> None:
        endpoint = self.make()
        _promise(
            isinstance(endpoint, Endpoint),
            f"{type(endpoint).__name__} lacks members of the Endpoint protocol",
        )
        _promise(endpoint.name, "name is empty")
        _promise(endpoint.max_body_bytes > 0, "max_body_bytes is not positive")
        identity = endpoint.identity
        _promise(identity, "identity is empty")
        for key, value in identity.items():
            _promise(value is None or isinstance(value, str), f"identity[{key!r}] is neither text nor None")
        _promise(identity == self.make().identity, "two endpoints made alike have different identities")

    async def closes_twice(self) -> None:
        endpoint = self.make()
        await endpoint.aclose()
        endpoint = self.make()
        await endpoint.open(concurrency=2)
        await endpoint.aclose()
        await endpoint.aclose()


class _Opened:
    """`async with`: an endpoint opened, and closed in the end."""

    def __init__(self, case: _Case, *, concurrency: int = 2) -> None:
        self._endpoint = case.make()
        self._concurrency = concurrency

    async def __aenter__(self) -> Endpoint:
        await self._endpoint.open(concurrency=self._concurrency)
        return self._endpoint

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.aclose()


async def _failure(
    endpoint: Endpoint, payload: Payload, *, timeout_s: float = _TIMEOUT_S, of: str
) -> Failure:
    try:
        await endpoint.invoke(payload, timeout_s=timeout_s)
    except InvocationError as error:
        _promise(isinstance(error.failure, Failure), f"{of}: InvocationError carries no Failure")
        return error.failure
    except Exception as error:
        raise AssertionError(f"{of}: {type(error).__name__} instead of InvocationError") from error
    raise AssertionError(f"{of}: taken for a success")


async def _cancelled(task: "asyncio.Task[Reply]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise AssertionError(f"cancelled, but raises {type(error).__name__} instead") from error


def _payload(rows: int = 3, content_type: str = "text/csv") -> BytesPayload:
    body = b"1.5,2\n" * rows
    return BytesPayload(pieces=(body,), content_type=content_type, nbytes=len(body))


_GOOD = Plan(body=b"0.25,0.5,0.75", headers=(("Content-Type", "text/csv; charset=utf-8"),))


class _ServerChecks:
    """Promises of endpoints that speak HTTP."""

    def __init__(self, case: _Case, server: FaultServer) -> None:
        self._case = case
        self._server = server

    async def answers(self) -> None:
        async with _Opened(self._case) as endpoint:
            _promise(not endpoint.takes_batches, "takes_batches, though its peer is a server")
            for plan in (
                _GOOD,
                Plan(body=b"x" * 4500, chunked=True),
                Plan(body=b""),
                Plan(body=b"y", close=True),
            ):
                self._server.script([plan])
                reply = await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
                _promise(reply.body == plan.body, f"a reply of {len(plan.body)} bytes arrives changed")
            self._server.script([_GOOD])
            reply = await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
            _promise(
                reply.content_type == "text/csv; charset=utf-8", "the reply's Content-Type is not as sent"
            )
            _promise(
                all(name == name.lower() for name in reply.headers), "header names are not in lower case"
            )

    async def request_is_byte_for_byte(self) -> None:
        rows = bytes(range(256)) * 64
        view = memoryview(rows)
        small = BytesPayload(
            pieces=(b"[", view[5:900], bytearray(b"]")), content_type="Application/JSON;a=B", nbytes=897
        )
        big = BytesPayload(
            pieces=(b"head", *(view for _ in range(384)), b"", b"tail"),
            content_type="application/x-npy",
            nbytes=384 * len(rows) + 8,
        )
        nothing = BytesPayload(pieces=(), content_type="text/csv", nbytes=0)
        async with _Opened(self._case) as endpoint:
            for payload in (small, big, nothing):
                self._server.script(then=_GOOD)
                await endpoint.invoke(payload, timeout_s=_TIMEOUT_S)
                seen = self._server.seen[0]
                _promise(seen.method == "POST", "the method is not POST")
                _promise(
                    seen.body == b"".join(payload.pieces), f"a body of {payload.nbytes} bytes arrives changed"
                )
                _promise(
                    seen.header("content-type") == [payload.content_type],
                    f"Content-Type {payload.content_type!r} arrives as {seen.header('content-type')}",
                )
                _promise(
                    seen.header("content-length") == [str(payload.nbytes)],
                    "Content-Length is missing or wrong",
                )
                _promise(not seen.header("transfer-encoding"), "the body is sent in chunks")

    async def uses_its_concurrency(self) -> None:
        self._server.script(then=Plan(body=b"1", delay_s=0.2))
        async with _Opened(self._case, concurrency=_MANY) as endpoint:
            await asyncio.gather(*(endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S) for _ in range(_MANY)))
        most = self._server.most_in_flight
        _promise(most == _MANY, f"opened for {_MANY} invocations at once, but only {most} were under way")

    async def reuses_connections(self) -> None:
        self._server.script(then=Plan(body=b"1", headers=(("Set-Cookie", "a=b; Path=/"),)))
        async with _Opened(self._case) as endpoint:
            for _ in range(8):
                await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
        connections = {seen.connection for seen in self._server.seen}
        _promise(
            len(connections) == 1, f"{len(connections)} connections for 8 invocations one after the other"
        )
        _promise(
            not any(seen.header("cookie") for seen in self._server.seen), "cookies are kept and sent back"
        )

    async def sends_once(self) -> None:
        plans = {
            "503": Plan(status=503),
            "429": Plan(status=429, headers=(("Retry-After", "0"),)),
            "a reset": Plan(fault=Fault.RESET),
            "a closed connection": Plan(fault=Fault.CLOSE),
            "a redirect": Plan(status=307, headers=(("Location", self._server.url + "/elsewhere"),)),
        }
        async with _Opened(self._case) as endpoint:
            for name, plan in plans.items():
                for earlier in ([], [_GOOD]):  # on a new connection, and on one that had carried another
                    self._server.script([*earlier, plan], then=_GOOD)
                    if earlier:
                        await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
                    await _failure(endpoint, _payload(), of=name)
                    times = len(self._server.seen) - len(earlier)
                    _promise(
                        times == 1,
                        f"after {name} the request is sent {times} times; retries are not its business",
                    )

    async def names_refusals(self) -> None:
        date = "Tue, 24 Nov 2026 10:00:00 GMT"
        async with _Opened(self._case) as endpoint:
            for status in (
                301,
                307,
                400,
                401,
                403,
                404,
                405,
                406,
                413,
                415,
                422,
                424,
                429,
                500,
                502,
                503,
                504,
                530,
            ):
                text = f"because of {status}"
                headers = (("Date", date), ("Location", "/elsewhere"), ("Retry-After", "7"))
                self._server.script([Plan(status=status, body=text.encode(), headers=headers)])
                failure = await _failure(endpoint, _payload(), of=f"status {status}")
                _promise(failure.status == status, f"status {status} is reported as {failure.status}")
                _promise(failure.transport is None, f"status {status} is reported as {failure.transport}")
                _promise(failure.server_date == date, f"status {status}: the Date header is lost")
                _promise(failure.retry_after_s == 7.0, f"status {status}: Retry-After is lost")
                said = "elsewhere" if status < 400 else text
                _promise(said in failure.message, f"status {status}: {said!r} is not in the message")
            for body in (
                b"",
                b"\xff\xfe\x00",
                b"[1]",
                b'"x"',
                b"null",
                b"{",
                b'{"message":null}',
                b"z" * 300_000,
            ):
                self._server.script([Plan(status=500, body=body)], then=_GOOD)
                failure = await _failure(endpoint, _payload(), of=f"an error body of {len(body)} bytes")
                _promise(failure.status == 500, f"status 500 with body {body[:20]!r} is not reported as 500")
                _promise(len(failure.message) <= 4096, "an error's message is not bounded")
            await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)

    async def names_broken_connections(self) -> None:
        expected = {
            Fault.CLOSE: (Transport.RESET,),
            Fault.RESET: (Transport.RESET,),
            Fault.HEADERS: (Transport.TRUNCATED, Transport.PROTOCOL),
            Fault.TRUNCATE: (Transport.TRUNCATED,),
            Fault.TRUNCATE_CHUNKED: (Transport.TRUNCATED,),
            Fault.RESET_BODY: (Transport.TRUNCATED,),
            Fault.GARBAGE: (Transport.PROTOCOL,),
        }
        async with _Opened(self._case) as endpoint:
            for fault, transports in expected.items():
                for status in (200, 500):
                    self._server.script([Plan(status=status, body=b"0123456789", fault=fault)], then=_GOOD)
                    failure = await _failure(endpoint, _payload(), of=f"{fault.name} with {status}")
                    _promise(
                        failure.transport in transports,
                        f"{fault.name} with {status} is reported as {failure.transport}",
                    )
                    reply = await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
                    _promise(reply.body == _GOOD.body, f"after {fault.name} the next invocation fails")

    async def keeps_to_the_timeout(self) -> None:
        async with _Opened(self._case) as endpoint:
            for fault in (Fault.STALL, Fault.STALL_BODY, Fault.TRICKLE, Fault.DEAF):
                self._server.script([Plan(body=b"0" * 1000, fault=fault)], then=_GOOD)
                rows = 1_000_000 if fault is Fault.DEAF else 3
                started = time.monotonic()
                failure = await _failure(endpoint, _payload(rows), timeout_s=_SHORT_S, of=fault.name)
                took = time.monotonic() - started
                _promise(
                    failure.transport is Transport.TIMEOUT, f"{fault.name} is reported as {failure.transport}"
                )
                _promise(took > _SHORT_S * 0.9, f"{fault.name}: given up after {took:.2f} of {_SHORT_S} s")
                _promise(
                    took < _SHORT_S + _LATE_S, f"{fault.name}: given up only after {took:.2f} of {_SHORT_S} s"
                )
                # On a slow machine the request may have been given up before the server had read it, and begun the plan.
                self._server.script(then=_GOOD)
                await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)

    async def reads_no_further_than_the_bound(self) -> None:
        bound = self._case.max_reply_bytes
        async with _Opened(self._case) as endpoint:
            self._server.script([Plan(body=b"7" * bound)])
            reply = await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
            _promise(len(reply.body) == bound, "a reply of exactly the bound is not read whole")
            for plan in (
                Plan(body=b"7" * (bound + 1)),
                Plan(body=b"7" * (bound + 1), chunked=True),
                _ENDLESS,
            ):
                self._server.script([plan], then=_GOOD)
                failure = await _failure(endpoint, _payload(), of="a reply over the bound")
                _promise(
                    failure.transport is Transport.REPLY_TOO_LARGE,
                    f"a reply over the bound is reported as {failure.transport}",
                )
                await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)

    async def reads_an_early_refusal(self) -> None:
        async with _Opened(self._case) as endpoint:
            self._server.script([Plan(status=413, body=b"too large", fault=Fault.EARLY)], then=_GOOD)
            failure = await _failure(endpoint, _payload(1_000_000), of="413 before the body was read")
            _promise(
                failure.status == 413, f"413 before the body was read is reported as {failure.summary()}"
            )
            await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)

    async def names_an_unreachable_host(self) -> None:
        async with _Opened(self._case) as endpoint, self._server.away():
            failure = await _failure(endpoint, _payload(), of="a refused connection")
            _promise(
                failure.transport is Transport.CONNECT,
                f"a refused connection is reported as {failure.transport}",
            )

    async def leaves_nothing_when_cancelled(self) -> None:
        async with _Opened(self._case) as endpoint:
            for fault, rows in ((Fault.STALL, 3), (Fault.STALL_BODY, 3), (Fault.DEAF, 1_000_000)):
                self._server.script(then=Plan(body=b"0123456789", fault=fault))
                task = asyncio.ensure_future(endpoint.invoke(_payload(rows), timeout_s=_TIMEOUT_S))
                await _settled(
                    lambda: self._server.in_flight == 1, f"{fault.name}: the request does not arrive"
                )
                await asyncio.sleep(0.02)
                await _cancelled(task)
                await _settled(lambda: self._server.in_flight == 0, f"{fault.name}: cancelled, but goes on")
            # At every await: cancel after 0, 1, 2 … turns of the loop, until one gets through.
            self._server.script(then=_GOOD)
            for turns in range(500):
                task = asyncio.ensure_future(endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.done():
                    break
                await _cancelled(task)
            reply = await endpoint.invoke(_payload(), timeout_s=_TIMEOUT_S)
            _promise(reply.body == _GOOD.body, "after cancellations the next invocation fails")


_ENDLESS = Plan(fault=Fault.ENDLESS)


class _FunctionChecks:
    """Promises of endpoints that call Python."""

    def __init__(self, case: _Case, function: FaultFunction) -> None:
        self._case = case
        self._function = function

    async def answers(self) -> None:
        async with _Opened(self._case) as endpoint:
            _promise(endpoint.takes_batches, "takes no batches, though its peer is a function")
            self._function.script()
            reply = await endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S)
            _promise(list(reply.result) == [1.0, 1.0, 1.0], "the result is not what the function returned")
            _promise(self._function.calls == 1, f"the function is called {self._function.calls} times")

    async def uses_its_concurrency(self) -> None:
        self._function.script(then=Plan(delay_s=0.2))
        async with _Opened(self._case, concurrency=_MANY) as endpoint:
            turns = 0
            everyone = asyncio.gather(
                *(endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S) for _ in range(_MANY))
            )
            while not everyone.done():
                await asyncio.sleep(0.01)
                turns += 1
            await everyone
        most = self._function.most_in_flight
        _promise(most == _MANY, f"opened for {_MANY} invocations at once, but only {most} were under way")
        _promise(turns >= 5, "the event loop stands still while the function runs")

    async def names_exceptions(self) -> None:
        async with _Opened(self._case) as endpoint:
            for error in (
                ValueError("bad row"),
                KeyError("a"),
                StopIteration(),
                MemoryError(),
                TimeoutError("its own"),
            ):
                self._function.script([Plan(exception=error)])
                name = type(error).__name__
                failure = await _failure(endpoint, _batch(), of=name)
                _promise(failure.exception == name, f"{name} is reported as {failure.exception!r}")
                _promise(failure.transport is None, f"{name} is reported as {failure.transport}")
                _promise(str(error) in failure.message, f"{name}: its message is lost")
                self._function.script()
                await endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S)

    async def keeps_to_the_timeout(self) -> None:
        async with _Opened(self._case) as endpoint:
            self._function.script([Plan(fault=Fault.STALL)])
            started = time.monotonic()
            failure = await _failure(
                endpoint, _batch(), timeout_s=_SHORT_S, of="a function that does not return"
            )
            took = time.monotonic() - started
            _promise(failure.transport is Transport.TIMEOUT, f"a timeout is reported as {failure.transport}")
            _promise(_SHORT_S * 0.9 < took < _SHORT_S + _LATE_S, f"given up after {took:.2f} of {_SHORT_S} s")
            self._function.release()

    async def leaves_nothing_when_cancelled(self) -> None:
        threads = threading.active_count()
        async with _Opened(self._case) as endpoint:
            self._function.script(then=Plan(fault=Fault.STALL))
            task = asyncio.ensure_future(endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S))
            await _settled(lambda: self._function.in_flight == 1, "the function is not called")
            await _cancelled(task)
            self._function.release()
            self._function.script()
            for turns in range(20):
                task = asyncio.ensure_future(endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await _cancelled(task)
            reply = await endpoint.invoke(_batch(), timeout_s=_TIMEOUT_S)
            _promise(list(reply.result) == [1.0, 1.0, 1.0], "after cancellations the next invocation fails")
        # The loop's own default pool may have grown by the threads that open and close things.
        await _settled(lambda: threading.active_count() <= threads + 2, "threads are left after aclose()")


def _batch() -> BatchPayload:
    import pyarrow as pa

    batch = pa.RecordBatch.from_pydict({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
    return BatchPayload(batch=batch, nbytes=batch.nbytes)
