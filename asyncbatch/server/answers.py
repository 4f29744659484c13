"""Replies of the embedded endpoint, and the forms in which SageMaker Runtime reports errors.

An error's name travels in the header `x-amzn-ErrorType` and its message in a JSON body; boto3 picks its
exception class by that name. What a container answers beyond 2xx arrives as `ModelError` (424) with the
container's own status and text (InvokeEndpoint in the SageMaker Runtime API reference).
"""

from dataclasses import dataclass, field
from enum import Enum

import orjson

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Ending(Enum):
    """How the connection goes on."""

    COMPLETE = "complete"
    RESET = "reset"
    """Closed without a reply."""
    TRUNCATED = "truncated"
    """Closed in the middle of the reply."""
    RESET_INSIDE = "reset-inside"
    """Reset in the middle of the reply."""
    TRICKLE = "trickle"
    """Complete, but a little at a time, over a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP reply, not yet sent."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    outcome: str = "200"
    """Key under which it is counted: the status, or the error's name."""
    rows: int = 0
    """Rows answered."""
    ending: Ending = Ending.COMPLETE


class ContainerError(Exception):
    """What a model's container answers when it cannot predict.

    Attributes:
        status: its HTTP status.
        message: its reply, as text.
        content_type: of that reply.
    """

    def __init__(self, status: int, message: str, *, content_type: str = TEXT) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.content_type = content_type


class ServiceError(Exception):
    """What the service answers before or instead of the container.

    Attributes:
        status: HTTP status.
        name: the error's name; empty where the service sends none (413).
        message: None is sent as null, as throttling is.
        page: sent instead of a JSON document: a gateway's words, not the service's.
    """

    def __init__(self, status: int, name: str, message: str | None, *, page: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message
        self.page = page


def service_answer(error: ServiceError) -> Answer:
    """The reply of SageMaker Runtime to a request that it did not, or could not, pass on."""
    headers = {"x-amzn-ErrorType": f"{error.name}:"} if error.name else {}
    return Answer(
        status=error.status,
        body=error.page.encode() or orjson.dumps({"message": error.message}),
        content_type="text/html" if error.page else JSON,
        headers=headers,
        outcome=error.name or str(error.status),
    )


def model_error(error: ContainerError, *, endpoint: str, region: str, account: str) -> Answer:
    """The reply of SageMaker Runtime when the container did not answer 2xx."""
    side, code = ("client", "CLIENT") if error.status < 500 else ("server", "SERVER")
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    text = (
        f'Received {side} error ({error.status}) from primary with message "{error.message}". '
        f"See https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logEventViewer:group={group} in account {account} for more information."
    )
    body = {
        "ErrorCode": f"{code}_ERROR_FROM_MODEL",
        "LogStreamArn": f"arn:aws:logs:{region}:{account}:log-group:{group}",
        "Message": text,
        "OriginalMessage": error.message,
        "OriginalStatusCode": error.status,
    }
    return Answer(
        status=424, body=orjson.dumps(body), headers={"x-amzn-ErrorType": "ModelError:"}, outcome="ModelError"
    )


def container_answer(error: ContainerError) -> Answer:
    """The reply of the container itself."""
    return Answer(
        status=error.status or 504,  # a container that never answered has no status; a gateway says 504
        body=error.message.encode(),
        content_type=error.content_type,
        outcome=str(error.status),
    )
