"""Routes of the embedded endpoint on aiohttp's low-level server: a third more requests a second than with its
router.

`POST /endpoints/{name}/invocations` is SageMaker Runtime, `GET /ping` and `POST /invocations` are the
container contract, `GET /stats` is our own, and `POST /` with an `X-Amz-Target` is the control plane. Nothing of a
request's content is logged.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson
from aiohttp import web

from asyncbatch.server.answers import (
    Answer,
    ContainerError,
    Ending,
    ServiceError,
    container_answer,
    model_error,
    service_answer,
)
from asyncbatch.server.config import ServeConfig
from asyncbatch.server.control_plane import ControlPlane, Deployed, control_error, signed_for
from asyncbatch.server.dialects import Dialect
from asyncbatch.server.flaws import Flaw, flawed_body
from asyncbatch.server.sigv4 import SignatureVerifier, SignedRequest
from asyncbatch.server.simulated import HANG_S, SimulatedEndpoint
from asyncbatch.server.work import Request, Work, open_work

SMALL_BYTES = 64 * 2**10
"""Bodies up to this are read on the event loop (about 2 ms at most), larger ones in a thread."""

_T = TypeVar("_T")

_log = logging.getLogger("asyncbatch.server")

TRICKLES = 600
"""Pieces of a reply that comes a little at a time."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_VARIANT = "x-Amzn-Invoked-Production-Variant"
_CONTROL_PATH = "/"


class EndpointApp:
    """Answers requests to one model. Of one event loop."""

    def __init__(
        self, config: ServeConfig, *, deployed: Sequence[Deployed], dialect: Dialect, executor: Executor
    ) -> None:
        """`deployed`: the models by endpoint configuration, the one in service first."""
        self._config = config
        self._control = ControlPlane(config, deployed)
        self._dialect = dialect
        self._executor = executor
        self._names = frozenset(config.endpoint_names)
        self._verifier = (
            SignatureVerifier(credentials=config.credentials, region=config.region)
            if config.credentials
            else None
        )
        self._simulated = (
            SimulatedEndpoint(config.simulation, clock=time.monotonic)
            if config.simulation is not None
            else None
        )
        self._started_s = time.monotonic()
        self._outcomes: Counter[str] = Counter()
        self._requests = self._rows = self._rows_in = self._bytes_in = self._bytes_out = 0
        self._in_flight = self._most_in_flight = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        path = request.raw_path.partition("?")[0]
        if path == "/ping":
            return web.Response(body=b"\n", content_type="application/json")
        if path == _CONTROL_PATH and request.method == "POST" and "X-Amz-Target" in request.headers:
            return _response(await self._as_control_plane(request))
        if path == "/stats":
            return web.Response(body=orjson.dumps(self.statistics()), content_type="application/json")
        parts = path.split("/")
        of_container = path == "/invocations"
        if not of_container and not (
            len(parts) == 4 and parts[1] == "endpoints" and parts[3] == "invocations"
        ):
            return _response(service_answer(ServiceError(404, "UnknownOperationException", "no such path")))
        if request.method != "POST":
            return _response(service_answer(ServiceError(405, "", "Method Not Allowed")))
        self._requests += 1
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            answer = await (
                self._as_container(request) if of_container else self._as_service(request, unquote(parts[2]))
            )
        except ConnectionError:  # the client left before its body was here
            answer = Answer(outcome="disconnected", ending=Ending.RESET)
        finally:
            self._in_flight -= 1
        self._outcomes[answer.outcome] += 1
        self._rows += answer.rows
        self._bytes_out += len(answer.body)
        if answer.ending is Ending.COMPLETE:
            return _response(answer)
        return await _broken(request, answer)

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, as JSON values: what `GET /stats` answers."""
        found: dict[str, Any] = {
            "requests": self._requests,
            "rows": self._rows,
            "rows_in": self._rows_in,
            "outcomes": dict(self._outcomes),
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "in_flight": self._in_flight,
            "most_in_flight": self._most_in_flight,
            "uptime_s": time.monotonic() - self._started_s,
            "cpu_s": time.process_time(),
        }
        if self._simulated is not None:
            station = self._simulated.statistics()
            found["slots"] = {name: getattr(station, name) for name in station.__slots__}
        return found

    async def _as_container(self, request: web.BaseRequest) -> Answer:
        try:
            return await self._predict(request, await self._body(request))
        except ContainerError as error:
            return container_answer(error)
        except ServiceError as error:
            throttled = error.name == "ThrottlingException"
            return service_answer(ServiceError(429 if throttled else error.status, error.name, error.message))

    async def _as_control_plane(self, request: web.BaseRequest) -> Answer:
        target = request.headers["X-Amz-Target"]
        try:
            body = await self._body(request)
            if self._verifier is not None:
                self._verifier.check(_signed(request, body), now_s=self._now_s(), service=signed_for(target))
        except ServiceError as error:
            return control_error(error)
        return self._control.answer(target, body)

    async def _as_service(self, request: web.BaseRequest, name: str) -> Answer:
        config = self._config
        variant = config.variants[self._requests % len(config.variants)]
        try:
            body = await self._body(request)
            if self._verifier is not None:
                self._verifier.check(_signed(request, body), now_s=self._now_s())
            if name not in self._names:
                raise ServiceError(
                    400, "ValidationError", f"Endpoint {name} of account {config.account} not found."
                )
            variant = request.headers.get("X-Amzn-SageMaker-Target-Variant", variant)
            if variant not in config.variants:
                raise ServiceError(400, "ValidationError", f"Variant {variant} of endpoint {name} not found.")
            answer = await self._predict(request, body)
        except ContainerError as error:
            answer = model_error(error, endpoint=name, region=config.region, account=config.account)
            answer.headers[_VARIANT] = variant
        except ServiceError as error:
            answer = service_answer(error)
        else:
            answer.headers[_VARIANT] = variant
        answer.headers["x-amzn-RequestId"] = str(uuid.uuid4())
        if config.clock_skew_s:
            answer.headers["Date"] = formatdate(self._now_s(), usegmt=True)
        return answer

    def _now_s(self) -> float:
        return time.time() + self._config.clock_skew_s

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body; what is above the limit is neither kept nor waited for."""
        limit = self._config.max_body_bytes
        length = request.content_length
        if length is not None and length > limit:
            raise _too_large(limit)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length is not None:
            body = await request.content.read()
        else:
            pieces, size = [], 0
            async for piece in request.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(pieces)
        self._bytes_in += len(body)
        return body

    async def _predict(self, request: web.BaseRequest, body: bytes) -> Answer:
        headers = request.headers
        asked = Request(
            body=body, content_type=headers.get("Content-Type", ""), accept=headers.get("Accept", "")
        )
        ending = Ending.COMPLETE
        flaw: Flaw | None = None
        if self._simulated is None:
            work, (reply, content_type) = await self._run(partial(self._answer_at_once, asked), len(body))
            self._rows_in += work.rows
        else:
            work = await self._run(partial(self._open, asked), len(body))
            self._rows_in += work.rows
            ending, flaw = await self._simulated.serve(work, body_bytes=len(body))
            reply, content_type = await self._run(partial(work.answer, flaw=flaw), len(body))
            reply, content_type = flawed_body(reply, content_type, flaw)
        outcome = flaw.value if flaw is not None else ("200" if ending is Ending.COMPLETE else ending.value)
        return Answer(
            body=reply, content_type=content_type, headers={}, outcome=outcome, rows=work.rows, ending=ending
        )

    async def _run(self, step: Callable[[], _T], body_bytes: int) -> _T:
        """Call `step`: here if that is quick, else in a thread.

        Raises:
            ContainerError: the container refuses.
            ServiceError: 500, anything unforeseen.
        """
        try:
            if self._control.current.model.light and body_bytes <= SMALL_BYTES:
                return step()
            return await asyncio.get_running_loop().run_in_executor(self._executor, step)
        except ContainerError:
            raise
        except Exception as error:
            # Where, not what: a message may quote the rows.
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
            raise ServiceError(500, "InternalFailure", "An internal failure occurred") from error

    def _open(self, asked: Request) -> Work:
        return open_work(asked, model=self._control.current.model, dialect=self._dialect)

    def _answer_at_once(self, asked: Request) -> tuple[Work, tuple[bytes, str]]:
        work = self._open(asked)
        return work, work.answer()


def _too_large(limit: int) -> ServiceError:
    return ServiceError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "", f"HTTP content length exceeded {limit} bytes."
    )


def _signed(request: web.BaseRequest, body: bytes) -> SignedRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        name = name.lower()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    path, _, query = request.raw_path.partition("?")
    return SignedRequest(method=request.method, raw_path=path, raw_query=query, headers=headers, body=body)


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **answer.headers},
    )


async def _broken(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Close the connection without a reply or after half of one, or let the reply come a little at a time."""
    response = web.StreamResponse(headers={"Content-Type": answer.content_type, **answer.headers})
    if answer.ending is not Ending.RESET:
        response.content_length = len(answer.body)
        await response.prepare(request)
    if answer.ending is Ending.TRICKLE:
        step = max(1, len(answer.body) // TRICKLES)
        with contextlib.suppress(ConnectionError):  # the client had enough
            for start in range(0, len(answer.body), step):
                await asyncio.sleep(HANG_S / TRICKLES)
                await response.write(answer.body[start : start + step])
        return response
    if answer.ending is not Ending.RESET:
        await response.write(answer.body[: len(answer.body) // 2])
    transport = request.transport
    if transport is not None:
        if answer.ending is Ending.RESET_INSIDE:
            found = transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        else:
            transport.close()
    return response
