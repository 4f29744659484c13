"""Every endpoint keeps the promises of the protocol; and the suite notices those who do not."""

import asyncio
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, Payload, Reply, Transport
from asyncbatch.protocols import Endpoint
from asyncbatch.testing.endpoint import check_endpoint
from asyncbatch.testing.faults import FaultFunction, FaultServer

BOUND = 1_000_000


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def http(server: FaultServer) -> Callable[[], Endpoint]:
    options = {"endpoint": f"{server.url}/invocations", "max_reply": BOUND}
    return lambda: make_endpoint(RunConfig.from_options(options))


def sagemaker(server: FaultServer, transport: str = "direct") -> Callable[[], Endpoint]:
    options = {
        "endpoint": "churn", "endpoint_url": server.url, "region": "eu-west-1", "max_reply": BOUND, "transport": transport,
    }  # fmt: skip
    return lambda: make_endpoint(RunConfig.from_options(options))


def aioboto3(server: FaultServer) -> Callable[[], Endpoint]:
    return sagemaker(server, "aioboto3")


def proxied(server: FaultServer) -> Callable[[], Endpoint]:
    """The server as a proxy: it answers for every host."""
    options = {"endpoint": "http://model.example/invocations", "max_reply": BOUND}
    return lambda: make_endpoint(RunConfig.from_options(options))


KINDS = {"http": http, "sagemaker": sagemaker}


@pytest.mark.parametrize("kind", [http, sagemaker, aioboto3, proxied])
def test_endpoints_that_speak_http(
    kind: Callable[[FaultServer], Callable[[], Endpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with FaultServer() as server:
            if kind is proxied:
                monkeypatch.setenv("http_proxy", server.url)
            await check_endpoint(kind(server), server, max_reply_bytes=BOUND)

    asyncio.run(run())


def test_endpoints_that_call_python(monkeypatch: pytest.MonkeyPatch) -> None:
    function = FaultFunction()
    module = types.ModuleType("conformance_functions")
    module.predict = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = RunConfig.from_options({"endpoint": "python:conformance_functions:predict"})
    asyncio.run(check_endpoint(lambda: make_endpoint(config), function))


def test_the_suite_works_under_anyio() -> None:
    async def run() -> None:
        async with FaultServer() as server:
            await check_endpoint(http(server), server, max_reply_bytes=BOUND)

    anyio.run(run)


@pytest.mark.parametrize("kind", KINDS)
def test_endpoints_that_speak_http_under_uvloop(kind: str) -> None:
    uvloop = pytest.importorskip("uvloop", reason="the faster event loop: pip install uvloop")

    async def run() -> None:
        async with FaultServer() as server:
            await check_endpoint(KINDS[kind](server), server, max_reply_bytes=BOUND)

    uvloop.run(run())


class Careless:
    """A plausible endpoint: what people write with aiohttp when they do not think of failures."""

    takes_batches = False
    max_body_bytes = 6_000_000

    def __init__(self, url: str, **flaws: Any) -> None:
        self.name = url
        self.identity = {"kind": "careless"}
        self._flaws = flaws
        self._session: aiohttp.ClientSession | None = None

    async def open(self, *, concurrency: int) -> None:
        connector = aiohttp.TCPConnector(limit=self._flaws.get("limit", concurrency))
        self._session = aiohttp.ClientSession(connector=connector)

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert self._session is not None
        body = io.BytesIO(b"".join(payload.pieces))  # type: ignore[union-attr]
        headers = {"Content-Type": payload.content_type}  # type: ignore[union-attr]
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.post(
                self.name, data=body, headers=headers, timeout=timeout,
                allow_redirects=self._flaws.get("redirects", False),
            ) as response:  # fmt: skip
                content = await response.read()
                if response.status >= 300:
                    raise InvocationError(
                        Failure(status=response.status, message=content.decode(errors="replace"))
                    )
                return Reply(
                    body=content,
                    content_type=response.headers.get("Content-Type", ""),
                    headers={name.lower(): value for name, value in response.headers.items()},
                )
        except aiohttp.ClientError as error:
            raise InvocationError(Failure(transport=Transport.RESET, message=str(error))) from error

    async def aclose(self) -> None:
        if self._session is not None and not self._flaws.get("leaks"):
            await self._session.close()
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("flaws", "promise"),
    [
        ({"limit": 10}, "only 10 were under way"),
        ({"leaks": True}, "connections stay open after aclose"),
        ({"redirects": True}, "a redirect"),
        ({}, "is lost"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:Unclosed:ResourceWarning")
def test_the_suite_notices_broken_promises(flaws: dict[str, Any], promise: str) -> None:
    made: list[Careless] = []

    async def run() -> None:
        async with FaultServer() as server:

            def make() -> Careless:
                made.append(Careless(server.url, **flaws))
                return made[-1]

            try:
                with pytest.raises(AssertionError, match=promise):
                    await check_endpoint(make, server, max_reply_bytes=BOUND)
            finally:
                for each in made:
                    each._flaws = {}
                    await each.aclose()

    asyncio.run(run())
