"""What is done about a failed invocation: the whole failure table, in one pure function.

A rule looks at the error name first, then at the message; the HTTP status is the fallback, except 413, which
says what it means whatever it is called. The first rule that fits decides. Nothing is counted or remembered
here: how often to retry, when to bisect and when an endpoint is given up is decided by the caller, who knows
the history.

Sources of the names: the SageMaker Runtime service model, the common errors of AWS, and botocore's list of
throttling codes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from asyncbatch.model import Failure, Outcome, Transport


class Action(Enum):
    """What to do with the rows of a failed invocation."""

    RETRY = "retry"
    """The same rows again, after a backoff; after `--max-retries` of those that count, bisect."""
    RESEND = "resend"
    """Once more at once, with no sample: a kept-alive connection had gone stale. Twice in a row: as RETRY."""
    RETRY_SMALLER = "retry_smaller"
    """Again after a backoff, in smaller chunks or with fewer in flight."""
    RETRY_THEN_SPLIT = "retry_then_split"
    """Once more as they are, then in halves: it may be memory, or one of the rows."""
    SPLIT = "split"
    """In halves at once, and remember the size as a cap."""
    BISECT = "bisect"
    """Find the rows that are refused. Before the first success of the run: fatal."""
    REFRESH_CREDENTIALS = "refresh_credentials"
    """One refresh shared by all, then send again; if it fails, stop resumably."""
    FATAL = "fatal"
    """Stop at once. What is committed stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer of `classify`."""

    outcome: Outcome
    """What the controller is told; RESEND and REFRESH_CREDENTIALS tell it nothing."""
    action: Action
    counts_against_chunk: bool
    """False: it says nothing about these rows and uses up none of their retries."""
    hint: str
    """The next step for people, without a full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the table."""

    name: str
    fits: Callable[[Failure], bool]
    verdict: Verdict


THROTTLING_NAMES = frozenset(
    ("ThrottlingException", "Throttling", "ThrottledException", "RequestThrottled",
     "RequestThrottledException", "TooManyRequestsException", "ProvisionedThroughputExceededException",
     "RequestLimitExceeded",
     "BandwidthLimitExceeded", "LimitExceededException", "TransactionInProgressException", "SlowDown",
     "PriorRequestNotComplete", "EC2ThrottledException")
)  # fmt: skip
EXPIRED_NAMES = frozenset(
    ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
     "RequestTimeTooSkewed", "RequestInTheFuture")
)  # fmt: skip
LOGIN_NAMES = frozenset(
    ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
     "UnauthorizedSSOTokenError", "SSOTokenLoadError", "SSOError", "NoAuthTokenError",
     "MetadataRetrievalError", "RefreshWithMFAUnsupportedError")
)  # fmt: skip
"""Names of botocore's own errors, raised before anything is sent."""
SIGNATURE_NAMES = frozenset(
    ("InvalidSignatureException", "InvalidSignature", "SignatureDoesNotMatch", "IncompleteSignature",
     "IncompleteSignatureException")
)  # fmt: skip
UNKNOWN_KEY_NAMES = frozenset(
    ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "AuthFailure",
     "MissingAuthenticationToken", "MissingAuthenticationTokenException")
)  # fmt: skip
DENIED_NAMES = frozenset(
    ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "OptInRequired",
     "SubscriptionRequiredException")
)  # fmt: skip
VALIDATION_NAMES = frozenset(("ValidationError", "ValidationException"))

_NO_CAPACITY = re.compile(r"no (?:available )?capacity|not have (?:enough |any )?capacity", re.IGNORECASE)
_ENDPOINT_NOT_FOUND = re.compile(
    r"endpoint\b.{0,200}\b(?:not found|does not exist)|could not find\b.{0,40}\bendpoint",
    re.IGNORECASE | re.DOTALL,
)
# Of a ValidationError by the service itself: about what the invocation names, so about no row.
_TARGET = re.compile(
    r"target[- ]?(?:model|variant|container)|multi-model endpoint|inference component|production variant|"
    r"\bvariant\b.{0,200}\b(?:not found|does not exist)|download model data",
    re.IGNORECASE | re.DOTALL,
)
_BODY_TOO_LARGE = re.compile(
    r"\b(?:request|payload|body|entity|content)"
    r"(?:[\s_-]+(?:entity|body|payload|size|length|is|was|has|of|that|bytes?|\d+))*[\s_-]+"
    r"(?:too (?:large|big)|exceeds?|exceeded|larger than)"
    r"|too (?:large|big) (?:a )?(?:request|body|payload)"
    r"|'body' failed to satisfy constraint.{0,80}length less than",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"signature (?:has )?expired|signature not yet current|too skewed|clock", re.IGNORECASE)
_EXPIRED = re.compile(r"\btoken\b.{0,60}\bexpired|\bexpired\b.{0,20}\btoken", re.IGNORECASE)


def classify(failure: Failure) -> Verdict:
    """What a failure means and what is done about it. Total: every failure gets a verdict.

    BISECT means "the rows are refused"; before the first success of a run the caller makes it fatal.
    """
    for rule in RULES:
        if rule.fits(failure):
            return rule.verdict
    raise AssertionError("the last rule fits everything")


def _status(*statuses: int) -> Callable[[Failure], bool]:
    return lambda failure: failure.status in statuses


def _named(names: frozenset[str]) -> Callable[[Failure], bool]:
    return lambda failure: failure.error_name in names


def _transport(transport: Transport) -> Callable[[Failure], bool]:
    return lambda failure: failure.transport is transport


def _raised(*exceptions: str) -> Callable[[Failure], bool]:
    return lambda failure: failure.exception in exceptions


def _validation(pattern: re.Pattern[str]) -> Callable[[Failure], bool]:
    return lambda failure: (
        failure.error_name in VALIDATION_NAMES and pattern.search(failure.message) is not None
    )


def _is_model_error(failure: Failure) -> bool:
    return failure.error_name == "ModelError" or (failure.status == 424 and not failure.error_name)


def _model_error(low: int, high: int) -> Callable[[Failure], bool]:
    return lambda failure: _is_model_error(failure) and low <= (failure.original_status or 0) < high


def _says_too_large(failure: Failure) -> bool:
    if failure.status is None or failure.status < 400:
        return False
    return _BODY_TOO_LARGE.search(failure.message) is not None or (
        _BODY_TOO_LARGE.search(failure.original_message) is not None
    )


def _clock_is_off(failure: Failure) -> bool:
    return failure.error_name in SIGNATURE_NAMES and _CLOCK.search(failure.message) is not None


def _token_expired(failure: Failure) -> bool:
    known = failure.error_name in UNKNOWN_KEY_NAMES or failure.error_name in DENIED_NAMES
    return known and _EXPIRED.search(failure.message) is not None


def _between(low: int, high: int) -> Callable[[Failure], bool]:
    return lambda failure: failure.status is not None and low <= failure.status < high


def _rule(
    name: str,
    fits: Callable[[Failure], bool],
    outcome: Outcome,
    action: Action,
    hint: str,
    *,
    counts: bool = False,
) -> Rule:
    verdict = Verdict(outcome=outcome, action=action, counts_against_chunk=counts, hint=hint)
    return Rule(name=name, fits=fits, verdict=verdict)


_THROTTLED = "it is sent again more slowly; lower --concurrency or --rate, or raise the endpoint's limits"
_WAKING = "the model is waking up; --max-outage says how long to wait"
_ROWS = "see the message for what is wrong with the rows; plan --show 1 prints the request as sent"
_SMALLER = "lower --max-payload or --chunk-rows"
_SERVER = "look into the log of the endpoint"
_LOGIN = "renew the credentials (aws sso login, or aws configure) and run the same command again"
_CLOCK_HINT = "set the clock of this machine, or renew the credentials"
_TLS = "check the name in the URL, or give the certificate's issuer with --ca-bundle"
_ROUTE = "check the path of the URL in -e; model servers answer POST, most of them on /invocations"
_ALLOW = "the credentials need sagemaker:InvokeEndpoint for this endpoint; check --profile and --region"

_FAILED, _REJECTED, _TOO_LARGE = Outcome.FAILED, Outcome.REJECTED, Outcome.TOO_LARGE

RULES: tuple[Rule, ...] = (
    # Sizes: the one status that outranks its name.
    _rule("413", _status(413), _TOO_LARGE, Action.SPLIT, _SMALLER),
    _rule("reply too large", _transport(Transport.REPLY_TOO_LARGE), _TOO_LARGE, Action.SPLIT,
          "raise --max-reply, or lower --chunk-rows"),
    # Below HTTP.
    _rule("tls", _transport(Transport.TLS), _FAILED, Action.FATAL, _TLS),
    _rule("refused", _transport(Transport.CONNECT), Outcome.UNAVAILABLE, Action.RETRY,
          "check that the endpoint is up and its address is right; --max-outage says how long to wait"),
    _rule("stale keep-alive",
          lambda failure: failure.transport is Transport.RESET and failure.reused_connection,
          _FAILED, Action.RESEND, _SERVER),
    _rule("reset", _transport(Transport.RESET), _FAILED, Action.RETRY, _SERVER, counts=True),
    _rule("truncated", _transport(Transport.TRUNCATED), _FAILED, Action.RETRY, _SERVER, counts=True),
    _rule("no HTTP", _transport(Transport.PROTOCOL), _FAILED, Action.RETRY,
          "check that the address is that of an HTTP server, and http:// or https://", counts=True),
    _rule("client timeout", _transport(Transport.TIMEOUT), Outcome.TIMEOUT, Action.RETRY_SMALLER,
          "raise --request-timeout, or lower --chunk-rows or --concurrency", counts=True),
    # Python callables.
    _rule("out of memory", _raised("MemoryError"), _FAILED, Action.RETRY_THEN_SPLIT,
          "lower --chunk-rows or --concurrency", counts=True),
    _rule("connection lost in the function",
          _raised("ConnectionError", "ConnectionResetError", "ConnectionRefusedError",
                  "ConnectionAbortedError", "BrokenPipeError", "TimeoutError"),
          _FAILED, Action.RETRY, "the function could not reach what it calls", counts=True),
    _rule("exception", lambda failure: bool(failure.exception), _REJECTED, Action.BISECT,
          "the function raised this for these rows; call it with a few of them", counts=True),
    # By name.
    _rule("throttled", _named(THROTTLING_NAMES), Outcome.THROTTLED, Action.RETRY, _THROTTLED),
    _rule("model not ready", _named(frozenset(("ModelNotReadyException",))), Outcome.NOT_READY, Action.RETRY,
          _WAKING),
    _rule("expired", _named(EXPIRED_NAMES), _FAILED, Action.REFRESH_CREDENTIALS, _LOGIN),
    _rule("no login", _named(LOGIN_NAMES), _FAILED, Action.REFRESH_CREDENTIALS, _LOGIN),
    _rule("token expired", _token_expired, _FAILED, Action.REFRESH_CREDENTIALS, _LOGIN),
    _rule("clock", _clock_is_off, _FAILED, Action.REFRESH_CREDENTIALS, _CLOCK_HINT),
    _rule("signature", _named(SIGNATURE_NAMES), _FAILED, Action.FATAL,
          "check the secret access key, and that no proxy changes the request"),
    _rule("unknown key", _named(UNKNOWN_KEY_NAMES), _FAILED, Action.FATAL,
          "AWS does not know these credentials; check AWS_ACCESS_KEY_ID or --profile, and --region"),
    _rule("denied", _named(DENIED_NAMES), _FAILED, Action.FATAL, _ALLOW),
    # A ValidationError, by its message.
    _rule("no capacity", _validation(_NO_CAPACITY), Outcome.NOT_READY, Action.RETRY, _WAKING),
    _rule("endpoint not found", _validation(_ENDPOINT_NOT_FOUND), _FAILED, Action.FATAL,
          "check the name and --region; aws sagemaker list-endpoints shows those in service"),
    _rule("unknown target", _validation(_TARGET), _FAILED, Action.FATAL,
          "check --target-variant, --target-model, --target-container-hostname, --inference-component-name"),
    # What the container said, inside a ModelError.
    _rule("container: 413", _model_error(413, 414), _TOO_LARGE, Action.SPLIT, _SMALLER),
    _rule("body too large, by its message", _says_too_large, _TOO_LARGE, Action.SPLIT, _SMALLER),
    _rule("container: 429", _model_error(429, 430), Outcome.THROTTLED, Action.RETRY, _THROTTLED),
    _rule("container: 408", _model_error(408, 409), _FAILED, Action.RETRY_THEN_SPLIT,
          "lower --chunk-rows; the container's log says more", counts=True),
    _rule("container: 4xx", _model_error(400, 500), _REJECTED, Action.BISECT, _ROWS, counts=True),
    _rule("container: 5xx or no answer", _is_model_error, _FAILED, Action.RETRY_THEN_SPLIT,
          "the container's log says more; it may lack memory: lower --chunk-rows", counts=True),
    _rule("validation", _named(VALIDATION_NAMES), _REJECTED, Action.BISECT, _ROWS, counts=True),
    _rule("ServiceUnavailable", _named(frozenset(("ServiceUnavailable", "ServiceUnavailableException"))),
          Outcome.UNAVAILABLE, Action.RETRY, _SERVER),
    # By status.
    _rule("redirect", _between(300, 400), _FAILED, Action.FATAL,
          "redirects are not followed; give the address that the message names"),
    _rule("401", _status(401), _FAILED, Action.FATAL,
          "the server wants a login, such as -H 'Authorization: @env:TOKEN'"),
    _rule("403", _status(403), _FAILED, Action.FATAL,
          "the server forbids this; check the credentials and the address"),
    _rule("404", _status(404, 410), _FAILED, Action.FATAL, _ROUTE),
    _rule("405", _status(405), _FAILED, Action.FATAL, _ROUTE),
    _rule("407", _status(407), _FAILED, Action.FATAL, "the proxy wants a login; check HTTPS_PROXY"),
    _rule("406", _status(406), _REJECTED, Action.BISECT, "the server makes no such reply; check --accept",
          counts=True),
    _rule("415", _status(415), _REJECTED, Action.BISECT,
          "the server reads no such body; check --body and --content-type", counts=True),
    _rule("408", _status(408), Outcome.TIMEOUT, Action.RETRY_SMALLER, "lower --chunk-rows or --concurrency",
          counts=True),
    _rule("429", _status(429), Outcome.THROTTLED, Action.RETRY, _THROTTLED),
    _rule("425", _status(425), _FAILED, Action.RETRY, _SERVER),
    _rule("503", _status(503), Outcome.UNAVAILABLE, Action.RETRY, _SERVER),
    _rule("4xx", _between(400, 500), _REJECTED, Action.BISECT, _ROWS, counts=True),
    _rule("5xx", _between(500, 600), _FAILED, Action.RETRY, _SERVER, counts=True),
    _rule("anything else", lambda _failure: True, _FAILED, Action.RETRY, _SERVER, counts=True),
)  # fmt: skip
"""Read from top to bottom; the first that fits decides."""
