"""Simulated endpoints and jobs: what one is made of, and ways to draw them at random.

Times in seconds, sizes in bytes. An endpoint has instances, each with worker slots and a queue; a request is admitted (limits of
rate and number), travels, waits, is worked on, and comes back.
"""

import math
import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """At `at_s`, `what` becomes `value`: instances, slots, slowness, request_rate."""

    at_s: float
    what: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    name: str
    rows: int
    """Rows of the job."""
    row_bytes: int = 200
    call_s: float = 0.05
    """Fixed cost of a call in a slot."""
    row_s: float = 0.001
    curve: str = "line"
    """line, steps (multiples of `pad`), padded (powers of two from `pad`), knee (quadratic beyond `knee_rows`), saturating
    (rows are free until `knee_rows`, then a line)."""
    pad: int = 8
    knee_rows: int = 1000
    knee_steepness: float = 1.0
    """Quadratic cost beyond the knee, in `row_s` per knee."""
    instances: int = 1
    slots: int = 4
    queue: int = 1000
    """Waiting places of an instance; beyond them 503."""
    random_routing: bool = False
    uneven: float = 0.0
    """Spread of the instances' speeds (lognormal sigma)."""
    cores: int = 0
    """Slots beyond this many share the cores; 0: as many cores as slots."""
    thrash: float = 0.0
    """Further slowdown for each busy slot beyond the cores."""
    round_trip_s: float = 0.01
    bandwidth: float = 100e6
    noise: float = 0.1
    noise_kind: str = "lognormal"
    """lognormal, exponential (memoryless part of size `noise`), spikes (with probability 3 % ten times as long)."""
    row_cost: str = "even"
    """even, pareto, lognormal, rising (the last rows cost `row_cost_by` times the first)."""
    row_cost_by: float = 1.5
    error_share: float = 0.0
    """Requests that fail for no reason (500)."""
    request_rate: float = 0.0
    burst_s: float = 2.0
    """Seconds of the rate that may come at once."""
    at_once: int = 0
    """More requests than this get 429."""
    max_rows: int = 0
    max_bytes: int = 0
    memory_rows: int = 0
    memory_delay_s: float = 2.0
    restart_s: float = 0.0
    timeout_s: float = 60.0
    cold_s: float = 0.0
    cold_by: float = 1.0
    changes: tuple[Change, ...] = ()
    live_load: float = 0.0
    """Share of the slots' time that requests of live users (one row each, open loop, Poisson) take."""

    def row_weight(self, position: float, rng: random.Random) -> float:
        """Cost of a row at `position` (0 to 1) of the job, mean about 1."""
        if self.row_cost == "pareto":
            k = self.row_cost_by
            return min(rng.paretovariate(k), 300.0) * (k - 1) / k
        if self.row_cost == "lognormal":
            s = self.row_cost_by
            return rng.lognormvariate(-s * s / 2, s)
        if self.row_cost == "rising":
            return 1.0 + (self.row_cost_by - 1.0) * position
        return 1.0

    def service_s(self, work: float) -> float:
        """Time in an idle slot, before noise, for `work` rows of average cost."""
        if self.curve == "steps":
            work = math.ceil(work / self.pad) * self.pad
        elif self.curve == "padded":
            work = max(self.pad, 2 ** math.ceil(math.log2(max(1.0, work))))
        seconds = self.call_s + self.row_s * work
        if self.curve == "knee" and work > self.knee_rows:
            over = work - self.knee_rows
            seconds += self.row_s * self.knee_steepness * over * over / self.knee_rows
        elif self.curve == "saturating":
            seconds = self.call_s + self.row_s * max(self.knee_rows, work)
        return seconds


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def _sized(endpoint: Endpoint, rng: random.Random, low_s: float = 100, high_s: float = 400) -> Endpoint:
    """Give the job rows enough for some minutes at the endpoint's best, and not too many requests to simulate."""
    slots = endpoint.instances * (min(endpoint.slots, endpoint.cores) if endpoint.cores else endpoint.slots)
    best, best_rows = 0.0, 1
    for power in range(16):
        rows = 2**power
        if endpoint.max_rows and rows > endpoint.max_rows:
            break
        if endpoint.max_bytes and rows * endpoint.row_bytes > endpoint.max_bytes:
            break
        if endpoint.memory_rows and rows > endpoint.memory_rows:
            break
        rate = slots * rows / endpoint.service_s(rows)
        if endpoint.request_rate:
            rate = min(rate, rows * endpoint.request_rate)
        if rate > best:
            best, best_rows = rate, rows
    rows = min(int(best * rng.uniform(low_s, high_s)), 20_000 * best_rows)
    return replace(endpoint, rows=max(2_000, min(3_000_000, rows)))


def kinds(seed: int) -> Endpoint:
    """An endpoint of a kind met in practice, with that kind's parameters."""
    rng = random.Random(f"kinds {seed}")
    kind = rng.choice(
        ["trees", "sklearn", "transformer", "embedding", "llm", "serverless", "gateway", "shared"]
    )
    noise = rng.choice([0.05, 0.1, 0.2, 0.35])
    if kind == "trees":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.004, 0.05), row_s=_log_uniform(rng, 5e-5, 1e-3),
            instances=rng.choice([1, 1, 2, 3]), slots=rng.choice([2, 4, 8]), row_bytes=rng.randint(80, 900),
            noise=noise, cores=rng.choice([0, 0, 2, 4]), thrash=rng.choice([0, 0.02, 0.08]),
        )  # fmt: skip
    elif kind == "sklearn":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.02, 0.6), row_s=_log_uniform(rng, 1e-4, 5e-3),
            instances=rng.choice([1, 2, 5]), slots=rng.choice([1, 2, 4]), queue=rng.choice([8, 60, 2048]),
            row_bytes=rng.randint(100, 3000), noise=noise, error_share=rng.choice([0, 0, 0.002]),
        )  # fmt: skip
    elif kind == "transformer":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.01, 0.08), row_s=_log_uniform(rng, 1e-3, 2e-2),
            curve=rng.choice(["padded", "steps", "knee", "saturating"]), pad=rng.choice([4, 8, 16]),
            knee_rows=rng.choice([16, 32, 64, 128]), knee_steepness=rng.choice([0.3, 1, 3]),
            instances=rng.choice([1, 1, 2, 4]), slots=rng.choice([1, 1, 2]), row_bytes=rng.randint(500, 4000),
            memory_rows=rng.choice([0, 0, 300, 700]), restart_s=rng.choice([0, 20]), noise=noise,
            row_cost=rng.choice(["even", "lognormal"]), row_cost_by=0.7,
        )  # fmt: skip
    elif kind == "embedding":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.02, 0.2), row_s=_log_uniform(rng, 5e-4, 5e-3),
            curve="steps", pad=rng.choice([8, 32]), max_rows=rng.choice([96, 100, 256, 2048]),
            instances=rng.choice([1, 4]), slots=rng.choice([4, 16]), at_once=rng.choice([0, 0, 30]),
            request_rate=rng.choice([0, 0, 50]), row_bytes=2000, noise=noise,
        )  # fmt: skip
    elif kind == "llm":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.3, 2), row_s=_log_uniform(rng, 0.1, 1.5),
            slots=rng.choice([4, 8, 24]), instances=rng.choice([1, 2]), queue=rng.choice([16, 256]),
            row_cost="lognormal", row_cost_by=0.6, row_bytes=3000, noise=0.3,
        )  # fmt: skip
    elif kind == "serverless":
        limit = rng.choice([5, 10, 20, 50])
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.03, 0.3), row_s=_log_uniform(rng, 5e-4, 8e-3),
            slots=limit, at_once=limit, max_bytes=rng.choice([4_000_000, 6_000_000]), row_bytes=rng.randint(200, 5000),
            cold_s=rng.uniform(3, 20), cold_by=rng.uniform(2, 6), noise=noise,
        )  # fmt: skip
    elif kind == "gateway":
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.02, 0.3), row_s=_log_uniform(rng, 2e-4, 3e-3),
            slots=rng.choice([4, 8, 16]), request_rate=_log_uniform(rng, 2, 80), burst_s=rng.choice([1, 2, 5]),
            max_bytes=rng.choice([0, 1_048_576, 10_000_000]), row_bytes=rng.randint(100, 2000), noise=noise,
        )  # fmt: skip
    else:
        slots = rng.choice([4, 8])
        start = rng.uniform(30, 90)
        made = Endpoint(
            name=kind, rows=1, call_s=_log_uniform(rng, 0.01, 0.2), row_s=_log_uniform(rng, 3e-4, 3e-3), slots=slots,
            queue=rng.choice([6, 40, 500]), noise=rng.choice([0.2, 0.5]), noise_kind=rng.choice(["lognormal", "spikes"]),
            changes=(Change(at_s=start, what="slots", value=slots // 2),
                     Change(at_s=start + rng.uniform(40, 120), what="slots", value=slots)),
        )  # fmt: skip
    return replace(_sized(made, rng), name=f"{kind}-{seed}")


def wild(seed: int) -> Endpoint:
    """Everything drawn on its own from wide ranges, limits included."""
    rng = random.Random(f"wild {seed}")
    slots = max(1, round(_log_uniform(rng, 1, 24)))
    instances = max(1, round(_log_uniform(rng, 1, 12)))
    made = Endpoint(
        name=f"wild-{seed}", rows=1, call_s=_log_uniform(rng, 0.002, 4), row_s=_log_uniform(rng, 3e-5, 0.3),
        curve=rng.choice(["line", "line", "steps", "padded", "knee", "saturating"]), pad=2 ** rng.randint(2, 7),
        knee_rows=round(_log_uniform(rng, 10, 3000)), knee_steepness=_log_uniform(rng, 0.2, 3), slots=slots,
        instances=instances, random_routing=rng.random() < 0.4, uneven=rng.choice([0, 0, 0.3]),
        queue=round(_log_uniform(rng, 2, 1000)), round_trip_s=_log_uniform(rng, 0.001, 0.25),
        bandwidth=_log_uniform(rng, 2e6, 2e8), noise=_log_uniform(rng, 0.03, 0.7),
        noise_kind=rng.choice(["lognormal", "lognormal", "exponential", "spikes"]),
        row_bytes=round(_log_uniform(rng, 20, 20_000)), row_cost=rng.choice(["even", "even", "pareto", "lognormal", "rising"]),
        row_cost_by=rng.uniform(1.4, 2.5) if rng.random() < 0.7 else 0.8, error_share=rng.choice([0, 0, 0.001, 0.01]),
        timeout_s=rng.choice([60, 60, 30, 120]),
    )  # fmt: skip
    if made.row_cost == "pareto" and made.row_cost_by < 1.3:
        made = replace(made, row_cost_by=1.5)
    if rng.random() < 0.25:
        made = replace(made, request_rate=_log_uniform(rng, 1, 100), burst_s=rng.uniform(0.5, 5))
    if rng.random() < 0.15:
        made = replace(made, at_once=max(1, round(slots * instances * rng.uniform(0.5, 1.5))))
    if rng.random() < 0.2:
        made = replace(made, max_bytes=round(_log_uniform(rng, 2e5, 3e7)))
    if rng.random() < 0.15:
        made = replace(made, max_rows=round(_log_uniform(rng, 5, 3000)))
    if rng.random() < 0.15:
        made = replace(made, memory_rows=round(_log_uniform(rng, 20, 8000)), restart_s=rng.choice([0, 5, 30]))
    if rng.random() < 0.15:
        made = replace(made, cores=max(1, slots // 2), thrash=rng.choice([0, 0.05, 0.15]))
    if rng.random() < 0.15:
        made = replace(made, cold_s=rng.uniform(5, 60), cold_by=rng.uniform(1.5, 6))
    return _sized(made, rng)


def moving(seed: int) -> Endpoint:
    """Endpoints that change while the job runs: autoscaling, competitors, drift, redeployment."""
    rng = random.Random(f"moving {seed}")
    instances = rng.choice([1, 2, 4])
    slots = rng.choice([2, 4, 8])
    made = Endpoint(
        name="", rows=1, call_s=_log_uniform(rng, 0.01, 0.3), row_s=_log_uniform(rng, 3e-4, 1e-2), slots=slots,
        instances=instances, queue=rng.choice([10, 50, 500]), noise=rng.choice([0.05, 0.15, 0.3]),
        random_routing=rng.random() < 0.3,
    )  # fmt: skip
    at = rng.uniform(40, 100)
    kind = rng.choice(["out", "in", "competitor", "drift", "faster", "both"])
    if kind == "out":
        changes = [(at, "instances", instances * 2), (at + rng.uniform(40, 100), "instances", instances * 4)]
        made = replace(made, cold_s=15, cold_by=2)
    elif kind == "in":
        made = replace(made, instances=instances * 4)
        changes = [(at, "instances", instances * 2), (at + rng.uniform(40, 100), "instances", instances)]
    elif kind == "competitor":
        changes = [(at, "slots", max(1, slots // 2)), (at + rng.uniform(40, 150), "slots", slots)]
    elif kind == "drift":
        to = rng.choice([0.5, 2.0, 3.0])
        changes = [(at + 10 * i, "slowness", 1 + (to - 1) * (i + 1) / 15) for i in range(15)]
    elif kind == "faster":
        changes = [(at, "slowness", rng.choice([0.3, 0.5, 2.0, 3.0]))]
    else:
        changes = [(at, "slowness", 2.0), (at + 60, "instances", instances * 3)]
    made = replace(
        made, name=f"{kind}-{seed}", changes=tuple(Change(at_s=t, what=w, value=v) for t, w, v in changes)
    )
    return _sized(made, rng, 200, 500)


GENERATORS = {"kinds": kinds, "wild": wild, "moving": moving}
