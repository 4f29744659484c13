"""Does `asyncbatch bench` tell the truth? Against endpoints whose capacity, latency, knee and stalls are set.

    python benchmarks/bench_truth.py [--seeds 200] [--quick] [--real]

Under a virtual clock: how often 95 % intervals of rows/s, p50 and p95 hold the true value; how near the knee is found; what
an open loop says of an endpoint that stalls for 2 s in every 20 s, and what a naive loop says. With --real: rows/s against
`asyncbatch serve` with a set capacity, in real time. Writes results/bench_truth.json.
"""

import argparse
import asyncio
import math
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measuring import save, surroundings

from asyncbatch.bench.api import bench_job
from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.result import BenchResult
from asyncbatch.bench.session import Bench, Tools
from asyncbatch.config import RunConfig
from asyncbatch.pipeline.planning import prepare
from asyncbatch.source import open_source
from asyncbatch.testing.clock import run_with_virtual_clock
from asyncbatch.testing.station import Station, StationEndpoint

TABLE = pa.table({"x": [float(row) for row in range(4000)]})
SERVICE = Station(slots=4, request_s=0.1, row_s=0.001, noise=0.25)
KNEES: dict[str, tuple[Station, str | None]] = {
    "objective": (Station(slots=8, request_s=0.02, row_s=1e-4, noise=0.1), "p95<200ms"),
    "many slots": (Station(slots=24, request_s=0.02, row_s=1e-4, noise=0.1), "p95<300ms"),
    "throttles": (Station(slots=8, request_s=0.05, row_s=1e-4, noise=0.1, most_inside=12), "p95<400ms"),
    "few slots": (Station(slots=3, request_s=0.05, row_s=5e-4, noise=0.1), "p95<500ms"),
}
STALLS = Station(slots=1000, request_s=0.02, stall_every_s=20.0, stall_s=2.0)


class Silent:
    """A listener."""

    def announced(self, *_: object) -> None: ...
    def progressed(self, *_: object) -> None: ...
    def measured(self, *_: object) -> None: ...
    def warned(self, *_: object) -> None: ...


def bench(station: Station, *, seed: int, **load: Any) -> BenchResult:
    """Measure a station under the virtual clock."""
    config = RunConfig.from_options({"endpoint": "station"})

    async def main() -> BenchResult:
        clock = asyncio.get_running_loop().time
        calm = StationEndpoint(replace(station, stall_every_s=0.0, most_inside=None), seed=seed)
        prepared = await prepare(
            config,
            open_source(TABLE, config.input),
            calm,
            planned=None,
            clock=clock,
            rng=random.Random(seed),
            record=lambda sample: None,
        )
        running = Bench(
            config=config,
            load=LoadConfig.from_options({"seed": seed, **load}),
            source_spec="rows",
            command=["asyncbatch", "bench"],
            listener=Silent(),
            tools=Tools(clock=clock, meter=None),
        )
        return await running.run(replace(prepared, endpoint=StationEndpoint(station, seed=seed)))

    return run_with_virtual_clock(main)


def holds(low: float | None, truth: float, high: float | None) -> bool | None:
    """None: there is no interval."""
    return None if low is None or high is None else low <= truth <= high


def one_coverage(seed: int) -> dict[str, bool | None]:
    """Which intervals of one seed hold the truth: all slots busy with a queue, and without one."""
    (queued,) = bench(SERVICE, seed=seed, chunk_rows="50", concurrency="6", duration="60s").points
    (point,) = bench(SERVICE, seed=seed, chunk_rows="50", concurrency="4", duration="60s").points
    (arriving,) = bench(
        SERVICE, seed=seed, chunk_rows="50", rate="8", arrivals="poisson", duration="120s"
    ).points
    found = {
        "rows_per_s, queue": holds(queued.rows_per_s_low, SERVICE.capacity(50), queued.rows_per_s_high),
        "rows_per_s": holds(point.rows_per_s_low, SERVICE.capacity(50), point.rows_per_s_high),
        "rows_per_s, poisson": holds(arriving.rows_per_s_low, 400.0, arriving.rows_per_s_high),
    }
    for percent, z in ((50.0, 0.0), (95.0, 1.6448536)):
        truth = SERVICE.mean_s(50) * math.exp(SERVICE.noise * z - SERVICE.noise**2 / 2)
        each = point.latency.percentile(percent)
        found[f"p{percent:g}"] = holds(each.low_s, truth, each.high_s)
    return found


def true_best(station: Station, objective_s: float, most_rows: int, most_flight: int) -> float:
    """The most rows/s of a request whose p95 meets the objective; a slot each, so that nothing waits."""
    slowest = math.exp(1.6448536 * station.noise - station.noise**2 / 2)
    rows = min(most_rows, int((objective_s / slowest - station.request_s) / station.row_s))
    return min(station.slots, most_flight) * rows / station.mean_s(rows)


def one_knee(task: tuple[str, int]) -> dict[str, Any]:
    """One search."""
    name, seed = task
    station, slo = KNEES[name]
    result = bench(
        station, seed=seed, find_knee=True, chunk_rows="1:4096", concurrency="1:64", slo=f"{slo},errors<1%"
    )
    assert slo is not None
    truth = true_best(station, float(slo.removeprefix("p95<").removesuffix("ms")) / 1000, 4096, 64)
    knee = result.knee
    assert knee is not None
    best = result.points[result.best] if result.best is not None else None
    reached = (
        0.0
        if best is None
        else min(best.concurrency or 0, station.slots) * best.chunk_rows / station.mean_s(best.chunk_rows)
    )
    return {
        "name": name,
        "verdict": knee.verdict,
        "confirmed": knee.confirmed,
        "points": len(result.points),
        "seconds": round(result.elapsed_s),
        "setting": None if best is None else [best.chunk_rows, best.concurrency],
        "measured_of_truth": round((knee.rows_per_s or 0) / truth, 4),
        "setting_of_truth": round(reached / truth, 4),
        "holds": holds(knee.rows_per_s_low, reached, knee.rows_per_s_high),
    }


def stalls(seed: int) -> dict[str, float | None]:
    """A server that stalls 2 s in every 20 s: p99 is 1.8 s for who arrives evenly."""
    options = {"chunk_rows": "1", "warmup": "0", "cooldown": "0", "duration": "400s"}
    (arriving,) = bench(STALLS, seed=seed, rate="50", **options).points
    (naive,) = bench(STALLS, seed=seed, concurrency="1", **options).points
    return {
        "truth_p99_s": 1.8,
        "open_loop_p99_s": arriving.latency.percentile(99.0).seconds,
        "open_loop_p95_s": arriving.latency.percentile(95.0).seconds,
        "naive_p99_s": naive.latency.percentile(99.0).seconds,
    }


def real(seconds: float) -> list[dict[str, Any]]:
    """Against `asyncbatch serve` in another process, in real time."""
    from asyncbatch.server import ServeConfig, SimulationConfig
    from asyncbatch.server.background import background

    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.parquet")
        pq.write_table(TABLE, path)
        for rows, flight in ((1, 1), (50, 4), (50, 16), (500, 8)):
            simulation = SimulationConfig(a=0.02, b=1e-4, slots=4, noise=0.1)
            with background(ServeConfig(model="simulated", simulation=simulation)) as server:
                result = bench_job(
                    RunConfig.from_options({"endpoint": server.invocations_url}),
                    LoadConfig.from_options(
                        {
                            "chunk_rows": str(rows),
                            "concurrency": str(flight),
                            "duration": seconds,
                            "warmup": "1s",
                        }
                    ),
                    path,
                    command=["asyncbatch", "bench"],
                    listener=Silent(),
                )
            truth = min(flight, 4) * rows / (0.02 + 1e-4 * rows)
            (point,) = result.points
            found.append(
                {
                    "rows": rows,
                    "in_flight": flight,
                    "rows_per_s": round(point.rows_per_s, 1),
                    "of_truth": round(point.rows_per_s / truth, 4),
                }
            )
    return found


def shares(found: list[dict[str, bool | None]]) -> dict[str, dict[str, float | int]]:
    """For each figure: of how many seeds had an interval, how many held the truth."""
    answer: dict[str, dict[str, float | int]] = {}
    for name in found[0]:
        known = [each[name] for each in found if each[name] is not None]
        answer[name] = {
            "seeds": len(found),
            "with_interval": len(known),
            "held": round(sum(bool(each) for each in known) / max(1, len(known)), 4),
        }
    return answer


def mapped(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    """In as many processes as there are cores."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        return pool.map(function, tasks, chunksize=1)


def main() -> int:
    """Measure, write, and say whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--knee-seeds", type=int, default=10, help="searches of each kind of endpoint")
    parser.add_argument("--quick", action="store_true", help="10 seeds, 2 searches, and write nothing")
    parser.add_argument("--real", action="store_true", help="in real time too")
    asked = parser.parse_args()
    seeds, searches = (10, 2) if asked.quick else (asked.seeds, asked.knee_seeds)
    result: dict[str, Any] = surroundings("asyncbatch", "numpy")
    result["coverage"] = shares(mapped(one_coverage, list(range(seeds))))
    knees = mapped(one_knee, [(name, seed) for name in KNEES for seed in range(searches)])
    result["knees"] = knees
    result["knees_within_5_percent"] = round(
        sum(abs(each["measured_of_truth"] - 1) <= 0.05 for each in knees) / len(knees), 4
    )
    result["stalls"] = stalls(1)
    if asked.real:
        result["real"] = real(2.0 if asked.quick else 10.0)
    for name, value in result.items():
        print(name, value)
    if not asked.quick:
        print(save("bench_truth", result))
    held = [each["held"] for each in result["coverage"].values()]
    return 0 if min(held) >= 0.9 and max(held) <= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
