"""Which controller steers a run."""

import random
from collections.abc import Callable

from asyncbatch.config import RunConfig
from asyncbatch.control import AdaptiveController, FixedController, GuestController, LearnedPoint
from asyncbatch.control.cutting import RowFootprint
from asyncbatch.protocols import Controller
from asyncbatch.units import IntRange

MAX_CONCURRENCY = 256
"""Most invocations in flight unless `--concurrency` says otherwise; connections are pooled up to it."""
MAX_CHUNK_ROWS = 65_536
"""Most rows of a request unless `--chunk-rows` says otherwise; `--max-payload` usually binds first."""


def concurrency_ceiling(config: RunConfig) -> int:
    """Most invocations that can ever be in flight."""
    return config.speed.concurrency.high if config.speed.concurrency is not None else MAX_CONCURRENCY


def bytes_in_flight(block_memory: int, row: RowFootprint) -> int:
    """Bytes that the bodies in flight may have together: what of the blocks' memory is there for what is sent.

    Bodies are slices of open blocks, so memory holds whatever the controller wants; but what it wanted beyond that would
    wait for blocks that are not admitted, and be taken for a setting that was tried.
    """
    return max(1, int(block_memory * row.sent / max(1.0, row.total)))


def make_controller(
    config: RunConfig,
    *,
    clock: Callable[[], float],
    rng: random.Random,
    start: LearnedPoint | None = None,
    block_rows: int = MAX_CHUNK_ROWS,
) -> Controller:
    """The controller for `config`, within the user's bounds; a fixed one where nothing is left to find.

    Args:
        block_rows: rows of a block. No chunk has more; one that wanted more would reckon its bytes in flight with them.
        start: what an earlier run learned of the endpoint; a guest measures anew.
    """
    speed = config.speed
    rows = speed.chunk_rows or IntRange(1, MAX_CHUNK_ROWS)
    flight = speed.concurrency or IntRange(1, MAX_CONCURRENCY)
    if rows.low == rows.high and flight.low == flight.high:
        return FixedController(chunk_rows=rows.high, chunk_bytes=speed.max_payload, concurrency=flight.high)
    rows = IntRange(min(rows.low, block_rows), min(rows.high, block_rows))
    if speed.background:
        return GuestController(
            clock=clock,
            rng=rng,
            max_slowdown=speed.max_slowdown,
            max_chunk_s=speed.max_chunk_time,
            chunk_rows=rows,
            chunk_bytes=speed.max_payload,
            concurrency=flight,
            request_timeout_s=config.failure.request_timeout,
        )
    return AdaptiveController(
        clock=clock,
        rng=rng,
        chunk_rows=rows,
        chunk_bytes=speed.max_payload,
        concurrency=flight,
        request_timeout_s=config.failure.request_timeout,
        target_latency_s=speed.target_latency,
        start=start,
    )
