"""What the adaptive controller costs a request in cruise: `python benchmarks/control/per_sample.py`.

One request is a permit asked for, a delay asked for, a chunk asked for and a sample recorded. The endpoint answers on a virtual
clock and takes 100 rows at most: with larger chunks there are few requests a second, and their cost does not matter. The loop's
own cost is measured with a controller that does nothing, and taken off. Best of some repetitions.
"""

import argparse
import json
import platform
import random
import time
from collections import deque
from pathlib import Path

from asyncbatch.control import AdaptiveController, FixedController
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.protocols import Controller
from asyncbatch.units import IntRange


class _Loop:
    """A closed loop of requests whose latencies are drawn beforehand; the order of answers is the order of requests."""

    def __init__(self, *, slots: int) -> None:
        rng = random.Random(1)
        self.now = 0.0
        self._slots = slots
        self._noise = [rng.lognormvariate(0, 0.1) for _ in range(4096)]

    def clock(self) -> float:
        return self.now

    def run(self, controller: Controller, requests: int) -> None:
        noise, slots = self._noise, self._slots
        flying: deque[tuple[float, int]] = deque()
        controller.note_remaining(10**12)
        for turn in range(requests):
            while len(flying) < controller.concurrency():
                wait = controller.send_delay()
                if wait > 0 and flying:
                    break
                self.now += wait
                flying.append((self.now, controller.next_chunk().rows))
            started, rows = flying.popleft()
            self.now += (0.005 + 0.0001 * rows) * noise[turn & 4095] / slots
            controller.record(
                Sample(
                    rows=rows, body_bytes=rows * 100, started_s=started, finished_s=self.now,
                    outcome=Outcome.SUCCESS, kind=Kind.FIRST,
                )
            )  # fmt: skip


def microseconds(make: type[AdaptiveController] | None, *, requests: int, slots: int) -> float:
    """CPU of one request in cruise, the loop's own included."""
    loop = _Loop(slots=slots)
    controller: Controller = FixedController(
        chunk_rows=100, chunk_bytes=10**9, concurrency=slots + slots // 4
    )
    if make is not None:
        controller = make(clock=loop.clock, rng=random.Random(1), chunk_rows=IntRange(1, 100))
    loop.run(controller, 20_000)  # past start-up
    begun = time.process_time()
    loop.run(controller, requests)
    return (time.process_time() - begun) / requests * 1e6


def measure(*, requests: int, repetitions: int, slots: int) -> float:
    """Microseconds a request that the controller itself takes."""
    own = min(microseconds(AdaptiveController, requests=requests, slots=slots) for _ in range(repetitions))
    loop = min(microseconds(None, requests=requests, slots=slots) for _ in range(repetitions))
    return own - loop


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {
        f"{slots} slots": round(
            measure(requests=options.requests, repetitions=options.repetitions, slots=slots), 2
        )
        for slots in (8, 64)
    }
    for name, each in found.items():
        print(f"{name:10s} {each:6.2f} us a request")
    if options.json:
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        options.json.write_text(json.dumps({"machine": machine, "microseconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
