"""When requests start, and when they pile up."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.bench.schedule import Backlog, Stage, arrivals, geometric, stage_windows


def test_constant_arrivals_are_evenly_apart_through_stages() -> None:
    stages = (Stage(seconds=2.0, rate=10.0), Stage(seconds=1.0, rate=100.0))
    found = list(arrivals(stages, "constant", random.Random(0)))
    assert len(found) == 120
    assert found[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert found[20:23] == pytest.approx([2.0, 2.01, 2.02])


def test_poisson_arrivals_have_exponential_gaps_and_the_rates_of_their_stages() -> None:
    stages = (Stage(seconds=100.0, rate=50.0), Stage(seconds=100.0, rate=5.0))
    found = list(arrivals(stages, "poisson", random.Random(1)))
    first = [each for each in found if each < 100]
    second = [each for each in found if each >= 100]
    assert len(first) == pytest.approx(5000, abs=4 * 5000**0.5)
    assert len(second) == pytest.approx(500, abs=4 * 500**0.5)
    gaps = [after - before for before, after in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1)
    assert found == sorted(found)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    stage = (Stage(seconds=5.0, rate=20.0),)
    first, second, other = (list(arrivals(stage, "poisson", random.Random(seed))) for seed in (7, 7, 8))
    assert first == second != other


def test_the_begin_of_each_stage_is_in_no_figure() -> None:
    windows = stage_windows((Stage(seconds=10, rate=1), Stage(seconds=2, rate=1)), warmup_s=3.0)
    assert [(each.start_s, each.stop_s) for each in windows] == [(3.0, 10.0), (11.0, 12.0)]


@given(low=st.integers(1, 5000), more=st.integers(0, 100_000), factor=st.sampled_from([1.5, 2.0, 4.0]))
def test_a_range_is_stepped_through_by_a_factor_and_both_ends_are_in_it(
    low: int, more: int, factor: float
) -> None:
    found = geometric(low, low + more, factor=factor)
    assert found[0] == low
    assert found[-1] == low + more
    assert list(found) == sorted(set(found))
    assert all(after <= before * factor + 1 for before, after in pairwise(found))


def test_a_range_doubles() -> None:
    assert geometric(1, 64) == (1, 2, 4, 8, 16, 32, 64)
    assert geometric(3, 20) == (3, 6, 12, 20)
    assert geometric(5, 5) == (5,)


def queue(load: float, *, looks: int, seed: int, rate: float = 100.0) -> bool:
    """Whether a random walk of a queue at `load` is ever called saturated."""
    rng, backlog, flight, started = random.Random(seed), Backlog(most=10_000), 0, 0
    for _ in range(looks):
        for _ in range(50):
            flight += rng.random() < load / (1 + load)
            flight = max(0, flight - (rng.random() < 1 / (1 + load)))
        started += 25
        if backlog.note(flight, started):
            return True
    return False


def test_a_growing_backlog_is_noticed_and_a_busy_queue_is_not_taken_for_one() -> None:
    assert all(queue(2.0, looks=40, seed=seed) for seed in range(20))
    assert sum(queue(0.9, looks=40, seed=seed) for seed in range(200)) <= 2


def test_too_many_in_flight_are_a_backlog_whatever_the_trend() -> None:
    backlog = Backlog(most=100)
    assert not backlog.note(100, 1000)
    assert backlog.note(101, 1001)
    assert backlog.saturated
