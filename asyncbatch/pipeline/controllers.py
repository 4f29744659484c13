"""Which controller steers a run."""

import random
from collections.abc import Callable

from asyncbatch.config import RunConfig
from asyncbatch.control import FixedController
from asyncbatch.protocols import Controller

MAX_CONCURRENCY = 256
"""Most invocations in flight unless `--concurrency` says otherwise; connections are pooled up to it."""
_FIXED_CHUNK_ROWS = 500
_FIXED_CONCURRENCY = 16


def concurrency_ceiling(config: RunConfig) -> int:
    """Most invocations that can ever be in flight."""
    return config.speed.concurrency.high if config.speed.concurrency is not None else MAX_CONCURRENCY


def make_controller(config: RunConfig, *, clock: Callable[[], float], rng: random.Random) -> Controller:
    """The controller for `config`, within the user's bounds."""
    speed = config.speed
    return FixedController(
        chunk_rows=speed.chunk_rows.high if speed.chunk_rows is not None else _FIXED_CHUNK_ROWS,
        chunk_bytes=speed.max_payload,
        concurrency=speed.concurrency.high if speed.concurrency is not None else _FIXED_CONCURRENCY,
    )
