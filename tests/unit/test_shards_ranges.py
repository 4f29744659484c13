"""Which rows a shard scores, and its share of the limits."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.control.sharding import (
    block_range,
    overlap,
    row_ranges,
    rows_within,
    share,
    share_of_range,
    split,
)
from asyncbatch.pipeline.shards import merged
from asyncbatch.units import IntRange, Shard

SHARDS = st.integers(1, 12).flatmap(lambda of: st.builds(Shard, st.integers(0, of - 1), st.just(of)))


@given(shard=SHARDS, blocks=st.integers(0, 200))
def test_the_blocks_of_a_shard_are_those_of_the_rule(shard: Shard, blocks: int) -> None:
    first, stop = block_range(shard, blocks)
    assert list(range(first, stop)) == [u for u in range(blocks) if u * shard.of // blocks == shard.index]


@given(
    files=st.lists(st.integers(0, 50), max_size=5),
    block_rows=st.integers(1, 20),
    of=st.integers(1, 8),
    limit=st.none() | st.integers(1, 120),
)
def test_the_shards_of_a_job_have_every_row_once(
    files: list[int], block_rows: int, of: int, limit: int | None
) -> None:
    within = rows_within(files, limit)
    assert sum(within) == min(sum(files), sum(files) if limit is None else limit)
    seen = [
        (file, row)
        for index in range(of)
        for file, (start, stop) in enumerate(row_ranges(Shard(index, of), within, block_rows=block_rows))
        for row in range(start, stop)
    ]
    assert seen == [(file, row) for file, rows in enumerate(within) for row in range(rows)]
    sizes = [block_range(Shard(index, of), 1000) for index in range(of)]
    assert max(stop - first for first, stop in sizes) - min(stop - first for first, stop in sizes) <= 1


@given(shard=SHARDS, processes=st.integers(1, 6), blocks=st.integers(0, 100))
def test_shards_of_a_shard_have_exactly_its_blocks(shard: Shard, processes: int, blocks: int) -> None:
    ranges = [block_range(each, blocks) for each in split(shard, processes)]
    assert [u for first, stop in ranges for u in range(first, stop)] == list(
        range(*block_range(shard, blocks))
    )


@given(one=SHARDS, other=SHARDS, blocks=st.integers(0, 60))
def test_shards_that_do_not_overlap_have_no_block_in_common(one: Shard, other: Shard, blocks: int) -> None:
    common = set(range(*block_range(one, blocks))) & set(range(*block_range(other, blocks)))
    assert overlap(one, other) == overlap(other, one)
    assert overlap(one, other) or not common
    assert overlap(one, one)
    assert overlap(one, Shard(0, 1))


@given(of=st.integers(1, 12), total=st.integers(1, 500))
def test_the_shares_add_up(of: int, total: int) -> None:
    shares = [share(Shard(index, of), total) for index in range(of)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(shard=SHARDS, low=st.integers(1, 40), more=st.integers(0, 40))
def test_shares_of_bounds_are_bounds(shard: Shard, low: int, more: int) -> None:
    asked = IntRange(low, max(low, shard.of) + more)
    found = share_of_range(shard, asked)
    assert 1 <= found.low <= found.high <= asked.high
    assert (found.low == found.high) or asked.low != asked.high


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8))
def test_merged_ranges_cover_the_same_and_do_not_touch(ranges: list[tuple[int, int]]) -> None:
    found = merged(ranges)
    assert {row for start, stop in found for row in range(start, stop)} == {
        row for start, stop in ranges for row in range(start, stop)
    }
    assert all(start < stop for start, stop in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))
