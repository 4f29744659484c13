"""Invocations by aioboto3, and what it says of credentials, addresses and proxies."""

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from yarl import URL

from asyncbatch._version import __version__
from asyncbatch.aws import AwsSession, aws_session, credential_errors, custom_hooks, sign_at
from asyncbatch.config import RunConfig
from asyncbatch.endpoint.clock import ClockOffset, amz_date
from asyncbatch.endpoint.headers import extra_headers
from asyncbatch.endpoint.network import bare, is_loopback, proxy_for, tls_context
from asyncbatch.endpoint.refusals import read_refusal
from asyncbatch.endpoint.reply import WireReply
from asyncbatch.endpoint.sigv4 import Keys
from asyncbatch.endpoint.target import target
from asyncbatch.endpoint.wire import Wire, make_wire
from asyncbatch.errors import ConfigError, InvocationError
from asyncbatch.model import BytesPayload, Failure, Reply, Transport

_OPERATION = "sagemaker-runtime.InvokeEndpoint"
_SIGNED = frozenset(
    ("host", "authorization", "user-agent", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRequest:
    """A request that is ready to be sent."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The header's value; empty if there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


class _RehearsedError(Exception):
    """Takes a request out of the SDK before it is sent."""

    def __init__(self, request: BuiltRequest) -> None:
        super().__init__()
        self.request = request


class BotoTransport:
    """Invocations by aioboto3: its credentials, addresses, serializer, signer and event hooks.

    The reply comes through a `before-send` hook, botocore's own place for it. Its retries are off.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        parameters: Mapping[str, str],
        session: object | None,
        clock: ClockOffset,
    ) -> None:
        """`clock` says what time to sign with; who sees a refused signature corrects it."""
        self._config = config
        self._parameters = parameters
        self._given_session = session
        self._clock = clock
        self._wire: Wire | None = None
        self._client: Any = None
        self._frozen: Any = None
        self._aws: AwsSession | None = None
        self._stack = AsyncExitStack()
        self._advice: tuple[str, ...] = ()
        self._headers: tuple[tuple[str, str], ...] = ()
        self._concurrency = 1
        self._rehearsing: asyncio.Task[Any] | None = None

    @property
    def aws(self) -> AwsSession | None:
        """Once open: where the credentials come from."""
        return self._aws

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

    @property
    def decided(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()

    @property
    def wire(self) -> Wire:
        """Once open: what requests are sent through."""
        assert self._wire is not None, "open() comes first"
        return self._wire

    async def open(self, *, concurrency: int) -> None:
        """See `InvocationTransport`."""
        self._concurrency = concurrency
        self._headers = extra_headers(self._config.request, also_ours=_SIGNED)
        aws = await self._connect()
        url = URL(self._client.meta.endpoint_url)
        trust: ssl.SSLContext | None = None
        if url.scheme == "https":
            trust = await asyncio.to_thread(_trust, aws.ca_bundle)
        self._wire = make_wire(
            url,
            concurrency=concurrency,
            max_reply_bytes=self._config.speed.max_reply,
            connect_timeout_s=self._config.failure.connect_timeout,
            trust=trust,
            decompress=False,
            proxy=self._proxy(url),
        )
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

    def why_not_direct(self) -> str:
        """Once open: what only the SDK can do here; empty if there is nothing."""
        if self._proxy(URL(self._client.meta.endpoint_url)) is not None:
            return "a proxy is set"
        if hooks := custom_hooks(self._client.meta.events, _OPERATION):
            return f"the session has an event hook of its own, for {hooks[0][0].split('.', 1)[0]}"
        return ""

    async def keys(self) -> Keys | None:
        """The credentials to sign with now, renewed where they are near their end; None: requests are not signed.

        Raises:
            InvocationError: they cannot be had.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        if self._frozen is None or self._aws is None:
            return None
        try:
            credentials = await self._aws.session.get_credentials()
            frozen = await credentials.get_frozen_credentials()
        except (
            BotoCoreError,
            ClientError,
            RuntimeError,
        ) as error:  # RuntimeError: renewed keys have expired too
            raise InvocationError(_unsent(error)) from error
        return Keys(access_key=frozen.access_key, secret_key=frozen.secret_key, token=frozen.token or None)

    async def rehearse(self) -> BuiltRequest:
        """An invocation with an empty body as the SDK builds and signs it. It is not sent.

        Raises:
            InvocationError: the SDK cannot build one.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        self._rehearsing = asyncio.current_task()
        try:
            await self._client.invoke_endpoint(**self._parameters, ContentType="text/csv", Body=b"")
        except _RehearsedError as rehearsed:
            return rehearsed.request
        except (BotoCoreError, ClientError) as error:
            raise InvocationError(_unsent(error)) from error
        finally:
            self._rehearsing = None
        raise AssertionError("the request was sent")

    async def refresh(self) -> bool:
        """See `InvocationTransport`."""
        before, old = self._frozen, self._stack
        self._stack = AsyncExitStack()
        try:
            await self._connect()
        finally:
            await old.aclose()  # its client sends nothing itself, so requests under way do not miss it
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

        at_home = is_loopback(host_of(service_url(options.endpoint_url)))
        signing: dict[str, Any] = {}
        frozen: Any = None  # others sign with those of before until the new ones are here
        if at_home and self._given_session is None and not _looks_configured(aws):
            # A local stand-in needs no account; looking for credentials would ask the network for seconds.
            signing["signature_version"] = UNSIGNED
        else:
            await aws.check_credentials()
            with credential_errors(aws.profile):
                frozen = await (await aws.session.get_credentials()).get_frozen_credentials()
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
        events, operation = client.meta.events, _OPERATION
        events.register(f"before-send.{operation}", self._send)
        if self._headers:
            events.register(f"before-sign.{operation}", self._add_headers)
        if frozen is not None:
            events.register_first(f"choose-signer.{operation}", self._choose_signer)
            events.register_last(f"before-sign.{operation}", self._sign)
        self._client, self._aws, self._frozen = client, aws, frozen
        return aws

    def _add_headers(self, request: Any, **_more: object) -> None:
        """Before the signature is made, so that it covers them."""
        for name, value in self._headers:
            del request.headers[name]
            request.headers[name] = value

    def _choose_signer(self, **_more: object) -> Any:
        """None leaves it to botocore, whose signer knows the local clock only."""
        from botocore import UNSIGNED

        return UNSIGNED if self._clock.seconds else None

    async def _sign(
        self, request: Any, request_signer: Any, signing_name: str, region_name: str, **_more: object
    ) -> None:
        """Sign with the corrected clock, where botocore was told not to."""
        if not self._clock.seconds:
            return
        signer = await request_signer.get_auth_instance(signing_name, region_name)
        sign_at(
            request,
            signer.credentials,
            service=signing_name,
            region=region_name,
            amz_date=amz_date(self._clock.now()),
        )

    async def _send(self, request: Any, **_more: object) -> Any:
        """Send botocore's signed request; refusals are read here, 2xx replies go back to botocore."""
        from aiobotocore.awsrequest import AioAWSResponse

        headers = [
            (name, value.decode() if isinstance(value, bytes) else str(value))
            for name, value in request.headers.items()
        ]
        # Others send theirs meanwhile: keys are renewed while requests are under way.
        if self._rehearsing is not None and self._rehearsing is asyncio.current_task():
            raise _RehearsedError(
                BuiltRequest(url=request.url, headers=tuple(headers), body=request.body or b"")
            )
        headers = [each for each in headers if each[0].lower() not in ("content-length", "accept-encoding")]
        headers.append(("Accept-Encoding", "identity"))
        body = request.body or b""
        reply = await self.wire.post(
            target(URL(request.url, encoded=True), headers),
            pieces=(body,),
            nbytes=len(body),
            timeout_s=None,  # the whole invocation, signing included, has its own deadline
        )
        if not 200 <= reply.status < 300:
            raise InvocationError(read_refusal(reply.status, reply.headers, reply.body, aws=True))
        raw: Any = _Raw(request.url, reply)
        headers_read: Any = reply.headers
        return AioAWSResponse(request.url, reply.status, headers_read, raw)

    def _proxy(self, url: URL) -> str | None:
        """The proxy by the SDK's configuration, or the environment."""
        configured = (self._client.meta.config.proxies or {}).get(url.scheme)
        return configured or proxy_for(url)

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


def _trust(ca_bundle: str | None) -> ssl.SSLContext:
    """Beside the system's certificates those that botocore brings, for machines that have none."""
    from botocore.httpsession import get_cert_path

    return tls_context(ca_bundle, more=None if ca_bundle else get_cert_path(True))


def service_url(given: str | None) -> str | None:
    """Where another service than AWS is named, as botocore looks for it."""
    return (
        given
        or os.environ.get("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME")
        or os.environ.get("AWS_ENDPOINT_URL")
        or None
    )


def host_of(url: str | None) -> str | None:
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
