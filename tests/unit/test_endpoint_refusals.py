"""Refusals as SageMaker, gateways and model servers write them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.endpoint.refusals import MESSAGE_BYTES, read_refusal, retry_after_s


def test_throttling_with_a_null_message() -> None:
    headers = {
        "x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/com.amazon.coral.availability/"
    }
    failure = read_refusal(400, headers, b'{"message":null}', aws=True)
    assert failure.error_name == "ThrottlingException"
    assert failure.message == ""
    assert failure.status == 400


def test_model_error_with_all_its_parts() -> None:
    body = {
        "ErrorCode": "CLIENT_ERROR_FROM_MODEL",
        "LogStreamArn": "arn:aws:logs:eu-west-1:1:log-group:/aws/sagemaker/Endpoints/x",
        "Message": 'Received client error (400) from primary with message "bad".',
        "OriginalMessage": "bad",
        "OriginalStatusCode": 400,
    }
    failure = read_refusal(424, {"x-amzn-errortype": "ModelError"}, json.dumps(body).encode(), aws=True)
    assert failure.error_name == "ModelError"
    assert failure.original_status == 400
    assert failure.original_message == "bad"
    assert failure.log_stream_arn == body["LogStreamArn"]
    assert failure.message == body["Message"]


@pytest.mark.parametrize(
    ("text", "status"), [("client error (415) from model", 415), ("server error (0) from model", 0)]
)
def test_the_original_status_is_read_from_the_message_where_the_field_is_missing(
    text: str, status: int
) -> None:
    body = json.dumps({"Message": f"Received {text} with message …"}).encode()
    assert read_refusal(424, {"x-amzn-errortype": "ModelError"}, body, aws=True).original_status == status


def test_the_name_in_the_body_counts_for_aws_only() -> None:
    body = b'{"__type":"com.amazon.coral#AccessDeniedException","message":"no"}'
    assert read_refusal(403, {}, body, aws=True).error_name == "AccessDeniedException"
    plain = read_refusal(403, {}, body, aws=False)
    assert plain.error_name == ""
    assert plain.message == body.decode()


def test_a_gateway_before_a_plain_server_is_heard_by_its_header() -> None:
    failure = read_refusal(
        429, {"x-amzn-errortype": "TooManyRequestsException"}, b'{"message":"slow"}', aws=False
    )
    assert failure.error_name == "TooManyRequestsException"
    assert failure.message == "slow"


@pytest.mark.parametrize("body", [b"", b"[1]", b'"x"', b"null", b"{", b"\xff\xfe", b"<html>", b"[" * 100_000])
@pytest.mark.parametrize("aws", [True, False])
def test_bodies_that_are_no_error_document(body: bytes, aws: bool) -> None:
    failure = read_refusal(500, {}, body, aws=aws)
    assert failure.status == 500
    assert failure.error_name == ""
    assert len(failure.message) <= MESSAGE_BYTES


def test_a_redirect_names_where_to_without_secrets() -> None:
    headers = {"location": "https://user:pw@other.example:8443/invocations?token=abc#f"}
    message = read_refusal(307, headers, b"", aws=False).message
    assert message == "redirects to https://other.example:8443/invocations"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("", None), ("soon", None), ("-3", None), ("1e9", None),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30.0), ("Tue, 24 Nov 2026 09:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value, "date": "Tue, 24 Nov 2026 10:00:00 GMT"}
    assert retry_after_s(headers) == seconds


@given(
    status=st.integers(300, 599),
    headers=st.dictionaries(
        st.sampled_from(["x-amzn-errortype", "retry-after", "date", "location"]), st.text(max_size=40)
    ),
    body=st.binary(max_size=300) | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["message", "Message", "__type", "OriginalStatusCode", "code"]), inner
        ),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
    aws=st.booleans(),
)  # fmt: skip
def test_anything_that_a_server_may_send_becomes_a_failure(
    status: int, headers: dict[str, str], body: bytes, aws: bool
) -> None:
    failure = read_refusal(status, headers, body, aws=aws)
    assert failure.status == status
    assert failure.summary()
    assert failure.retry_after_s is None or failure.retry_after_s >= 0
