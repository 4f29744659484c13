"""The plan's first questions to the endpoint: it settles reply layout, latency and bytes a row before the run begins.

n = 1, 2, 7 and a few hundred rows from several places of the input. A single-row reply cannot tell three predictions from
one prediction of three classes; several sizes can. A failing n = 1 is no verdict: some containers cannot answer one row.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from asyncbatch.control.backoff import full_jitter
from asyncbatch.control.failures import Action, classify
from asyncbatch.errors import EndpointError, InvocationError, StoppedError
from asyncbatch.model import BytesPayload, Failure, Kind, Outcome, Payload, Reply, Sample, Transport
from asyncbatch.pipeline.saying import said
from asyncbatch.protocols import EncodedBlock, Endpoint, RefreshesCredentials

SAMPLE_ROWS = 310
_SIZES = (1, 2, 7)
LEAST_ROWS = _SIZES[-1]
_LARGEST = 300
PROBE_SIZES = (*_SIZES, _LARGEST)
_LARGEST_S = 2.0
"""The largest probe is cut so that it should take no longer than this."""
_LARGEST_REPLY_BYTES = 2**20
"""Nor should its reply be larger: it is read in several ways at once."""
_CONNECT_TRIES = 3
_PLAIN_TRIES = 2
_LOGIN_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """One answered probe."""

    rows: int
    start: int
    """First row of the probe within the sample."""
    reply: Reply
    seconds: float
    body_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRefusal:
    """One probe that was not answered."""

    rows: int
    failure: Failure
    said: str
    """Its summary without row contents."""
    hint: str
    body_bytes: int
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and what came back, as they were."""

    rows: int
    payload: Payload
    seconds: float
    reply: Reply | None = None
    failure: Failure | None = None
    """Set where there is no reply."""


Watch = Callable[[Exchange], None]
"""Is told of every exchange of the probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What the probes found out."""

    answers: tuple[ProbeAnswer, ...]
    """Ascending by rows; empty where the input has no rows or every probe was refused."""
    refusals: tuple[ProbeRefusal, ...]

    @property
    def one_row_works(self) -> bool:
        """A request of one row was answered."""
        return bool(self.answers) and self.answers[0].rows == 1

    @property
    def min_rows(self) -> int:
        """2 where one row was refused and two were answered."""
        alone = any(refusal.rows == 1 for refusal in self.refusals)
        return 2 if alone and self.answers and self.answers[0].rows == 2 else 1

    @property
    def seconds_per_row(self) -> float:
        """Marginal seconds of one more row: slope between the smallest and the largest answered probe; 0.0 unknown.

        Noise can make the slope vanish; a twentieth of the largest probe's mean is the floor.
        """
        if not self.answers:
            return 0.0
        first, last = self.answers[0], self.answers[-1]
        mean = last.seconds / last.rows
        if first.rows == last.rows:
            return mean
        return max((last.seconds - first.seconds) / (last.rows - first.rows), mean / 20)

    @property
    def reply_bytes_per_row(self) -> float:
        """Bytes of the largest answer's body a row; a callable's results count as 8 bytes."""
        if not self.answers:
            return 0.0
        last = self.answers[-1]
        return (len(last.reply.body) or 8 * last.rows) / last.rows

    @property
    def body_bytes_per_row(self) -> float:
        return self.answers[-1].body_bytes / self.answers[-1].rows if self.answers else 0.0


class Prober:
    """Asks one endpoint about one encoded sample."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        timeout_s: float,
        max_outage_s: float,
        clock: Callable[[], float],
        rng: random.Random,
        record: Callable[[Sample], None],
        watch: Watch | None = None,
        names: Collection[str] = (),
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`names`: the columns sent, which messages may hold; `warn` is told what people should know."""
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._max_outage_s = max_outage_s
        self._clock = clock
        self._rng = rng
        self._record = record
        self._watch = watch
        self._names = names
        self._warn = warn

    async def probe(
        self, sample: EncodedBlock, *, max_bytes: int, sizes: Sequence[int] = PROBE_SIZES, head: int = 0
    ) -> ProbeResult:
        """Send requests of `sizes` rows, each of other rows where the sample has enough.

        `head` is one more size, and that request holds the first rows of the sample; 0 is none.

        Raises:
            EndpointError: the endpoint cannot be reached, or refuses for good.
            StoppedError: it is not ready within the longest outage allowed.
        """
        answers: list[ProbeAnswer] = []
        refusals: list[ProbeRefusal] = []
        for size, start in _places(sample.rows, sizes, head):
            rows = sample.fit(start, self._affordable(size, answers), max_bytes)
            if answers and rows <= answers[-1].rows:
                continue
            payload = await anyio.to_thread.run_sync(sample.payload, start, start + rows)
            answer = await self._ask(payload, rows, start)
            if isinstance(answer, ProbeAnswer):
                answers.append(answer)
            else:
                refusals.append(answer)
        return ProbeResult(answers=tuple(answers), refusals=tuple(refusals))

    @staticmethod
    def _affordable(rows: int, answers: Sequence[ProbeAnswer]) -> int:
        if rows <= _SIZES[-1] or not answers:
            return rows
        last = answers[-1]
        by_time = _LARGEST_S * last.rows / max(last.seconds, 1e-9)
        by_reply = _LARGEST_REPLY_BYTES * last.rows / max(1, len(last.reply.body))
        return max(_SIZES[-1], int(min(rows, by_time, by_reply)))

    async def _ask(self, payload: Payload, rows: int, start: int) -> ProbeAnswer | ProbeRefusal:
        began_s = self._clock()
        attempt = 0
        while True:
            attempt += 1
            started_s = self._clock()
            try:
                reply = await self._endpoint.invoke(payload, timeout_s=self._timeout_s)
            except InvocationError as error:
                failure = error.failure
                self._watched(rows, payload, started_s, failure=failure)
            else:
                self._watched(rows, payload, started_s, reply=reply)
                self._sample(rows, payload, started_s, Outcome.SUCCESS)
                return ProbeAnswer(
                    rows=rows,
                    start=start,
                    reply=reply,
                    seconds=self._clock() - started_s,
                    body_bytes=payload.nbytes,
                )
            verdict = classify(failure)
            self._sample(rows, payload, started_s, verdict.outcome)
            renews = verdict.action is Action.REFRESH_CREDENTIALS
            if renews and attempt <= _LOGIN_TRIES and isinstance(self._endpoint, RefreshesCredentials):
                if (note := await self._endpoint.refresh_credentials(failure)) is not None:
                    self._warn(note)
                continue
            if verdict.action is Action.FATAL:
                raise EndpointError(
                    f"{self._endpoint.name} refuses: {said(failure, payload, self._names)}",
                    hint=verdict.hint or None,
                )
            if failure.transport is Transport.CONNECT and attempt >= _CONNECT_TRIES:
                raise EndpointError(
                    f"cannot reach {self._endpoint.name}: {failure.message or failure.summary()}",
                    hint="is it running, and is the name, host and port right?",
                )
            waits = verdict.outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.NOT_READY)
            if not waits and attempt >= _PLAIN_TRIES:
                return ProbeRefusal(
                    rows=rows,
                    failure=failure,
                    said=said(failure, payload, self._names),
                    hint=verdict.hint,
                    body_bytes=payload.nbytes,
                    content_type=payload.content_type if isinstance(payload, BytesPayload) else "Arrow",
                )
            if waits and self._clock() - began_s > self._max_outage_s:
                raise StoppedError(
                    f"{self._endpoint.name} was not ready within {self._max_outage_s:.0f} s:"
                    f" {said(failure, payload, self._names)}",
                    hint="the same command tries again; --max-outage sets how long to wait",
                )
            pause_s = full_jitter(attempt, rng=self._rng, base_s=0.5, cap_s=10.0)
            await anyio.sleep(max(failure.retry_after_s or 0.0, pause_s))

    def _watched(self, rows: int, payload: Payload, started_s: float, **outcome: Any) -> None:
        if self._watch is not None:
            seconds = self._clock() - started_s
            self._watch(Exchange(rows=rows, payload=payload, seconds=seconds, **outcome))

    def _sample(self, rows: int, payload: Payload, started_s: float, outcome: Outcome) -> None:
        self._record(
            Sample(
                rows=rows,
                body_bytes=payload.nbytes,
                started_s=started_s,
                finished_s=self._clock(),
                outcome=outcome,
                kind=Kind.PROBE,
            )
        )


def _places(rows: int, sizes: Sequence[int], head: int) -> list[tuple[int, int]]:
    """(size, start) of each probe within a sample of `rows` rows; different rows for each where there are enough."""
    head = min(head, rows)
    places = [(head, 0)] if head else []
    start = head
    for size in sizes:
        size = min(size, rows)
        if size != head:
            places.append((size, min(start, rows - size)))
            start += size
    return sorted(places)
