"""Invocations without the SDK on their way: signed here, sent over our own wire.

aioboto3 says once, when the endpoint is opened, what an invocation looks like: it builds and signs one that is not sent.
Address, headers, signing region and name come from that, so partitions, FIPS and dual-stack hosts, profiles and service
addresses are as the SDK resolves them. Only if our signature for it is the SDK's own do invocations go without it.
Measured: 0.68 ms of CPU a request with aioboto3, 0.04 ms without.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from yarl import URL

from asyncbatch.aws import AwsSession
from asyncbatch.endpoint.boto import BotoTransport, BuiltRequest
from asyncbatch.endpoint.clock import ClockOffset
from asyncbatch.endpoint.refusals import read_refusal
from asyncbatch.endpoint.sigv4 import Keys, RequestSigner, payload_hash
from asyncbatch.endpoint.target import Target, host_header, target
from asyncbatch.errors import InvocationError
from asyncbatch.model import BytesPayload, Failure, Reply, Transport

_LOOK_S = 1.0
"""How often the credentials are asked whether they are to be renewed; botocore begins 15 minutes ahead of their end."""
_HASH_INLINE_BYTES = 1_048_576
"""Hashing takes 0.8 ms a MB; beyond this it is done in a thread, without the interpreter lock."""
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/,]+/\d{8}/(?P<region>[^/,]*)/(?P<service>[^/,]*)/aws4_request, "
    r"SignedHeaders=(?P<names>[^, ]+), Signature=[0-9a-f]{64}"
)
_OURS = frozenset(
    ("authorization", "x-amz-date", "x-amz-security-token", "content-type", "content-length", "accept-encoding",
     "amz-sdk-invocation-id", "amz-sdk-request")
)  # fmt: skip
"""Headers that differ from request to request, and what the SDK says of its own attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What all invocations have in common, as the SDK built it."""

    url: URL
    headers: tuple[tuple[str, str], ...]
    """But those of the signature, the body and the attempt."""
    signed: frozenset[str]
    """Names of the headers that a signature covers, in lower case; empty: requests are not signed."""
    region: str
    service: str


class DirectTransport:
    """Signs and sends invocations itself, or lets aioboto3 do it where it must; `decided` says why."""

    def __init__(self, boto: BotoTransport, *, clock: ClockOffset) -> None:
        """`boto` is the built client; `clock` says what time to sign with."""
        self._boto = boto
        self._clock = clock
        self._scheme: Scheme | None = None
        self._keys: Keys | None = None
        self._look_again_s = float("-inf")
        self._prepared: dict[str, tuple[Target, RequestSigner | None]] = {}
        self._decided = ""

    @property
    def aws(self) -> AwsSession | None:
        """Once open: where the credentials come from."""
        return self._boto.aws

    @property
    def signed(self) -> bool:
        """Once open: whether requests carry a signature."""
        return self._boto.signed

    @property
    def region(self) -> str | None:
        """As given; once open, as resolved."""
        return self._boto.region

    @property
    def advice(self) -> tuple[str, ...]:
        """What `open` found to say."""
        return self._boto.advice

    @property
    def decided(self) -> tuple[str, ...]:
        """Once open: how requests are sent, and why."""
        return (self._decided,) if self._decided else ()

    async def open(self, *, concurrency: int) -> None:
        """See `InvocationTransport`."""
        await self._boto.open(concurrency=concurrency)
        await self._agree()

    async def invoke(self, payload: BytesPayload, *, timeout_s: float) -> Reply:
        """See `InvocationTransport`."""
        if self._scheme is None:
            return await self._boto.invoke(payload, timeout_s=timeout_s)
        if self._keys is not None and time.monotonic() >= self._look_again_s:
            await self._look(timeout_s)
        prepared = self._prepared.get(payload.content_type)
        if prepared is None:
            prepared = self._prepared[payload.content_type] = self._prepare(
                self._scheme, payload.content_type
            )
        address, signer = prepared
        headers = b""
        if signer is not None:
            if payload.nbytes > _HASH_INLINE_BYTES:
                body_hash = await asyncio.to_thread(payload_hash, payload.pieces)
            else:
                body_hash = payload_hash(payload.pieces)
            date, authorization = signer.sign(body_hash, now_s=self._clock.now())
            headers = f"X-Amz-Date: {date}\r\nAuthorization: {authorization}\r\n".encode()
        reply = await self._boto.wire.post(
            address, headers=headers, pieces=payload.pieces, nbytes=payload.nbytes, timeout_s=timeout_s
        )
        if not 200 <= reply.status < 300:
            raise InvocationError(read_refusal(reply.status, reply.headers, reply.body, aws=True))
        return Reply(
            body=reply.body,
            content_type=reply.headers.get("content-type", ""),
            variant=reply.headers.get("x-amzn-invoked-production-variant", ""),
            headers=reply.headers,
            times=reply.times,
        )

    async def refresh(self) -> bool:
        """See `InvocationTransport`."""
        renewed = await self._boto.refresh()
        await self._agree()
        return renewed

    async def aclose(self) -> None:
        """See `InvocationTransport`."""
        await self._boto.aclose()

    # -- what the SDK says -----------------------------------------------------------------------------------------

    async def _agree(self) -> None:
        """Take over from the SDK if it would send what we would."""
        self._prepared.clear()
        self._look_again_s = float("-inf")
        self._scheme = None
        reason = self._boto.why_not_direct() or await self._differs()
        if reason:
            self._decided = f"--transport aioboto3, which is slower: {reason}"
        else:
            self._decided = "--transport direct: requests are signed and sent without the SDK"

    async def _differs(self) -> str:
        """Why the SDK's requests are not ours; empty if they are, and `_scheme` and `_keys` are set then."""
        for _ in range(2):  # credentials may be renewed in between
            before = await self._boto.keys()
            built = await self._boto.rehearse()
            keys = await self._boto.keys()
            if keys == before:
                break
        scheme = read_scheme(built)
        if scheme is None or (scheme.signed and keys is None):
            return "the SDK signs requests in another way than Signature Version 4"
        if scheme.signed:
            assert keys is not None
            content_type = built.header("content-type")
            _, signer = _prepare(scheme, keys, content_type)
            assert signer is not None
            sent_at = datetime.strptime(built.header("x-amz-date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            ours = signer.sign(payload_hash([built.body]), now_s=sent_at.timestamp())
            if ours != (built.header("x-amz-date"), built.header("authorization")):
                return "the SDK's signature is another than ours"
        self._scheme, self._keys = scheme, keys
        return ""

    async def _look(self, timeout_s: float) -> None:
        """Ask for the credentials of now. One request does, the others go on with those of before."""
        self._look_again_s = time.monotonic() + _LOOK_S
        try:
            async with asyncio.timeout(timeout_s):
                keys = await self._boto.keys()
        except InvocationError:
            self._look_again_s = float("-inf")
            raise
        except TimeoutError as error:
            self._look_again_s = float("-inf")
            message = f"no AWS credentials within {timeout_s:g} s"
            raise InvocationError(Failure(transport=Transport.TIMEOUT, message=message)) from error
        if keys != self._keys:
            self._keys = keys
            self._prepared.clear()

    def _prepare(self, scheme: Scheme, content_type: str) -> tuple[Target, RequestSigner | None]:
        return _prepare(scheme, self._keys, content_type)


def read_scheme(built: BuiltRequest) -> Scheme | None:
    """What the SDK's request says of all requests; None if it is signed otherwise than by SigV4 in headers."""
    authorization = built.header("authorization")
    found = _AUTHORIZATION.fullmatch(authorization)
    if found is None and (authorization or "X-Amz-Signature" in built.url):
        return None
    headers = tuple((name, value) for name, value in built.headers if name.lower() not in _OURS)
    return Scheme(
        url=URL(built.url, encoded=True),
        headers=headers,
        signed=frozenset(found["names"].split(";")) if found else frozenset(),
        region=found["region"] if found else "",
        service=found["service"] if found else "",
    )


def _prepare(scheme: Scheme, keys: Keys | None, content_type: str) -> tuple[Target, RequestSigner | None]:
    """What is sent with every body of one content type, and what signs it."""
    headers: Sequence[tuple[str, str]] = [*scheme.headers, ("Content-Type", content_type)]
    sent = [*headers, ("Accept-Encoding", "identity")]
    if keys is None or not scheme.signed:
        return target(scheme.url, sent), None
    if keys.token:
        sent.append(("X-Amz-Security-Token", keys.token))
    signer = RequestSigner(
        keys=keys,
        region=scheme.region,
        service=scheme.service,
        method="POST",
        host=host_header(scheme.url),
        path=scheme.url.raw_path,
        query=scheme.url.raw_query_string,
        headers=[(name, value) for name, value in headers if name.lower() in scheme.signed],
    )
    return target(scheme.url, sent), signer
