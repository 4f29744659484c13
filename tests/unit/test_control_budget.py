"""The byte budget."""

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from asyncbatch.control.budget import ByteBudget


@given(sizes=lists(integers(1, 100), min_size=1), capacity=integers(1, 100))
def test_a_waiting_block_always_gets_in_once_the_older_ones_are_done(sizes: list[int], capacity: int) -> None:
    budget = ByteBudget(capacity_bytes=capacity)
    still_open: list[int] = []
    for block, size in enumerate(sizes):
        while not budget.admit(block, size):
            budget.release(still_open.pop(0))
        still_open.append(block)
        assert budget.statistics().reserved_bytes <= max(capacity, size)


@given(sizes=lists(integers(1, 100), min_size=2, max_size=20), capacity=integers(1, 60))
def test_the_oldest_block_stuck_never_keeps_the_others_from_moving(sizes: list[int], capacity: int) -> None:
    """Block 0 never finishes; the younger ones may finish in any order; those that fit still flow."""
    budget = ByteBudget(capacity_bytes=capacity)
    assert budget.admit(0, sizes[0])
    for block, size in enumerate(sizes[1:], start=1):
        fits = sizes[0] + size <= capacity
        assert budget.admit(block, size) is fits
        if not fits:
            break
        budget.release(block)
    budget.release(0)
    assert budget.statistics().reserved_bytes == 0


def test_a_block_larger_than_everything_gets_in_alone() -> None:
    budget = ByteBudget(capacity_bytes=10)
    assert budget.admit(0, 1_000)
    assert not budget.admit(1, 1)
    budget.release(0)
    assert budget.admit(1, 1)


def test_the_correction_of_an_estimate_counts_for_later_blocks() -> None:
    budget = ByteBudget(capacity_bytes=100)
    assert budget.admit(0, 10)
    budget.correct(0, 95)
    assert not budget.admit(1, 10)
    budget.correct(0, 5)
    assert budget.admit(1, 10)
    assert budget.statistics().peak_bytes == 95


def test_blocks_out_of_row_order_are_refused() -> None:
    budget = ByteBudget(capacity_bytes=100)
    assert budget.admit(3, 1)
    with pytest.raises(ValueError, match="block 2 asked after block 3"):
        budget.admit(2, 1)
