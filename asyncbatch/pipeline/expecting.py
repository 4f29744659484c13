"""What a plan says of requests, bytes and time: the estimate for one prepared run, and how it is put to people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyncbatch.config import RunConfig
from asyncbatch.control.estimate import Estimate, Limits, ServiceTime, estimate
from asyncbatch.observe import text
from asyncbatch.option import flag
from asyncbatch.pipeline.controllers import MAX_CHUNK_ROWS, concurrency_ceiling
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.protocols import Source

_GUESS_ROWS = 1_000
_OPTIONS = {"memory": "max_memory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit and the most it allows."""

    name: str
    """Name of the option, as in job.toml."""
    says: str
    """The limit, in words."""
    rows_per_s: float
    at_once: float
    """Requests that the endpoint must serve at once to reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a run will send, and how long it takes at least."""

    rows: int | None
    """Rows to do; None where that is not known."""
    rows_guessed: bool
    """By the length of the first rows: only reading to the end tells."""
    chunk_rows: int
    """Most rows of a request."""
    chunk_rows_by: str
    """What keeps a request from being larger: `chunk_rows`, `max_payload`, `row_rate`, `request_timeout` or `block_rows`."""
    requests: int | None
    """At least so many."""
    request_bytes: float | None
    reply_bytes: float | None
    limits: Sequence[Limit]
    """What is known to bound the rate, the lowest first."""
    binds: str
    """What decides how long it takes: the name of one of `limits`, or `endpoint` if none of them is likely to before it."""
    seconds: float | None
    """At least so long, whatever the endpoint can do."""
    seconds_by_in_flight: Mapping[str, float]
    """Seconds if the endpoint serves so many requests at once, and none slower for it."""
    rests_on: Sequence[str]
    """What the figures were derived from, and what is not in them."""

    def lines(self) -> list[str]:
        """For people."""
        least = "" if self.requests is None else f"at least {text.plural(self.requests, 'request')}, "
        found = [f"requests  {least}of up to {self.chunk_rows:,} rows ({flag(self.chunk_rows_by)} binds)"]
        if self.request_bytes is not None and self.reply_bytes is not None:
            about = "about " if self.rows_guessed else ""
            found.append(
                f"bytes     {about}{text.size(self.request_bytes)} to send, {text.size(self.reply_bytes)} to receive"
            )
        width = max(len(limit.says) for limit in self.limits)
        for number, limit in enumerate(self.limits):
            title = "" if number else "limits"
            rate = f"{text.short(limit.rows_per_s):>6} rows/s"
            found.append(f"{title:<10}{limit.says:<{width}}  {rate}{_if_served(limit, ', which takes {}')}")
        found.append(f"binds     {self._binds()}")
        if self.seconds is not None:
            found.append(f"time      {self._time()}")
        return [
            *found,
            *(f"{'rests on' if not number else '':<10}{each}" for number, each in enumerate(self.rests_on)),
        ]

    def _binds(self) -> str:
        if self.binds == "endpoint":
            return "the endpoint: how many requests it serves at once is found while running"
        return flag(self.binds) + _if_served(self.limits[0], ", unless the endpoint serves fewer than {}")

    def _time(self) -> str:
        shown = {f"{slots} at once": seconds for slots, seconds in self.seconds_by_in_flight.items()}
        listed = " · ".join(f"{slots} {text.duration(seconds)}" for slots, seconds in shown.items())
        least = "" if self.binds == "endpoint" else f"at least {text.duration(self.seconds or 0.0)}; "
        return f"{least}{listed}"


def _if_served(limit: Limit, words: str) -> str:
    """`words` with the requests that the endpoint must serve at once; empty for one, which every endpoint does."""
    at_once = math.ceil(limit.at_once - 0.01)
    return words.format(f"{at_once:,} requests at once") if at_once > 1 else ""


def expect(config: RunConfig, prepared: Prepared, rows: int | None, *, guessed: bool) -> Expectation | None:
    """What to expect of `rows` rows; None where the endpoint was asked nothing, or answered nothing."""
    probes = prepared.probes
    if not probes.answers:
        return None
    last = probes.answers[-1]
    row_s = probes.seconds_per_row
    found = estimate(
        ServiceTime(fixed_s=max(0.0, last.seconds - row_s * last.rows), row_s=row_s),
        _limits(config, prepared),
        rows=rows,
        block_rows=prepared.block_rows,
        body_row_bytes=probes.body_bytes_per_row,
        memory_row_bytes=prepared.row.total,
    )
    return Expectation(
        rows=rows,
        rows_guessed=guessed,
        chunk_rows=found.chunk_rows,
        chunk_rows_by=found.chunk_rows_by,
        requests=found.requests,
        request_bytes=None if rows is None else rows * probes.body_bytes_per_row,
        reply_bytes=None if rows is None else rows * probes.reply_bytes_per_row,
        limits=_named(config, found),
        binds=_OPTIONS.get(found.binds, found.binds),
        seconds=found.seconds,
        seconds_by_in_flight={str(slots): seconds for slots, seconds in found.seconds_by_in_flight},
        rests_on=_rests_on(prepared, guessed=guessed),
    )


def guess_rows(source: Source, prepared: Prepared, limit: int | None) -> int | None:
    """Rows of a text input, by the length of its first ones; None where even that cannot be told (gzip)."""
    if not source.resumable or not source.files:
        return None
    columns = prepared.selection.read
    first = next(
        iter(source.blocks(source.files[0], columns=columns, block_rows=_GUESS_ROWS, max_rows=_GUESS_ROWS)),
        None,
    )
    if first is None or first.end_offset is None or not first.block.rows:
        return None
    total = sum(file.size_bytes for file in source.files)
    rows = round(total * first.block.rows / max(1, first.end_offset))
    return rows if limit is None else min(rows, limit)


def _limits(config: RunConfig, prepared: Prepared) -> Limits:
    speed = config.speed
    return Limits(
        rate=speed.rate,
        row_rate=speed.row_rate,
        concurrency=concurrency_ceiling(config),
        concurrency_given=speed.concurrency is not None,
        chunk_rows=speed.chunk_rows.high if speed.chunk_rows is not None else MAX_CHUNK_ROWS,
        chunk_rows_given=speed.chunk_rows is not None,
        max_body_bytes=min(speed.max_payload, prepared.endpoint.max_body_bytes),
        memory_bytes=speed.block_memory,
        request_timeout_s=config.failure.request_timeout,
    )


def _named(config: RunConfig, found: Estimate) -> list[Limit]:
    speed = config.speed
    says = {
        "rate": f"--rate {speed.rate or 0:g}/s, {found.chunk_rows:,} rows each",
        "row_rate": f"--row-rate {speed.row_rate or 0:g}/s",
        "concurrency": f"--concurrency {concurrency_ceiling(config)}"
        + ("" if speed.concurrency is not None else ", the default ceiling"),
        "memory": f"--max-memory {text.size(speed.max_memory)}",
    }
    return [
        Limit(
            name=_OPTIONS.get(bound.name, bound.name),
            says=says[bound.name],
            rows_per_s=bound.rows_per_s,
            at_once=bound.at_once,
        )
        for bound in found.bounds
    ]


def _rests_on(prepared: Prepared, *, guessed: bool) -> list[str]:
    sizes = ", ".join(str(answer.rows) for answer in prepared.probes.answers)
    one_more = f"{prepared.probes.seconds_per_row * 1e6:,.0f} µs"
    found = [
        f"probes of {sizes} rows, sent one at a time just now: {one_more} for one more row, in larger requests too",
        "not in it: what the endpoint does under load, this machine's CPU, retries",
    ]
    if guessed:
        found.append(f"rows and bytes by the length of the first {_GUESS_ROWS:,} rows")
    return found
