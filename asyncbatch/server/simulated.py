"""Lets requests wait, fail and be refused as a simulated endpoint does; decisions are in `simulation`."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from asyncbatch.server.answers import ContainerError, Ending, ServiceError
from asyncbatch.server.config import SimulationConfig
from asyncbatch.server.flaws import Flaw
from asyncbatch.server.fleet import Fleet, Instance
from asyncbatch.server.simulation import (
    Admission,
    StationStatistics,
    TokenBucket,
    draw_error,
    poison_mask,
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
        self._rng = Random(config.seed)
        self._fleet = Fleet(config, clock=clock, rng=self._rng)
        self._rate = config.rate
        self._bucket = self._full_bucket()
        self._changes = deque(sorted(config.changes, key=lambda change: change.at_s))
        self._first_s: float | None = None

    async def serve(self, work: Work, *, body_bytes: int) -> tuple[Ending, Flaw | None]:
        """Wait for a slot and hold it as long as the request takes.

        Returns:
            How the connection ends, and what is wrong with the reply.

        Raises:
            ServiceError: throttled, too large, queue full, or an error of the service was drawn.
            ContainerError: the container fails, or refuses a row.
        """
        config = self._config
        there_s = config.round_trip_s / 2 + (body_bytes / config.bandwidth if config.bandwidth else 0.0)
        await _pass(there_s)
        try:
            return await self._serve(work, body_bytes)
        finally:
            await _pass(config.round_trip_s / 2)

    async def _serve(self, work: Work, body_bytes: int) -> tuple[Ending, Flaw | None]:
        self._change()
        self._check_size(work.rows, body_bytes)
        self._check_load()
        kind = draw_error(self._config, self._rng)
        if kind in _AT_ONCE:
            raise _drawn(kind)
        if kind == "reset":
            return Ending.RESET, None
        instance = await self._enter()
        try:
            seconds = self._fleet.service_s(instance, work.rows)
            if self._config.oom_rows and work.rows > self._config.oom_rows:
                await self._die(instance, self._config.oom_delay_s or seconds)
            if kind == "hang":
                seconds = HANG_S
            await _pass(seconds)
            self._check_rows(work)
        finally:
            self._leave(instance)
        if kind in _IN_THE_END:
            raise _drawn(kind)
        return _ENDINGS.get(kind or "", Ending.COMPLETE), _FLAWS.get(kind or "")

    def statistics(self) -> StationStatistics:
        return self._fleet.statistics()

    async def _enter(self) -> Instance:
        instance = self._fleet.route()
        admission = self._fleet.arrive(instance)
        if admission is Admission.FULL:
            raise _full()
        if admission is Admission.RUN:
            return instance
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        instance.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in instance.waiting:
                instance.waiting.remove(turn)
                instance.station.abandon()
            elif not turn.cancelled() and turn.exception() is None:  # it had got the slot
                self._leave(instance)
            raise
        return instance

    def _leave(self, instance: Instance) -> None:
        while instance.station.leave():
            if _wake(instance):
                return
            # Cancelled, but not yet gone from the queue: the slot passes on.

    async def _die(self, instance: Instance, delay_s: float) -> None:
        """The container is killed for its memory, and its slot is gone until it has started again."""
        await _pass(delay_s)
        gone_s = self._config.oom_restart_s - delay_s
        if gone_s > 0:
            self._fleet.hold(instance)
            asyncio.get_running_loop().call_later(gone_s, self._leave, instance)
        raise ContainerError(500, "worker died: out of memory")

    def _change(self) -> None:
        """What has become due since the first request."""
        now_s = self._clock()
        if self._first_s is None:
            self._first_s = now_s
        while self._changes and now_s >= self._first_s + self._changes[0].at_s:
            change = self._changes.popleft()
            if change.what == "rate":
                self._rate = change.value
                self._bucket = self._full_bucket()
                continue
            for instance, served in self._fleet.change(change):
                for _ in range(served):
                    if not _wake(instance):
                        self._leave(instance)
            for instance in self._fleet.removed():
                for turn in instance.waiting:
                    if not turn.done():
                        turn.set_exception(_full())
                instance.waiting.clear()

    def _full_bucket(self) -> TokenBucket | None:
        if not self._rate:
            return None
        return TokenBucket(rate=self._rate, burst=self._config.burst, clock=self._clock)

    def _check_size(self, rows: int, body_bytes: int) -> None:
        config = self._config
        if config.cap_bytes and body_bytes > config.cap_bytes:
            raise ServiceError(413, "", f"HTTP content length exceeded {config.cap_bytes} bytes.")
        if config.cap_rows and rows > config.cap_rows:
            raise ServiceError(413, "", f"Request exceeded {config.cap_rows} rows.")

    def _check_load(self) -> None:
        crowded = self._config.max_conc and self._fleet.inside >= self._config.max_conc
        if crowded or (self._bucket is not None and not self._bucket.take()):
            raise ServiceError(self._config.throttle, "ThrottlingException", None)

    def _check_rows(self, work: Work) -> None:
        config = self._config
        if work.rows < config.min_rows:
            raise ContainerError(500, "Expected 2D array, got 1D array instead")
        if config.poison_share or config.poison_value is not None:
            values = work.first_values()
            poisoned = (
                config.poison_share and poison_mask(values, share=config.poison_share, seed=config.seed).any()
            )
            if poisoned or _holds(values, config.poison_value):
                raise ContainerError(400, "could not convert string to float")


async def _pass(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _wake(instance: Instance) -> bool:
    """Give the slot to the next that waits; False if that one has left."""
    turn = instance.waiting.popleft()
    if turn.done():
        return False
    turn.set_result(None)
    return True


def _full() -> ServiceError:
    return ServiceError(
        503, "ServiceUnavailable", "Service is unavailable: every worker and waiting place is taken"
    )


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
