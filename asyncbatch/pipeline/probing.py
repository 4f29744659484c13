"""The plan's first questions to the endpoint: it settles reply layout, latency and bytes a row before the run begins.

n = 1, 2, 7 and a few hundred rows from several places of the input. A single-row reply cannot tell three predictions from
one prediction of three classes; several sizes can. A failing n = 1 is no verdict: some containers cannot answer one row.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncbatch.control.backoff import full_jitter
from asyncbatch.control.failures import Action, Verdict, classify
from asyncbatch.errors import EndpointError, InvocationError, StoppedError
from asyncbatch.model import Failure, Kind, Outcome, Payload, Reply, Sample, Transport
from asyncbatch.protocols import EncodedBlock, Endpoint

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 310
_SIZES = (1, 2, 7)
_LARGEST = 300
_LARGEST_S = 2.0
"""The largest probe is cut so that it should take no longer than this."""
_CONNECT_TRIES = 3
_PLAIN_TRIES = 2


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
class ProbeResult:
    """What the probes found out."""

    answers: tuple[ProbeAnswer, ...]
    """Ascending by rows; never empty."""
    min_rows: int
    """2 where one row was refused and two were answered."""
    one_row_works: bool

    @property
    def seconds_per_row(self) -> float:
        """Marginal seconds of one more row: slope between the smallest and the largest answered probe.

        Noise can make the slope vanish; a twentieth of the largest probe's mean is the floor.
        """
        first, last = self.answers[0], self.answers[-1]
        mean = last.seconds / last.rows
        if first.rows == last.rows:
            return mean
        return max((last.seconds - first.seconds) / (last.rows - first.rows), mean / 20)

    @property
    def reply_bytes_per_row(self) -> float:
        last = self.answers[-1]
        return len(last.reply.body) / last.rows


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
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._max_outage_s = max_outage_s
        self._clock = clock
        self._rng = rng
        self._record = record

    async def probe(self, sample: EncodedBlock) -> ProbeResult:
        """Send n = 1, 2, 7 and a few hundred.

        Raises:
            EndpointError: the endpoint cannot be reached, refuses for good, or answers none of the sizes.
            StoppedError: it is not ready within the longest outage allowed.
        """
        answers: list[ProbeAnswer] = []
        refused: dict[int, tuple[Failure, Verdict, int]] = {}
        for rows, start in _places(sample.rows):
            rows = self._affordable(rows, answers)
            rows = sample.fit(start, rows, self._endpoint.max_body_bytes)
            if answers and rows <= answers[-1].rows:
                continue
            payload = await anyio.to_thread.run_sync(sample.payload, start, start + rows)
            answer = await self._ask(payload, rows, start)
            if isinstance(answer, ProbeAnswer):
                answers.append(answer)
            else:
                refused[rows] = (*answer, payload.nbytes)
        if not answers:
            raise _all_refused(self._endpoint, refused)
        one_row_works = answers[0].rows == 1
        return ProbeResult(
            answers=tuple(answers),
            min_rows=2 if not one_row_works and 1 in refused and answers[0].rows == 2 else 1,
            one_row_works=one_row_works,
        )

    @staticmethod
    def _affordable(rows: int, answers: Sequence[ProbeAnswer]) -> int:
        if rows <= _SIZES[-1] or not answers:
            return rows
        slowest = max(answer.seconds / answer.rows for answer in answers[-1:])
        return max(_SIZES[-1], min(rows, int(_LARGEST_S / max(slowest, 1e-9))))

    async def _ask(self, payload: Payload, rows: int, start: int) -> "ProbeAnswer | tuple[Failure, Verdict]":
        began_s = self._clock()
        attempt = 0
        while True:
            attempt += 1
            started_s = self._clock()
            try:
                reply = await self._endpoint.invoke(payload, timeout_s=self._timeout_s)
            except InvocationError as error:
                failure = error.failure
            else:
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
            if verdict.action is Action.FATAL:
                raise EndpointError(f"{self._endpoint.name} refuses: {failure.summary()}", hint=verdict.hint or None)
            if failure.transport is Transport.CONNECT and attempt >= _CONNECT_TRIES:
                raise EndpointError(
                    f"cannot reach {self._endpoint.name}: {failure.message or failure.summary()}",
                    hint="is it running, and is the name, host and port right?",
                )
            waits = verdict.outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.NOT_READY)
            if not waits and attempt >= _PLAIN_TRIES:
                return failure, verdict
            if waits and self._clock() - began_s > self._max_outage_s:
                raise StoppedError(
                    f"{self._endpoint.name} was not ready within {self._max_outage_s:.0f} s: {failure.summary()}",
                    hint="the same command tries again; --max-outage sets how long to wait",
                )
            pause_s = full_jitter(attempt, rng=self._rng, cap_s=10.0)
            await anyio.sleep(max(failure.retry_after_s or 0.0, pause_s))

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


def _places(rows: int) -> list[tuple[int, int]]:
    """(size, start) of each probe within a sample of `rows` rows; different rows for each where there are enough."""
    places = []
    start = 0
    for size in (*_SIZES, _LARGEST):
        size = min(size, rows)
        places.append((size, min(start, rows - size)))
        start += size
    return places


def _all_refused(endpoint: Endpoint, refused: "dict[int, tuple[Failure, Verdict, int]]") -> EndpointError:
    rows = max(refused)
    failure, verdict, nbytes = refused[rows]
    log = f" (log: {failure.log_stream_arn})" if failure.log_stream_arn else ""
    sizes = ", ".join(str(size) for size in sorted(refused))
    return EndpointError(
        f"{endpoint.name} answered none of the probes (n = {sizes} rows, {nbytes:,} bytes for the largest):"
        f" {failure.summary()}{log}",
        hint=verdict.hint or "check --body, --content-type and which columns are sent (--send, --no-send)",
    )


def good_rows(sample: "pa.Table", result: ProbeResult) -> "pa.Table":
    """Rows that the endpoint has answered, as few as it can answer at once."""
    answer = result.answers[0]
    return sample.slice(answer.start, answer.rows)


