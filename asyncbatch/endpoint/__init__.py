"""What is invoked: a SageMaker endpoint, an HTTP model server, or a Python callable, behind one Protocol."""

from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.protocols import Endpoint

__all__ = ["make_endpoint"]


def make_endpoint(config: RunConfig, *, session: object | None = None) -> Endpoint:
    """The endpoint that `--endpoint` names: `python:module:function`, `http(s)://…`, else a SageMaker name.

    Checks names and options; connects nothing, and imports only what that kind of endpoint needs.

    Args:
        session: a boto3 session for SageMaker, instead of the one that the options describe.

    Raises:
        ConfigError: no endpoint, a malformed name or URL, or options that do not fit that kind.
    """
    text = config.endpoint.endpoint
    if not text:
        raise ConfigError(
            "no endpoint is given", hint="give -e NAME, -e http://host:port/path or -e python:module:function"
        )
    sagemaker = not text.lower().startswith(("python:", "http://", "https://"))
    if not sagemaker and config.speed.transport == "aioboto3":
        raise ConfigError("--transport aioboto3 is for SageMaker endpoints", hint="leave it out")
    if text.startswith("python:"):
        from asyncbatch.endpoint.callable import CallableEndpoint

        return CallableEndpoint(config)
    if text.lower().startswith(("http://", "https://")):
        from asyncbatch.endpoint.http import HttpEndpoint

        return HttpEndpoint(config)
    from asyncbatch.endpoint.sagemaker import SageMakerEndpoint

    return SageMakerEndpoint(config, session=session)
