"""What names and options of endpoints are accepted, and what is said about those that are not."""

import subprocess
import sys
from typing import Any

import pytest
from yarl import URL

from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.endpoint.callable import CallableEndpoint
from asyncbatch.endpoint.http import HttpEndpoint, shown_url
from asyncbatch.endpoint.network import is_loopback, proxy_for
from asyncbatch.endpoint.sagemaker import SageMakerEndpoint
from asyncbatch.errors import ConfigError
from asyncbatch.protocols import Advises, Endpoint, RefreshesCredentials


def make(**options: Any) -> Endpoint:
    return make_endpoint(RunConfig.from_options(options))


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("churn-prod", SageMakerEndpoint),
        ("a", SageMakerEndpoint),
        ("a" * 63, SageMakerEndpoint),
        ("http://127.0.0.1:8080/invocations", HttpEndpoint),
        ("HTTPS://model.example/invocations?version=2", HttpEndpoint),
        ("http://[::1]:8080/", HttpEndpoint),
        ("python:package.module:function", CallableEndpoint),
        ("python:module:Model.predict", CallableEndpoint),
    ],
)
def test_kind_by_the_form_of_the_name(endpoint: str, kind: type) -> None:
    made = make(endpoint=endpoint)
    assert type(made) is kind
    assert isinstance(made, Endpoint)
    assert isinstance(made, Advises)
    assert isinstance(made, RefreshesCredentials) is (kind is SageMakerEndpoint)


@pytest.mark.parametrize(
    ("endpoint", "message", "hint"),
    [
        ("a" * 64, "no SageMaker endpoint name", "63"),
        ("-a", "no SageMaker endpoint name", "hyphen"),
        ("a-", "no SageMaker endpoint name", "hyphen"),
        ("a_b", "no SageMaker endpoint name", "hyphen"),
        ("localhost:8080", "no SageMaker endpoint name", "http://"),
        ("localhost/invocations", "no SageMaker endpoint name", "http://"),
        ("models.py", "no SageMaker endpoint name", "python:module:function"),
        (
            "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/churn",
            "not its ARN",
            "-e churn --region eu-west-1",
        ),
        ("http://", "no URL", "http://host:port/path"),
        ("http://host:99999/", "no URL", "http://host:port/path"),
        ("http://ho st/", "no URL", "http://host:port/path"),
        (
            "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/churn/invocations",
            "signed",
            "-e churn",
        ),
        ("python:module", "names no function", "python:package.module:function"),
        ("python:a-b:f", "names no function", "python:package.module:function"),
        ("python:/tmp/x.py:f", "names no function", "python:package.module:function"),
    ],
)
def test_malformed_names(endpoint: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(endpoint=endpoint)
    assert hint in str(caught.value.hint)
    assert not caught.value.message.endswith(".")


@pytest.mark.parametrize("endpoint", ["http://h/", "HTTPS://h/", "python:m:f"])
def test_a_transport_of_the_sdk_is_for_sagemaker(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="--transport aioboto3 is for SageMaker"):
        make(endpoint=endpoint, transport="aioboto3")


def test_no_endpoint_at_all() -> None:
    with pytest.raises(ConfigError, match="no endpoint is given"):
        make_endpoint(RunConfig())


@pytest.mark.parametrize(
    ("option", "longest", "good", "bad"),
    [
        ("target_model", 1024, "models/a b.tar.gz", " a"),
        ("target_variant", 63, "blue-1", "blue_1"),
        ("target_container_hostname", 63, "first", "first."),
        ("inference_component_name", 63, "ic-1", "-ic"),
        ("custom_attributes", 1024, "trace=1; x", "tr\u00e4ce"),
        ("enable_explanations", 64, "`true`", "\x00"),
        ("inference_id", 64, "run 1", " run"),
        ("session_id", 256, "NEW_SESSION", "NEW SESSION"),
        ("accept", 1024, "application/json", "a\nb"),
    ],
)
def test_invocation_options_are_checked_as_the_service_does(
    option: str, longest: int, good: str, bad: str
) -> None:
    make(endpoint="churn", **{option: good})
    make(endpoint="churn", **{option: "a" * longest})
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} has {longest + 1} characters"):
        make(endpoint="churn", **{option: "a" * (longest + 1)})
    with pytest.raises(ConfigError, match="characters that"):
        make(endpoint="churn", **{option: bad})


def test_a_body_limit_that_sagemaker_does_not_have() -> None:
    make(endpoint="churn", max_payload="25MiB")
    with pytest.raises(ConfigError, match="more than SageMaker takes"):
        make(endpoint="churn", max_payload="26MiB")
    make(endpoint="http://localhost/", max_payload="260MiB")


def test_options_of_another_kind_of_endpoint() -> None:
    with pytest.raises(ConfigError, match="--target-variant is for SageMaker") as caught:
        make(endpoint="http://localhost/", target_variant="blue")
    assert "X-Amzn-SageMaker-Target-Variant" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="--header means nothing to a Python function"):
        make(endpoint="python:a:b", header=["A: b"])


def test_identity_of_sagemaker_is_the_target_not_the_address() -> None:
    plain = make(endpoint="churn", region="eu-west-1")
    assert plain.identity == {
        "kind": "sagemaker", "name": "churn", "region": "eu-west-1", "account": None,
        "variant": "", "target_model": "", "component": "", "container": "",
    }  # fmt: skip
    elsewhere = make(endpoint="churn", region="eu-west-1", endpoint_url="http://127.0.0.1:1")
    assert elsewhere.identity == plain.identity
    assert make(endpoint="churn", target_variant="blue").identity["variant"] == "blue"


def test_names_hold_no_secrets() -> None:
    made = make(
        endpoint="https://user:hunter2@model.example/invocations?version=2&api_key=hunter2&code=hunter2"
    )
    assert made.name == "https://model.example/invocations?version=2&api_key=…&code=…"
    assert "hunter2" not in str(made.identity)
    assert shown_url(URL("http://localhost:8080/a")) == "http://localhost:8080/a"


def test_a_malformed_url_is_named_without_its_query() -> None:
    with pytest.raises(ConfigError) as caught:
        make(endpoint="http://host:99999/?key=hunter2")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:8080/", False), ("http://localhost/", False), ("http://[::1]/", False),
        ("https://model.example/", False), ("http://model.example/", True), ("http://10.0.0.7/", True),
    ],
)  # fmt: skip
def test_rows_in_the_open_are_pointed_out(url: str, warned: bool) -> None:
    made = make(endpoint=url)
    assert isinstance(made, HttpEndpoint)
    assert bool(made.advice) is warned


def test_loopback() -> None:
    assert is_loopback("127.9.9.9")
    assert not is_loopback("128.0.0.1")
    assert not is_loopback("localhost.example")
    assert not is_loopback(None)


def test_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_for(URL("https://model.example/")) == "http://proxy.example:3128"
    assert proxy_for(URL("http://model.example/")) is None
    assert proxy_for(URL("https://inside.example/")) is None
    assert proxy_for(URL("https://127.0.0.1/")) is None


@pytest.mark.parametrize("endpoint", ["churn", "http://localhost/", "python:a:b"])
def test_nothing_heavy_is_imported_before_it_is_needed(endpoint: str) -> None:
    code = (
        "import sys; from asyncbatch.config import RunConfig; from asyncbatch.endpoint import make_endpoint;"
        f"e = make_endpoint(RunConfig.from_options({{'endpoint': {endpoint!r}}})); e.identity; e.name;"
        "bad = {'boto3', 'botocore', 'aioboto3', 'pyarrow', 'numpy', 'pandas'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
