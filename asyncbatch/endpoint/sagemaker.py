"""A SageMaker real-time endpoint: InvokeEndpoint with every option under its AWS name.

The endpoint object checks and names things; how an invocation is signed and sent is its transport's business.
Whoever signs, the bytes go through the same HTTP client as to any other server: so reading is bounded, redirects are
not followed, and what fails is known as precisely.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from asyncbatch.aws import AwsSession
from asyncbatch.config import RunConfig
from asyncbatch.endpoint.boto import BotoTransport, host_of, service_url
from asyncbatch.endpoint.clock import ClockOffset, amz_date
from asyncbatch.endpoint.control_plane import ControlPlane
from asyncbatch.endpoint.direct import DirectTransport
from asyncbatch.endpoint.invocation import HEADERS, invocation_parameters
from asyncbatch.endpoint.network import is_loopback
from asyncbatch.errors import ConfigError, InvocationError, StoppedError
from asyncbatch.model import BytesPayload, Failure, ModelDescription, Payload, Reply, Undescribed


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
    def aws(self) -> AwsSession | None:
        """Once open: where the credentials come from."""
        ...

    @property
    def signed(self) -> bool: ...

    @property
    def region(self) -> str | None: ...

    @property
    def advice(self) -> tuple[str, ...]: ...

    @property
    def decided(self) -> tuple[str, ...]:
        """How requests are sent, and why."""
        ...


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
        self._clock = ClockOffset()
        boto = BotoTransport(config, parameters=parameters, session=session, clock=self._clock)
        direct = config.speed.transport == "direct"
        self._transport: InvocationTransport = DirectTransport(boto, clock=self._clock) if direct else boto
        self._refreshing = asyncio.Lock()
        self._renewals = 0
        self._control_plane: ControlPlane | None = None

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

    @property
    def decided(self) -> tuple[str, ...]:
        """How requests are sent, and why; complete after `open`."""
        return self._transport.decided

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
        renewals = self._renewals
        try:
            return await self._transport.invoke(payload, timeout_s=timeout_s)
        except InvocationError as error:
            error.failure = replace(error.failure, renewals=renewals)
            raise

    async def refresh_credentials(self, failure: Failure) -> str | None:
        """Correct the clock, or look for new credentials, after `failure`. All requests share what is found.

        A request that was signed before the last renewal says nothing about it: it is only to be sent again.

        Raises:
            StoppedError: there are no new credentials; the hint says what to do.
        """
        async with self._refreshing:
            if failure.renewals < self._renewals:
                return None
            if self._clock.learn(failure):
                self._renewals += 1
                return f"{self._clock.describe()}; requests are signed with the time of the service"
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
            self._renewals += 1
            return None

    async def describe_model(self) -> ModelDescription | Undescribed:
        """See `protocols.DescribesModel`; once open."""
        aws, region = self._transport.aws, self._transport.region
        if aws is None or region is None:
            return Undescribed(reason="the endpoint is not open", lasting=False)
        if self._control_plane is None:
            url = service_url(self._config.endpoint.endpoint_url)
            self._control_plane = ControlPlane(
                name=self._name, service_url=url, at_home=is_loopback(host_of(url))
            )
        return await self._control_plane.describe(
            aws,
            region=region,
            signed=self._transport.signed,
            amz_date=amz_date(self._clock.now()) if self._clock.seconds else None,
        )

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._transport.aclose()
