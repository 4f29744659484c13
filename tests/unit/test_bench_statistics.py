"""Intervals: against tables, and by how often they hold the truth."""

import math

import numpy as np
import pytest

from asyncbatch.bench.statistics import (
    batch_rates,
    binomial_ranks,
    drift,
    effective_count,
    mean_interval,
    quantile,
    rate,
    spectrum,
    t_quantile,
)

NORMAL_95 = 1.6448536269514722
SEEDS = 120


def held(share: float, *, of: int) -> bool:
    """Whether a 95 % interval that held the truth in `share` of `of` trials may be one: within 3.5 standard errors."""
    return abs(share - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / of) + 0.01


def alike(rng: np.random.Generator, count: int, neighbours: float) -> np.ndarray:
    """Standard normal values of which each resembles the one before (AR(1))."""
    noise = rng.normal(size=count + 200) * math.sqrt(1 - neighbours**2)
    values = np.empty_like(noise)
    values[0] = noise[0]
    for position in range(1, len(noise)):
        values[position] = neighbours * values[position - 1] + noise[position]
    return values[200:]


@pytest.mark.parametrize(
    ("probability", "freedom", "found"),
    [(0.975, 7, 2.3646), (0.975, 29, 2.0452), (0.95, 10, 1.8125), (0.995, 15, 2.9467), (0.975, 4, 2.7764)],
)
def test_students_t_is_that_of_the_tables(probability: float, freedom: int, found: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(found, rel=0.003)


@pytest.mark.parametrize(("percent", "least"), [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3688)])
def test_a_percentile_is_given_from_the_fewest_values_that_bear_it(percent: float, least: int) -> None:
    values = np.random.default_rng(1).permutation(np.arange(least, dtype=float))
    assert binomial_ranks(least, percent / 100, 0.95)[1] <= least
    assert binomial_ranks(least - 1, percent / 100, 0.95)[1] > least - 1
    assert quantile(values[:-1], percent, confidence=0.95).value is None
    if least < 300:  # more are judged as too much alike by chance, now and then
        found = quantile(values, percent, confidence=0.95)
        assert found.value == math.ceil(least * percent / 100) - 1
        assert found.interval is not None
        assert found.interval.high == least - 1


def test_ranks_are_those_of_the_binomial_distribution() -> None:
    # Tables of sign tests: 95 % for the median of 100 are the 40th and the 61st value.
    assert binomial_ranks(100, 0.5, 0.95) == (40, 61)
    assert binomial_ranks(10, 0.5, 0.95) == (2, 9)


@pytest.mark.parametrize("neighbours", [0.0, 0.8])
@pytest.mark.parametrize("percent", [50, 95])
def test_intervals_of_percentiles_hold_the_truth_though_neighbours_resemble_each_other(
    neighbours: float, percent: int
) -> None:
    truth = math.exp(0.0 if percent == 50 else NORMAL_95)
    inside = 0
    for seed in range(SEEDS):
        values = np.exp(alike(np.random.default_rng(seed), 2000, neighbours))
        found = quantile(values, percent, confidence=0.95)
        assert found.interval is not None
        inside += found.interval.low <= truth <= found.interval.high
    assert held(inside / SEEDS, of=SEEDS)


def test_intervals_that_take_neighbours_for_independent_would_not() -> None:
    inside = 0
    for seed in range(SEEDS):
        values = np.sort(np.exp(alike(np.random.default_rng(seed), 2000, 0.8)))
        low, high = binomial_ranks(2000, 0.5, 0.95)
        inside += values[low - 1] <= 1.0 <= values[high - 1]
    assert inside / SEEDS < 0.7


def test_independent_values_count_each_and_others_less() -> None:
    rng = np.random.default_rng(3)
    independent = [effective_count((alike(rng, 3000, 0.0) < 0).astype(float)) for _ in range(20)]
    resembling = [effective_count((alike(rng, 3000, 0.9) < 0).astype(float)) for _ in range(20)]
    assert np.mean(independent) > 2300
    assert np.mean(resembling) < 600
    assert effective_count(np.ones(50)) == 50


@pytest.mark.parametrize("constant", [False, True])
def test_intervals_of_rates_hold_the_truth(constant: bool) -> None:
    inside, widths = 0, []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        gaps = np.full(4000, 0.01) if constant else rng.exponential(0.01, 4000)
        finished = np.cumsum(gaps) - rng.uniform(0, 0.01)
        found = rate(finished, np.full(4000, 5.0), start_s=2.0, stop_s=22.0, confidence=0.95)
        assert found.interval is not None
        inside += found.interval.low <= 500 <= found.interval.high
        widths.append(found.relative_half or 0.0)
    assert constant or held(inside / SEEDS, of=SEEDS)
    assert not constant or max(widths) < 1e-3


def test_a_window_cuts_a_request_at_its_edge_instead_of_counting_it_whole() -> None:
    finished, rows = np.arange(1.0, 101.0), np.full(100, 10.0)
    assert rate(finished, rows, start_s=10.5, stop_s=20.25, confidence=0.95).value == pytest.approx(10.0)
    assert batch_rates(finished, rows, start_s=10.5, stop_s=20.5, count=4) == pytest.approx(10.0)


def test_too_few_have_no_interval_and_none_no_rate() -> None:
    few = rate(np.arange(1.0, 10.0), np.ones(9), start_s=0.0, stop_s=10.0, confidence=0.95)
    assert few.value == pytest.approx(0.9)
    assert few.interval is None
    assert few.relative_half is None
    none = rate(np.array([]), np.array([]), start_s=0.0, stop_s=1.0, confidence=0.95)
    assert none.value == 0.0
    assert mean_interval(np.ones(7), 0.95) is None


def test_a_drift_is_told_from_noise() -> None:
    rng = np.random.default_rng(5)
    steady = [drift(100 + rng.normal(size=24) * 5, confidence=0.95) for _ in range(100)]
    assert sum(each.significant for each in steady if each is not None) < 15
    falling = drift(np.linspace(120, 80, 24) + rng.normal(size=24), confidence=0.95)
    assert falling is not None
    assert falling.significant
    assert falling.share == pytest.approx(-0.27, abs=0.03)
    assert drift(np.ones(8), confidence=0.95) is None


def test_the_spectrum_ascends_and_reaches_into_the_tail() -> None:
    values = np.random.default_rng(2).exponential(1.0, 10_000)
    found = spectrum(values)
    percents, seconds = zip(*found, strict=True)
    assert list(percents) == sorted(percents)
    assert list(seconds) == sorted(seconds)
    assert percents[0] == 0.0
    assert percents[-1] == pytest.approx(99.99)
    assert len(found) < 130
    assert dict(found)[min(percents, key=lambda each: abs(each - 50))] == pytest.approx(math.log(2), rel=0.05)
    assert spectrum(np.array([])) == ()
