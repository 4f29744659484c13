"""Published rules for batch size or concurrency, in our own words, for comparison."""

import random
from collections.abc import Callable

from asyncbatch.control import FixedController
from asyncbatch.protocols import Controller


def _fixed(rows: int, in_flight: int) -> Callable[[Callable[[], float], random.Random], Controller]:
    return lambda clock, rng: FixedController(chunk_rows=rows, chunk_bytes=6 * 2**20, concurrency=in_flight)


RULES: dict[str, Callable[[Callable[[], float], random.Random], Controller]] = {
    "100x1": _fixed(100, 1),
    "500x16": _fixed(500, 16),
}
