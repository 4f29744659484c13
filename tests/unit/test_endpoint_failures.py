"""The failure table, line by line."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.control.failures import RULES, THROTTLING_NAMES, Action, classify
from asyncbatch.model import Failure, Outcome, Transport

NO, YES = False, True
OUT, DO, T = Outcome, Action, Transport


def _validation(message: str) -> dict[str, Any]:
    return {"status": 400, "error_name": "ValidationError", "message": message}


def _model(original: int | None, message: str = "", name: str = "ModelError") -> dict[str, Any]:
    return {"status": 424, "error_name": name, "original_status": original, "original_message": message}


LINES: list[tuple[dict[str, Any], str, Outcome, Action, bool]] = [
    # failure, rule, outcome, action, counts against the chunk
    ({"status": 413}, "413", OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"status": 413, "error_name": "ModelError", "original_status": 400}, "413", OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"status": 413, "error_name": "ThrottlingException"}, "413", OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"transport": T.REPLY_TOO_LARGE, "status": 200}, "reply too large", OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"transport": T.TLS}, "tls", OUT.FAILED, DO.FATAL, NO),
    ({"transport": T.CONNECT}, "refused", OUT.UNAVAILABLE, DO.RETRY, NO),
    ({"transport": T.RESET, "reused_connection": True}, "stale keep-alive", OUT.FAILED, DO.RESEND, NO),
    ({"transport": T.RESET}, "reset", OUT.FAILED, DO.RETRY, YES),
    ({"transport": T.TRUNCATED}, "truncated", OUT.FAILED, DO.RETRY, YES),
    ({"transport": T.TRUNCATED, "reused_connection": True}, "truncated", OUT.FAILED, DO.RETRY, YES),
    ({"transport": T.PROTOCOL}, "no HTTP", OUT.FAILED, DO.RETRY, YES),
    ({"transport": T.TIMEOUT}, "client timeout", OUT.TIMEOUT, DO.RETRY_SMALLER, YES),
    ({"exception": "MemoryError"}, "out of memory", OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    ({"exception": "ConnectionResetError"}, "connection lost in the function", OUT.FAILED, DO.RETRY, YES),
    ({"exception": "TimeoutError"}, "connection lost in the function", OUT.FAILED, DO.RETRY, YES),
    ({"exception": "ValueError", "message": "x"}, "exception", OUT.REJECTED, DO.BISECT, YES),
    # SageMaker throttles with 400 and {"message": null}, API gateways with 429
    ({"status": 400, "error_name": "ThrottlingException"}, "throttled", OUT.THROTTLED, DO.RETRY, NO),
    ({"status": 429, "error_name": "ThrottlingException"}, "throttled", OUT.THROTTLED, DO.RETRY, NO),
    ({"status": 503, "error_name": "SlowDown"}, "throttled", OUT.THROTTLED, DO.RETRY, NO),
    ({"status": 429, "error_name": "ModelNotReadyException"}, "model not ready", OUT.NOT_READY, DO.RETRY, NO),
    ({"status": 403, "error_name": "ExpiredTokenException"},
     "expired", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"status": 400, "error_name": "RequestExpired"}, "expired", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"error_name": "UnauthorizedSSOTokenError"}, "no login", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"error_name": "CredentialRetrievalError"}, "no login", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"status": 403, "error_name": "UnrecognizedClientException",
      "message": "The security token included in the request is expired"},
     "token expired", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"status": 403, "error_name": "InvalidSignatureException",
      "message": "Signature expired: 20261122T050000Z is now earlier than 20261122T051500Z (5 min.)"},
     "clock", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"status": 403, "error_name": "InvalidSignatureException", "message": "Signature not yet current: …"},
     "clock", OUT.FAILED, DO.REFRESH_CREDENTIALS, NO),
    ({"status": 403, "error_name": "InvalidSignatureException",
      "message": "The request signature we calculated does not match the signature you provided"},
     "signature", OUT.FAILED, DO.FATAL, NO),
    ({"status": 403, "error_name": "UnrecognizedClientException",
      "message": "The security token included in the request is invalid."},
     "unknown key", OUT.FAILED, DO.FATAL, NO),
    ({"status": 403, "error_name": "AccessDeniedException",
      "message": "User: arn:… is not authorized to perform: sagemaker:InvokeEndpoint on resource: …"},
     "denied", OUT.FAILED, DO.FATAL, NO),
    (_validation("Inference Component my-ic has no capacity to process this request"),
     "no capacity", OUT.NOT_READY, DO.RETRY, NO),
    (_validation("Endpoint driving-endpoint of account 127310796078 not found."),
     "endpoint not found", OUT.FAILED, DO.FATAL, NO),
    (_validation("Endpoint xgb is not a multi-model endpoint and does not support target model header."),
     "unknown target", OUT.FAILED, DO.FATAL, NO),
    (_validation("Variant blue not found for Endpoint xgb"), "unknown target", OUT.FAILED, DO.FATAL, NO),
    (_validation("Inference component my-ic not found"), "unknown target", OUT.FAILED, DO.FATAL, NO),
    (_validation("Failed to download model data (bucket: b, key: k)."),
     "unknown target", OUT.FAILED, DO.FATAL, NO),
    (_model(413, "whatever"), "container: 413", OUT.TOO_LARGE, DO.SPLIT, NO),
    (_model(400, "Request body exceeds the limit"), "body too large, by its message",
     OUT.TOO_LARGE, DO.SPLIT, NO),
    (_validation("1 validation error detected: Value at 'body' failed to satisfy constraint: "
                 "Member must have length less than or equal to 6291456"),
     "body too large, by its message", OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"status": 400, "message": "Request Entity Too Large"}, "body too large, by its message",
     OUT.TOO_LARGE, DO.SPLIT, NO),
    ({"status": 500, "message": "payload size 7340032 exceeds 6291456"}, "body too large, by its message",
     OUT.TOO_LARGE, DO.SPLIT, NO),
    (_model(429), "container: 429", OUT.THROTTLED, DO.RETRY, NO),
    (_model(408), "container: 408", OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    (_model(400, "could not convert string to float"), "container: 4xx", OUT.REJECTED, DO.BISECT, YES),
    (_model(415), "container: 4xx", OUT.REJECTED, DO.BISECT, YES),
    (_model(422, name=""), "container: 4xx", OUT.REJECTED, DO.BISECT, YES),
    (_model(500, "worker died"), "container: 5xx or no answer", OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    (_model(504), "container: 5xx or no answer", OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    (_model(0, "Amazon SageMaker could not get a response from the endpoint"), "container: 5xx or no answer",
     OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    (_model(None, name=""), "container: 5xx or no answer", OUT.FAILED, DO.RETRY_THEN_SPLIT, YES),
    (_validation("the body is not what was expected"), "validation", OUT.REJECTED, DO.BISECT, YES),
    ({"status": 503, "error_name": "ServiceUnavailable"}, "ServiceUnavailable",
     OUT.UNAVAILABLE, DO.RETRY, NO),
    ({"status": 500, "error_name": "InternalFailure"}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({"status": 530, "error_name": "InternalDependencyException"}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({"status": 301}, "redirect", OUT.FAILED, DO.FATAL, NO),
    ({"status": 307}, "redirect", OUT.FAILED, DO.FATAL, NO),
    ({"status": 401}, "401", OUT.FAILED, DO.FATAL, NO),
    ({"status": 403}, "403", OUT.FAILED, DO.FATAL, NO),
    ({"status": 404}, "404", OUT.FAILED, DO.FATAL, NO),
    ({"status": 405}, "405", OUT.FAILED, DO.FATAL, NO),
    ({"status": 407}, "407", OUT.FAILED, DO.FATAL, NO),
    ({"status": 410}, "404", OUT.FAILED, DO.FATAL, NO),
    ({"status": 400, "message": "bad row"}, "4xx", OUT.REJECTED, DO.BISECT, YES),
    ({"status": 406}, "406", OUT.REJECTED, DO.BISECT, YES),
    ({"status": 415}, "415", OUT.REJECTED, DO.BISECT, YES),
    ({"status": 422}, "4xx", OUT.REJECTED, DO.BISECT, YES),
    ({"status": 408}, "408", OUT.TIMEOUT, DO.RETRY_SMALLER, YES),
    ({"status": 425}, "425", OUT.FAILED, DO.RETRY, NO),
    ({"status": 429}, "429", OUT.THROTTLED, DO.RETRY, NO),
    ({"status": 503}, "503", OUT.UNAVAILABLE, DO.RETRY, NO),
    ({"status": 500}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({"status": 502}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({"status": 504}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({"status": 530}, "5xx", OUT.FAILED, DO.RETRY, YES),
    ({}, "anything else", OUT.FAILED, DO.RETRY, YES),
    ({"error_name": "EndpointConnectionError"}, "anything else", OUT.FAILED, DO.RETRY, YES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "rule", "outcome", "action", "counts"), LINES, ids=lambda value: str(value)[:60]
)
def test_line_of_the_table(
    known: dict[str, Any], rule: str, outcome: Outcome, action: Action, counts: bool
) -> None:
    failure = Failure(**known)
    assert next(each.name for each in RULES if each.fits(failure)) == rule
    verdict = classify(failure)
    assert (verdict.outcome, verdict.action, verdict.counts_against_chunk) == (outcome, action, counts)


def test_every_rule_is_tested() -> None:
    assert {rule.name for rule in RULES} == {rule for _, rule, *_ in LINES}


def test_rule_names_are_unique_and_every_rule_has_a_hint() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.verdict.hint, rule.name
        assert not rule.verdict.hint.endswith("."), rule.name


@pytest.mark.parametrize(
    "message",
    [
        "request failed: value 300 exceeds the range of column a",
        "feature 3 is too large",
        "input contains NaN, infinity or a value too large for dtype('float32')",
        "content is not valid",
        "the body holds 300 rows; feature sizes exceed",
    ],
)
def test_words_about_values_are_not_taken_for_a_body_that_is_too_large(message: str) -> None:
    assert classify(Failure(status=400, message=message)).outcome is Outcome.REJECTED
    assert classify(Failure(**_model(400, message))).outcome is Outcome.REJECTED


def test_a_container_that_speaks_of_endpoints_does_not_end_the_run() -> None:
    failure = Failure(**_model(400, "Endpoint x of account 1 not found; target model unknown; no capacity"))
    assert classify(failure).action is Action.BISECT


@pytest.mark.parametrize("name", sorted(THROTTLING_NAMES))
@pytest.mark.parametrize("status", [400, 429, 503])
def test_throttling_goes_by_name_whatever_the_status(name: str, status: int) -> None:
    assert classify(Failure(status=status, error_name=name)).outcome is Outcome.THROTTLED


@given(
    transport=st.none() | st.sampled_from(Transport),
    status=st.none() | st.integers(100, 599),
    name=st.sampled_from(["", "ModelError", "ValidationError", "ThrottlingException", "AccessDenied", "Foo"]),
    message=st.text(max_size=60),
    original=st.none() | st.integers(0, 599),
    exception=st.sampled_from(["", "ValueError", "MemoryError"]),
)
def test_every_failure_gets_a_verdict_that_makes_sense(
    transport: Transport | None,
    status: int | None,
    name: str,
    message: str,
    original: int | None,
    exception: str,
) -> None:
    verdict = classify(
        Failure(
            transport=transport, status=status, error_name=name, message=message,
            original_status=original, exception=exception,
        )
    )  # fmt: skip
    assert verdict.outcome not in (Outcome.SUCCESS, Outcome.CANCELLED)
    if verdict.outcome in (Outcome.THROTTLED, Outcome.NOT_READY, Outcome.UNAVAILABLE):
        assert verdict.action is Action.RETRY
        assert not verdict.counts_against_chunk
    if verdict.outcome is Outcome.TOO_LARGE:
        assert verdict.action is Action.SPLIT
    if verdict.outcome is Outcome.REJECTED:
        assert verdict.action is Action.BISECT


def test_the_table_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; import asyncbatch.control.failures;"
        "bad = {'pyarrow', 'numpy', 'aiohttp', 'botocore', 'asyncio', 'anyio'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
