"""Chunk cuts and block sizes."""

from hypothesis import given
from hypothesis.strategies import floats, integers

from asyncbatch.control.cutting import MAX_BLOCK_ROWS, RowFootprint, block_rows, equal_cut


@given(left=integers(1, 200_000), wanted=integers(1, 70_000))
def test_a_block_falls_into_equal_chunks_within_what_was_wanted(left: int, wanted: int) -> None:
    cuts = []
    while left:
        cuts.append(equal_cut(left, wanted))
        left -= cuts[-1]
    assert max(cuts) <= wanted
    assert max(cuts) - min(cuts) <= 1
    assert len(cuts) == -(-sum(cuts) // wanted)


def test_no_small_tail_is_left_at_a_block_end() -> None:
    assert equal_cut(8_388, 6_000) == 4_194


@given(
    seconds=floats(0, 10),
    sent=floats(0, 1e6),
    kept=floats(0, 1e6),
    answered=floats(0, 1e6),
    memory=integers(16_000_000, 10**10),
)
def test_a_block_never_takes_more_than_a_sixteenth_of_memory_unless_one_row_does(
    seconds: float, sent: float, kept: float, answered: float, memory: int
) -> None:
    row = RowFootprint(sent=sent, kept=kept, answered=answered)
    rows = block_rows(seconds_per_row=seconds, row=row, max_memory_bytes=memory)
    assert 1 <= rows <= MAX_BLOCK_ROWS
    assert rows == 1 or rows * row.total <= memory / 16


def test_a_slow_model_gets_small_blocks_and_a_fast_one_large_blocks() -> None:
    small = RowFootprint(sent=100, kept=100, answered=20)
    assert block_rows(seconds_per_row=0.5, row=small, max_memory_bytes=256_000_000) == 256
    assert block_rows(seconds_per_row=1e-3, row=small, max_memory_bytes=256_000_000) == 30_000
    assert block_rows(seconds_per_row=1e-6, row=small, max_memory_bytes=10**9) == MAX_BLOCK_ROWS


def test_a_row_rate_bounds_the_rows_of_a_block() -> None:
    small = RowFootprint(sent=100, kept=100, answered=20)
    assert block_rows(seconds_per_row=1e-6, row=small, max_memory_bytes=10**9, row_rate=30.0) == 900
