"""What is missing is named: libraries, credentials, accounts."""

import socket
import sys

import pytest

from asyncbatch.errors import AsyncBatchError, ConfigError, MissingExtraError
from asyncbatch.store.access import Access
from asyncbatch.store.client import UnavailableError
from asyncbatch.store.connect import connect
from asyncbatch.store.uri import parse_uri


def refused(spec: str, access: Access | None = None) -> AsyncBatchError:
    uri = parse_uri(spec)
    assert uri is not None
    with pytest.raises(AsyncBatchError) as caught:
        connect(uri, access or Access())
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [("gs://b/k", "google.cloud.storage", "gcs"), ("az://b/k", "azure.storage.blob", "azure")],
)
def test_a_library_that_is_not_installed(
    spec: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    error = refused(spec)
    assert isinstance(error, MissingExtraError)
    assert error.hint == f"pip install 'asyncbatch[{extra}]'"


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert refused("s3://b/k").message == "no AWS credentials were found for S3"
    assert refused("s3://b/k", Access(profile="nix")).message == "AWS profile 'nix' does not exist"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    assert refused("gs://b/k").message == "no Google credentials were found"
    assert refused("az://b/k").message == "az://b names no storage account"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "nonsense")
    assert "is no connection string" in refused("az://b/k").message


def test_an_owner_is_for_s3() -> None:
    error = refused("gs://b/k", Access(bucket_owner="1"))
    assert isinstance(error, ConfigError)
    assert "no owner to expect" in error.message


def test_the_session_of_the_caller_is_the_one_chain() -> None:
    import boto3

    uri = parse_uri("s3://b/k")
    assert uri is not None
    session = boto3.Session("mine", "secret", region_name="eu-west-3")
    client = connect(uri, Access(session=session))
    assert client._key_id == "mine"  # type: ignore[attr-defined]
    assert client._client.meta.region_name == "eu-west-3"  # type: ignore[attr-defined]


def test_a_server_that_is_not_there_is_no_login_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        uri = parse_uri("s3://b/k")
        assert uri is not None
        with pytest.raises(UnavailableError, match="did not answer"):
            connect(uri, Access()).head("k")
