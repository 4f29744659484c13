"""A SageMaker real-time endpoint: InvokeEndpoint with every option under its AWS name.

The endpoint object checks and names things; how an invocation is signed and sent is its transport's business.
botocore builds, signs and reads the invocation, and the bytes go through the same HTTP client as to any other
server: so reading is bounded, redirects are not followed, and what fails is known as precisely.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from asyncbatch._version import __version__
from asyncbatch.aws import AwsSession, aws_session, credential_errors
from asyncbatch.config import RunConfig
from asyncbatch.endpoint.headers import extra_headers
from asyncbatch.endpoint.invocation import HEADERS, invocation_parameters
from asyncbatch.endpoint.network import bare, is_loopback, tls_context
from asyncbatch.endpoint.refusals import read_refusal
from asyncbatch.endpoint.wire import HttpWire, WireReply
from asyncbatch.errors import ConfigError, InvocationError, StoppedError
from asyncbatch.model import BytesPayload, Failure, Payload, Reply, Transport

_CLOCK_SKEW_S = 240.0
"""AWS takes signatures for 5 minutes."""

_SIGNED = frozenset(
    ("host", "authorization", "user-agent", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256")
)


class InvocationTransport(Protocol):
    """How invocations of one SageMaker endpoint are signed and sent."""

    async def open(self, *, concurrency: int) -> None:
        """Find region and credentials and make the pool; sends no invocation."""
        ...

    async def invoke(self, payload: BytesPayload, *, timeout_s: float) -> Reply:
        """One InvokeEndpoint, once; failures as `InvocationError`."""
        ...

    async def refresh(self) -> bool:
        """Look for new credentials; False if they are those of before."""
        ...

    async def aclose(self) -> None: ...

    @property
    def signed(self) -> bool: ...

    @property
    def region(self) -> str | None: ...

    @property
    def advice(self) -> tuple[str, ...]: ...


class SageMakerEndpoint:
    """An endpoint in SageMaker, by its name."""

    takes_batches = False

    def __init__(self, config: RunConfig, *, session: object | None = None) -> None:
        """Check name and options; imports no AWS library, opens nothing.

        Raises:
            ConfigError: a malformed name, an option too long, a body limit that SageMaker does not have.
        """
        parameters = invocation_parameters(config)
        self._config = config
        self._parameters = parameters
        self._name = parameters["EndpointName"]
        self._transport: InvocationTransport = BotoTransport(config, parameters=parameters, session=session)
        self._refreshing = asyncio.Lock()
        self._refreshes = 0

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._name

    @property
    def identity(self) -> Mapping[str, str | None]:
        """What must not change on resume. The region is known once it is open, the account never."""
        request = self._config.request
        return {
            "kind": "sagemaker",
            "name": self._name,
            "region": self._transport.region,
            "account": None,
            "variant": request.target_variant or "",
            "target_model": request.target_model or "",
            "component": request.inference_component_name or "",
            "container": request.target_container_hostname or "",
        }

    def request_head(self, payload: BytesPayload) -> tuple[str, Sequence[tuple[str, str]]]:
        """What is sent before the body, but for what botocore says of itself; signature and `-H` are secrets."""
        headers = [("Content-Type", payload.content_type), ("Content-Length", str(payload.nbytes))]
        headers += [(HEADERS[name], value) for name, value in self._parameters.items() if name in HEADERS]
        headers += [(source.name, "…") for source in self._config.request.header]
        if self._transport.signed:
            headers.append(("Authorization", "AWS4-HMAC-SHA256 …"))
        return f"POST /endpoints/{self._name}/invocations", headers

    @property
    def max_body_bytes(self) -> int:
        """`--max-payload`, by default the 6 MiB that every endpoint takes."""
        return self._config.speed.max_payload

    @property
    def advice(self) -> tuple[str, ...]:
        """What to know before rows are sent."""
        return self._transport.advice

    async def open(self, *, concurrency: int) -> None:
        """Find region and credentials and make the pool; sends no invocation.

        Raises:
            ConfigError: no region, no credentials, an unknown profile, an unreadable CA bundle or header.
        """
        await self._transport.open(concurrency=concurrency)

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        """One InvokeEndpoint, once.

        Raises:
            InvocationError: anything but a complete 2xx reply.
        """
        assert isinstance(payload, BytesPayload), "a SageMaker endpoint takes bytes"
        return await self._transport.invoke(payload, timeout_s=timeout_s)

    async def refresh_credentials(self, failure: Failure) -> None:
        """Look for new credentials after `failure`. Concurrent calls share one look.

        Raises:
            StoppedError: there are no new ones, or it is the clock; the hint says what to do.
        """
        seen = self._refreshes
        async with self._refreshing:
            if self._refreshes > seen:
                return
            if (skew_s := _clock_skew_s(failure)) is not None and abs(skew_s) > _CLOCK_SKEW_S:
                raise StoppedError(
                    f"the clock of this machine is {abs(skew_s) / 60:.0f} minutes "
                    f"{'slow' if skew_s > 0 else 'fast'}, so AWS refuses its signatures",
                    hint="set the clock, then run the same command again",
                )
            try:
                renewed = await self._transport.refresh()
            except ConfigError as error:
                raise StoppedError(
                    error.message, hint=f"{error.hint}, then the same command again"
                ) from error
            if not renewed:
                profile = self._config.endpoint.profile
                login = "aws sso login" + (f" --profile {profile}" if profile else "")
                raise StoppedError(
                    f"the AWS credentials are no longer taken: {failure.error_name}",
                    hint=f"run: {login} (or renew them as you got them), then the same command again",
                )
            self._refreshes += 1

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._transport.aclose()


class BotoTransport:
    """Invocations by aioboto3: its credentials, addresses, serializer, signer and event hooks.

    The reply comes through a `before-send` hook, botocore's own place for it. Its retries are off.
    """

    def __init__(self, config: RunConfig, *, parameters: Mapping[str, str], session: object | None) -> None:
        self._config = config
        self._parameters = parameters
        self._given_session = session
        self._wire: HttpWire | None = None
        self._client: Any = None
        self._frozen: Any = None
        self._stack = AsyncExitStack()
        self._advice: tuple[str, ...] = ()
        self._headers: tuple[tuple[str, str], ...] = ()
        self._concurrency = 1

    @property
    def signed(self) -> bool:
        """Once open: whether requests carry a signature."""
        return self._frozen is not None

    @property
    def region(self) -> str | None:
        """As given; once open, as resolved."""
        return self._client.meta.region_name if self._client is not None else self._config.endpoint.region

    @property
    def advice(self) -> tuple[str, ...]:
        """What `open` found to say."""
        return self._advice

    async def open(self, *, concurrency: int) -> None:
        """See `InvocationTransport`."""
        from yarl import URL

        self._concurrency = concurrency
        self._headers = extra_headers(self._config.request, also_ours=_SIGNED)
        aws = await self._connect()
        url = URL(self._client.meta.endpoint_url)
        trust: ssl.SSLContext | None = None
        if url.scheme == "https":
            trust = await asyncio.to_thread(_trust, aws.ca_bundle)
        wire = HttpWire(
            max_reply_bytes=self._config.speed.max_reply,
            connect_timeout_s=self._config.failure.connect_timeout,
            trust=trust,
            decompress=False,
        )
        await wire.open(url, concurrency=concurrency)
        self._wire = wire
        self._advice = tuple(self._notes(url.scheme, url.host))

    async def invoke(self, payload: BytesPayload, *, timeout_s: float) -> Reply:
        """See `InvocationTransport`."""
        from botocore.exceptions import BotoCoreError, ClientError

        assert self._client is not None, "open() comes first"
        # botocore hashes the body for the signature, so it needs it in one piece.
        pieces = payload.pieces
        body = pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._client.invoke_endpoint(
                    **self._parameters, ContentType=payload.content_type, Body=body
                )
                content = await answer["Body"].read()
        except TimeoutError as error:
            message = f"no complete reply within {timeout_s:g} s"
            raise InvocationError(Failure(transport=Transport.TIMEOUT, message=message)) from error
        except (BotoCoreError, ClientError) as error:
            raise InvocationError(_unsent(error)) from error
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return Reply(
            body=content,
            content_type=answer.get("ContentType", ""),
            variant=answer.get("InvokedProductionVariant", ""),
            headers=headers,
        )

    async def refresh(self) -> bool:
        """See `InvocationTransport`."""
        before = self._frozen
        await self._connect()
        return bool(self._frozen != before)

    async def aclose(self) -> None:
        """See `InvocationTransport`."""
        wire, self._wire = self._wire, None
        self._client = None
        if wire is not None:
            await wire.aclose()
        await self._stack.aclose()

    async def _connect(self) -> AwsSession:
        """A client with the credentials of now; it opens no connection of its own."""
        options = self._config.endpoint
        aws = await asyncio.to_thread(
            aws_session,
            region=options.region,
            profile=options.profile,
            ca_bundle=options.ca_bundle,
            session=self._given_session,
        )
        # The thread has imported botocore: here that would keep the event loop for 80 ms.
        from aiobotocore.config import AioConfig
        from botocore import UNSIGNED
        from botocore.exceptions import InvalidRegionError

        at_home = is_loopback(_host(_service_url(options.endpoint_url)))
        signing: dict[str, Any] = {}
        self._frozen = None
        if at_home and self._given_session is None and not _looks_configured(aws):
            # A local stand-in needs no account; looking for credentials would ask the network for seconds.
            signing["signature_version"] = UNSIGNED
        else:
            await aws.check_credentials()
            with credential_errors(aws.profile):
                self._frozen = await (await aws.session.get_credentials()).get_frozen_credentials()
        region = aws.region or "us-east-1" if at_home else aws.needed_region()
        config = AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=self._concurrency,
            connect_timeout=self._config.failure.connect_timeout,
            read_timeout=self._config.failure.request_timeout,
            parameter_validation=False,
            user_agent_extra=f"asyncbatch/{__version__}",
            **signing,
        )
        try:
            client = await self._stack.enter_async_context(
                aws.session.client(
                    "sagemaker-runtime",
                    region_name=region,
                    endpoint_url=options.endpoint_url,
                    verify=aws.ca_bundle,
                    config=config,
                )
            )
        except InvalidRegionError as error:
            raise ConfigError(f"--region {region!r} is no AWS region", hint="such as eu-central-1") from error
        client.meta.events.register("before-send.sagemaker-runtime.InvokeEndpoint", self._send)
        if self._headers:
            client.meta.events.register("before-sign.sagemaker-runtime.InvokeEndpoint", self._add_headers)
        self._client = client
        return aws

    def _add_headers(self, request: Any, **_more: object) -> None:
        """Before the signature is made, so that it covers them."""
        for name, value in self._headers:
            del request.headers[name]
            request.headers[name] = value

    async def _send(self, request: Any, **_more: object) -> Any:
        """Send botocore's signed request; refusals are read here, 2xx replies go back to botocore."""
        from aiobotocore.awsrequest import AioAWSResponse
        from multidict import CIMultiDict
        from yarl import URL

        assert self._wire is not None, "the endpoint is closed"
        headers: CIMultiDict[str] = CIMultiDict()
        for name, value in request.headers.items():
            headers[name] = value.decode() if isinstance(value, bytes) else str(value)
        headers["Accept-Encoding"] = "identity"
        body = request.body or b""
        reply = await self._wire.post(
            URL(request.url, encoded=True),
            headers=headers,
            pieces=(body,),
            nbytes=len(body),
            timeout_s=None,  # the whole invocation, signing included, has its own deadline
        )
        if not 200 <= reply.status < 300:
            raise InvocationError(read_refusal(reply.status, reply.headers, reply.body, aws=True))
        raw: Any = _Raw(request.url, reply)
        headers_read: Any = reply.headers
        return AioAWSResponse(request.url, reply.status, headers_read, raw)

    def _notes(self, scheme: str, host: str | None) -> list[str]:
        notes = []
        if scheme == "http" and not is_loopback(host):
            notes.append(f"rows go to {host} unencrypted; use https:// beyond this machine")
        if self._frozen is None:
            notes.append(f"no AWS credentials are set, so requests to {host} are not signed")
        dropped = [name for name, _ in self._headers if not name.lower().startswith("x-amzn-sagemaker-")]
        if dropped and self._config.endpoint.endpoint_url is None:
            notes.append(f"SageMaker does not pass on other headers than its own, such as {dropped[0]}")
        return notes


class _Raw:
    """A body already read, as aiobotocore reads one."""

    def __init__(self, url: str, reply: WireReply) -> None:
        self.url = url
        self._body = reply.body

    @property
    def content(self) -> "_Raw":
        return self

    async def read(self, amount: int = -1) -> bytes:
        """All that is left, or `amount` bytes of it."""
        end = len(self._body) if amount < 0 else amount
        found, self._body = self._body[:end], self._body[end:]
        return found


def _unsent(error: Exception) -> Failure:
    """botocore's own errors, as they arise before anything is sent: nearly always the credentials."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        message = f"{error.operation_name} answered {code}"
        return Failure(error_name="CredentialRetrievalError", message=message)
    return Failure(error_name=type(error).__name__, message="AWS credentials or reply could not be used")


def _clock_skew_s(failure: Failure) -> float | None:
    """How many seconds the server's clock is ahead of ours."""
    try:
        server = parsedate_to_datetime(failure.server_date)
    except (TypeError, ValueError):
        return None
    if server.tzinfo is None:
        server = server.replace(tzinfo=UTC)
    return (server - datetime.now(UTC)).total_seconds()


def _trust(ca_bundle: str | None) -> ssl.SSLContext:
    """Beside the system's certificates those that botocore brings, for machines that have none."""
    from botocore.httpsession import get_cert_path

    return tls_context(ca_bundle, more=None if ca_bundle else get_cert_path(True))


def _service_url(given: str | None) -> str | None:
    """Where another service than AWS is named, as botocore looks for it."""
    return (
        given
        or os.environ.get("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME")
        or os.environ.get("AWS_ENDPOINT_URL")
        or None
    )


def _host(url: str | None) -> str | None:
    from yarl import URL

    if url is None:
        return None
    try:
        host, user = URL(url).host, URL(url).user
    except ValueError:
        host = user = None
    if not host or not url.startswith(("http://", "https://")):
        raise ConfigError(f"--endpoint-url {bare(url)!r} is no URL", hint="give http(s)://host:port")
    if user is not None:
        raise ConfigError(
            "--endpoint-url holds a user name, which requests to SageMaker do not carry",
            hint="leave it out: requests are signed with AWS credentials",
        )
    return host


def _looks_configured(aws: AwsSession) -> bool:
    """Whether environment or configuration name credentials; asks no network."""
    if aws.profile or any(os.environ.get(name) for name in _CREDENTIAL_VARIABLES):
        return True
    return bool(aws.session.available_profiles)


_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
