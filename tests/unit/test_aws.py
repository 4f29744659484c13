"""Region, credentials and profiles: what is found where, and what is said when it is not."""

import asyncio
import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from asyncbatch.aws import AwsSession, aws_session
from asyncbatch.errors import ConfigError


@pytest.fixture(autouse=True)
def aws_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No AWS configuration but that in `tmp_path`, and no network to ask for more."""
    for name in (
        "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keys(aws: AwsSession) -> tuple[str, str, str | None]:
    async def read() -> Any:
        await aws.check_credentials()
        return await (await aws.session.get_credentials()).get_frozen_credentials()

    frozen = asyncio.run(read())
    return frozen.access_key, frozen.secret_key, frozen.token


def test_region_by_option_variable_and_profile(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws_files / "config").write_text("[default]\nregion = eu-south-1\n[profile work]\nregion = eu-north-1\n")
    assert aws_session().needed_region() == "eu-south-1"
    assert aws_session(profile="work").needed_region() == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert aws_session().needed_region() == "us-west-1"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert aws_session(profile="work").needed_region() == "us-west-2"
    assert aws_session(region="ca-central-1").needed_region() == "ca-central-1"


def test_no_region() -> None:
    with pytest.raises(ConfigError, match="no AWS region") as caught:
        aws_session().needed_region()
    assert "--region" in str(caught.value.hint)
    assert caught.value.exit_code == 2


def test_no_credentials() -> None:
    with pytest.raises(ConfigError, match="no AWS credentials") as caught:
        asyncio.run(aws_session().check_credentials())
    assert "aws configure" in str(caught.value.hint)


def test_an_unknown_profile(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(ConfigError, match="profile 'nobody' does not exist") as caught:
        aws_session(profile="nobody")
    assert "list-profiles" in str(caught.value.hint)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="'nobody' does not exist"):
        aws_session()


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    with pytest.raises(ConfigError, match="lack AWS_SECRET_ACCESS_KEY"):
        asyncio.run(aws_session().check_credentials())


def test_a_login_that_was_never_made(aws_files: Path) -> None:
    (aws_files / "config").write_text(
        "[profile sso]\nregion = eu-west-1\nsso_session = corp\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
        "[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n"
    )
    with pytest.raises(ConfigError, match="login has expired") as caught:
        asyncio.run(aws_session(profile="sso").check_credentials())
    assert caught.value.hint == "run: aws sso login --profile sso"


def test_a_credential_process_that_fails(aws_files: Path) -> None:
    (aws_files / "config").write_text("[default]\nregion = eu-west-1\ncredential_process = false\n")
    with pytest.raises(ConfigError, match="cannot be used: CredentialRetrievalError"):
        asyncio.run(aws_session().check_credentials())


def test_an_unreadable_configuration(aws_files: Path) -> None:
    (aws_files / "config").write_text("this is [not a configuration\n")
    with pytest.raises(ConfigError, match="cannot be used: ConfigParseError"):
        aws_session()


def test_credentials_of_a_profile(aws_files: Path) -> None:
    (aws_files / "credentials").write_text("[work]\naws_access_key_id = A\naws_secret_access_key = B\n")
    aws = aws_session(profile="work")
    assert keys(aws) == ("A", "B", None)
    assert aws.profile == "work"


def test_a_boto3_session_lends_credentials_and_region() -> None:
    given = boto3.Session("A", "B", "C", region_name="eu-west-3")
    aws = aws_session(session=given)
    assert keys(aws) == ("A", "B", "C")
    assert aws.region == "eu-west-3"
    assert aws_session(session=given, region="eu-west-1").region == "eu-west-1"


def test_a_sagemaker_session_lends_its_boto3_session() -> None:
    given = SimpleNamespace(boto_session=boto3.Session("A", "B", region_name="eu-west-3"))
    assert keys(aws_session(session=given)) == ("A", "B", None)


def test_an_aioboto3_session_is_used_as_it_is() -> None:
    import aioboto3

    given = aioboto3.Session("A", "B", region_name="eu-west-3")
    aws = aws_session(session=given)
    assert aws.session is given
    assert keys(aws) == ("A", "B", None)


def test_a_profile_given_beside_a_session_comes_first(aws_files: Path) -> None:
    (aws_files / "credentials").write_text("[work]\naws_access_key_id = W\naws_secret_access_key = W\n")
    assert keys(aws_session(session=boto3.Session("A", "B"), profile="work")) == ("W", "W", None)


def test_something_that_is_no_session() -> None:
    with pytest.raises(ConfigError, match="session is a dict"):
        aws_session(session={})


def test_credentials_that_a_boto3_session_renews_are_renewed_here_too() -> None:
    from botocore.credentials import RefreshableCredentials
    from botocore.session import Session

    made = []

    def renew() -> dict[str, str]:
        made.append(1)
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        return {
            "access_key": f"A{len(made)}",
            "secret_key": "B",
            "token": "C",
            "expiry_time": expiry.isoformat(),
        }

    core = Session()
    credentials = RefreshableCredentials.create_from_metadata(renew(), refresh_using=renew, method="test")
    core._credentials = credentials
    aws = aws_session(session=boto3.Session(botocore_session=core, region_name="eu-west-3"))
    assert keys(aws) == ("A1", "B", "C")
    credentials._expiry_time = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    assert keys(aws) == ("A2", "B", "C")
