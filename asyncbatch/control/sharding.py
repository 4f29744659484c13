"""Which rows a shard of a job scores, and its share of the limits. Pure arithmetic: every process gets the same answer.

The blocks of all input files are numbered through in row order, 0 to U - 1, on the grid of the plan. Shard i of n scores
the blocks u with `u * n // U == i`: consecutive ones, so that a shard reads one stretch of the input, and sizes that
differ by one block at most.
"""

from collections.abc import Sequence

from asyncbatch.units import IntRange, Shard

WHOLE = Shard(0, 1)


def block_range(shard: Shard, blocks: int) -> tuple[int, int]:
    """The blocks `[first, stop)` of `shard`, of `blocks` in all; empty where there are fewer blocks than shards."""
    return -(-shard.index * blocks // shard.of), -(-(shard.index + 1) * blocks // shard.of)


def rows_within(file_rows: Sequence[int], limit: int | None) -> list[int]:
    """Rows of each file within the first `limit` rows of all of them."""
    if limit is None:
        return list(file_rows)
    found = []
    for rows in file_rows:
        found.append(min(rows, limit))
        limit -= found[-1]
    return found


def row_ranges(shard: Shard, file_rows: Sequence[int], *, block_rows: int) -> list[tuple[int, int]]:
    """The rows `[start, stop)` of each file that `shard` scores; empty where it scores none.

    Args:
        file_rows: rows of each file, `rows_within` the limit.
        block_rows: of the plan.
    """
    counts = [-(-rows // block_rows) for rows in file_rows]
    first, stop = block_range(shard, sum(counts))
    found = []
    at = 0
    for rows, blocks in zip(file_rows, counts, strict=True):
        low, high = max(first - at, 0), min(stop - at, blocks)
        found.append((low * block_rows, min(rows, high * block_rows)) if low < high else (0, 0))
        at += blocks
    return found


def overlap(one: Shard, other: Shard) -> bool:
    """Whether two shards, perhaps of different n, can have a block in common."""
    return (
        one.index * other.of < (other.index + 1) * one.of
        and other.index * one.of < (one.index + 1) * other.of
    )


def split(shard: Shard, processes: int) -> list[Shard]:
    """Shards that together score exactly the blocks of `shard`."""
    return [
        Shard(shard.index * processes + number, shard.of * processes) for number in range(processes)
    ]  # fmt: skip


def share(shard: Shard, total: int) -> int:
    """The shard's share of `total`; the shares of all shards add up to it."""
    return total * (shard.index + 1) // shard.of - total * shard.index // shard.of


def share_of_range(shard: Shard, total: IntRange) -> IntRange:
    """Bounds of the shard's share; `total.high` must be at least 1 a shard."""
    high = share(shard, total.high)
    if total.low == total.high:
        return IntRange(high, high)
    return IntRange(min(high, max(1, share(shard, total.low))), high)
