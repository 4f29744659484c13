"""What an InvokeEndpoint names, checked against the service model before anything is sent."""

import re

from asyncbatch.config import RequestConfig, RunConfig
from asyncbatch.endpoint.network import bare
from asyncbatch.errors import ConfigError
from asyncbatch.option import flag

MAX_BODY_BYTES = 25 * 2**20
"""What the service takes at most, by its newer documents; many endpoints still take 6 MiB."""

_NAME = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9])*")
_SESSION = re.compile(r"NEW_SESSION|[a-zA-Z0-9](?:-*[a-zA-Z0-9])*")
_TEXT = re.compile(r"[\x21-\x7e][\x20-\x7e]*")
_ATTRIBUTES = re.compile(r"[\x20-\x7e]*")

# Option, name in InvokeEndpoint, longest value, pattern.
_PARAMETERS = (
    ("target_model", "TargetModel", 1024, _TEXT),
    ("target_variant", "TargetVariant", 63, _NAME),
    ("target_container_hostname", "TargetContainerHostname", 63, _NAME),
    ("inference_component_name", "InferenceComponentName", 63, _NAME),
    ("custom_attributes", "CustomAttributes", 1024, _ATTRIBUTES),
    ("enable_explanations", "EnableExplanations", 64, _TEXT),
    ("inference_id", "InferenceId", 64, _TEXT),
    ("session_id", "SessionId", 256, _SESSION),
    ("accept", "Accept", 1024, _ATTRIBUTES),
)
_CONTENT_TYPE_LENGTH = 1024

HEADERS = {
    "TargetModel": "X-Amzn-SageMaker-Target-Model",
    "TargetVariant": "X-Amzn-SageMaker-Target-Variant",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
    "InferenceComponentName": "X-Amzn-SageMaker-Inference-Component",
    "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes",
    "EnableExplanations": "X-Amzn-SageMaker-Enable-Explanations",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
    "SessionId": "X-Amzn-SageMaker-Session-Id",
    "Accept": "Accept",
}
"""The HTTP header of each parameter (InvokeEndpoint in the service model)."""


def invocation_parameters(config: RunConfig) -> dict[str, str]:
    """The parameters of every InvokeEndpoint of a run, by their AWS names, without body and content type.

    Raises:
        ConfigError: a malformed endpoint name, a value that would be refused, or too large a body limit.
    """
    if config.speed.max_payload > MAX_BODY_BYTES:
        raise ConfigError(
            f"--max-payload {config.speed.max_payload:,} bytes is more than SageMaker takes",
            hint="give at most 25MiB; 6MiB is what every endpoint takes",
        )
    return {"EndpointName": _endpoint_name(config.endpoint.endpoint), **_options(config.request)}


def _endpoint_name(text: str) -> str:
    if _NAME.fullmatch(text) and len(text) <= 63:
        return text
    if text.startswith("arn:"):
        parts = text.split(":")
        region = parts[3] if len(parts) > 3 else ""
        raise ConfigError(
            "-e takes the name of a SageMaker endpoint, not its ARN",
            hint=f"give -e {text.rsplit('/', 1)[-1]}" + (f" --region {region}" if region else ""),
        )
    if any(character in text for character in ":/."):
        raise ConfigError(
            f"-e {bare(text)!r} is no SageMaker endpoint name",
            hint="for an HTTP server give http://…, for a function python:module:function",
        )
    raise ConfigError(
        f"-e {bare(text)[:80]!r} is no SageMaker endpoint name",
        hint="a name has up to 63 letters, digits and hyphens, and begins and ends without a hyphen",
    )


def _options(request: RequestConfig) -> dict[str, str]:
    """The options given; what the service would refuse is refused here."""
    found = {}
    for option, name, longest, pattern in _PARAMETERS:
        value = getattr(request, option)
        if value is None:
            continue
        if len(value) > longest:
            raise ConfigError(
                f"{flag(option)} has {len(value)} characters", hint=f"{name} takes at most {longest}"
            )
        if not pattern.fullmatch(value):
            raise ConfigError(
                f"{flag(option)} {value!r} has characters that {name} does not take",
                hint="letters, digits and hyphens" if pattern is not _TEXT else "printable ASCII",
            )
        found[name] = value
    if request.content_type is not None and len(request.content_type) > _CONTENT_TYPE_LENGTH:
        raise ConfigError(
            f"--content-type has {len(request.content_type)} characters",
            hint=f"ContentType takes at most {_CONTENT_TYPE_LENGTH}",
        )
    return found
