"""How close controllers come to the best static setting, on simulated endpoints.

    python benchmarks/control/run.py --endpoints kinds:40 wild:40 moving:30 --seeds 2 --json out.json
    python benchmarks/control/run.py --trace wild-17
    python benchmarks/control/run.py --table            # everything, to benchmarks/results/control.json; --quick: in a minute

The score is (best static setting's makespan) / (controller's makespan); the best static setting is found by exhaustive search,
which nobody can do before a paid job. 1.0 means: as good as had one known. The search picks the luckiest of hundreds of runs with
one seed; `best` is its setting, run again with the seeds of the others: what it scores is what can be expected of it.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from endpoints import GENERATORS, Endpoint
from oracle import Best, OracleCache
from rules import RULES
from simulate import Run, Simulation
from table import QUICK, QUICK_RIVALS, RIVALS, SETS, lines, show, write

from asyncbatch.control import AdaptiveController, FixedController
from asyncbatch.protocols import Controller

Maker = Callable[[Callable[[], float], random.Random], Controller]


def makers() -> dict[str, Maker]:
    """Every controller by name."""
    return {"asyncbatch": lambda clock, rng: AdaptiveController(clock=clock, rng=rng), **RULES}


def time_to_rate(run: Run, rate: float, share: float = 0.9) -> float:
    """Seconds until the rows answered in a window (10 s, or 4 % of the run) first reach `share` of `rate`."""
    if not run.answered:
        return math.inf
    window = max(10.0, 0.04 * run.seconds)
    first = last = rows = 0
    start = 0.0
    while start + window <= run.seconds:
        while last < len(run.answered) and run.answered[last][0] <= start + window:
            rows += run.answered[last][1]
            last += 1
        while first < last and run.answered[first][0] <= start:
            rows -= run.answered[first][1]
            first += 1
        if rows >= share * rate * window:
            return start
        start += 0.5
    return math.inf


def one(endpoint: Endpoint, maker: Maker, seed: int, best_s: float) -> dict[str, Any]:
    simulation = Simulation(endpoint, seed=seed)
    controller = maker(simulation.clock, random.Random(seed))
    begun = time.process_time()
    run = simulation.run(controller, until_s=15 * best_s)
    score = (
        best_s / run.seconds
        if run.finished
        else run.rows_done / endpoint.rows * best_s / max(run.seconds, 1e-9)
    )
    return {
        "score": score,
        "refused": run.refused_share,
        "oversize": run.oversize_share,
        "reach_s": time_to_rate(run, endpoint.rows / best_s),
        "requests": run.requests,
        "cpu_s": time.process_time() - begun,
        "outcomes": run.outcomes,
    }


def warm(endpoint: Endpoint, seed: int, best_s: float) -> dict[str, Any]:
    """A second run that starts with what the first has learned."""
    simulation = Simulation(endpoint, seed=seed)
    first = AdaptiveController(clock=simulation.clock, rng=random.Random(seed))
    simulation.run(first, until_s=15 * best_s)
    learned = first.learned()
    return one(
        endpoint,
        lambda clock, rng: AdaptiveController(clock=clock, rng=rng, start=learned),
        seed + 100,
        best_s,
    )


def geomean(values: list[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-9)) for value in values) / len(values))


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """`results`: runs by endpoint."""
    scores = [geomean([run["score"] for run in runs]) for runs in results.values()]
    runs = [run for runs in results.values() for run in runs]
    return {
        "geomean": geomean(scores),
        "worst": min(scores),
        "below .85": sum(score < 0.85 for score in scores),
        "refused %": 100 * statistics.fmean(run["refused"] for run in runs),
        "oversize %": 100 * statistics.fmean(run["oversize"] for run in runs),
        "median s to 90 %": statistics.median(min(run["reach_s"], 1e4) for run in runs),
    }


def drawn(specs: list[str]) -> dict[str, list[Endpoint]]:
    """`wild:40:100` means 40 endpoints of the generator `wild` from seed 100 on."""
    found = {}
    for spec in specs:
        name, _, rest = spec.partition(":")
        count, _, first = rest.partition(":")
        found[spec] = [GENERATORS[name](int(first or 0) + k) for k in range(int(count or 20))]
    return found


def by_name(name: str) -> Endpoint:
    for generate in GENERATORS.values():
        for seed in [int(name.rsplit("-", 1)[1])]:
            endpoint = generate(seed)
            if endpoint.name == name:
                return endpoint
    raise SystemExit(f"no endpoint is called {name}")


def trace(name: str, seed: int, oracles: OracleCache) -> None:
    endpoint = by_name(name)
    best = oracles.best(endpoint)
    simulation = Simulation(endpoint, seed=seed)
    controller = AdaptiveController(clock=simulation.clock, rng=random.Random(seed))
    run = simulation.run(controller, until_s=15 * best.seconds)
    print(endpoint)
    for decision in controller.explain():
        print(f"{decision.time_s:9.2f} s  {decision.what:44s} {decision.why}")
    print(f"{run.seconds:.1f} s, best static {best}: score {best.seconds / run.seconds:.3f}, {run.outcomes}")


def fixed(best: Best) -> Maker:
    """A controller that keeps to the setting."""
    return lambda _clock, _rng: FixedController(
        chunk_rows=best.rows, chunk_bytes=2**40, concurrency=best.in_flight
    )


def runs_of(
    name: str, endpoints: list[Endpoint], seeds: int, oracles: OracleCache
) -> dict[str, list[dict[str, Any]]]:
    """Runs by endpoint of `name`; `warm` is asyncbatch with what a first run learned, `best` the best static setting."""
    found = {}
    for endpoint in endpoints:
        best = oracles.best(endpoint)
        best_s, each = best.seconds, range(1, seeds + 1)
        if name == "best":
            found[endpoint.name] = [one(endpoint, fixed(best), seed, best_s) for seed in each]
        elif name == "warm":
            found[endpoint.name] = [warm(endpoint, seed, best_s) for seed in each]
        else:
            found[endpoint.name] = [one(endpoint, makers()[name], seed, best_s) for seed in each]
    return found


def table(options: argparse.Namespace, oracles: OracleCache) -> None:
    """Run everything, print the table, and write it."""
    sets = QUICK if options.quick else SETS
    controllers = ["asyncbatch", "warm", *(QUICK_RIVALS if options.quick else RIVALS)]
    results = {
        group: {
            name: runs_of(name, [GENERATORS[group](seed) for seed in range(count)], options.seeds, oracles)
            for name in controllers
        }
        for group, count in sets.items()
    }
    rows = lines(results, summary)
    print(show(rows))
    path = options.json or Path(__file__).parents[1] / "results" / "control.json"
    write(path, rows, results, seeds=options.seeds)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoints", nargs="+", default=["kinds:40", "wild:40", "moving:30"])
    parser.add_argument("--controllers", nargs="+", default=["asyncbatch"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--oracles", type=Path, default=Path(__file__).parent / "oracles.json")
    parser.add_argument("--trace")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer endpoints and rivals")
    parser.add_argument("--low", type=float, default=0.85, help="list the runs below this score")
    options = parser.parse_args()
    oracles = OracleCache(options.oracles)
    if options.trace:
        trace(options.trace, options.seeds, oracles)
        return
    if options.table:
        table(options, oracles)
        return
    everything: dict[str, Any] = {"command": sys.argv[1:], "sets": {}}
    for spec, endpoints in drawn(options.endpoints).items():
        everything["sets"][spec] = {}
        for name in options.controllers:
            results = runs_of(name, endpoints, options.seeds, oracles)
            for endpoint in endpoints:
                best, runs = oracles.best(endpoint), results[endpoint.name]
                score = geomean([run["score"] for run in runs])
                if score < options.low and len(options.controllers) == 1:
                    print(
                        f"  {endpoint.name:16s} {score:.3f}  {best.seconds:6.0f} s {best.rows:6d} x {best.in_flight:<4d}"
                        f" {runs[0]['outcomes']}"
                    )
            line = summary(results)
            everything["sets"][spec][name] = {"summary": line, "runs": results}
            print(
                f"{spec:16s} {name:16s} " + "  ".join(f"{key} {value:.3f}" for key, value in line.items()),
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
