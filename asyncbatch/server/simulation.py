"""What a simulated endpoint does, without doing it: service times, slots, throttles, and which rows it
refuses.

Clock and randomness are arguments: a day of traffic can be tried in a second.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

import numpy as np

from asyncbatch.server.config import SimulationConfig

_MASK = (1 << 64) - 1
_SPIKES = 0.03


def service_time_s(config: SimulationConfig, *, rows: int, age_s: float, rng: Random) -> float:
    """How long a request of `rows` rows holds its slot, `age_s` seconds after the start."""
    charged = float(rows)
    if config.shape == "step":
        charged = math.ceil(rows / config.m) * config.m
    elif config.shape == "pow2":
        charged = config.m * 2 ** max(0, math.ceil(math.log2(rows / config.m)))
    seconds = config.a + config.b * charged
    if config.shape == "knee" and rows > config.knee:
        seconds += config.knee_c * (rows - config.knee) ** 2
    elif config.shape == "saturating":
        seconds = config.a + config.b * max(config.knee, rows)
    if age_s < config.cold_s:
        seconds *= config.cold_x
    return seconds * _noise(config, rng)


def _noise(config: SimulationConfig, rng: Random) -> float:
    """A factor on the service time; its mean is 1, but for spikes."""
    if config.noise_kind == "spikes":
        return (10.0 if rng.random() < _SPIKES else 1.0) * math.exp(rng.gauss(0, config.noise))
    if not config.noise:
        return 1.0
    if config.noise_kind == "exponential":
        return 1 - config.noise + config.noise * rng.expovariate(1.0)
    return math.exp(rng.gauss(-config.noise * config.noise / 2, config.noise))


def crowding(config: SimulationConfig, busy: int) -> float:
    """A factor on the service time of a request that begins while `busy` slots of its instance are, its own included."""
    if not config.cores or busy <= config.cores:
        return 1.0
    return busy / config.cores + config.thrash * (busy - config.cores)


def draw_error(config: SimulationConfig, rng: Random) -> str | None:
    """Which kind of error strikes the next request, if any."""
    if not config.errors:
        return None
    drawn = rng.random()
    for kind, share in config.errors.items():
        drawn -= share
        if drawn < 0:
            return kind
    return None


class TokenBucket:
    """Lets `rate` requests a second through, and up to `burst` at once after a rest. Full at the start."""

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = max(1.0, burst or rate)
        self._clock = clock
        self._tokens = self._burst
        self._at_s = clock()

    def take(self) -> bool:
        """True if a request may pass now; then its token is spent."""
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Admission(Enum):
    """What becomes of an arriving request."""

    RUN = "run"
    WAIT = "wait"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class StationStatistics:
    """A snapshot; a share is of all slots since the start."""

    slots: int
    busy: int
    waiting: int
    most_busy: int
    most_waiting: int
    busy_share: float


class Station:
    """The slots of an instance with a bounded queue before them. Counts only: the caller holds the requests and
    wakes the waiting ones."""

    def __init__(self, *, slots: int, queue: int, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._queue = queue
        self._clock = clock
        self._busy = self._waiting = self._most_busy = self._most_waiting = 0
        self._busy_s = self._slots_s = 0.0
        self._at_s = clock()

    def arrive(self) -> Admission:
        """A request comes in."""
        if self._busy < self._slots:
            self._count()
            self._busy += 1
            self._most_busy = max(self._most_busy, self._busy)
            return Admission.RUN
        if self._waiting < self._queue:
            self._waiting += 1
            self._most_waiting = max(self._most_waiting, self._waiting)
            return Admission.WAIT
        return Admission.FULL

    def leave(self) -> bool:
        """A served request goes. True: its slot passes to one that waits, and the caller says which."""
        self._count()
        if self._waiting and self._busy <= self._slots:
            self._waiting -= 1
            return True
        self._busy -= 1
        return False

    def abandon(self) -> None:
        """A waiting request goes unserved."""
        self._waiting -= 1

    def keep(self) -> None:
        """The slot of a request that is about to leave stays taken; one more `leave` frees it."""
        self._count()
        self._busy += 1

    def resize(self, slots: int) -> int:
        """There are `slots` slots from now on; how many of those that wait get one, and the caller says which."""
        self._count()
        self._slots = slots
        served = max(0, min(self._waiting, slots - self._busy))
        self._waiting -= served
        self._busy += served
        self._most_busy = max(self._most_busy, self._busy)
        return served

    @property
    def inside(self) -> int:
        """Requests served or waiting."""
        return self._busy + self._waiting

    @property
    def busy(self) -> int:
        """Requests being served."""
        return self._busy

    @property
    def free(self) -> int:
        """Slots less the requests inside; negative where some wait."""
        return self._slots - self.inside

    def statistics(self) -> StationStatistics:
        self._count()
        return StationStatistics(
            slots=self._slots,
            busy=self._busy,
            waiting=self._waiting,
            most_busy=self._most_busy,
            most_waiting=self._most_waiting,
            busy_share=self._busy_s / self._slots_s if self._slots_s > 0 else 0.0,
        )

    def _count(self) -> None:
        now_s = self._clock()
        self._busy_s += (now_s - self._at_s) * self._busy
        self._slots_s += (now_s - self._at_s) * self._slots
        self._at_s = now_s


def poison_mask(
    values: "np.ndarray[Any, Any] | Iterable[Any]", *, share: float, seed: int
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which rows a simulated container refuses, from their first values.

    A value is refused by its own hash, so the verdict does not depend on the rows beside it nor on the body
    format. What reads as a number is hashed as a double (splitmix64), other text by CRC-32.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    else:
        bits = np.fromiter((_bits(each) for each in values), dtype=np.uint64)
    mixed = bits + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


def _bits(value: Any) -> int:
    try:
        number = float("nan" if value is None else value) + 0.0
    except ValueError:
        return zlib.crc32(value if isinstance(value, bytes) else str(value).encode())
    bits: int = struct.unpack("<Q", struct.pack("<d", number))[0]
    return bits
