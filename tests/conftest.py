"""Shared by all tests: a quiet AWS environment, embedded endpoints, and the long forms of proofs."""

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from asyncbatch.server import ServeConfig
from asyncbatch.server.background import Background, background


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long forms of proofs too")
    parser.addoption("--crashes", type=int, help="crashes of a modelled disk in each scenario; default 40")


def pytest_configure(config: pytest.Config) -> None:
    """The same examples each time, so that a change is judged by what it changed; new ones are for the long forms.

    An example may take as long as it takes on a busy machine: `timeout` ends what hangs.
    """
    settings.register_profile("asyncbatch", derandomize=not config.getoption("--slow"), deadline=None)
    settings.load_profile("asyncbatch")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="the long form of a proof: add --slow"))


@pytest.fixture(autouse=True)
def quiet_aws(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the AWS configuration of whoever runs it, or asks an instance's metadata service."""
    nowhere = tmp_path_factory.getbasetemp() / "no-aws-configuration"
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME",
        "AWS_CA_BUNDLE",
        "AZURE_STORAGE_CONNECTION_STRING",
        "STORAGE_EMULATOR_HOST",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes what runs of whoever runs it have learned, nor what another test has."""
    folder = tmp_path_factory.getbasetemp() / "cache" / uuid.uuid4().hex  # made when something is written
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[ServeConfig], Background]]:
    """Starts an embedded endpoint in a process of its own; one for each configuration, until the session ends."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Background] = {}

        def start(config: ServeConfig) -> Background:
            key = repr(config)
            if key not in running:
                running[key] = stack.enter_context(background(config))
            return running[key]

        yield start
        for each in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    each.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL
                )  # requests may hang in it


@pytest.fixture(scope="session")
def echo(serve: Callable[[ServeConfig], Background]) -> Background:
    """An endpoint that answers each row's first value."""
    return serve(ServeConfig(model="echo"))
