"""What an endpoint that speaks HTTP promises."""

import asyncio
import time

from asyncbatch.model import BytesPayload, Transport
from asyncbatch.testing.endpoint_case import (
    LATE_S,
    MANY,
    SHORT_S,
    TIMEOUT_S,
    Case,
    Opened,
    cancelled,
    cancelled_after,
    failure_of,
    promise,
    settled,
)
from asyncbatch.testing.faults import Fault, FaultServer, Plan


def _payload(rows: int = 3, content_type: str = "text/csv") -> BytesPayload:
    body = b"1.5,2\n" * rows
    return BytesPayload(pieces=(body,), content_type=content_type, nbytes=len(body))


_GOOD = Plan(body=b"0.25,0.5,0.75", headers=(("Content-Type", "text/csv; charset=utf-8"),))
_ENDLESS = Plan(fault=Fault.ENDLESS)


class ServerChecks:
    """Promises of endpoints that speak HTTP."""

    def __init__(self, case: Case, server: FaultServer) -> None:
        self._case = case
        self._server = server

    async def answers(self) -> None:
        async with Opened(self._case) as endpoint:
            promise(not endpoint.takes_batches, "takes_batches, though its peer is a server")
            for plan in (
                _GOOD,
                Plan(body=b"x" * 4500, chunked=True),
                Plan(body=b""),
                Plan(body=b"y", close=True),
            ):
                self._server.script([plan])
                reply = await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
                promise(reply.body == plan.body, f"a reply of {len(plan.body)} bytes arrives changed")
            self._server.script([_GOOD])
            reply = await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
            promise(
                reply.content_type == "text/csv; charset=utf-8", "the reply's Content-Type is not as sent"
            )
            promise(all(name == name.lower() for name in reply.headers), "header names are not in lower case")

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
        async with Opened(self._case) as endpoint:
            for payload in (small, big, nothing):
                self._server.script(then=_GOOD)
                await endpoint.invoke(payload, timeout_s=TIMEOUT_S)
                seen = self._server.seen[0]
                promise(seen.method == "POST", "the method is not POST")
                promise(
                    seen.body == b"".join(payload.pieces), f"a body of {payload.nbytes} bytes arrives changed"
                )
                promise(
                    seen.header("content-type") == [payload.content_type],
                    f"Content-Type {payload.content_type!r} arrives as {seen.header('content-type')}",
                )
                promise(
                    seen.header("content-length") == [str(payload.nbytes)],
                    "Content-Length is missing or wrong",
                )
                promise(not seen.header("transfer-encoding"), "the body is sent in chunks")

    async def uses_its_concurrency(self) -> None:
        self._server.script(then=Plan(body=b"1", delay_s=0.2))
        async with Opened(self._case, concurrency=MANY) as endpoint:
            await asyncio.gather(*(endpoint.invoke(_payload(), timeout_s=TIMEOUT_S) for _ in range(MANY)))
        most = self._server.most_in_flight
        promise(most == MANY, f"opened for {MANY} invocations at once, but only {most} were under way")

    async def reuses_connections(self) -> None:
        self._server.script(then=Plan(body=b"1", headers=(("Set-Cookie", "a=b; Path=/"),)))
        async with Opened(self._case) as endpoint:
            for _ in range(8):
                await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
        connections = {seen.connection for seen in self._server.seen}
        promise(
            len(connections) == 1, f"{len(connections)} connections for 8 invocations one after the other"
        )
        promise(
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
        async with Opened(self._case) as endpoint:
            for name, plan in plans.items():
                for earlier in ([], [_GOOD]):  # on a new connection, and on one that had carried another
                    self._server.script([*earlier, plan], then=_GOOD)
                    if earlier:
                        await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
                    await failure_of(endpoint, _payload(), of=name)
                    times = len(self._server.seen) - len(earlier)
                    promise(
                        times == 1,
                        f"after {name} the request is sent {times} times; retries are not its business",
                    )

    async def names_refusals(self) -> None:
        date = "Tue, 24 Nov 2026 10:00:00 GMT"
        async with Opened(self._case) as endpoint:
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
                failure = await failure_of(endpoint, _payload(), of=f"status {status}")
                promise(failure.status == status, f"status {status} is reported as {failure.status}")
                promise(failure.transport is None, f"status {status} is reported as {failure.transport}")
                promise(failure.server_date == date, f"status {status}: the Date header is lost")
                promise(failure.retry_after_s == 7.0, f"status {status}: Retry-After is lost")
                said = "elsewhere" if status < 400 else text
                promise(said in failure.message, f"status {status}: {said!r} is not in the message")
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
                failure = await failure_of(endpoint, _payload(), of=f"an error body of {len(body)} bytes")
                promise(failure.status == 500, f"status 500 with body {body[:20]!r} is not reported as 500")
                promise(len(failure.message) <= 4096, "an error's message is not bounded")
            await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)

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
        async with Opened(self._case) as endpoint:
            for fault, transports in expected.items():
                for status in (200, 500):
                    self._server.script([Plan(status=status, body=b"0123456789", fault=fault)], then=_GOOD)
                    failure = await failure_of(endpoint, _payload(), of=f"{fault.name} with {status}")
                    promise(
                        failure.transport in transports,
                        f"{fault.name} with {status} is reported as {failure.transport}",
                    )
                    reply = await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
                    promise(reply.body == _GOOD.body, f"after {fault.name} the next invocation fails")

    async def keeps_to_the_timeout(self) -> None:
        async with Opened(self._case) as endpoint:
            for fault in (Fault.STALL, Fault.STALL_BODY, Fault.TRICKLE, Fault.DEAF):
                self._server.script([Plan(body=b"0" * 1000, fault=fault)], then=_GOOD)
                rows = 1_000_000 if fault is Fault.DEAF else 3
                started = time.monotonic()
                failure = await failure_of(endpoint, _payload(rows), timeout_s=SHORT_S, of=fault.name)
                took = time.monotonic() - started
                promise(
                    failure.transport is Transport.TIMEOUT, f"{fault.name} is reported as {failure.transport}"
                )
                promise(took > SHORT_S * 0.9, f"{fault.name}: given up after {took:.2f} of {SHORT_S} s")
                promise(
                    took < SHORT_S + LATE_S, f"{fault.name}: given up only after {took:.2f} of {SHORT_S} s"
                )
                # On a slow machine the request may have been given up before the server had read it, and begun the plan.
                self._server.script(then=_GOOD)
                await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)

    async def reads_no_further_than_the_bound(self) -> None:
        bound = self._case.max_reply_bytes
        async with Opened(self._case) as endpoint:
            self._server.script([Plan(body=b"7" * bound)])
            reply = await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
            promise(len(reply.body) == bound, "a reply of exactly the bound is not read whole")
            for plan in (
                Plan(body=b"7" * (bound + 1)),
                Plan(body=b"7" * (bound + 1), chunked=True),
                _ENDLESS,
            ):
                self._server.script([plan], then=_GOOD)
                failure = await failure_of(endpoint, _payload(), of="a reply over the bound")
                promise(
                    failure.transport is Transport.REPLY_TOO_LARGE,
                    f"a reply over the bound is reported as {failure.transport}",
                )
                await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)

    async def reads_an_early_refusal(self) -> None:
        async with Opened(self._case) as endpoint:
            self._server.script([Plan(status=413, body=b"too large", fault=Fault.EARLY)], then=_GOOD)
            failure = await failure_of(endpoint, _payload(1_000_000), of="413 before the body was read")
            promise(failure.status == 413, f"413 before the body was read is reported as {failure.summary()}")
            await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)

    async def names_an_unreachable_host(self) -> None:
        async with Opened(self._case) as endpoint, self._server.away():
            failure = await failure_of(endpoint, _payload(), of="a refused connection")
            promise(
                failure.transport is Transport.CONNECT,
                f"a refused connection is reported as {failure.transport}",
            )

    async def leaves_nothing_when_cancelled(self) -> None:
        async with Opened(self._case) as endpoint:
            for fault, rows in ((Fault.STALL, 3), (Fault.STALL_BODY, 3), (Fault.DEAF, 1_000_000)):
                self._server.script(then=Plan(body=b"0123456789", fault=fault))
                task = asyncio.ensure_future(endpoint.invoke(_payload(rows), timeout_s=TIMEOUT_S))
                await settled(
                    lambda: self._server.in_flight == 1, f"{fault.name}: the request does not arrive"
                )
                await asyncio.sleep(0.02)
                await cancelled(task)
                await settled(lambda: self._server.in_flight == 0, f"{fault.name}: cancelled, but goes on")
            # At every await: cancel after 0, 1, 2 … turns of the loop, until one gets through.
            self._server.script(then=_GOOD)
            for turns in range(500):
                if not await cancelled_after(turns, endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)):
                    break
            reply = await endpoint.invoke(_payload(), timeout_s=TIMEOUT_S)
            promise(reply.body == _GOOD.body, "after cancellations the next invocation fails")
