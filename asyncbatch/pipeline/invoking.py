"""One request: the payload of some rows, the reply, its decoding. Failures come back as values; nothing is retried here."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.to_thread

from asyncbatch.control.failures import Action, Verdict, classify
from asyncbatch.errors import InvocationError, ReplyError
from asyncbatch.model import (
    SUCCESS,
    Failure,
    Kind,
    Outcome,
    Payload,
    Reply,
    Sample,
    Transport,
    Values,
    WireTimes,
)
from asyncbatch.pipeline.blocks import Work
from asyncbatch.pipeline.saying import said
from asyncbatch.protocols import Decoder, Encoder, Endpoint, RefreshesCredentials, TakesTime

if TYPE_CHECKING:
    import pyarrow as pa

_DECODERS = 2
_UNREADABLE = "UnreadableReply"
_DECODE_INLINE_BYTES = 100_000
"""Decoding this much takes about a millisecond; a thread hop costs an eighth of that, so larger replies get one."""


class Answer(NamedTuple):
    """A decoded reply. One is made for each request, a tuple in half the time of a frozen dataclass."""

    columns: tuple[Values, ...]
    variant: str
    sample: Sample
    received_s: float
    """When the reply was complete; decoding follows."""
    times: WireTimes | None = None
    """Where the endpoint can tell."""

    @property
    def steers(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A failed invocation and what it means."""

    failure: Failure
    verdict: Verdict
    sample: Sample
    payload: Payload
    """What was sent: messages leave out what quotes it."""
    note: str | None = None
    """What people should know of how it was mended."""

    @property
    def steers(self) -> bool:
        """Whether it says something about the endpoint: a login that ran out does not."""
        return self.verdict.action is not Action.REFRESH_CREDENTIALS


class Invoker:
    """Sends pieces of work to one endpoint and decodes its replies."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        encoder: Encoder,
        decoder: Decoder,
        timeout_s: float,
        clock: Callable[[], float],
        good_rows: "pa.Table | None",
        names: Collection[str] = (),
    ) -> None:
        """`names`: the columns sent, which messages may hold."""
        self._endpoint = endpoint
        self._encoder = encoder
        self._decoder = decoder
        self._timeout_s = timeout_s
        self._clock = clock
        self._good_rows = good_rows
        self._names = names
        slow = isinstance(decoder, TakesTime) and decoder.slow
        self._inline_bytes = 0 if slow else _DECODE_INLINE_BYTES
        # Decoding holds the interpreter lock, and its intermediate values are larger than the reply: few at a time.
        self._decoders = anyio.CapacityLimiter(_DECODERS)

    @property
    def has_good_rows(self) -> bool:
        """Whether rows are known that the endpoint has answered."""
        return self._good_rows is not None

    async def invoke(self, work: Work) -> Answer | Refusal:
        """Send `work` once (twice where a kept-alive connection turned out to be closed) and decode the reply."""
        # What most requests need is done here: a coroutine each for payload, sending and decoding costs a microsecond.
        block = work.block
        if block is not None and not work.padded and block.encoded.sliceable:
            payload, rows = block.encoded.payload(work.start, work.stop), work.stop - work.start
        else:
            payload, rows = await self._payload(work)
        started_s = self._clock()
        try:
            try:
                reply = await self._endpoint.invoke(payload, timeout_s=self._timeout_s)
            except InvocationError as error:
                # A stale keep-alive: the server closed the connection while it was idle, so it never saw the request.
                if error.failure.transport is not Transport.RESET or not error.failure.reused_connection:
                    raise
                reply = await self._endpoint.invoke(payload, timeout_s=self._timeout_s)
            received_s = self._clock()
            if reply.result is None and len(reply.body) <= self._inline_bytes:
                columns = self._decoder.decode(reply, rows)
            else:
                columns = await anyio.to_thread.run_sync(
                    self._decoder.decode, reply, rows, limiter=self._decoders
                )
        except InvocationError as error:
            failure = error.failure
        except ReplyError as error:
            if getattr(error, "kind", "") == "type" and not _is_page(reply):
                raise
            failure = Failure(error_name=_UNREADABLE, message=error.message)
        else:
            if work.padded or block is None:
                columns = tuple(values[: work.rows] for values in columns)
            sample = self._sample(work, payload, started_s, SUCCESS)
            return Answer(columns, reply.variant, sample, received_s, reply.times)
        verdict = _unreadable() if failure.error_name == _UNREADABLE else classify(failure)
        note = None
        if verdict.action is Action.REFRESH_CREDENTIALS and isinstance(self._endpoint, RefreshesCredentials):
            note = await self._endpoint.refresh_credentials(failure)
        return Refusal(
            failure=failure,
            verdict=verdict,
            sample=self._sample(work, payload, started_s, verdict.outcome),
            payload=payload,
            note=note,
        )

    def said(self, refusal: Refusal, *, whole: bool = True) -> str:
        """What messages may say of it; see `saying.said`."""
        return said(refusal.failure, refusal.payload, self._names, whole=whole)

    async def _payload(self, work: Work) -> tuple[Payload, int]:
        """The request of `work`, made in a thread, and how many rows it holds (more than `work.rows` when padded)."""
        if work.block is None or work.padded:
            return await anyio.to_thread.run_sync(self._with_good_rows, work)
        return await anyio.to_thread.run_sync(work.block.encoded.payload, work.start, work.stop), work.rows

    def _with_good_rows(self, work: Work) -> tuple[Payload, int]:
        import pyarrow as pa

        assert self._good_rows is not None
        if work.block is None:  # two rows where a body holds so many: some endpoints cannot answer one
            encoded = self._encoder.encode(pa.concat_tables([self._good_rows] * 2))
            rows = encoded.fit(0, 2, self._endpoint.max_body_bytes)
            return encoded.payload(0, rows), rows
        assert work.block.sent is not None
        table = pa.concat_tables([work.block.sent.slice(work.start, work.rows), self._good_rows])
        return self._encoder.encode(table).payload(0, table.num_rows), table.num_rows

    def _sample(self, work: Work, payload: Payload, started_s: float, outcome: Outcome) -> Sample:
        rows = work.stop - work.start
        kind = work.kind if work.block is not None else Kind.PROBE
        # By position: names take half as long again.
        return Sample(rows if rows > 0 else 1, payload.nbytes, started_s, self._clock(), outcome, kind)


def _is_page(reply: Reply) -> bool:
    """HTML where predictions should be: a proxy's or a gateway's words, not a reply of another type."""
    return reply.body[:256].lstrip()[:1] == b"<"


def _unreadable() -> Verdict:
    """A 200 whose rows do not match, or that cannot be read: retried, then bisected; never misaligned silently."""
    return Verdict(
        outcome=Outcome.FAILED,
        action=Action.RETRY_THEN_SPLIT,
        counts_against_chunk=True,
        hint="plan --show 1 prints a request and its reply; --reply says where the predictions are",
    )
