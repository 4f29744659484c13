"""Whether the simulator tells the truth: the same controllers on the same endpoints, simulated and over loopback HTTP.

    python benchmarks/control/loopback.py --save      (about 10 min; writes results/loopback.json)

Each endpoint is simulated (`simulate.py`) and served by `asyncbatch serve` in a process of its own, with instances, routing, way,
crowding, limits, memory errors and a schedule; there the whole of `asyncbatch.run` works against it, in another process. Times
are 50 ms and more, so that neither client nor server is ever short of CPU. The score is the makespan of the best static setting,
found in the simulator by exhaustive search, over the controller's, each in its own world. A run is ended after two and a half
times the best makespan; what it has done by then counts.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from endpoints import Change, Endpoint
from measuring import save, surroundings
from oracle import OracleCache
from rules import RULES
from simulate import Simulation

from asyncbatch.control import AdaptiveController, FixedController
from asyncbatch.protocols import Controller

_ROW_BYTES = 9
"""An integer of eight digits and its line end."""
_CAP = 2.5
CONTROLLERS = ("asyncbatch", "100x4", "500x16", "beam", "clipper")
ENDPOINTS = (
    Endpoint(name="trees", rows=200_000, call_s=0.05, row_s=0.0005, slots=8, noise=0.1),
    Endpoint(name="padded", rows=8_000, call_s=0.06, row_s=0.003, curve="padded", pad=8, slots=2, noise=0.1),
    Endpoint(
        name="fleet", rows=200_000, call_s=0.1, row_s=0.002, slots=4, instances=4, random_routing=True, queue=20, noise=0.2
    ),
    Endpoint(name="gateway", rows=100_000, call_s=0.1, row_s=0.001, slots=8, request_rate=8, burst_s=2, noise=0.1),
    Endpoint(name="at-once", rows=40_000, call_s=0.2, row_s=0.002, slots=6, at_once=6, noise=0.15),
    Endpoint(name="crowded", rows=25_000, call_s=0.1, row_s=0.001, slots=8, cores=2, thrash=0.05, noise=0.1),
    Endpoint(name="knee", rows=40_000, call_s=0.1, row_s=0.001, curve="knee", knee_rows=200, knee_steepness=2, slots=4),
    Endpoint(
        name="memory", rows=25_000, call_s=0.1, row_s=0.002, slots=4, memory_rows=300, memory_delay_s=0.3, restart_s=1.0
    ),
    Endpoint(
        name="far", rows=40_000, call_s=0.06, row_s=0.001, slots=4, round_trip_s=0.25, bandwidth=200_000, max_rows=700
    ),
    Endpoint(
        name="moving", rows=150_000, call_s=0.08, row_s=0.001, slots=8, noise=0.15,
        changes=(Change(at_s=8, what="slots", value=3), Change(at_s=18, what="slots", value=8)),
    ),
)  # fmt: skip
_SHAPES = {"line": "affine", "steps": "step", "padded": "pow2", "knee": "knee", "saturating": "saturating"}
_PLANNING_S = 0.55
"""Seconds from the first of four probes to the first chunk: schedules of the served endpoint are later by it."""


def served(endpoint: Endpoint, *, seed: int) -> dict[str, Any]:
    """The fields of `asyncbatch.server.config.SimulationConfig` for `endpoint`."""
    return {
        "a": endpoint.call_s,
        "b": endpoint.row_s,
        "shape": _SHAPES[endpoint.curve],
        "m": endpoint.pad,
        "knee": endpoint.knee_rows,
        "knee_c": endpoint.row_s * endpoint.knee_steepness / endpoint.knee_rows,
        "noise": endpoint.noise,
        "noise_kind": endpoint.noise_kind,
        "slots": endpoint.slots,
        "queue": endpoint.queue,
        "instances": endpoint.instances,
        "routing": "random" if endpoint.random_routing else "shortest",
        "uneven": endpoint.uneven,
        "cores": endpoint.cores,
        "thrash": endpoint.thrash,
        "round_trip_s": endpoint.round_trip_s,
        "bandwidth": endpoint.bandwidth,
        "rate": endpoint.request_rate,
        "burst": endpoint.request_rate * endpoint.burst_s,
        "throttle": 429,
        "max_conc": endpoint.at_once,
        "cap_rows": endpoint.max_rows,
        "cap_bytes": endpoint.max_bytes,
        "oom_rows": endpoint.memory_rows,
        "oom_delay_s": endpoint.memory_delay_s if endpoint.memory_rows else 0.0,
        "oom_restart_s": endpoint.restart_s,
        "errors": {"500": endpoint.error_share} if endpoint.error_share else {},
        "changes": [
            {
                "at_s": each.at_s + _PLANNING_S,
                "what": each.what.replace("request_rate", "rate"),
                "value": each.value,
            }
            for each in endpoint.changes
        ],
        "seed": seed,
    }


def controller(name: str, clock: Any, rng: random.Random) -> Controller:
    """`asyncbatch`, a rule of `rules.py`, or a static setting such as `100x4`."""
    if name == "asyncbatch":
        return AdaptiveController(clock=clock, rng=rng, chunk_bytes=6 * 2**20)
    if name in RULES:
        return RULES[name](clock, rng)
    rows, _, in_flight = name.partition("x")
    return FixedController(chunk_rows=int(rows), chunk_bytes=6 * 2**20, concurrency=int(in_flight))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    seconds: float
    share_done: float
    """1.0 when it came to its end."""
    requests: int
    refused: int
    cpu_share: float = 0.0
    """CPU of the client while it ran, in cores."""

    @property
    def makespan_s(self) -> float:
        return self.seconds / max(self.share_done, 1e-9)


def simulated(endpoint: Endpoint, name: str, *, seed: int, cap_s: float) -> Result:
    simulation = Simulation(endpoint, seed=seed, retries_step_aside=True)
    run = simulation.run(controller(name, simulation.clock, random.Random(seed)), until_s=cap_s)
    refused = round(run.refused_share * run.requests)
    return Result(
        seconds=run.seconds, share_done=run.rows_done / endpoint.rows, requests=run.requests, refused=refused
    )


def over_http(endpoint: Endpoint, name: str, *, seed: int, cap_s: float) -> Result:
    """A run in a process of its own."""
    job = {
        "endpoint": endpoint.name,
        "rows": endpoint.rows,
        "controller": name,
        "seed": seed,
        "cap_s": cap_s,
    }
    found = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(job)], capture_output=True, text=True, check=False, timeout=cap_s + 120,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"},
    )  # fmt: skip
    if found.returncode:
        raise SystemExit(f"{endpoint.name} {name}: {found.stderr[-2000:]}")
    return Result(**json.loads(found.stdout))


def one(job: dict[str, Any]) -> Result:
    """Serve the endpoint, and run the job against it from here."""
    import pyarrow as pa

    import asyncbatch
    from asyncbatch.errors import StoppedError
    from asyncbatch.model import Outcome
    from asyncbatch.observe.events import PartCommitted, Progressed, RunFinished, RunPlanned
    from asyncbatch.server import ServeConfig, SimulationConfig
    from asyncbatch.server.background import background

    endpoint, seed = next(each for each in ENDPOINTS if each.name == job["endpoint"]), job["seed"]
    config = ServeConfig.from_json(
        {
            **ServeConfig(model="simulated").to_json(),
            "simulation": {**asdict(SimulationConfig()), **served(endpoint, seed=seed)},
        }
    )
    table = pa.table({"x": pa.array(range(10_000_000, 10_000_000 + job["rows"]), pa.int64())})
    block_rows = max(256, min(131_072, int(30 / endpoint.row_s)))
    seen: dict[str, float] = {}
    answered: list[tuple[float, int]] = []
    reports: list[Any] = []

    def hook(event: object) -> None:
        now = time.monotonic()
        if isinstance(event, RunPlanned):
            seen["begin"], seen["cpu"] = now, time.process_time()
        elif isinstance(event, PartCommitted):
            seen["end"], seen["cpu_end"] = now, time.process_time()
        elif isinstance(event, Progressed):
            answered.append((now, event.snapshot.rows_answered))
        elif isinstance(event, RunFinished):
            reports.append(event.report)

    def made(config: Any, *, clock: Any, rng: Any, **_: Any) -> Controller:
        return controller(job["controller"], clock, random.Random(seed))

    stopped = False
    with (
        background(config) as server,
        tempfile.TemporaryDirectory() as folder,
        mock.patch("asyncbatch.pipeline.planning.make_controller", made),
    ):
        try:
            asyncbatch.run(
                table, f"{folder}/out", endpoint=server.name, endpoint_url=server.url, region="us-east-1", keep="none",
                block_rows=block_rows, no_tuning=True,
                deadline=job["cap_s"], grace=0.05, progress=hook,
            )  # fmt: skip
        except StoppedError:
            stopped = True
    begin = seen["begin"]
    end = begin + job["cap_s"] if stopped else seen["end"]
    done = max((rows for at, rows in answered if at <= end), default=0) if stopped else job["rows"]
    outcomes = reports[0].metrics.requests_by_outcome
    used = (seen.get("cpu_end", seen["cpu"]) - seen["cpu"]) / max(1e-9, seen.get("end", end) - begin)
    return Result(
        seconds=end - begin,
        share_done=done / job["rows"],
        requests=reports[0].metrics.requests,
        refused=outcomes.get(Outcome.THROTTLED.value, 0) + outcomes.get(Outcome.UNAVAILABLE.value, 0),
        cpu_share=round(used, 3),
    )


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's: Pearson's of the ranks; equal values share theirs."""
    return statistics.correlation(_ranks(first), _ranks(second))


def _ranks(values: list[float]) -> list[float]:
    ranked = sorted(values)
    return [ranked.index(value) + (ranked.count(value) - 1) / 2 for value in values]


def compare(
    endpoints: list[Endpoint],
    controllers: list[str],
    *,
    oracles: OracleCache,
    repeats: int,
    at_once: int,
    seed: int,
) -> dict[str, Any]:
    """Scores in both worlds, their rank correlation and largest difference."""
    bests = {endpoint.name: oracles.best(endpoint) for endpoint in endpoints}
    statics = {
        endpoint.name: f"{bests[endpoint.name].rows}x{bests[endpoint.name].in_flight}"
        for endpoint in endpoints
    }
    jobs = [
        (endpoint, name, seed + repeat)
        for repeat in range(repeats)
        for endpoint in endpoints
        for name in [statics[endpoint.name], *controllers]
    ]

    def real(job: tuple[Endpoint, str, int]) -> Result:
        endpoint, name, number = job
        return over_http(endpoint, name, seed=number, cap_s=_CAP * bests[endpoint.name].seconds)

    with ThreadPoolExecutor(at_once) as pool:
        results = dict(zip(((e.name, n, s) for e, n, s in jobs), pool.map(real, jobs), strict=True))
    rows = []
    for endpoint in endpoints:
        cap_s = _CAP * bests[endpoint.name].seconds
        worlds: dict[str, dict[str, list[Result]]] = {"simulated": {}, "http": {}}
        for name in [statics[endpoint.name], *controllers]:
            worlds["simulated"][name] = [simulated(endpoint, name, seed=s, cap_s=cap_s) for s in range(1, 10)]
            worlds["http"][name] = [results[endpoint.name, name, seed + repeat] for repeat in range(repeats)]
        for name in controllers:
            scores = {
                world: statistics.fmean(each.makespan_s for each in found[statics[endpoint.name]])
                / statistics.fmean(each.makespan_s for each in found[name])
                for world, found in worlds.items()
            }
            http = worlds["http"][name]
            rows.append(
                {
                    "endpoint": endpoint.name,
                    "controller": name,
                    "static": statics[endpoint.name],
                    "simulated": round(scores["simulated"], 4),
                    "http": round(scores["http"], 4),
                    "simulated_s": round(
                        statistics.fmean(each.makespan_s for each in worlds["simulated"][name]), 2
                    ),
                    "http_s": round(statistics.fmean(each.makespan_s for each in http), 2),
                    "refused": {
                        "simulated": statistics.fmean(
                            each.refused / each.requests for each in worlds["simulated"][name]
                        ),
                        "http": statistics.fmean(each.refused / each.requests for each in http),
                    },
                    "client_cpu": max(each.cpu_share for each in http),
                }
            )
    return {
        "rank_correlation": round(
            rank_correlation([r["simulated"] for r in rows], [r["http"] for r in rows]), 4
        ),
        "largest_difference": round(max(abs(r["simulated"] - r["http"]) for r in rows), 4),
        "within_0.1": sum(abs(r["simulated"] - r["http"]) <= 0.1 for r in rows) / len(rows),
        "scores": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="endpoints, by name")
    parser.add_argument("--controllers", nargs="*", default=list(CONTROLLERS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=6, help="runs at a time; each needs a tenth of a core")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each job's rows, for a short form")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--oracles", type=Path, default=Path(__file__).parent / "oracles.json")
    parser.add_argument("--save", action="store_true", help="write results/loopback.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = one(json.loads(options.one))
        print(json.dumps(asdict(found)))
        return
    endpoints = [
        replace(each, rows=int(each.rows * options.scale))
        for each in ENDPOINTS
        if not options.only or each.name in options.only
    ]
    began = time.monotonic()
    result = compare(
        endpoints, options.controllers, oracles=OracleCache(options.oracles), repeats=options.repeats, at_once=options.at_once,
        seed=options.seed,
    )  # fmt: skip
    for row in result["scores"]:
        print(
            f"{row['endpoint']:10s} {row['controller']:12s} simulated {row['simulated']:.3f} ({row['simulated_s']:6.1f} s)"
            f"   over HTTP {row['http']:.3f} ({row['http_s']:6.1f} s)   difference {row['http'] - row['simulated']:+.3f}"
            f"   client CPU {row['client_cpu']:.2f}"
        )
    print(
        f"rank correlation {result['rank_correlation']:.3f}, largest difference {result['largest_difference']:.3f}, "
        f"{result['within_0.1']:.0%} within 0.1, in {time.monotonic() - began:.0f} s"
    )
    if options.save:
        save("loopback", {**surroundings(), "seed": options.seed, "repeats": options.repeats, **result})


if __name__ == "__main__":
    main()
