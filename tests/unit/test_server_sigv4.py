"""Signatures made by botocore, checked by our own recomputation."""

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.server.answers import ServiceError
from asyncbatch.server.config import Credential
from asyncbatch.server.sigv4 import SignatureVerifier, SignedRequest

KEY = Credential(access_key="AKIAEXAMPLE", secret_key="very/secret+key")
TEMPORARY = Credential(access_key="ASIAEXAMPLE", secret_key="other", session_token="token==", expires_at=4e9)


def signed(
    body: bytes = b"1,2\n",
    *,
    path: str = "/endpoints/churn/invocations",
    credential: Credential = KEY,
    region: str = "eu-west-1",
    service: str = "sagemaker",
    headers: dict[str, str] | None = None,
    query: str = "",
) -> SignedRequest:
    url = f"http://127.0.0.1:8080{path}" + (f"?{query}" if query else "")
    request = AWSRequest("POST", url, data=body, headers={"Host": "127.0.0.1:8080", **(headers or {})})
    held = Credentials(credential.access_key, credential.secret_key, credential.session_token)
    SigV4Auth(held, service, region).add_auth(request)
    sent = {name.lower(): value for name, value in request.headers.items()}
    return SignedRequest(method="POST", raw_path=path, raw_query=query, headers=sent, body=body)


def check(
    request: SignedRequest, *, late_s: float = 0.0, credentials: tuple[Credential, ...] = (KEY, TEMPORARY)
) -> None:
    verifier = SignatureVerifier(credentials=credentials, region="eu-west-1")
    verifier.check(request, now_s=datetime.now(UTC).timestamp() + late_s)


def refused(request: SignedRequest, **more: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        check(request, **more)
    assert caught.value.status == 403
    return caught.value.name


def changed(request: SignedRequest, **values: Any) -> SignedRequest:
    fields = {name: getattr(request, name) for name in request.__slots__}
    return SignedRequest(**{**fields, **values})


@settings(deadline=None, max_examples=30)
@given(body=st.binary(max_size=200), attribute=st.text("abc  \t,;=é", max_size=20).map(str.strip))
def test_what_botocore_signs_is_accepted(body: bytes, attribute: str) -> None:
    check(signed(body, headers={"X-Amzn-SageMaker-Custom-Attributes": attribute, "Content-Type": "text/csv"}))


@pytest.mark.parametrize("path", ["/endpoints/a%20b/invocations", "/endpoints/a-b~c_d/invocations"])
def test_the_path_is_encoded_once_more_than_on_the_wire(path: str) -> None:
    check(signed(path=path))


def test_a_query_is_signed_too() -> None:
    request = signed(query="b=2&a=1")
    check(request)
    assert refused(changed(request, raw_query="b=2&a=3")) == "InvalidSignatureException"


def test_temporary_credentials_need_their_token() -> None:
    request = signed(credential=TEMPORARY)
    check(request)
    bare = {name: value for name, value in request.headers.items() if name != "x-amz-security-token"}
    assert refused(changed(request, headers=bare)) == "UnrecognizedClientException"


def test_expired_credentials_are_named_so() -> None:
    old = Credential(access_key="ASIAOLD", secret_key="x", session_token="t", expires_at=1000.0)
    assert refused(signed(credential=old), credentials=(old,)) == "ExpiredTokenException"


@pytest.mark.parametrize("late_s", [301.0, -301.0])
def test_a_signature_is_good_for_five_minutes(late_s: float) -> None:
    request = signed()
    check(request, late_s=late_s * 0.98)
    assert refused(request, late_s=late_s) == "InvalidSignatureException"


def test_no_signature_is_missing_authentication() -> None:
    request = changed(signed(), headers={"host": "127.0.0.1:8080"})
    assert refused(request) == "MissingAuthenticationTokenException"


@pytest.mark.parametrize(
    "header", ["Basic dXNlcjpwYXNz", "AWS4-HMAC-SHA256 Credential=x", "AWS4-HMAC-SHA256 " * 1000]
)
def test_other_authorization_is_incomplete(header: str) -> None:
    request = signed()
    assert (
        refused(changed(request, headers={**request.headers, "authorization": header}))
        == "IncompleteSignatureException"
    )


def test_what_was_not_signed_is_refused() -> None:
    request = signed()
    assert refused(changed(request, body=b"1,3\n")) == "InvalidSignatureException"
    assert refused(changed(request, method="PUT")) == "InvalidSignatureException"
    assert refused(changed(request, raw_path="/endpoints/other/invocations")) == "InvalidSignatureException"
    assert (
        refused(changed(request, headers={**request.headers, "host": "elsewhere"}))
        == "InvalidSignatureException"
    )
    assert refused(signed(region="us-east-1")) == "InvalidSignatureException"
    assert refused(signed(service="s3")) == "InvalidSignatureException"


def test_a_wrong_secret_or_key_is_refused() -> None:
    wrong = Credential(access_key=KEY.access_key, secret_key="guess")
    assert refused(signed(credential=wrong)) == "InvalidSignatureException"
    assert (
        refused(signed(credential=Credential(access_key="AKIAOTHER", secret_key="x")))
        == "UnrecognizedClientException"
    )


def test_secrets_do_not_show() -> None:
    assert "very/secret+key" not in repr(KEY)
    assert "token==" not in repr(TEMPORARY)
