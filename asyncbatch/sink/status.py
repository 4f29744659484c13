"""How far an output is, from listings and the small files of its state alone: no part is opened."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from asyncbatch.control.sharding import row_ranges, rows_within
from asyncbatch.model import Block
from asyncbatch.sink.existing import Existing, open_existing
from asyncbatch.sink.layout import REJECTS, REPORT, RETRY, parse_part_name
from asyncbatch.sink.lease import Holder, Machine, holders, leased_shard
from asyncbatch.sink.manifest import MissingRange, finished_manifest, tiling
from asyncbatch.sink.pace import pace
from asyncbatch.sink.parts import PartInfo, list_parts
from asyncbatch.sink.plan import Plan
from asyncbatch.store.access import Access
from asyncbatch.store.base import read_bytes

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """A process that works on the output, or did."""

    shard: str
    host: str
    pid: int
    alive: bool
    """False: it is gone, and the next run takes its place."""
    heartbeat_age_s: float
    rows_done: int | None = None
    """Rows of its shard that are in the output; None where only reading the input tells, or nothing is left."""
    rows_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatus:
    """How far an output is."""

    sink: str
    kind: str
    """`folder` or `file`."""
    job_id: str
    generation: int
    created: str
    source: str
    endpoint: str
    finished: bool
    """Every row is in the output, and the manifest says so."""
    rows_done: int
    rows_total: int | None
    """None where only reading the input tells."""
    parts: int
    bytes: int
    missing: tuple[MissingRange, ...]
    rejects: int | None
    """Rejected rows; None until the job is finished: then footers would have to be read."""
    blocks_with_rejects: int
    rows_per_s: float | None
    """Of the last run that ended, from its report."""
    rows_per_s_now: float | None
    """Of the last minute, or the last five parts, while a run is going, by when they were written."""
    eta_s: float | None
    """Seconds until the rows that are missing are there at that pace."""
    last_run: str
    """How that ended; empty if none has."""
    holders: tuple[LeaseHolder, ...]
    retry_unfinished: bool

    @property
    def state(self) -> str:
        """`finished`, `at work` or `stopped`."""
        if any(holder.alive for holder in self.holders):
            return "at work"
        return "finished" if self.finished else "stopped"


def output_status(
    spec: str,
    *,
    access: Access | None = None,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.time,
) -> OutputStatus:
    """How far the output named `spec` is. Takes no lease and changes nothing.

    Raises:
        OutputError: nothing was planned there; something else lies among the parts; the state is damaged.
    """
    existing = open_existing(spec, access=access)
    plan = existing.plan
    parts = list_parts(existing.parts)
    file_rows = existing.parts_sink().file_rows()
    manifest = finished_manifest(existing.state, plan)
    finished = manifest is not None
    done = sum(part.block.rows for part in parts)
    size = sum(part.size_bytes for part in parts)
    count = len(parts)
    missing: list[MissingRange] = []
    target = existing.target.stat(existing.location.target.name)
    if existing.location.kind == "file" and finished and manifest is not None and target is not None:
        done, size, count = manifest.rows_in, target.size_bytes, manifest.parts
    else:
        missing = tiling(plan, parts, file_rows)
        finished = finished and not missing
    rate, last_run = _last_run(existing)
    found = holders(existing.state, machine=machine, clock=clock)
    total = _total(file_rows.values(), plan.limit)
    now = None if finished else _pace(parts, found, clock())
    shards = _shard_rows(plan, parts, file_rows) if missing and total is not None else lambda _: (None, None)
    return OutputStatus(
        sink=existing.location.spec,
        kind=existing.location.kind,
        job_id=plan.job_id,
        generation=plan.generation,
        created=plan.created,
        source=plan.source,
        endpoint=plan.endpoint.get("name") or "",
        finished=finished,
        rows_done=done,
        rows_total=total,
        parts=count,
        bytes=size,
        missing=tuple(missing),
        rejects=manifest.rejects if finished and manifest is not None else None,
        blocks_with_rejects=_rejecting(existing, parts),
        rows_per_s=rate,
        rows_per_s_now=now,
        eta_s=(total - done) / now if now and total is not None else None,
        last_run=last_run,
        holders=tuple(
            LeaseHolder(
                shard=shard,
                host=holder.host,
                pid=holder.pid,
                alive=alive,
                heartbeat_age_s=max(0.0, clock() - holder.heartbeat),
                rows_done=shards(shard)[0],
                rows_total=shards(shard)[1],
            )
            for shard, holder, alive in found
        ),
        retry_unfinished=existing.state.stat(RETRY) is not None,
    )


def _pace(parts: Sequence[PartInfo], found: Sequence[tuple[str, Holder, bool]], now: float) -> float | None:
    """Rows a second, if somebody is at work."""
    begun = [holder.since for _, holder, alive in found if alive]
    if not begun:
        return None
    written = [(part.modified_s, part.block.rows) for part in parts if part.modified_s is not None]
    return pace(written, since=min(begun), now=now)


def _shard_rows(
    plan: Plan, parts: Sequence[PartInfo], file_rows: Mapping[int, int | None]
) -> Callable[[str], tuple[int | None, int | None]]:
    """From the name of a lease to the rows of its shard that are done, and of how many; rows must be known."""
    within = rows_within([file_rows[file.number] or 0 for file in plan.current], plan.limit)
    numbers = [file.number for file in plan.current]

    def rows(name: str) -> tuple[int | None, int | None]:
        shard = leased_shard(name)
        if shard is None or shard.of == 1:
            return None, None
        ranges = dict(zip(numbers, row_ranges(shard, within, block_rows=plan.block_rows), strict=True))
        done = sum(
            max(
                0,
                min(part.block.stop, ranges[part.block.file][1])
                - max(part.block.start, ranges[part.block.file][0]),
            )
            for part in parts
            if part.block.file in ranges
        )
        return done, sum(stop - start for start, stop in ranges.values())

    return rows


def _total(rows: Iterable[int | None], limit: int | None) -> int | None:
    total = 0
    for count in rows:
        if count is None:
            return None
        total += count
    return total if limit is None else min(total, limit)


def _rejecting(existing: Existing, parts: Sequence[PartInfo]) -> int:
    """Blocks in the output that have a rejects file; an unused one of a killed attempt may be counted too."""
    names = {entry.name.removeprefix(REJECTS).rpartition("-")[0] for entry in existing.state.list(REJECTS)}
    blocks = [block for name in names if (block := parse_part_name(f"part-{name}.parquet")) is not None]
    if existing.location.kind == "file" and not parts:
        return len(blocks)
    return sum(_covered(block, parts) for block in blocks)


def _covered(block: Block, parts: Sequence[PartInfo]) -> bool:
    return any(
        part.block.file == block.file and part.block.start <= block.start and block.stop <= part.block.stop
        for part in parts
    )


def _last_run(existing: Existing) -> tuple[float | None, str]:
    try:
        report = json.loads(read_bytes(existing.state, REPORT))
        return float(report["metrics"]["rows_per_s"]), str(report["status"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, ""
