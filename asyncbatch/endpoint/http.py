"""Any HTTP model server: POST the body, take the reply."""

import asyncio
import os
import re
import ssl
from collections.abc import Mapping, Sequence

from yarl import URL

from asyncbatch._version import __version__
from asyncbatch.config import RunConfig
from asyncbatch.endpoint.headers import extra_headers
from asyncbatch.endpoint.network import bare, is_loopback, tls_context
from asyncbatch.endpoint.refusals import read_refusal
from asyncbatch.endpoint.target import Target, header_lines, host_header, target
from asyncbatch.endpoint.wire import Wire, make_wire
from asyncbatch.errors import ConfigError, InvocationError
from asyncbatch.model import BytesPayload, Payload, Reply
from asyncbatch.option import flag
from asyncbatch.units import SECRET_NAMES

_SAGEMAKER_OPTIONS = {
    "target_model": "X-Amzn-SageMaker-Target-Model",
    "target_variant": "X-Amzn-SageMaker-Target-Variant",
    "target_container_hostname": "X-Amzn-SageMaker-Target-Container-Hostname",
    "inference_component_name": "X-Amzn-SageMaker-Inference-Component",
    "custom_attributes": "X-Amzn-SageMaker-Custom-Attributes",
    "enable_explanations": "X-Amzn-SageMaker-Enable-Explanations",
    "inference_id": "X-Amzn-SageMaker-Inference-Id",
    "session_id": "X-Amzn-SageMaker-Session-Id",
}
_SAGEMAKER_URL = re.compile(r"runtime\.sagemaker[.-].*\.amazonaws\.com")


class HttpEndpoint:
    """An `http(s)://` endpoint. Rows go to the URL given and nowhere else: no redirects, no cookies."""

    takes_batches = False

    def __init__(self, config: RunConfig) -> None:
        """Check URL and options; opens nothing.

        Raises:
            ConfigError: no usable URL, or options that mean nothing to an HTTP server.
        """
        self._config = config
        self._url = _checked_url(config.endpoint.endpoint)
        self._name = shown_url(self._url)
        self._wire: Wire | None = None
        self._headers: dict[str, str] = {}
        self._target: Target | None = None
        self._content_types: dict[str, bytes] = {}
        for option, header in _SAGEMAKER_OPTIONS.items():
            if getattr(config.request, option) is not None:
                raise ConfigError(
                    f"{flag(option)} is for SageMaker endpoints, and {self._name} is an HTTP server",
                    hint=f"-H '{header}: …' sends it as a header",
                )

    @property
    def name(self) -> str:
        """The URL, without user and with the values of secret-looking query parameters left out."""
        return self._name

    @property
    def identity(self) -> Mapping[str, str | None]:
        """The URL is the endpoint."""
        return {"kind": "http", "name": self._name}

    @property
    def max_body_bytes(self) -> int:
        """`--max-payload`."""
        return self._config.speed.max_payload

    @property
    def advice(self) -> tuple[str, ...]:
        """What to know before rows are sent."""
        if self._url.scheme == "http" and not is_loopback(self._url.host):
            what = "rows and headers" if self._config.request.header else "rows"
            return (f"{what} go to {self._url.host} unencrypted; use https:// beyond this machine",)
        return ()

    async def open(self, *, concurrency: int) -> None:
        """Read header values and certificates, and make the pool; sends nothing.

        Raises:
            ConfigError: a header's variable or file, or the CA bundle, cannot be read.
        """
        request = self._config.request
        headers = {"User-Agent": f"asyncbatch/{__version__}", "Accept-Encoding": "gzip, deflate"}
        if request.accept is not None:
            headers["Accept"] = request.accept
        for name, value in extra_headers(request):
            # The last of one name, whatever its case, is the one that is sent.
            headers = {each: headers[each] for each in headers if each.lower() != name.lower()} | {
                name: value
            }
        self._headers = headers
        self._target = target(self._url, tuple(headers.items()))
        trust: ssl.SSLContext | None = None
        if self._url.scheme == "https":
            bundle = self._config.endpoint.ca_bundle or os.environ.get("AWS_CA_BUNDLE")
            trust = await asyncio.to_thread(tls_context, bundle)
        self._wire = make_wire(
            self._url,
            concurrency=concurrency,
            max_reply_bytes=self._config.speed.max_reply,
            connect_timeout_s=self._config.failure.connect_timeout,
            trust=trust,
            decompress=True,
        )

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        """POST one body, once.

        Raises:
            InvocationError: anything but a complete 2xx reply.
        """
        assert self._wire is not None, "open() comes first"
        assert self._target is not None
        assert isinstance(payload, BytesPayload), "an HTTP endpoint takes bytes"
        content_type = self._content_types.get(payload.content_type)
        if content_type is None:
            content_type = header_lines([("Content-Type", payload.content_type)])
            self._content_types[payload.content_type] = content_type
        reply = await self._wire.post(
            self._target,
            headers=content_type,
            pieces=payload.pieces,
            nbytes=payload.nbytes,
            timeout_s=timeout_s,
        )
        if not 200 <= reply.status < 300:
            raise InvocationError(read_refusal(reply.status, reply.headers, reply.body, aws=False))
        headers = reply.headers
        return Reply(
            body=reply.body,
            content_type=headers.get("content-type", ""),
            variant=headers.get("x-amzn-invoked-production-variant", ""),
            headers=headers,
            times=reply.times,
        )

    def request_head(self, payload: BytesPayload) -> tuple[str, Sequence[tuple[str, str]]]:
        """What is sent before the body; the values of `-H` are secrets."""
        secret = {source.name.lower() for source in self._config.request.header}
        headers = [("Host", host_header(self._url))]
        headers += [(name, "…" if name.lower() in secret else value) for name, value in self._headers.items()]
        headers += [("Content-Type", payload.content_type), ("Content-Length", str(payload.nbytes))]
        return f"POST {shown_path(self._url)}", headers

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.aclose()


def _checked_url(text: str) -> URL:
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError as error:
        raise ConfigError(
            f"-e {bare(text)!r} is no URL: {error}", hint="give http://host:port/path"
        ) from error
    if not host or port is None or any(character.isspace() for character in text):
        raise ConfigError(f"-e {bare(text)!r} is no URL with a host", hint="give http://host:port/path")
    if _SAGEMAKER_URL.search(host):
        parts = url.path.split("/")
        name = parts[2] if len(parts) > 2 and parts[1] == "endpoints" else "NAME"
        raise ConfigError(
            "a SageMaker address needs signed requests, and -e http(s)://… sends plain ones",
            hint=f"give the endpoint's name alone: -e {name} --region REGION",
        )
    return url.with_fragment(None)


def shown_url(url: URL) -> str:
    """A URL as it may be printed and stored: no user, no values of parameters that look like secrets."""
    shown = url.with_user(None) if url.user or url.password else url
    return str(shown.with_query(None).with_fragment(None)) + _shown_query(url)


def shown_path(url: URL) -> str:
    """Path and query of a URL as they may be printed."""
    return url.raw_path + _shown_query(url)


def _shown_query(url: URL) -> str:
    query = [(name, "…" if SECRET_NAMES.search(name) else value) for name, value in url.query.items()]
    return "?" + "&".join(f"{name}={value}" for name, value in query) if query else ""
