"""The course of a run: nothing is lost by thinning, and never more points than promised."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.control.binding import Bound
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.observe.chart import bars, chart
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.timeline import MOST_POINTS, Timeline


def sample(
    at_s: float,
    *,
    rows: int = 10,
    took_s: float = 0.1,
    outcome: Outcome = Outcome.SUCCESS,
    kind: Kind = Kind.FIRST,
) -> Sample:
    return Sample(
        rows=rows, body_bytes=rows, started_s=at_s - took_s, finished_s=at_s, outcome=outcome, kind=kind
    )


def test_a_second_is_a_point() -> None:
    line = Timeline(origin_s=100.0)
    line.seen(100.1, in_flight=2, limit=8, chunk_rows=20, bound=None)
    line.finished(sample(100.2, rows=10))
    line.seen(100.3, in_flight=4, limit=8, chunk_rows=20, bound=Bound.ENDPOINT)
    line.finished(sample(100.7, rows=30, took_s=0.5))
    line.finished(sample(101.1, rows=7, outcome=Outcome.THROTTLED))
    line.finished(sample(101.2, rows=7, outcome=Outcome.UNAVAILABLE))
    line.finished(sample(101.3, rows=7, outcome=Outcome.TIMEOUT))
    line.rejected(101.4, 3)
    line.seen(101.5, in_flight=1, limit=8, chunk_rows=20, bound=Bound.RATE)
    first, second = line.points(101.5)
    assert (first.at_s, first.seconds, first.rows_per_s, first.chunk_rows) == (1.0, 1.0, 40.0, 20.0)
    assert (first.in_flight, first.limit, first.chunk_rows_wanted, first.bound) == (3.0, 8, 20, "endpoint")
    assert first.latency_p95_s == pytest.approx(0.5, rel=0.021)
    assert (second.at_s, second.seconds, second.rows_per_s) == (1.5, 0.5, 6.0)
    assert (second.refused, second.failed, second.rejected, second.requests) == (2, 1, 3, 3)
    assert (second.chunk_rows, second.latency_p95_s, second.bound) == (None, None, "rate")


def test_probes_and_cancelled_requests_are_left_out() -> None:
    line = Timeline(origin_s=0.0)
    line.finished(sample(0.5, kind=Kind.PROBE))
    line.finished(sample(0.5, outcome=Outcome.CANCELLED))
    assert line.points(1.0) == ()


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.one_of(st.floats(0, 3), st.floats(0, 100_000)), min_size=1, max_size=80),
    most=st.sampled_from([4, 10, 600]),
)
def test_thinning_loses_nothing_and_keeps_the_bound(gaps: list[float], most: int) -> None:
    line = Timeline(origin_s=0.0, most_points=most)
    now = 0.0
    for gap in gaps:
        now += gap
        line.finished(sample(now, rows=5))
        line.finished(sample(now, outcome=Outcome.THROTTLED))
    points = line.points(now + 0.5)
    assert len(points) <= most
    assert sum(point.requests for point in points) == 2 * len(gaps)
    assert sum(point.refused for point in points) == len(gaps)
    assert sum(point.rows_per_s * point.seconds for point in points) == pytest.approx(
        5 * len(gaps), rel=1e-3, abs=1
    )
    ends = [point.at_s for point in points]
    assert ends == sorted(ends)
    assert sum(point.seconds for point in points) == pytest.approx(ends[-1], abs=0.01 * len(points))


def test_a_day_has_six_hundred_points_at_most_and_their_percentiles_are_right() -> None:
    line = Timeline(origin_s=0.0)
    rng = random.Random(1)
    took = [rng.uniform(0.1, 1.0) for _ in range(21_600)]
    for second, each in enumerate(took):
        line.finished(sample(4 * second + 0.5, took_s=each))
    points = line.points(86_400)
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    middle = points[len(points) // 2]
    covered = sorted(took[int(middle.at_s - middle.seconds) // 4 : int(middle.at_s) // 4])
    exact = covered[int(0.95 * len(covered))]
    assert middle.latency_p95_s == pytest.approx(exact, rel=0.04)


def test_the_collector_keeps_it() -> None:
    now = [0.0]
    collector = MetricsCollector(clock=lambda: now[0])
    collector.started()
    now[0] = 0.4
    collector.finished(sample(0.4, rows=50))
    snapshot = collector.snapshot(limit=4, chunk_rows=50, blocks_open=1, bound=Bound.CPU)
    assert snapshot.bound == "cpu"
    now[0] = 1.0
    (point,) = collector.timeline()
    assert (point.bound, point.limit, point.rows_per_s) == ("cpu", 4, 50.0)


def test_the_chart() -> None:
    line = Timeline(origin_s=0.0)
    for second in range(10):
        for _ in range(second + 1):
            line.finished(sample(second + 0.5, rows=100, took_s=0.2))
        line.seen(
            second + 0.6,
            in_flight=second,
            limit=10,
            chunk_rows=100,
            bound=Bound.ENDPOINT if second > 1 else None,
        )
    line.finished(sample(9.7, outcome=Outcome.THROTTLED))
    drawn = chart(line.points(10.0)).splitlines()
    assert drawn[0] == "over 10 s, 1.0 s a bar:"
    assert drawn[1] == "  chunk rows ██████████ max 100"
    assert drawn[3] == "  rows/s     ▁▂▃▄▅▅▆▇██ max 1k" or drawn[3].startswith("  rows/s     ▁▂▃▄▅▅▆▇██ max")
    assert drawn[5] == "  refused             █ max 1"
    assert drawn[6] == "  bound by   endpoint 100%"
    assert max(map(len, chart(line.points(10.0), width=4).splitlines())) < 40


def test_too_short_a_run_has_no_chart() -> None:
    assert chart(()) == ""
    assert bars([None, 0.0, None]) == "   "
