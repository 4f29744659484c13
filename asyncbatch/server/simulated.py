"""Lets requests wait, fail and be refused as a simulated endpoint does; decisions are in `simulation`."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from asyncbatch.server.answers import ContainerError, Ending, ServiceError
from asyncbatch.server.config import SimulationConfig
from asyncbatch.server.flaws import Flaw
from asyncbatch.server.simulation import (
    Admission,
    Station,
    StationStatistics,
    TokenBucket,
    draw_error,
    poison_mask,
    service_time_s,
)
from asyncbatch.server.work import Work

HANG_S = 60.0
"""A container has 60 s to answer."""

_AT_ONCE = ("400", "413", "429", "502", "503", "capacity")
_IN_THE_END = ("424", "424-400", "500", "530", "hang")
_ENDINGS = {each.value: each for each in Ending if each is not Ending.COMPLETE}
_FLAWS = {each.value: each for each in Flaw}


class SimulatedEndpoint:
    """The behaviour around a model. One per server; of one event loop."""

    def __init__(self, config: SimulationConfig, *, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._started_s = clock()
        self._rng = Random(config.seed)
        self._station = Station(slots=config.slots, queue=config.queue, clock=clock)
        self._bucket = TokenBucket(rate=config.rate, burst=config.burst, clock=clock) if config.rate else None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def serve(self, work: Work, *, body_bytes: int) -> tuple[Ending, Flaw | None]:
        """Wait for a slot and hold it as long as the request takes.

        Returns:
            How the connection ends, and what is wrong with the reply.

        Raises:
            ServiceError: throttled, too large, queue full, or an error of the service was drawn.
            ContainerError: the container fails, or refuses a row.
        """
        self._check_size(work.rows, body_bytes)
        self._check_load()
        kind = draw_error(self._config, self._rng)
        if kind in _AT_ONCE:
            raise _drawn(kind)
        if kind == "reset":
            return Ending.RESET, None
        await self._enter()
        try:
            age_s = self._clock() - self._started_s
            seconds = service_time_s(self._config, rows=work.rows, age_s=age_s, rng=self._rng)
            if kind == "hang":
                seconds = HANG_S
            if seconds > 0:
                await asyncio.sleep(seconds)
            self._check_rows(work)
        finally:
            self._leave()
        if kind in _IN_THE_END:
            raise _drawn(kind)
        return _ENDINGS.get(kind or "", Ending.COMPLETE), _FLAWS.get(kind or "")

    def statistics(self) -> StationStatistics:
        return self._station.statistics()

    async def _enter(self) -> None:
        admission = self._station.arrive()
        if admission is Admission.FULL:
            raise ServiceError(
                503, "ServiceUnavailable", "Service is unavailable: every worker and waiting place is taken"
            )
        if admission is Admission.RUN:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
                self._station.abandon()
            elif not turn.cancelled():  # it had got the slot
                self._leave()
            raise

    def _leave(self) -> None:
        while self._station.leave():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
            # Cancelled, but not yet gone from the queue: the slot passes on.

    def _check_size(self, rows: int, body_bytes: int) -> None:
        config = self._config
        if config.cap_bytes and body_bytes > config.cap_bytes:
            raise ServiceError(413, "", f"HTTP content length exceeded {config.cap_bytes} bytes.")
        if config.cap_rows and rows > config.cap_rows:
            raise ServiceError(413, "", f"Request exceeded {config.cap_rows} rows.")

    def _check_load(self) -> None:
        crowded = self._config.max_conc and self._station.inside >= self._config.max_conc
        if crowded or (self._bucket is not None and not self._bucket.take()):
            raise ServiceError(self._config.throttle, "ThrottlingException", None)

    def _check_rows(self, work: Work) -> None:
        config = self._config
        if config.oom_rows and work.rows > config.oom_rows:
            raise ContainerError(500, "worker died: out of memory")
        if work.rows < config.min_rows:
            raise ContainerError(500, "Expected 2D array, got 1D array instead")
        if config.poison_share or config.poison_value is not None:
            values = work.first_values()
            poisoned = (
                config.poison_share and poison_mask(values, share=config.poison_share, seed=config.seed).any()
            )
            if poisoned or _holds(values, config.poison_value):
                raise ContainerError(400, "could not convert string to float")


def _holds(values: Any, wanted: str | None) -> bool:
    """Whether a value is written as `wanted`, or is that number."""
    if wanted is None:
        return False
    if isinstance(values, list):
        return wanted.encode() in values
    if values.dtype.kind in "iufb":
        try:
            return bool((values == float(wanted)).any())
        except ValueError:
            return False
    return any(str(each) == wanted for each in values)


def _drawn(kind: str | None) -> ServiceError | ContainerError:
    match kind:
        case "400":
            return ServiceError(400, "ThrottlingException", None)
        case "413":
            return ServiceError(413, "", "HTTP content length exceeded the limit.")
        case "424-400":
            return ContainerError(400, "Unable to parse data")
        case "429":
            return ServiceError(429, "ModelNotReadyException", "Model is not ready for inference; try again")
        case "500":
            return ServiceError(500, "InternalFailure", "An internal failure occurred")
        case "502":
            page = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
            return ServiceError(502, "", "", page=page)
        case "capacity":
            return ServiceError(
                400, "ValidationError", "Inference Component has no capacity to process this request"
            )
        case "503":
            return ServiceError(503, "ServiceUnavailable", "Service is unavailable")
        case "530":
            return ServiceError(530, "InternalDependencyException", "A dependency failed")
        case "hang":
            return ContainerError(
                0, "Your invocation timed out while waiting for a response from container primary"
            )
        case _:
            return ContainerError(500, "Internal Server Error")
