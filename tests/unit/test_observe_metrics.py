"""The collector and its percentiles, against NumPy and by hand."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.observe.histogram import LogHistogram
from asyncbatch.observe.metric import metrics_of
from asyncbatch.observe.metrics import MetricsCollector, RunTotals, Snapshot


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sample(
    *,
    rows: int = 10,
    start: float = 0.0,
    end: float = 1.0,
    outcome: Outcome = Outcome.SUCCESS,
    kind: Kind = Kind.FIRST,
) -> Sample:
    return Sample(rows=rows, body_bytes=rows * 7, started_s=start, finished_s=end, outcome=outcome, kind=kind)


def feed(collector: MetricsCollector, *samples: Sample) -> None:
    for each in samples:
        collector.started()
        collector.finished(each)


def snapshot(collector: MetricsCollector) -> Snapshot:
    return collector.snapshot(limit=4, chunk_rows=100, blocks_open=2)


@given(
    values=st.lists(st.floats(min_value=2e-6, max_value=3000), min_size=1, max_size=300),
    percent=st.sampled_from([1, 25, 50, 95, 99, 100]),
)
def test_percentiles_are_within_two_percent_of_the_nearest_rank(values: list[float], percent: int) -> None:
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    assert histogram.percentile(percent) == pytest.approx(exact, rel=LogHistogram.RELATIVE_ERROR + 1e-9)
    assert histogram.mean() == pytest.approx(np.mean(values))


def test_percentiles_of_a_realistic_latency_distribution() -> None:
    latencies = np.random.default_rng(7).lognormal(mean=-4, sigma=0.6, size=20_000)
    histogram = LogHistogram()
    for value in latencies:
        histogram.add(float(value))
    for percent in (50, 95, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(latencies, percent), rel=0.025)
    assert histogram.highest_s == latencies.max()


def test_durations_outside_the_range_still_count() -> None:
    histogram = LogHistogram()
    for value in (0.0, -1.0, 1e-9, 1e9):
        histogram.add(value)
    assert histogram.count == 4
    assert histogram.percentile(50) is not None
    assert LogHistogram().percentile(50) is None
    assert LogHistogram().mean() is None


def test_rate_counts_the_last_ten_seconds_only() -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock)
    for second in range(60):
        clock.now = 101.0 + second
        feed(collector, sample(rows=1000 if second < 30 else 50, start=clock.now - 0.5, end=clock.now))
    assert snapshot(collector).rows_per_s_recent == pytest.approx(50, rel=0.1)
    clock.now += 5
    assert 20 <= snapshot(collector).rows_per_s_recent <= 30
    clock.now += 11
    assert snapshot(collector).rows_per_s_recent == 0


def test_rate_at_the_start_is_over_the_time_that_has_passed() -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock)
    assert snapshot(collector).rows_per_s_recent == 0
    clock.now = 102.0
    feed(collector, sample(rows=500, start=101.0, end=102.0))
    assert snapshot(collector).rows_per_s_recent == pytest.approx(250)


@given(gaps=st.lists(st.floats(min_value=0, max_value=40), min_size=1, max_size=60))
def test_rate_equals_a_plain_count_over_the_slots_of_the_window(gaps: list[float]) -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock)
    times = []
    for gap in gaps:
        clock.now += gap
        times.append(clock.now)
        feed(collector, sample(rows=1, start=clock.now, end=clock.now))
    slot = int((clock.now - 100.0) / 0.5)
    first = max(0, slot - 20)
    counted = sum(1 for each in times if int((each - 100.0) / 0.5) >= first)
    span = clock.now - 100.0 - first * 0.5
    assert snapshot(collector).rows_per_s_recent == pytest.approx(counted / span if span > 0 else 0)


def test_probes_and_failures_count_as_requests_but_not_as_latency_or_rows() -> None:
    collector = MetricsCollector(clock=Clock())
    feed(
        collector,
        sample(end=5.0, kind=Kind.PROBE),
        sample(end=7.0, outcome=Outcome.TIMEOUT),
        sample(end=0.1),
        sample(end=0.3, kind=Kind.RETRY, rows=30),
        sample(outcome=Outcome.THROTTLED, end=0.0),
        sample(outcome=Outcome.UNAVAILABLE, end=0.0),
    )
    totals = collector.totals()
    assert totals.requests == 6
    assert totals.requests_by_outcome == {"success": 3, "throttled": 1, "unavailable": 1, "timeout": 1}
    assert totals.requests_by_kind == {"first": 4, "retry": 1, "probe": 1}
    assert (totals.retries, totals.bytes_sent) == (1, 80 * 7)
    assert totals.latency_max_s == pytest.approx(0.3)
    assert totals.latency_mean_s == pytest.approx(0.2)
    assert (totals.chunk_rows_mean, totals.chunk_rows_max) == (20, 30)
    shown = snapshot(collector)
    assert shown.rows_answered == 40
    assert shown.throttled == 2


def test_rows_done_are_the_committed_ones_and_answers_never_pass_the_total() -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock, rows_total=100, rows_resumed=20)
    feed(collector, sample(rows=70), sample(rows=70))
    assert snapshot(collector).rows_done == 20
    assert snapshot(collector).rows_answered == 100
    collector.rejected(3, code="input")
    collector.rejected(2, code="rejected")
    collector.rejected(1, code="input")
    collector.committed(rows_in=50, rows_out=44)
    assert snapshot(collector).rows_done == 70
    assert snapshot(collector).rows_rejected == 6
    clock.now += 10
    totals = collector.totals()
    assert (totals.rows_in, totals.rows_out, totals.rows_resumed) == (50, 44, 20)
    assert totals.rejected_by_code == {"input": 4, "rejected": 2}
    assert totals.rows_per_s == pytest.approx(5)


def test_in_flight_rises_and_falls_and_its_mean_is_work_over_time() -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock)
    for _ in range(3):
        collector.started()
    assert snapshot(collector).in_flight == 3
    for _ in range(3):
        collector.finished(sample(start=100.0, end=104.0))
    clock.now = 106.0
    assert snapshot(collector).in_flight == 0
    assert collector.totals().in_flight_max == 3
    assert collector.totals().in_flight_mean == pytest.approx(2.0)


def test_nothing_happened() -> None:
    totals = MetricsCollector(clock=Clock()).totals()
    assert (totals.requests, totals.latency_p50_s, totals.rows_per_s, totals.in_flight_mean) == (
        0,
        None,
        0,
        0,
    )


def test_every_field_states_its_unit_and_formula() -> None:
    for cls in (Snapshot, RunTotals):
        described = metrics_of(cls)
        assert list(described) == list(cls.__dataclass_fields__)
        assert all(each.unit and each.formula for each in described.values())


def test_a_sample_costs_microseconds() -> None:
    collector = MetricsCollector(clock=Clock())
    samples = [sample(start=float(n) / 1000, end=float(n) / 900) for n in range(1, 2001)]
    best = min(_cpu_per_sample(collector, samples) for _ in range(5))
    # 2 µs, where making one takes 0.7 µs: whatever the machine, a few times that.
    assert best < 20 * min(_cpu_of_making_one() for _ in range(5))


def _cpu_of_making_one() -> float:
    begin = time.thread_time()
    made = [sample(start=float(n), end=float(n)) for n in range(2000)]
    return (time.thread_time() - begin) / len(made)


def _cpu_per_sample(collector: MetricsCollector, samples: list[Sample]) -> float:
    begin = time.thread_time()
    feed(collector, *samples)
    return (time.thread_time() - begin) / len(samples)


def test_a_sample_that_comes_too_late_for_the_window_leaves_it_alone() -> None:
    clock = Clock()
    collector = MetricsCollector(clock=clock)
    clock.now = 150.0
    feed(collector, sample(rows=10, start=149.0, end=150.0), sample(rows=9999, start=100.0, end=120.0))
    assert snapshot(collector).rows_per_s_recent == pytest.approx(1, rel=0.06)
