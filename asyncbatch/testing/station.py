"""An endpoint whose capacity, latency and limits are known beforehand: what measures endpoints is tried on it.

Its time is the event loop's, so it runs under `run_with_virtual_clock`, where a day of load takes seconds.
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from asyncbatch.errors import InvocationError
from asyncbatch.model import BytesPayload, Failure, Payload, Reply

_LARGEST_BODY = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """How a `StationEndpoint` behaves. Times in seconds."""

    slots: int = 4
    """Requests served at once; others wait in order of arrival."""
    request_s: float = 0.02
    """Mean time of a request in its slot, rows apart."""
    row_s: float = 0.0
    """Mean time of a row."""
    noise: float = 0.0
    """Sigma of the lognormal factor on each request's time, whose mean is 1."""
    most_inside: int | None = None
    """Requests served and waiting, beyond which one is refused as throttled."""
    most_rows: int | None = None
    """Rows of a request beyond which the container fails."""
    stall_every_s: float = 0.0
    stall_s: float = 0.0
    """Nothing is answered in the first `stall_s` of every `stall_every_s`; what would end then ends at its end."""
    cold_s: float = 0.0
    cold_factor: float = 1.0
    """Before the loop's clock shows `cold_s`, a request takes so many times as long."""
    network_s: float = 0.0
    """On the way there and back, together."""

    def mean_s(self, rows: int) -> float:
        """Mean time of a request in its slot."""
        return self.request_s + self.row_s * rows

    def capacity(self, rows: int) -> float:
        """Rows a second with every slot busy."""
        return self.slots * rows / self.mean_s(rows)


class StationEndpoint:
    """An Endpoint that waits as `Station` says, and answers each CSV row with 0."""

    takes_batches = False
    max_body_bytes = _LARGEST_BODY
    identity: Mapping[str, str | None] = {"kind": "test"}

    def __init__(self, station: Station, *, seed: int = 0) -> None:
        self.name = "station"
        self.requests = 0
        self._station = station
        self._rng = Random(seed)
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._replies: dict[int, Reply] = {}

    async def open(self, *, concurrency: int) -> None:
        """Nothing to prepare."""

    async def aclose(self) -> None:
        """Nothing to release."""

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        """Wait for a slot, hold it, and answer.

        Raises:
            InvocationError: throttled, or more rows than it takes.
        """
        assert isinstance(payload, BytesPayload)
        station = self._station
        self.requests += 1
        rows = sum(bytes(piece).count(b"\n") for piece in payload.pieces)
        if not bytes(payload.pieces[-1]).endswith(b"\n"):
            rows += 1
        if station.network_s:
            await asyncio.sleep(station.network_s)
        inside = self._busy + len(self._waiting)
        if station.most_inside is not None and inside >= station.most_inside:
            raise InvocationError(Failure(status=400, error_name="ThrottlingException"))
        if station.most_rows is not None and rows > station.most_rows:
            raise InvocationError(Failure(status=500, message="out of memory"))
        await self._enter()
        try:
            await asyncio.sleep(self._service_s(rows))
            await self._stall()
        finally:
            self._leave()
        return self._reply(rows)

    def _service_s(self, rows: int) -> float:
        noise = self._station.noise
        factor = math.exp(self._rng.gauss(-noise * noise / 2, noise)) if noise else 1.0
        if asyncio.get_running_loop().time() < self._station.cold_s:
            factor *= self._station.cold_factor
        return self._station.mean_s(rows) * factor

    async def _stall(self) -> None:
        every_s, stall_s = self._station.stall_every_s, self._station.stall_s
        if every_s:
            now_s = asyncio.get_running_loop().time() % every_s
            if now_s < stall_s:
                await asyncio.sleep(stall_s - now_s)

    async def _enter(self) -> None:
        if self._busy < self._station.slots:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it had got the slot
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy -= 1

    def _reply(self, rows: int) -> Reply:
        if rows not in self._replies:
            self._replies[rows] = Reply(body=b"0\n" * rows, content_type="text/csv")
        return self._replies[rows]
