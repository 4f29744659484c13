"""Our signatures are botocore's, for any request; and `serve` takes them."""

import datetime as dt
import hashlib
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from asyncbatch.endpoint.sigv4 import Keys, RequestSigner, payload_hash
from asyncbatch.endpoint.target import host_header
from asyncbatch.server.answers import ServiceError
from asyncbatch.server.config import Credential
from asyncbatch.server.sigv4 import SignatureVerifier, SignedRequest

TOKEN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() not in ("host", "date", "authorization", "x-amz-date", "x-amz-security-token")
)
# No line ends: they cannot be in a header.
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
HEADERS = st.lists(
    st.tuples(
        st.one_of(
            NAMES,
            st.sampled_from(["Content-Type", "X-Amzn-SageMaker-Custom-Attributes", "User-Agent", "Expect"]),
        ),
        VALUES,
    ),
    max_size=8,
)
PIECES = st.lists(st.binary(max_size=200), max_size=4)
REQUESTS = {
    "access_key": TOKEN.filter(lambda text: "/" not in text and "," not in text),
    "secret_key": st.text(min_size=1),
    "token": st.one_of(st.none(), TOKEN),
    "region": st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True),
    "service": st.sampled_from(["sagemaker", "execute-api", "s"]),
    "host": st.from_regex(r"[a-z0-9]{1,12}\.example(:[1-9][0-9]{1,3})?", fullmatch=True),
    "segments": st.lists(st.text(min_size=1, max_size=12), min_size=0, max_size=5),
    "query": st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3),
    "headers": HEADERS,
    "pieces": PIECES,
    "now_s": st.integers(0, 4_000_000_000),
}

PLAIN: dict[str, Any] = {
    "access_key": "a", "secret_key": "s", "token": None, "region": "eu-west-1", "service": "sagemaker",
    "segments": ["x"], "query": [], "headers": [], "pieces": [], "now_s": 0,
}  # fmt: skip


def botocores(
    *,
    keys: Keys,
    region: str,
    service: str,
    url: str,
    headers: list[tuple[str, str]],
    body: bytes,
    now_s: int,
) -> tuple[str, str]:
    request = AWSRequest(method="POST", url=url, data=body)
    for name, value in headers:
        request.headers[name] = value
    credentials = Credentials(keys.access_key, keys.secret_key, keys.token)
    now = dt.datetime.fromtimestamp(now_s, dt.UTC)
    with patch.object(auth, "get_current_datetime", lambda: now):
        auth.SigV4Auth(credentials, service, region).add_auth(request)
    return request.headers["X-Amz-Date"], request.headers["Authorization"]


@settings(max_examples=2000, deadline=None)
@given(**REQUESTS)
@example(**PLAIN, host="a.example:443")
@example(**PLAIN, host="a.example:80")
def test_a_signature_is_botocores(
    access_key: str,
    secret_key: str,
    token: str | None,
    region: str,
    service: str,
    host: str,
    segments: list[str],
    query: list[tuple[str, str]],
    headers: list[tuple[str, str]],
    pieces: list[bytes],
    now_s: int,
) -> None:
    keys = Keys(access_key=access_key, secret_key=secret_key, token=token)
    path = "/" + "/".join(quote(segment, safe="~.") for segment in segments)
    asked = "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    signer = RequestSigner(
        keys=keys,
        region=region,
        service=service,
        method="POST",
        host=host_header(URL(f"https://{host}/")),
        path=path,
        query=asked,
        headers=headers,
    )
    url = f"https://{host}{path}" + (f"?{asked}" if asked else "")
    body = b"".join(pieces)
    # Twice at other times first: nothing that is kept may leak into a later signature.
    signer.sign(payload_hash([b"other"]), now_s=now_s - 86_400)
    signer.sign(payload_hash([b"other"]), now_s=now_s)
    ours = signer.sign(payload_hash(pieces), now_s=now_s + 0.75)
    assert ours == botocores(
        keys=keys, region=region, service=service, url=url, headers=headers, body=body, now_s=now_s
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "/a//b/",
        "/a/./b/../c",
        "/..",
        "/../a/",
        "/a%2Fb",
        "/a b",
        "/endpoints/churn/invocations",
        "/ä",
    ],
)
def test_paths_are_normal_and_encoded_once_more(path: str) -> None:
    keys = Keys(access_key="A", secret_key="s")
    signer = RequestSigner(keys=keys, region="r", service="s", method="post", host="h", path=path)
    expected = botocores(
        keys=keys, region="r", service="s", url=f"https://h{path}", headers=[], body=b"", now_s=10**9
    )
    assert signer.sign(payload_hash([]), now_s=10**9) == expected


@settings(max_examples=300, deadline=None)
@given(
    token=st.one_of(st.none(), TOKEN),
    attributes=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=40),
    body=st.binary(max_size=100),
    late_s=st.integers(-299, 299),
    spoiled=st.booleans(),
)
def test_the_embedded_endpoint_takes_them_and_no_others(
    token: str | None, attributes: str, body: bytes, late_s: int, spoiled: bool
) -> None:
    now_s = 1_800_000_000
    keys = Keys(access_key="AKIDEXAMPLE", secret_key="secret", token=token)
    headers = [("Content-Type", "text/csv"), ("X-Amzn-SageMaker-Custom-Attributes", attributes)]
    path = "/endpoints/churn/invocations"
    signer = RequestSigner(
        keys=keys,
        region="eu-west-1",
        service="sagemaker",
        method="POST",
        host="h:1",
        path=path,
        headers=headers,
    )
    date, authorization = signer.sign(payload_hash([body]), now_s=now_s + late_s)
    sent: dict[str, str] = {name.lower(): value for name, value in headers}
    sent |= {"host": "h:1", "x-amz-date": date, "authorization": authorization}
    if token:
        sent["x-amz-security-token"] = token
    credential = Credential(access_key="AKIDEXAMPLE", secret_key="secret", session_token=token)
    verifier = SignatureVerifier(credentials=[credential], region="eu-west-1")
    request = SignedRequest(
        method="POST", raw_path=path, raw_query="", headers=sent, body=body + b"x" if spoiled else body
    )
    if spoiled:
        with pytest.raises(ServiceError):
            verifier.check(request, now_s=now_s)
    else:
        verifier.check(request, now_s=now_s)


@given(PIECES)
def test_a_body_in_pieces_has_one_hash(pieces: list[bytes]) -> None:
    views: list[Any] = [memoryview(piece) for piece in pieces]
    assert payload_hash(views) == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_secrets_are_in_no_text() -> None:
    assert "s3cret" not in repr(Keys(access_key="A", secret_key="s3cret", token="s3cret"))
