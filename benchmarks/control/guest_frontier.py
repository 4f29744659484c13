"""How much of the spare capacity can be had at which rise of the live 99th percentile: what to hold a guest against.

    nice -n 10 python benchmarks/control/guest_frontier.py --save      (about 10 min; writes results/guest_frontier.json)

For each case of `guest.py`, over several seeds:

- static guests, always the same chunk and as many in flight: chunks of one row, and of twice the time of one row. Whoever chooses
  among them with hindsight knows more than a guest can: the live load, the slots, and what each setting does to live users.
- guests that see each slot at the moment and send a chunk while more than k are idle. Nobody outside the endpoint can: what a
  chunk tells of the slots is as old as the chunk is long, and by then other live users are in them. The distance between the two
  is the price of not seeing.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from guest import ENDPOINTS, LOADS, nobody, p99, spare_slots
from measuring import save, surroundings
from simulate import Run, Simulation

from asyncbatch.control import FixedController

_LIVE_REQUESTS = 20_000
_PARTS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
"""In flight, as parts of the spare slots."""
_IDLE = (1, 2, 4)
"""Slots that the guest who sees them leaves idle."""
_RISES = (0.08, 0.15, 0.2)


@dataclass(frozen=True)
class Point:
    """What one guest does."""

    guest: str
    in_flight: int
    """For a guest that sees slots: those it leaves idle."""
    p99_rise: float
    spare_taken: float


class Seer(FixedController):
    """Sends while more than `idle` slots are free; looks twenty times in the time of a chunk."""

    def __init__(self, simulation: Simulation, *, rows: int, idle: int, every_s: float) -> None:
        super().__init__(chunk_rows=rows, chunk_bytes=2**40, concurrency=512)
        self._simulation, self._idle, self._every_s = simulation, idle, every_s

    def send_delay(self) -> float:
        return 0.0 if self._simulation.idle_slots > self._idle else self._every_s


def rows_of(endpoint: Any, factor: float) -> int:
    """Most rows that take `factor` times as long as one."""
    rows = 1
    while endpoint.service_s(rows + 1) <= factor * endpoint.service_s(1):
        rows += 1
    return rows


def case(number: int, load: float, seeds: tuple[int, ...]) -> list[Point]:
    """Every guest on one endpoint, means over the seeds."""
    shared = replace(ENDPOINTS[number], live_load=load, name=f"{ENDPOINTS[number].name}-{load}")
    slots = shared.slots * shared.instances
    seconds = _LIVE_REQUESTS * shared.service_s(1) / (load * slots)
    spare = spare_slots(shared)
    before_s = {seed: p99(Simulation(shared, seed=seed).run(nobody(), until_s=seconds)) for seed in seeds}

    def point(guest: str, in_flight: int, runs: dict[int, Run]) -> Point:
        count = len(runs)
        return Point(
            guest,
            in_flight,
            round(sum(p99(run) / before_s[seed] - 1 for seed, run in runs.items()) / count, 4),
            round(sum(run.busy_s / (spare * run.seconds) for run in runs.values()) / count, 4),
        )

    found = []
    for guest, factor in (("one row", 1.0), ("twice the time", 2.0)):
        rows = rows_of(shared, factor)
        for in_flight in sorted({max(1, round(spare * part)) for part in _PARTS}):
            fixed = FixedController(chunk_rows=rows, chunk_bytes=2**40, concurrency=in_flight)
            runs = {
                seed: Simulation(shared, seed=seed, block_rows=65536).run(fixed, until_s=seconds)
                for seed in seeds
            }
            found.append(point(guest, in_flight, runs))
    for idle in _IDLE:
        if idle < slots:
            runs = {}
            for seed in seeds:
                simulation = Simulation(shared, seed=seed, block_rows=65536)
                seer = Seer(simulation, rows=1, idle=idle, every_s=shared.service_s(1) / 20)
                runs[seed] = simulation.run(seer, until_s=seconds)
            found.append(point("sees the slots", idle, runs))
    return found


def share_at(points: list[Point], rise: float) -> float:
    """Most that can be had at `rise`: a line between two guests is one of them for a part of the time, then the other."""
    known = [(0.0, 0.0), *((max(0.0, each.p99_rise), each.spare_taken) for each in points)]
    best = max(share for at, share in known if at <= rise)
    for low, less in known:
        for high, more in known:
            if low <= rise < high:
                best = max(best, less + (more - less) * (rise - low) / (high - low))
    return best


def at_mean(cases: list[list[Point]], rise: float) -> float:
    """Mean share that no choice exceeds whose mean rise is `rise`, each case having what serves the mean (Lagrange's dual)."""
    grid = [k / 200 for k in range(101)]
    choices = [[(at, share_at(points, at)) for at in grid] for points in cases]
    bounds = []
    for power in range(-60, 61):
        price = 2 ** (power / 10)
        gains = [max(share - price * at for at, share in choice) for choice in choices]
        bounds.append(sum(gains) / len(gains) + price * rise)
    return min(bounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[101, 102])
    parser.add_argument("--save", action="store_true", help="write results/guest_frontier.json")
    options = parser.parse_args()
    keys = [(number, load) for number in reversed(range(len(ENDPOINTS))) for load in LOADS]
    with ProcessPoolExecutor(2) as pool:
        found = list(
            pool.map(case, *zip(*keys, strict=True), [tuple(options.seeds)] * len(keys), chunksize=1)
        )
    summary: dict[str, Any] = {}
    for guest in ("one row", "twice the time", "sees the slots"):
        cases = [[each for each in points if each.guest == guest] for points in found]
        summary[guest] = {
            f"{rise:.0%}": {
                "each case": round(sum(share_at(points, rise) for points in cases) / len(cases), 3),
                "mean of the cases": round(at_mean(cases, rise), 3),
            }
            for rise in _RISES
        }
        print(f"{guest:15s} {summary[guest]}", flush=True)
    rows = []
    for (number, load), points in zip(keys, found, strict=True):
        at = {
            guest: round(share_at([each for each in points if each.guest == guest], 0.15), 3)
            for guest in summary
        }
        print(f"{ENDPOINTS[number].name:6s} {load} share at 15 %: {at}")
        rows.append(
            {
                "endpoint": ENDPOINTS[number].name,
                "load": load,
                "share_at_15%": at,
                "points": [vars(each) for each in points],
            }
        )
    if options.save:
        save("guest_frontier", {**surroundings(), "seeds": options.seeds, "summary": summary, "cases": rows})


if __name__ == "__main__":
    main()
