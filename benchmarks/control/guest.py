"""What a guest does to live users, and how much of the spare capacity it takes.

    python benchmarks/control/guest.py --json out.json

Open-loop live traffic at 30, 50 and 70 % load; the rise of its 99th percentile against the same traffic without a job.
"""

import argparse
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from endpoints import Endpoint
from simulate import Run, Simulation

from asyncbatch.control import AdaptiveController, FixedController, GuestController
from asyncbatch.protocols import Controller

ENDPOINTS = (
    Endpoint(name="trees", rows=10**8, call_s=0.02, row_s=0.0005, slots=8, noise=0.1),
    Endpoint(name="fleet", rows=10**8, call_s=0.05, row_s=0.002, slots=4, instances=8, noise=0.2),
    Endpoint(
        name="gpu",
        rows=10**8,
        call_s=0.02,
        row_s=0.003,
        slots=2,
        instances=2,
        curve="padded",
        pad=8,
        noise=0.1,
    ),
    Endpoint(name="slow", rows=10**7, call_s=0.3, row_s=0.02, slots=8, noise=0.3),
    Endpoint(name="wide", rows=10**8, call_s=0.1, row_s=0.001, slots=64, noise=0.2),
)


class _Nobody(FixedController):
    """Never sends."""

    def send_delay(self) -> float:
        return math.inf


def _p99(run: Run) -> float:
    values = sorted(run.live_s)
    return values[int(0.99 * len(values))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--explain", action="store_true")
    options = parser.parse_args()
    rows = []
    for endpoint in ENDPOINTS:
        for load in (0.3, 0.5, 0.7):
            shared = replace(endpoint, live_load=load, name=f"{endpoint.name}-{load}")

            def alone(shared: Endpoint = shared) -> Run:
                nobody = _Nobody(chunk_rows=1, chunk_bytes=1, concurrency=1)
                return Simulation(shared, seed=1).run(nobody, until_s=options.seconds)

            before = _p99(alone())
            for name, make in (("guest", GuestController), ("adaptive", AdaptiveController)):
                simulation = Simulation(shared, seed=1, block_rows=65536)
                controller: Controller = make(clock=simulation.clock, rng=random.Random(1))
                run = simulation.run(controller, until_s=options.seconds)
                spare = (1 - load) * endpoint.slots * endpoint.instances * run.seconds
                rows.append(
                    {"endpoint": endpoint.name, "load": load, "controller": name, "p99_rise": _p99(run) / before - 1,
                     "spare_taken": run.busy_s / spare}
                )  # fmt: skip
                print(
                    f"{shared.name:12s} {name:9s} live p99 {100 * rows[-1]['p99_rise']:+8.1f} %   "
                    f"spare capacity taken {rows[-1]['spare_taken']:.2f}",
                    flush=True,
                )
                if options.explain and name == "guest":
                    for decision in controller.explain()[:30]:
                        print(f"   {decision.time_s:8.2f} {decision.what:30s} {decision.why}")
    for name in ("guest", "adaptive"):
        mine = [row for row in rows if row["controller"] == name]
        print(
            f"{name}: mean rise of live p99 {100 * sum(r['p99_rise'] for r in mine) / len(mine):.1f} %, "
            f"mean share {sum(r['spare_taken'] for r in mine) / len(mine):.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
