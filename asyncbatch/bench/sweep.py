"""Which settings are measured, in which order, and what that will take. Pure."""

import math
import random
from collections.abc import Iterable, Sequence

from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.knee import most_points
from asyncbatch.bench.load import Limits
from asyncbatch.bench.measuring import Applied
from asyncbatch.bench.result import Budget
from asyncbatch.units import IntRange

DEFAULT_ROWS, DEFAULT_FLIGHT = (1, 64, 1024), (1, 8, 32)
KNEE_ROWS, KNEE_FLIGHT = IntRange(1, 8192), IntRange(1, 128)
MOST_IN_FLIGHT = 4096
"""Of an open loop: beyond it requests have piled up, whatever the trend."""
_UNLIMITED_S = 86_400.0


def sweep(load: LoadConfig, rng: random.Random) -> tuple[Applied, ...]:
    """The settings of a sweep, in random order: else what changes in the endpoint meanwhile would look like an effect.

    In open loop rates ascend instead: the next is higher, and the first that is too high ends them.
    """
    if load.is_open:
        rows = load.chunk_rows.counts if load.chunk_rows is not None else (1,)
        rates = load.rate.values if load.rate is not None else tuple(stage.rate for stage in load.stages)
        mode = "poisson" if load.arrivals == "poisson" else "constant"
        return tuple(
            Applied(mode=mode, chunk_rows=each, rate=rate)  # type: ignore[arg-type]  # one of two literals
            for each in rows
            for rate in rates
        )
    rows = load.chunk_rows.counts if load.chunk_rows is not None else DEFAULT_ROWS
    flights = load.concurrency.counts if load.concurrency is not None else DEFAULT_FLIGHT
    found = [Applied(mode="closed", chunk_rows=n, concurrency=k) for n in rows for k in flights]
    rng.shuffle(found)
    return tuple(found)


def knee_bounds(load: LoadConfig) -> tuple[IntRange, IntRange]:
    """Rows of a request and requests in flight that `--find-knee` may try."""
    return (
        load.chunk_rows.bounds if load.chunk_rows is not None else KNEE_ROWS,
        load.concurrency.bounds if load.concurrency is not None else KNEE_FLIGHT,
    )


def ceiling(load: LoadConfig) -> int:
    """Most requests in flight that any point can have."""
    if load.is_open:
        return MOST_IN_FLIGHT
    return (
        knee_bounds(load)[1].high
        if load.find_knee
        else max(load.concurrency.counts if load.concurrency is not None else DEFAULT_FLIGHT)
    )


def largest_rows(load: LoadConfig) -> int:
    """Rows of the largest request."""
    if load.find_knee:
        return knee_bounds(load)[0].high
    default = (1,) if load.is_open else DEFAULT_ROWS
    return max(load.chunk_rows.counts if load.chunk_rows is not None else default)


def limits(load: LoadConfig) -> Limits:
    """How long each point lasts."""
    if load.stages:
        return Limits(warmup_s=0.0, measure_s=sum(stage.seconds for stage in load.stages), cooldown_s=0.0)
    return Limits(
        warmup_s=load.warmup,
        measure_s=_UNLIMITED_S if load.requests is not None else load.duration,
        cooldown_s=load.cooldown,
        requests=load.requests,
    )


def announced_seconds(load: LoadConfig) -> float:
    """About how long it takes, as far as that can be known before the endpoint has been asked anything."""
    return budget(load, sweep(load, random.Random(load.seed))).seconds


def budget(
    load: LoadConfig,
    points: Sequence[Applied],
    *,
    seconds_of: "Iterable[float] | None" = None,
    dollars_per_s: float | None = None,
) -> Budget:
    """What the load will take.

    Args:
        seconds_of: with `--requests`, about how long one request of each point takes, by the probes.
    """
    each = load.warmup + load.duration + load.cooldown
    count, requests, seconds = len(points), load.max_requests, 0.0
    if load.find_knee:
        rows, flights = knee_bounds(load)
        count = most_points(rows, flights, replicates=load.replicates)
        seconds = count * each
    elif load.stages:
        seconds = sum(stage.seconds for stage in load.stages)
        requests = min(requests, math.ceil(sum(stage.seconds * stage.rate for stage in load.stages)))
    elif load.is_open:
        seconds = count * each
        requests = min(requests, math.ceil(sum((point.rate or 0.0) * each for point in points)))
    else:
        seconds = count * each
    if load.requests is not None and not load.find_knee:
        times = list(seconds_of) if seconds_of is not None else [1.0] * count
        seconds = sum(
            load.warmup
            + load.cooldown
            + load.requests / (point.rate or (point.concurrency or 1) / max(time_s, 1e-6))
            for point, time_s in zip(points, times, strict=True)
        )
    return Budget(
        requests=requests,
        seconds=seconds,
        points=count,
        dollars=None if dollars_per_s is None else dollars_per_s * seconds,
    )
