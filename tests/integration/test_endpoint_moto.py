"""Invocations against moto's SageMaker Runtime: a server of the protocol that was not written here."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import emulators
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.errors import InvocationError
from asyncbatch.model import BytesPayload, Reply, Transport

pytest.importorskip("moto.server", reason="the stand-in for AWS: pip install 'moto[server]'")


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a moto server on a free port."""
    port = emulators.free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "moto ended"
                assert time.monotonic() < until, "moto does not come up"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def answers(moto: str, results: list[dict[str, str]]) -> None:
    """What moto's endpoints say next."""
    body = json.dumps({"account_id": "123456789012", "region": "eu-west-1", "results": results}).encode()
    request = urllib.request.Request(
        f"{moto}/moto-api/static/sagemaker/endpoint-results",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 201


def invoke(moto: str, body: bytes, times: int = 1, **options: str) -> list[Reply]:
    async def run() -> list[Reply]:
        given = {"endpoint": "churn", "endpoint_url": moto, "region": "eu-west-1", **options}
        endpoint = make_endpoint(RunConfig.from_options(given))
        await endpoint.open(concurrency=4)
        try:
            payload = BytesPayload(pieces=(body,), content_type="text/csv", nbytes=len(body))
            return list(await asyncio.gather(*(endpoint.invoke(payload, timeout_s=30) for _ in range(times))))
        finally:
            await endpoint.aclose()

    return asyncio.run(run())


def test_a_canned_answer(moto: str) -> None:
    canned = {
        "Body": "0.25,0.75",
        "ContentType": "text/csv",
        "InvokedProductionVariant": "blue",
        "CustomAttributes": "t=1",
    }
    answers(moto, [canned])
    (reply,) = invoke(moto, b"1,2\n3,4\n", target_variant="blue", custom_attributes="t=1")
    assert reply.body == b"0.25,0.75"
    assert reply.content_type == "text/csv"
    assert reply.variant == "blue"
    assert reply.headers["x-amzn-sagemaker-custom-attributes"] == "t=1"


def test_many_at_once_over_few_connections(moto: str) -> None:
    answers(moto, [{"Body": "0.5", "ContentType": "text/csv"}])
    replies = invoke(moto, b"5,6\n", times=12)
    assert [reply.body for reply in replies] == [b"0.5"] * 12


def test_a_server_that_is_not_there() -> None:
    port = emulators.free_port()
    with pytest.raises(InvocationError) as caught:
        invoke(f"http://127.0.0.1:{port}", b"1\n")
    assert caught.value.failure.transport is Transport.CONNECT
