"""One of several processes that score one job: its share of the limits, and which rows are its own.

The parts are all that the processes share. Each knows its rows from the plan alone, so none waits for another; the one
that finds every row committed when its own are finishes the output. Rows of a text file are known only once it was
read: they are counted before the first block, and where each block begins is kept in the state for whoever comes next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio.from_thread

from asyncbatch.config import RunConfig
from asyncbatch.control.sharding import row_ranges, rows_within, share_of_range
from asyncbatch.errors import ConfigError, InputError, SourceError
from asyncbatch.model import InputFile
from asyncbatch.observe import text
from asyncbatch.option import flag
from asyncbatch.pipeline.controllers import MAX_CONCURRENCY
from asyncbatch.pipeline.planned import block_ends, with_rows
from asyncbatch.pipeline.reading import DoneRange
from asyncbatch.protocols import Source
from asyncbatch.sink.manifest import MissingRange
from asyncbatch.sink.parts import FileRecord, PartsSink
from asyncbatch.source.opening import is_gzip
from asyncbatch.units import IntRange, Shard

Offsets = Mapping[int, Sequence[int] | None]
"""By file number: where each block but the first begins, in bytes; None where nobody can seek."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork:
    """What a shard has to do."""

    source: Source
    """With the rows of every file known."""
    done: dict[int, list[DoneRange]]
    """By file number: what need not be read, because it is committed or another shard's."""
    rows: int
    """Of this shard, those done before included."""
    rows_done: int
    blocks: int


def require_shared_source(source: Source, config: RunConfig) -> None:
    """Raises InputError for shards of an input that can be read once only."""
    if shard_of(config) is not None and not source.resumable:
        raise InputError(
            "a stream can be read by one process only, and --shard is for several",
            hint="leave --shard out, or write the stream to a file first",
        )


def rows_missing(missing: Sequence[MissingRange]) -> int:
    """Rows that `missing` has in all; every range has an end, because shards count rows first."""
    return sum(each.stop - each.start for each in missing if each.stop is not None)


def own_share(config: RunConfig) -> RunConfig:
    """`config` with the shard's share of rates and requests in flight; the shares add up to what was asked for."""
    speed, shard = config.speed, shard_of(config)
    if shard is None:
        return config
    flight = speed.concurrency or IntRange(1, max(MAX_CONCURRENCY, shard.of))
    return replace(
        config,
        speed=replace(
            speed,
            rate=None if speed.rate is None else speed.rate / shard.of,
            row_rate=None if speed.row_rate is None else speed.row_rate / shard.of,
            concurrency=share_of_range(shard, flight),
        ),
    )


def shard_of(config: RunConfig) -> Shard | None:
    """The shard that `config` asks for; None for all of the job."""
    shard = config.speed.shard
    return shard if shard is not None and shard.of > 1 else None


def refuse_shards(config: RunConfig, why: str, *, hint: str) -> None:
    """Raises ConfigError if `config` asks for several processes, which make no sense because of `why`."""
    for name, wanted in (("shard", shard_of(config)), ("processes", config.speed.processes)):
        if wanted not in (None, 1):
            raise ConfigError(f"{flag(name)} {wanted}: {why}", hint=f"leave {flag(name)} out, or {hint}")


def refuse_processes(config: RunConfig) -> None:
    """Raises ConfigError if `config` asks for further processes: starting them is for the command line."""
    if config.speed.processes not in (None, 1):
        raise ConfigError(
            f"--processes {config.speed.processes} is for the command line, which starts processes of its own",
            hint="start processes yourself, and give each its shard: shard='0/4', shard='1/4' …",
        )


def own_rows(config: RunConfig, rows: int) -> int:
    """About how many of `rows` are this shard's."""
    shard = shard_of(config)
    return rows if shard is None else -(-rows // shard.of)


def describe_shards(config: RunConfig, source: Source, *, block_rows: int) -> list[str]:
    """What several processes would do, for `plan`; empty for one. Reads two bytes of each text file."""
    shard, processes = shard_of(config), config.speed.processes or 1
    if shard is None and processes == 1:
        return []
    mine = shard or Shard(0, 1)
    said = f"shard {mine}" if shard is not None else "all rows"
    if all(file.rows is not None for file in source.files):
        within = rows_within([file.rows or 0 for file in source.files], config.input.limit)
        ranges = row_ranges(mine, within, block_rows=block_rows)
        blocks = sum(-(-(stop - start) // block_rows) for start, stop in ranges)
        rows = sum(stop - start for start, stop in ranges)
        said += f": {text.plural(rows, 'row')} in {text.plural(blocks, 'block')}"
    lines = [said + (f", by {processes} processes" if processes > 1 else "")]
    unknown = [file for file in source.files if file.rows is None and file.path]
    if unknown:
        lines.append("rows are counted first: text files are read once more, at 200 to 300 MB/s")
    if any(is_gzip(file.path) for file in unknown):
        lines.append(
            "gzip cannot be entered in the middle: each process reads through, and scores its own rows"
        )
    return lines


def shard_work(
    source: Source, sink: PartsSink, shard: Shard, *, block_rows: int, limit: int | None
) -> ShardWork:
    """What is left for `shard` to do. Blocking: runs in a thread, and may read text files to their ends.

    Raises:
        SourceError: the input cannot be read.
        OutputError: the input has changed.
    """
    rows, offsets = _known_rows(source, sink, shard, block_rows=block_rows, limit=limit)
    within = rows_within([rows[file.number] for file in source.files], limit)
    ranges = row_ranges(shard, within, block_rows=block_rows)
    committed: dict[int, list[tuple[int, int]]] = {}
    for part in sink.committed():
        committed.setdefault(part.block.file, []).append((part.block.start, part.block.stop))
    done: dict[int, list[DoneRange]] = {}
    total = left = blocks = 0
    for file, own, count in zip(source.files, ranges, within, strict=True):
        found = merged([(0, own[0]), *committed.get(file.number, []), (own[1], count)])
        starts = offsets[file.number]
        done[file.number] = [
            (start, stop, starts[stop // block_rows - 1] if starts is not None and stop < count else None)
            for start, stop in found
        ]
        total += own[1] - own[0]
        left += count - sum(stop - start for start, stop in found)
        blocks += -(-(own[1] - own[0]) // block_rows)
    return ShardWork(
        source=with_rows(source, dict(zip((file.number for file in source.files), within, strict=True))),
        done=done,
        rows=total,
        rows_done=total - left,
        blocks=blocks,
    )


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`ranges` joined where they touch or overlap, ascending; empty ones left out. Pure."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def _known_rows(
    source: Source, sink: PartsSink, shard: Shard, *, block_rows: int, limit: int | None
) -> tuple[dict[int, int], Offsets]:
    """Rows of every file and where its blocks begin, counted where nobody has done so before.

    Without a limit, each shard begins with another file, and looks before each whether another has been there.
    """
    rows: dict[int, int] = {}
    offsets: dict[int, Sequence[int] | None] = {}
    left = limit
    for file in source.files if left is not None else _rotated(source.files, shard):
        if file.rows is not None or left == 0:
            rows[file.number], offsets[file.number] = file.rows or 0, None
        else:
            record = sink.file_record(file.number)
            if record is None or (record.offsets is None and record.rows > block_rows):
                record = _counted(source, sink, file, block_rows=block_rows, limit=left)
            rows[file.number], offsets[file.number] = record.rows, record.offsets or None
        if left is not None:
            left -= min(left, rows[file.number])
    return rows, offsets


def _rotated(files: Sequence[InputFile], shard: Shard) -> Sequence[InputFile]:
    first = shard.index * len(files) // shard.of
    return [*files[first:], *files[:first]]


def _counted(
    source: Source, sink: PartsSink, file: InputFile, *, block_rows: int, limit: int | None
) -> FileRecord:
    """Read `file` to its end, and record what was found."""
    rows, end = 0, None
    ends: list[int | None] = []
    try:
        for rows, end in block_ends(source, file, block_rows=block_rows, max_rows=limit):  # noqa: B007  # used below
            ends.append(end)
            anyio.from_thread.check_cancelled()
    except InputError as error:
        raise SourceError(error.message, hint=error.hint) from error
    starts = [each for each in ends[:-1] if each is not None]
    offsets = starts if end is not None else []
    sink.end_file(file.number, rows=rows, size_bytes=end, offsets=offsets)
    return FileRecord(rows=rows, size_bytes=end, offsets=tuple(offsets))
