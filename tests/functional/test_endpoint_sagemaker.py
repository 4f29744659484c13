"""Invocations as SageMaker Runtime sees them, and what follows when credentials run out."""

import asyncio
import datetime as dt
import email.utils
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control.failures import Action, classify
from asyncbatch.endpoint import make_endpoint
from asyncbatch.endpoint.sagemaker import SageMakerEndpoint
from asyncbatch.errors import ConfigError, InvocationError, StoppedError
from asyncbatch.model import BytesPayload, Failure, Outcome
from asyncbatch.testing.faults import FaultServer, Plan

PAYLOAD = BytesPayload(pieces=(b"1,", memoryview(b"2\n")), content_type="text/csv", nbytes=4)
Test = Callable[[FaultServer, SageMakerEndpoint], Awaitable[None]]


@pytest.fixture(autouse=True)
def aws_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (
        "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    login(tmp_path, "AKIDEXAMPLE")
    return tmp_path


TRANSPORT = "direct"


@pytest.fixture(autouse=True, params=["direct", "aioboto3"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is for both."""
    monkeypatch.setattr(sys.modules[__name__], "TRANSPORT", request.param)


def login(folder: Path, key: str) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")


def with_server(test: Test, *, session: object | None = None, **options: Any) -> None:
    async def run() -> None:
        async with FaultServer() as server:
            given = {
                "endpoint": "churn",
                "endpoint_url": server.url,
                "region": "eu-west-1",
                "transport": TRANSPORT,
            }
            given |= options
            endpoint = make_endpoint(RunConfig.from_options(given), session=session)
            assert isinstance(endpoint, SageMakerEndpoint)
            await endpoint.open(concurrency=2)
            try:
                await test(server, endpoint)
            finally:
                await endpoint.aclose()

    asyncio.run(run())


async def fails(endpoint: SageMakerEndpoint) -> Failure:
    with pytest.raises(InvocationError) as caught:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
    return caught.value.failure


def test_every_option_goes_under_its_aws_name() -> None:
    options = {
        "target_model": "m.tar.gz", "target_variant": "blue", "target_container_hostname": "first",
        "inference_component_name": "ic-1", "custom_attributes": "trace=1; a",
        "enable_explanations": "`true`",
        "inference_id": "run-1", "session_id": "NEW_SESSION", "accept": "application/json",
    }  # fmt: skip

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        seen = server.seen[0]
        assert (seen.method, seen.target) == ("POST", "/endpoints/churn/invocations")
        assert seen.body == b"1,2\n"
        expected = {
            "X-Amzn-SageMaker-Target-Model": "m.tar.gz",
            "X-Amzn-SageMaker-Target-Variant": "blue",
            "X-Amzn-SageMaker-Target-Container-Hostname": "first",
            "X-Amzn-SageMaker-Inference-Component": "ic-1",
            "X-Amzn-SageMaker-Custom-Attributes": "trace=1; a",
            "X-Amzn-SageMaker-Enable-Explanations": "`true`",
            "X-Amzn-SageMaker-Inference-Id": "run-1",
            "X-Amzn-SageMaker-Session-Id": "NEW_SESSION",
            "Accept": "application/json",
            "Content-Type": "text/csv",
        }
        for name, value in expected.items():
            assert seen.header(name) == [value], name

    with_server(test, **options)


def test_nothing_is_sent_for_options_not_given() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        names = {name.lower() for name, _ in server.seen[0].headers}
        assert not [name for name in names if name.startswith("x-amzn-sagemaker") or name == "accept"]

    with_server(test)


def test_own_headers_are_signed_and_pointed_out() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        seen = server.seen[0]
        (authorization,) = seen.header("authorization")
        assert seen.header("x-team") == ["fraud"]
        assert "AKIDEXAMPLE/" in authorization
        assert "/eu-west-1/sagemaker/aws4_request" in authorization
        assert "x-team" in authorization.split("SignedHeaders=")[1].split(",")[0].split(";")

    with_server(test, header=["X-Team: fraud"])


@pytest.mark.parametrize("name", ["Authorization", "Host", "X-Amz-Date", "Content-Type"])
def test_headers_that_belong_to_the_signature_are_refused(name: str) -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        raise AssertionError("opened")

    with pytest.raises(ConfigError, match=f"-H {name}"):
        with_server(test, header=[f"{name}: x"])


def test_reply_with_variant_and_content_type() -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        headers = (
            ("Content-Type", "text/csv; charset=utf-8"),
            ("x-Amzn-Invoked-Production-Variant", "AllTraffic"),
        )
        server.script([Plan(body=b"0.5", headers=headers)])
        reply = await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert reply.body == b"0.5"
        assert reply.variant == "AllTraffic"
        assert reply.content_type == "text/csv; charset=utf-8"
        assert reply.headers["x-amzn-invoked-production-variant"] == "AllTraffic"

    with_server(test)


def test_errors_as_the_service_writes_them() -> None:
    model_error = {
        "OriginalStatusCode": 400, "OriginalMessage": "could not convert", "LogStreamArn": "arn:aws:logs:x",
        "Message": "Received client error (400) from primary",
    }  # fmt: skip
    lines = [
        (400, "ThrottlingException:http://x", {"message": None}, Outcome.THROTTLED, Action.RETRY),
        (424, "ModelError:http://x", model_error, Outcome.REJECTED, Action.BISECT),
        (429, "ModelNotReadyException", {"Message": "loading"}, Outcome.NOT_READY, Action.RETRY),
        (
            400,
            "ValidationError",
            {"message": "Endpoint churn of account 1 not found."},
            Outcome.FAILED,
            Action.FATAL,
        ),
        (403, "AccessDeniedException", {"Message": "no"}, Outcome.FAILED, Action.FATAL),
        (403, "ExpiredTokenException", {"message": "old"}, Outcome.FAILED, Action.REFRESH_CREDENTIALS),
        (503, "ServiceUnavailable", {"Message": "busy"}, Outcome.UNAVAILABLE, Action.RETRY),
        (530, "InternalDependencyException", {"Message": "x"}, Outcome.FAILED, Action.RETRY),
    ]

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        for status, name, body, outcome, action in lines:
            headers = (("x-amzn-ErrorType", name), ("Content-Type", "application/json"), ("Retry-After", "2"))
            server.script([Plan(status=status, body=json.dumps(body).encode(), headers=headers)])
            failure = await fails(endpoint)
            assert failure.error_name == name.split(":")[0]
            assert failure.retry_after_s == 2.0
            assert (classify(failure).outcome, classify(failure).action) == (outcome, action)
            if status == 424:
                assert failure.original_status == 400
                assert failure.original_message == "could not convert"
                assert failure.log_stream_arn == "arn:aws:logs:x"

    with_server(test)


def test_a_stale_connection_is_told_from_a_fresh_one() -> None:
    from asyncbatch.testing.faults import Fault

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        server.script([Plan(fault=Fault.RESET), Plan(), Plan(fault=Fault.RESET)])
        assert not (await fails(endpoint)).reused_connection
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert (await fails(endpoint)).reused_connection

    with_server(test)


def test_the_service_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with FaultServer() as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server.url)
            endpoint = make_endpoint(
                RunConfig.from_options({"endpoint": "churn", "region": "eu-west-1", "transport": TRANSPORT})
            )
            await endpoint.open(concurrency=1)
            await endpoint.invoke(PAYLOAD, timeout_s=5)
            await endpoint.aclose()
            assert server.seen[0].target == "/endpoints/churn/invocations"

    asyncio.run(run())


def test_the_sdk_settings_of_the_environment_bring_no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        server.script(then=Plan(status=503))
        await fails(endpoint)
        assert len(server.seen) == 1

    with_server(test)


def test_without_credentials_a_local_stand_in_is_asked_unsigned(aws_files: Path) -> None:
    (aws_files / "credentials").unlink()

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert server.seen[0].header("authorization") == []
        assert "not signed" in endpoint.advice[0]
        assert endpoint.identity["region"] == "us-east-1"

    with_server(test, region=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "churn"}, "no AWS region"),
        ({"endpoint": "churn", "region": "eu west"}, "no AWS region"),
        ({"endpoint": "churn", "region": "eu-west-1", "profile": "nobody"}, "does not exist"),
        ({"endpoint": "churn", "region": "eu-west-1", "endpoint_url": "localhost:8080"}, "is no URL"),
        ({"endpoint": "churn", "region": "eu-west-1", "ca_bundle": "/no/such.pem"}, "--ca-bundle"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    async def run() -> None:
        endpoint = make_endpoint(RunConfig.from_options(options))
        try:
            await endpoint.open(concurrency=1)
        finally:
            await endpoint.aclose()

    with pytest.raises(ConfigError, match=message) as caught:
        asyncio.run(run())
    assert caught.value.hint


def test_new_credentials_are_picked_up_once_for_all(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        server.script([Plan(status=403, headers=(("x-amzn-ErrorType", "ExpiredTokenException"),))])
        failure = await fails(endpoint)
        login(aws_files, "AKIDNEW")
        looks = 0
        refresh = endpoint._transport.refresh

        async def counted() -> bool:
            nonlocal looks
            looks += 1
            return await refresh()

        monkeypatch.setattr(endpoint._transport, "refresh", counted)
        await asyncio.gather(*(endpoint.refresh_credentials(failure) for _ in range(5)))
        assert looks == 1
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        assert "AKIDNEW/" in server.seen[-1].header("authorization")[0]

    with_server(test)


def test_without_new_credentials_the_run_stops_resumably(aws_files: Path) -> None:
    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        with pytest.raises(StoppedError, match="no longer taken: ExpiredTokenException") as caught:
            await endpoint.refresh_credentials(Failure(status=403, error_name="ExpiredTokenException"))
        assert "aws sso login" in str(caught.value.hint)
        assert caught.value.exit_code == 75
        (aws_files / "credentials").write_text("[default]\n")
        with pytest.raises(StoppedError, match="no AWS credentials"):
            await endpoint.refresh_credentials(Failure(status=403, error_name="ExpiredTokenException"))

    with_server(test, profile="default")


@pytest.mark.parametrize(("minutes", "word"), [(20, "slow"), (-20, "fast")])
def test_a_wrong_clock_is_named_once_and_corrected(minutes: int, word: str) -> None:
    then = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    date = email.utils.format_datetime(then, usegmt=True)

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        failure = Failure(status=403, error_name="InvalidSignatureException", server_date=date)
        said = await asyncio.gather(*(endpoint.refresh_credentials(failure) for _ in range(5)))
        assert [each for each in said if each] == [
            f"the clock of this machine is 20 minutes {word}; requests are signed with the time of the service"
        ]
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        (signed_at,) = server.seen[-1].header("x-amz-date")
        when = dt.datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        assert abs(when - then) < dt.timedelta(seconds=10)
        with pytest.raises(
            StoppedError, match="no longer taken"
        ):  # the clock is right now: it is something else
            await endpoint.refresh_credentials(replace(failure, renewals=1))

    with_server(test)


def test_a_request_signed_before_the_last_renewal_asks_for_no_other(aws_files: Path) -> None:
    """Many are under way when a token runs out; each is refused, the first renews, the others are sent again."""

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        expired = Plan(status=403, headers=(("x-amzn-ErrorType", "ExpiredTokenException"),))
        server.script([expired, expired])
        first, second = [await fails(endpoint) for _ in range(2)]
        assert (first.renewals, second.renewals) == (0, 0)
        login(aws_files, "AKIDNEW")
        await endpoint.refresh_credentials(first)
        await endpoint.refresh_credentials(second)  # long after the renewal is over
        server.script([expired])
        third = await fails(endpoint)
        assert third.renewals == 1
        with pytest.raises(StoppedError, match="no longer taken"):
            await endpoint.refresh_credentials(third)

    with_server(test)


def test_a_boto3_session_signs() -> None:
    session = boto3.Session("AKIDSESSION", "s", "token", region_name="eu-south-2")

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=5)
        (authorization,) = server.seen[0].header("authorization")
        assert "AKIDSESSION/" in authorization
        assert "/eu-south-2/sagemaker/" in authorization
        assert server.seen[0].header("x-amz-security-token") == ["token"]
        assert endpoint.identity["region"] == "eu-south-2"

    with_server(test, session=session, region=None)


def test_credentials_that_fail_while_running_are_no_fault_of_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = boto3.Session("A", "s", region_name="eu-west-1")

    async def test(server: FaultServer, endpoint: SageMakerEndpoint) -> None:
        from botocore.exceptions import CredentialRetrievalError

        def broken() -> Any:
            raise CredentialRetrievalError(provider="test", error_msg="gone")

        monkeypatch.setattr(session.get_credentials(), "get_frozen_credentials", broken)
        failure = await fails(endpoint)
        assert failure.error_name == "CredentialRetrievalError"
        assert classify(failure).action is Action.REFRESH_CREDENTIALS
        assert server.seen == []

    with_server(test, session=session)
