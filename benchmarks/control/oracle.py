"""The best static setting of an endpoint, by search over a grid; cached beside the results."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from endpoints import Endpoint
from simulate import Simulation

from asyncbatch.control import FixedController

ROWS = sorted({round(2 ** (k / 2)) for k in range(31)} | {48, 100, 1000, 1500, 3000})
IN_FLIGHT = sorted({round(2 ** (k / 2)) for k in range(18)} | {5, 10, 20, 50, 100, 200, 320})


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    seconds: float
    rows: int
    in_flight: int


def best_static(endpoint: Endpoint, *, seed: int = 0, max_requests: int = 60_000) -> Best:
    """For a few numbers in flight, walk the chunk sizes outwards while they help; then refine around the best."""
    tried: dict[tuple[int, int], float] = {}
    best = Best(seconds=math.inf, rows=0, in_flight=0)

    def attempt(rows: int, in_flight: int) -> float:
        nonlocal best
        if (rows, in_flight) not in tried:
            seconds = math.inf
            if endpoint.rows / rows <= max_requests:
                fixed = FixedController(chunk_rows=rows, chunk_bytes=2**40, concurrency=in_flight)
                simulation = Simulation(endpoint, seed=seed)
                run = simulation.run(fixed, until_s=1.2 * best.seconds, max_requests=2 * max_requests)
                seconds = run.seconds if run.finished else math.inf
            tried[rows, in_flight] = seconds
            if seconds < best.seconds:
                best = Best(seconds=seconds, rows=rows, in_flight=in_flight)
        return tried[rows, in_flight]

    middle = len(ROWS) // 2
    for in_flight in (16, 4, 64, 1, 200):
        if in_flight not in IN_FLIGHT:
            continue
        for sizes in (ROWS[middle::3], ROWS[middle::-3]):
            poor = 0
            for rows in sizes:
                poor = poor + 1 if attempt(rows, in_flight) > 1.1 * best.seconds else 0
                if poor == 3:
                    break
    while math.isfinite(best.seconds):
        centre = best
        i, j = ROWS.index(best.rows), IN_FLIGHT.index(best.in_flight)
        for step in (3, 1):
            for rows in ROWS[max(0, i - 3) : i + 4 : step]:
                for in_flight in IN_FLIGHT[max(0, j - 3) : j + 4 : step]:
                    attempt(rows, in_flight)
        if best == centre:
            break
    return best


class OracleCache:
    """Results by endpoint, kept in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = json.loads(path.read_text()) if path.exists() else {}

    def best(self, endpoint: Endpoint) -> Best:
        key = repr(endpoint)
        if key not in self._known:
            found = best_static(endpoint)
            self._known[key] = [found.seconds, found.rows, found.in_flight]
            self._path.write_text(json.dumps(self._known, indent=0))
        seconds, rows, in_flight = self._known[key]
        return Best(seconds=seconds, rows=rows, in_flight=in_flight)
