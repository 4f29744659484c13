"""The instances of a simulated endpoint: which one a request goes to, how fast it is, and how their number changes."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from asyncbatch.server.config import Change, SimulationConfig
from asyncbatch.server.simulation import Admission, Station, StationStatistics, crowding, service_time_s


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One copy of the container."""

    station: Station
    speed: float
    born_s: float
    waiting: deque["asyncio.Future[None]"] = field(default_factory=deque)
    """The requests that wait, first come first; held by the caller."""


class Fleet:
    """All instances. Decides; the caller holds the requests."""

    def __init__(self, config: SimulationConfig, *, clock: Callable[[], float], rng: Random) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._slots = config.slots
        self._slowness = 1.0
        self._instances = [self._born() for _ in range(config.instances)]
        self._gone: list[Instance] = []
        self._removed: list[Instance] = []
        self._most_busy = self._most_waiting = 0

    @property
    def inside(self) -> int:
        """Requests served or waiting."""
        return sum(each.station.inside for each in self._all())

    def route(self) -> Instance:
        """The instance that the next request goes to."""
        if len(self._instances) == 1:
            return self._instances[0]
        if self._config.routing == "random":
            return self._rng.choice(self._instances)
        return max(self._instances, key=lambda each: each.station.free)

    def arrive(self, instance: Instance) -> Admission:
        """A request comes to `instance`."""
        admission = instance.station.arrive()
        busy = sum(each.station.busy for each in self._all())
        self._most_busy = max(self._most_busy, busy)
        self._most_waiting = max(self._most_waiting, self.inside - busy)
        return admission

    def hold(self, instance: Instance) -> None:
        """Besides the request that leaves, its slot stays taken until a further one leaves."""
        instance.station.keep()

    def service_s(self, instance: Instance, rows: int) -> float:
        """How long a request of `rows` rows that begins now holds its slot."""
        seconds = service_time_s(
            self._config, rows=rows, age_s=self._clock() - instance.born_s, rng=self._rng
        )
        return seconds * self._slowness * crowding(self._config, instance.station.busy) / instance.speed

    def change(self, change: Change) -> list[tuple[Instance, int]]:
        """Apply it. Instances with the number of their waiting requests that got a slot."""
        if change.what == "slowness":
            self._slowness = change.value
        elif change.what == "slots":
            self._slots = int(change.value)
            return [(each, each.station.resize(self._slots)) for each in self._instances]
        elif change.what == "instances":
            while len(self._instances) < change.value:
                self._instances.append(self._born())
            while len(self._instances) > change.value:
                self._removed.append(self._instances.pop())
        return []

    def removed(self) -> list[Instance]:
        """Instances taken away since it was last asked: what waits there is refused, what is served there ends well."""
        found, self._removed = self._removed, []
        for each in found:
            for _ in each.waiting:
                each.station.abandon()
        self._gone += found
        return found

    def statistics(self) -> StationStatistics:
        """Of all instances together; the busy share is that of the instances that are there."""
        found = [each.station.statistics() for each in self._instances]
        return StationStatistics(
            slots=sum(each.slots for each in found),
            busy=sum(each.station.busy for each in self._all()),
            waiting=sum(each.waiting for each in found),
            most_busy=self._most_busy,
            most_waiting=self._most_waiting,
            busy_share=sum(each.busy_share * each.slots for each in found)
            / sum(each.slots for each in found),
        )

    def _all(self) -> list[Instance]:
        return [*self._instances, *self._gone] if self._gone else self._instances

    def _born(self) -> Instance:
        config = self._config
        return Instance(
            station=Station(slots=self._slots, queue=config.queue, clock=self._clock),
            speed=math.exp(self._rng.gauss(0, config.uneven)) if config.uneven else 1.0,
            born_s=self._clock(),
        )
