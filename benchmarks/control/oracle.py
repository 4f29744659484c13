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


def best_static(endpoint: Endpoint, *, seed: int = 0, max_requests: int = 120_000) -> Best:
    """Coarse grid, then the neighbours of the best until it stays the best."""
    tried: dict[tuple[int, int], float] = {}
    best = Best(seconds=math.inf, rows=0, in_flight=0)

    def attempt(rows: int, in_flight: int) -> None:
        nonlocal best
        if (rows, in_flight) in tried or endpoint.rows / rows > max_requests:
            return
        fixed = FixedController(chunk_rows=rows, chunk_bytes=2**40, concurrency=in_flight)
        run = Simulation(endpoint, seed=seed).run(fixed, until_s=best.seconds, max_requests=3 * max_requests)
        tried[rows, in_flight] = run.seconds if run.finished else math.inf
        if run.finished and run.seconds < best.seconds:
            best = Best(seconds=run.seconds, rows=rows, in_flight=in_flight)

    for in_flight in IN_FLIGHT[4::4] + [1]:
        for rows in ROWS[len(ROWS) // 2 :: 3] + ROWS[len(ROWS) // 2 :: -3]:
            attempt(rows, in_flight)
    while math.isfinite(best.seconds):
        centre = best
        i, j = ROWS.index(best.rows), IN_FLIGHT.index(best.in_flight)
        for rows in ROWS[max(0, i - 3) : i + 4]:
            for in_flight in IN_FLIGHT[max(0, j - 3) : j + 4]:
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
