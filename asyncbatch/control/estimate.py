"""How long a run will take at least, and which limit decides it. Pure.

A request of n rows takes a + b·n seconds, as the probes say. How many such requests the endpoint serves at once is not
known before the run: so each limit that is known gives rows per second, the lowest of them is the most that can be reached,
and what the endpoint would have to do for it is said beside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROW_BURST_S = 1.0
"""A request holds no more rows than the row rate lets through in so long."""
SLOTS_SHOWN = (1, 4, 16, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """Seconds of one request, by its rows."""

    fixed_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        return self.fixed_s + self.row_s * rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a run; None: not set."""

    rate: float | None = None
    row_rate: float | None = None
    concurrency: int = 256
    concurrency_given: bool = False
    chunk_rows: int = 65_536
    chunk_rows_given: bool = False
    max_body_bytes: int = 6 * 2**20
    memory_bytes: int = 128 * 10**6
    """Of all open blocks."""
    request_timeout_s: float = 70.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One limit and what it allows."""

    name: str
    """`rate`, `row_rate`, `concurrency` or `memory`."""
    rows_per_s: float
    at_once: float
    """Requests that the endpoint must serve at once for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What follows from the limits for requests as large as allowed."""

    chunk_rows: int
    """Most rows of a request."""
    chunk_rows_by: str
    """What keeps it from being larger: `chunk_rows`, `max_payload`, `row_rate`, `request_timeout` or `block_rows`."""
    bounds: Sequence[Bound]
    """The lowest first."""
    binds: str
    """Name of the lowest bound; `endpoint` if nothing was set that could bind before it."""
    requests: int | None
    """At least so many; None where the rows are not known."""
    seconds: float | None
    """At least so long."""
    seconds_by_in_flight: Sequence[tuple[int, float]]
    """If the endpoint serves so many at once, and no slower for it."""


def estimate(
    service: ServiceTime,
    limits: Limits,
    *,
    rows: int | None,
    block_rows: int,
    body_row_bytes: float,
    memory_row_bytes: float,
) -> Estimate:
    """What `limits` allow for `rows` rows in blocks of `block_rows`.

    Args:
        body_row_bytes: of one row in a request.
        memory_row_bytes: of one row while its block is open.
    """
    chunk_rows, by = _largest_chunk(service, limits, block_rows, body_row_bytes)
    took_s = max(service.seconds(chunk_rows), 1e-6)
    in_memory = max(float(chunk_rows), limits.memory_bytes / max(1.0, memory_row_bytes))
    found = [
        ("rate", None if limits.rate is None else limits.rate * chunk_rows),
        ("row_rate", limits.row_rate),
        ("concurrency", limits.concurrency * chunk_rows / took_s),
        ("memory", in_memory / took_s),
    ]
    bounds = sorted(
        (
            Bound(name=name, rows_per_s=reached, at_once=reached * took_s / chunk_rows)
            for name, reached in found
            if reached is not None
        ),
        key=lambda bound: bound.rows_per_s,
    )
    lowest = bounds[0]
    unset = lowest.name == "memory" or (lowest.name == "concurrency" and not limits.concurrency_given)
    most = min(limits.concurrency, math.ceil(in_memory / chunk_rows))
    return Estimate(
        chunk_rows=chunk_rows,
        chunk_rows_by=by,
        bounds=tuple(bounds),
        binds="endpoint" if unset and lowest.at_once > _FEW_SLOTS else lowest.name,
        requests=None if rows is None else _requests(rows, block_rows, chunk_rows),
        seconds=None if rows is None else max(rows / lowest.rows_per_s, took_s if rows else 0.0),
        seconds_by_in_flight=()
        if rows is None
        else tuple(
            (slots, max(rows / min(slots * chunk_rows / took_s, lowest.rows_per_s), took_s if rows else 0.0))
            for slots in SLOTS_SHOWN
            if slots <= most
        ),
    )


_FEW_SLOTS = 16
"""An endpoint that serves this many at once is not rare; with fewer in memory, memory may well bind before it does."""


def _largest_chunk(
    service: ServiceTime, limits: Limits, block_rows: int, body_row_bytes: float
) -> tuple[int, str]:
    in_time = (limits.request_timeout_s / 2 - service.fixed_s) / max(service.row_s, 1e-9)
    found = [
        (limits.chunk_rows if limits.chunk_rows_given else math.inf, "chunk_rows"),
        (limits.max_body_bytes / max(body_row_bytes, 1e-9), "max_payload"),
        (math.inf if limits.row_rate is None else limits.row_rate * ROW_BURST_S, "row_rate"),
        (in_time, "request_timeout"),
        (block_rows, "block_rows"),
        (limits.chunk_rows, "chunk_rows"),
    ]
    rows, by = min(found, key=lambda each: each[0])
    return max(1, int(rows)), by


def _requests(rows: int, block_rows: int, chunk_rows: int) -> int:
    whole, rest = divmod(rows, block_rows)
    return whole * math.ceil(block_rows / chunk_rows) + math.ceil(rest / chunk_rows)
