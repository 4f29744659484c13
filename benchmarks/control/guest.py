"""What a guest does to live users, and how much of the spare capacity it takes.

    nice -n 10 python benchmarks/control/guest.py --save      (6 to 14 min; writes results/guest.json)

Open-loop live traffic (Poisson, one row a request) at 30, 50 and 70 % load; the rise of its 99th percentile against the same
traffic without a job, and the slots' time that the job took over what the live traffic left. Means over the seeds; one seed is
enough for the endpoints of 32 and 64 slots, which see ten times the live requests.

What it is to be held against is in `guest_frontier.py`: a guest whose chunks take as long as a live request cannot be invisible.
With 8 slots at 50 % load, 70 % of the rest is 85 % in all, and of live requests that come at a random time more than half find
every slot busy. `attainable` says what M/G/c makes of it: first come first served, and were live users served first
(non-preemptive priority: Cobham, Operations Research 2, 1954).
"""

import argparse
import math
import random
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from endpoints import Endpoint
from measuring import save, surroundings
from simulate import Run, Simulation

from asyncbatch.control import FixedController, GuestController

LOADS = (0.3, 0.5, 0.7)
ENDPOINTS = (
    Endpoint(name="trees", rows=10**8, call_s=0.02, row_s=0.0005, slots=8, noise=0.1),
    Endpoint(name="fleet", rows=10**8, call_s=0.05, row_s=0.002, slots=4, instances=8, noise=0.2),
    Endpoint(name="gpu", rows=10**8, call_s=0.02, row_s=0.003, slots=2, instances=2, curve="padded", pad=8, noise=0.1),
    Endpoint(name="slow", rows=10**7, call_s=0.3, row_s=0.02, slots=8, noise=0.3),
    Endpoint(name="wide", rows=10**8, call_s=0.1, row_s=0.001, slots=64, noise=0.2),
)  # fmt: skip


class _Nobody(FixedController):
    """Never sends."""

    def send_delay(self) -> float:
        return math.inf


def p99(run: Run) -> float:
    values = sorted(run.live_s)
    return values[int(0.99 * len(values))]


def nobody() -> FixedController:
    """No job at all."""
    return _Nobody(chunk_rows=1, chunk_bytes=1, concurrency=1)


def spare_slots(shared: Endpoint) -> float:
    """What the live traffic leaves, in slots."""
    return (1 - shared.live_load) * shared.slots * shared.instances


def alone(shared: Endpoint, seconds: float, seed: int) -> float:
    """The live traffic's 99th percentile without a job."""
    return p99(Simulation(shared, seed=seed).run(nobody(), until_s=seconds))


def measured(shared: Endpoint, run: Run, before_s: float) -> dict[str, float]:
    spare = spare_slots(shared) * run.seconds
    return {
        "p99_rise": round(p99(run) / before_s - 1, 4),
        "spare_taken": round(run.busy_s / spare, 4),
        "rows_per_s": round(run.rows_done / run.seconds, 1),
    }


def guest(number: int, load: float, seed: int, seconds: float) -> dict[str, Any]:
    """One run of a guest on one endpoint."""
    shared = replace(ENDPOINTS[number], live_load=load, name=f"{ENDPOINTS[number].name}-{load}")
    simulation = Simulation(shared, seed=seed, block_rows=65536)
    controller = GuestController(clock=simulation.clock, rng=random.Random(seed))
    run = simulation.run(controller, until_s=seconds)
    decisions = [f"   {each.time_s:8.2f} {each.what:30s} {each.why}" for each in controller.explain()]
    return {**measured(shared, run, alone(shared, seconds, seed)), "decisions": decisions}


def attainable(endpoint: Endpoint, load: float, share: float) -> tuple[float, float]:
    """Rise of the live 99th percentile in M/G/c when `share` of the rest is taken: first come first served; live users first.

    P(wait) by Erlang C; waits are exponential and shorter than those of M/M/c by (1 + cv^2) / 2 (Allen and Cunneen).
    """
    servers, total = endpoint.slots * endpoint.instances, load + share * (1 - load)
    before_s = _p99_of_sum(endpoint.noise, servers, load, drain=1 - load)
    fifo_s = _p99_of_sum(endpoint.noise, servers, total, drain=1 - total)
    first_s = _p99_of_sum(endpoint.noise, servers, total, drain=1 - load)
    return fifo_s / before_s - 1, first_s / before_s - 1


def _p99_of_sum(noise: float, servers: int, load: float, *, drain: float) -> float:
    """Service (lognormal, mean 1) and wait together."""
    term, terms = 1.0, 1.0
    for k in range(1, servers):
        term *= servers * load / k
        terms += term
    last = term * load / (1 - load)
    waits = last / (terms + last)
    mean_wait_s = (1 + noise * noise) / 2 / (servers * drain)
    rng = random.Random(1)
    sums = sorted(
        rng.lognormvariate(-noise * noise / 2, noise)
        + (rng.expovariate(1 / mean_wait_s) if rng.random() < waits else 0.0)
        for _ in range(40_000)
    )
    return sums[int(0.99 * len(sums))]


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(sum(row[name] for row in rows) / len(rows), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1200.0, help="simulated")
    parser.add_argument("--seeds", type=int, nargs="*", default=[201, 202])
    parser.add_argument("--only", nargs="*", help="endpoints, by name")
    parser.add_argument("--save", action="store_true", help="write results/guest.json")
    parser.add_argument(
        "--explain", action="store_true", help="print what the guest decided, with the first seed"
    )
    options = parser.parse_args()
    chosen = [k for k, each in enumerate(ENDPOINTS) if not options.only or each.name in options.only]
    seeds = {
        k: options.seeds[: 1 if each.slots * each.instances >= 32 else None]
        for k, each in enumerate(ENDPOINTS)
    }
    keys = [(k, load, seed) for k in reversed(chosen) for load in LOADS for seed in seeds[k]]
    with ProcessPoolExecutor(2) as pool:
        runs = dict(
            zip(keys, pool.map(guest, *zip(*keys, strict=True), [options.seconds] * len(keys)), strict=True)
        )
    cases: list[dict[str, Any]] = []
    for number in chosen:
        for load in LOADS:
            endpoint, found = ENDPOINTS[number], [runs[number, load, seed] for seed in seeds[number]]
            fifo, first = attainable(endpoint, load, 0.7)
            cases.append(
                {
                    "endpoint": endpoint.name,
                    "load": load,
                    **{name: mean(found, name) for name in ("p99_rise", "spare_taken", "rows_per_s")},
                    "p99_rises": [each["p99_rise"] for each in found],
                    "shares": [each["spare_taken"] for each in found],
                    "theory_at_.7": {"first_come": round(fifo, 3), "live_first": round(first, 3)},
                }
            )
            print(
                f"{endpoint.name:6s} {load} live p99 {100 * cases[-1]['p99_rise']:+6.1f} %, spare taken"
                f" {cases[-1]['spare_taken']:.2f}, {cases[-1]['rows_per_s']:.0f} rows/s   M/G/c at .7:"
                f" {100 * fifo:+.0f} % first come, {100 * first:+.0f} % live first",
                flush=True,
            )
            if options.explain:
                print("\n".join(found[0]["decisions"]))
    summary = {name: mean(cases, name) for name in ("p99_rise", "spare_taken")}
    print(
        f"mean rise of the live p99 {100 * summary['p99_rise']:.1f} %, mean share {summary['spare_taken']:.2f}"
    )
    if options.save:
        save("guest", {**surroundings(), "seeds": options.seeds, "summary": summary, "cases": cases})


if __name__ == "__main__":
    main()
