"""`--transport direct`: the SDK's address, credentials and signature without the SDK; and when it steps back."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aioboto3
import boto3
import botocore.handlers
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials

from asyncbatch.aws import AwsSession
from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.endpoint.sagemaker import SageMakerEndpoint
from asyncbatch.errors import InvocationError
from asyncbatch.model import BytesPayload
from asyncbatch.server import Credential, ServeConfig
from asyncbatch.server.background import background
from asyncbatch.testing.faults import FaultServer, Plan

PAYLOAD = BytesPayload(pieces=(b"1,", memoryview(b"2\n")), content_type="text/csv", nbytes=4)
DIRECT = "--transport direct: requests are signed and sent without the SDK"


@pytest.fixture(autouse=True)
def _no_hooks_of_moto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once imported, moto hooks every SDK session of the process; another test may have done so."""
    handlers = [each for each in botocore.handlers.BUILTIN_HANDLERS if "moto" not in type(each[1]).__module__]
    monkeypatch.setattr(botocore.handlers, "BUILTIN_HANDLERS", handlers)


Test = Callable[[FaultServer, SageMakerEndpoint], Awaitable[None]]


def with_server(test: Test, *, session: object | None = None, **options: Any) -> None:
    async def run() -> None:
        async with FaultServer() as server:
            given = {"endpoint": "churn", "endpoint_url": server.url, "region": "eu-west-1", **options}
            endpoint = make_endpoint(RunConfig.from_options(given), session=session)
            assert isinstance(endpoint, SageMakerEndpoint)
            await endpoint.open(concurrency=2)
            try:
                await test(server, endpoint)
            finally:
                await endpoint.aclose()

    asyncio.run(run())


def test_requests_hold_what_the_sdks_hold(tmp_path: Path) -> None:
    options = {
        "target_model": "m.tar.gz", "target_variant": "blue", "custom_attributes": "trace=1;  a", "accept": "text/csv",
        "inference_id": "run-1", "session_id": "NEW_SESSION", "header": ["X-Team: b\u00fccher", "x-other:  two  words "],
        "content_type": "text/csv; label_size=0",
    }  # fmt: skip
    heads: dict[str, dict[str, str]] = {}

    for transport in ("direct", "aioboto3"):

        async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
            await endpoint.invoke(PAYLOAD, timeout_s=5)
            seen = server.seen[0]
            assert seen.target == "/endpoints/churn/invocations"
            assert seen.body == b"1,2\n"
            heads[transport] = {name.lower(): value for name, value in seen.headers}  # noqa: B023

        with_server(test, transport=transport, **options)
    ours, theirs = heads["direct"], heads["aioboto3"]
    assert set(theirs) - set(ours) == {"amz-sdk-invocation-id", "amz-sdk-request"}
    assert set(ours) <= set(theirs)
    for name in set(ours) - {"host", "x-amz-date", "authorization"}:
        assert ours[name] == theirs[name], name
    assert ours["authorization"].split("Signature=")[0] == theirs["authorization"].split("Signature=")[0]


@pytest.mark.parametrize("token", [None, "a/session+token=="])
def test_an_endpoint_that_verifies_takes_our_signatures(token: str | None) -> None:
    credential = Credential(access_key="AKIAEXAMPLE", secret_key="secret", session_token=token)
    session = boto3.Session(credential.access_key, credential.secret_key, token, region_name="us-east-1")
    wrong = boto3.Session(credential.access_key, "wrong", token, region_name="us-east-1")
    options = {
        "endpoint": "echo",
        "custom_attributes": "a b",
        "header": ["X-Team: fra\u00fcd"],
        "max_payload": "6MiB",
    }

    async def invoke(url: str, session: boto3.Session) -> bytes:
        endpoint = make_endpoint(RunConfig.from_options({**options, "endpoint_url": url}), session=session)
        await endpoint.open(concurrency=2)
        try:
            body = b"7\n" * 700_000  # hashed in a thread
            big = BytesPayload(
                pieces=(body[:9], memoryview(body)[9:]), content_type="text/csv", nbytes=len(body)
            )
            assert endpoint.decided == (DIRECT,)  # type: ignore[attr-defined]
            assert (await endpoint.invoke(big, timeout_s=20)).body.count(b"7") == 700_000
            return (await endpoint.invoke(PAYLOAD, timeout_s=5)).body
        finally:
            await endpoint.aclose()

    with background(ServeConfig(model="echo", credentials=(credential,))) as server:
        assert asyncio.run(invoke(server.url, session)).strip() == b"1"
        with pytest.raises(InvocationError, match="InvalidSignatureException"):
            asyncio.run(invoke(server.url, wrong))


def test_the_fallback_is_one_option_away() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert server.seen[0].header("amz-sdk-request") == ["attempt=1"]
        assert endpoint.decided == ()

    with_server(test, transport="aioboto3")


@pytest.mark.parametrize("kind", [boto3.Session, aioboto3.Session])
@pytest.mark.parametrize("event", ["before-sign", "before-send", "request-created", "provide-client-params"])
def test_an_event_hook_of_the_session_is_called_for_every_request(kind: Any, event: str) -> None:
    calls: list[str] = []

    def hook(**more: Any) -> None:
        calls.append(more["event_name"])

    session = kind("AKIDSESSION", "s", region_name="eu-west-1")
    events = session.events if kind is boto3.Session else session._session.get_component("event_emitter")
    events.register(f"{event}.sagemaker-runtime", hook)

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        assert endpoint.decided == (
            f"--transport aioboto3, which is slower: the session has an event hook of its own, for {event}",
        )
        for _ in range(3):
            await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert len(server.seen) == 3
        assert len(calls) >= 3

    with_server(test, session=session)


def test_another_way_to_sign_is_left_to_the_sdk() -> None:
    session = aioboto3.Session("AKIDSESSION", "s", region_name="eu-west-1")
    session._session.set_default_client_config(Config(signature_version="v4-query"))

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        assert "another way than Signature Version 4" in endpoint.decided[0]

    with_server(test, session=session)


@pytest.mark.parametrize("where", ["environment", "session"])
def test_a_proxy_is_left_to_the_sdk(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    async def run() -> None:
        async with FaultServer() as proxy:
            session = aioboto3.Session("AKIDSESSION", "s", region_name="eu-west-1")
            if where == "environment":
                monkeypatch.setenv("http_proxy", proxy.url)
            else:
                session._session.set_default_client_config(Config(proxies={"http": proxy.url}))
            options = {"endpoint": "churn", "endpoint_url": "http://service.example:8080"}
            endpoint = make_endpoint(RunConfig.from_options(options), session=session)
            assert isinstance(endpoint, SageMakerEndpoint)
            await endpoint.open(concurrency=1)
            try:
                assert endpoint.decided == ("--transport aioboto3, which is slower: a proxy is set",)
                await endpoint.invoke(PAYLOAD, timeout_s=5)
            finally:
                await endpoint.aclose()
            assert proxy.seen[0].target == "http://service.example:8080/endpoints/churn/invocations"

    asyncio.run(run())


def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "service.example")

    async def run() -> None:
        options = {"endpoint": "churn", "endpoint_url": "http://service.example:8080", "region": "eu-west-1"}
        endpoint = make_endpoint(RunConfig.from_options(options))
        await endpoint.open(concurrency=1)
        assert endpoint.decided == (DIRECT,)  # type: ignore[attr-defined]
        await endpoint.aclose()

    asyncio.run(run())


class Role:
    """Credentials that end, and are renewed by asking someone who takes a while."""

    def __init__(self, *, ends_in_s: float) -> None:
        self.renewals = 0
        self.under_way = 0
        self.session = boto3.Session(region_name="eu-west-1")
        self.session._session._credentials = RefreshableCredentials(
            "AKIDOLD", "s", "t0", self._end(ends_in_s), self._renew, "test"
        )

    @staticmethod
    def _end(in_s: float) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=in_s)

    def _renew(self) -> dict[str, str]:
        import time

        assert self.under_way == 0, "two renewals at once"
        self.under_way += 1
        time.sleep(0.2)
        self.under_way -= 1
        self.renewals += 1
        return {
            "access_key": "AKIDNEW",
            "secret_key": "s2",
            "token": "t1",
            "expiry_time": self._end(3600).isoformat(),
        }


@pytest.mark.parametrize("ends_in_s", [14 * 60, 5 * 60])
def test_credentials_are_renewed_ahead_of_their_end_once_for_all(ends_in_s: float) -> None:
    role = Role(ends_in_s=3600)

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        role.session._session._credentials._expiry_time = role._end(ends_in_s)
        endpoint._transport._look_again_s = 0.0  # type: ignore[attr-defined]  # a second later
        started = asyncio.get_running_loop().time()
        took = []

        async def one() -> None:
            await endpoint.invoke(PAYLOAD, timeout_s=5)
            took.append(asyncio.get_running_loop().time() - started)

        await asyncio.gather(*(one() for _ in range(8)))
        assert role.renewals == 1
        assert sorted(took)[6] < 0.2, "all but one go on with credentials that are still good"
        server.seen.clear()
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert "AKIDNEW/" in server.seen[0].header("authorization")[0]
        assert server.seen[0].header("x-amz-security-token") == ["t1"]

    with_server(test, session=role.session, region=None)


def test_a_failing_look_at_credentials_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    session = boto3.Session("A", "s", region_name="eu-west-1")

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        from botocore.exceptions import CredentialRetrievalError

        def broken() -> Any:
            raise CredentialRetrievalError(provider="test", error_msg="gone")

        with monkeypatch.context() as patched:
            patched.setattr(session.get_credentials(), "get_frozen_credentials", broken)
            for _ in range(2):
                with pytest.raises(InvocationError):
                    await endpoint.invoke(PAYLOAD, timeout_s=5)
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert len(server.seen) == 1

    with_server(test, session=session)


def test_content_types_are_signed_each() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        server.script(then=Plan(body=b"1"))
        for content_type in ("text/csv", "application/json", "text/csv"):
            await endpoint.invoke(
                BytesPayload(pieces=(b"1",), content_type=content_type, nbytes=1), timeout_s=5
            )
        assert [seen.header("content-type")[0] for seen in server.seen] == [
            "text/csv",
            "application/json",
            "text/csv",
        ]
        first, second, third = (seen.header("authorization")[0] for seen in server.seen)
        assert first != second
        assert third[:60] == first[:60]

    with_server(test)


def test_requests_go_on_and_are_signed_while_keys_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other tasks: neither unsigned, nor taken for the rehearsal that follows."""
    check = AwsSession.check_credentials

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        transport, asked, answered = endpoint._transport, asyncio.Event(), asyncio.Event()

        async def slow(self: AwsSession) -> None:
            asked.set()
            await answered.wait()
            await check(self)

        monkeypatch.setattr(AwsSession, "check_credentials", slow)
        renewed = asyncio.create_task(transport.refresh())
        await asked.wait()
        for _ in range(5):
            transport._look_again_s = float("-inf")  # type: ignore[attr-defined]  # each asks for the keys of now
            await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert not renewed.done()
        answered.set()
        await renewed
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert len(server.seen) >= 6
        assert all("authorization" in {name.lower() for name, _ in seen.headers} for seen in server.seen)

    with_server(test, session=boto3.Session("AKIAEXAMPLE", "secret", region_name="us-east-1"))


def test_a_rehearsal_is_of_its_own_task_alone() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        boto: Any = endpoint._transport._boto  # type: ignore[attr-defined]
        sent = asyncio.Event()

        async def wait(**_more: object) -> None:
            if asyncio.current_task() is rehearsal:
                await sent.wait()

        boto._client.meta.events.register("before-sign.sagemaker-runtime.InvokeEndpoint", wait)
        rehearsal = asyncio.create_task(boto.rehearse())
        await asyncio.sleep(0)
        await boto.invoke(PAYLOAD, timeout_s=5)
        sent.set()
        assert (await rehearsal).url
        assert len(server.seen) == 1

    with_server(test, session=boto3.Session("AKIAEXAMPLE", "secret", region_name="us-east-1"))
