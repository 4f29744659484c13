"""What rows cost: by hand, beside what the module says."""

from collections.abc import Callable

import pytest

from asyncbatch.bench.html import bench_page
from asyncbatch.bench.prices import (
    BILLION,
    Price,
    autoscaling,
    costs,
    dollars_per_million_rows,
    stated_price,
)
from asyncbatch.bench.result import BenchResult, Latency, Point, Split
from asyncbatch.errors import ConfigError
from asyncbatch.observe.page import Table

MakePoint = Callable[..., Point]
HOURLY = Price(per_hour=1.2, instances=3)
SERVERLESS = Price(per_gb_second=2e-5, memory_gb=4.0)
UNKNOWN_SPLIT = Split(waiting_s=None, send_s=None, server_s=None, receive_s=None, decode_s=None)


def latency_of(point: Point, mean_s: float) -> Latency:
    values = {name: getattr(point.latency_from_send, name) for name in Latency.__slots__}
    return Latency(**{**values, "mean_s": mean_s})


@pytest.fixture
def alone(make_point: MakePoint) -> Callable[[int, float], Point]:
    """A point with one request in flight that takes `mean_s`."""

    def make(chunk_rows: int, mean_s: float) -> Point:
        point = make_point(chunk_rows=chunk_rows, concurrency=1, rows_per_s=chunk_rows / mean_s)
        return make_point(
            chunk_rows=chunk_rows,
            concurrency=1,
            rows_per_s=chunk_rows / mean_s,
            latency_from_send=latency_of(point, mean_s),
        )

    return make


def test_an_hour_of_instances_is_shared_by_its_rows(make_point: MakePoint) -> None:
    # 3.6 $/h = 0.001 $/s; a million rows at 1,000 rows/s take 1,000 s.
    assert dollars_per_million_rows(HOURLY, make_point(rows_per_s=1000.0)) == pytest.approx(1.0)


def test_serverless_is_paid_by_the_time_that_requests_are_worked_on(make_point: MakePoint) -> None:
    point = make_point(chunk_rows=100, rows_per_s=1000.0)  # 0.1 s at the server, as the fixture says
    assert point.split.server_s == 0.1
    assert dollars_per_million_rows(SERVERLESS, point) == pytest.approx(10_000 * 0.1 * 4 * 2e-5)


def test_without_the_servers_share_the_whole_latency_counts(make_point: MakePoint) -> None:
    point = make_point(split=UNKNOWN_SPLIT, p95_s=0.2)
    mean_s = point.latency_from_send.mean_s
    assert mean_s is not None
    assert dollars_per_million_rows(SERVERLESS, point) == pytest.approx(10_000 * mean_s * 4 * 2e-5)


def test_nothing_answered_has_no_price(make_point: MakePoint) -> None:
    assert dollars_per_million_rows(HOURLY, make_point(rows_per_s=0.0)) is None
    assert autoscaling(make_point(rows_per_s=0.0), instances=1) is None


def test_a_billion_rows_three_ways(make_point: MakePoint, alone: Callable[[int, float], Point]) -> None:
    best = make_point(rows_per_s=50_000.0)
    ours, loop, job = costs(HOURLY, best, [best, alone(100, 0.05)]).costs
    assert ours.seconds == pytest.approx(20_000)
    assert ours.dollars == pytest.approx(20.0)
    assert loop.seconds == pytest.approx(BILLION / 100 * 0.05)
    assert loop.dollars == pytest.approx(500.0)
    assert job.dollars == pytest.approx(20.0 + 0.3)
    assert "minutes for them to start" in job.assumption


def test_the_loops_request_is_read_between_the_sizes_around_it(alone: Callable[[int, float], Point]) -> None:
    loop = costs(HOURLY, None, [alone(50, 0.02), alone(250, 0.1)]).costs[0]
    assert loop.seconds == pytest.approx(BILLION / 100 * 0.04)
    assert "straight line" in loop.assumption


def test_what_was_not_measured_is_not_made_up(
    make_point: MakePoint, alone: Callable[[int, float], Point]
) -> None:
    best = make_point(rows_per_s=50_000.0)
    assert costs(HOURLY, best, [best, alone(500, 0.1)]).costs[1].dollars is None
    assert costs(SERVERLESS, best, [best]).costs[-1].dollars is None


def test_the_scaling_target_counts_requests_of_one_instance(make_point: MakePoint) -> None:
    found = autoscaling(make_point(chunk_rows=100, rows_per_s=1000.0), instances=2)
    assert found is not None
    assert found.target == pytest.approx(10 * 60 / 2 / 2)
    assert "requests, not rows" in found.note


def test_prices_of_both_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        stated_price(per_hour=1.0, instances=None, per_gb_second=0.1, memory_gb=None)
    with pytest.raises(ConfigError, match="--memory-gb"):
        stated_price(per_hour=1.0, instances=None, per_gb_second=None, memory_gb=4.0)
    assert stated_price(per_hour=None, instances=4, per_gb_second=None, memory_gb=None) is None


def test_the_report_tells_costs_with_what_they_rest_on(
    make_point: MakePoint, make_result: Callable[..., BenchResult]
) -> None:
    best = make_point(rows_per_s=50_000.0)
    result = make_result(best, price=costs(HOURLY, best, [best]), autoscaling=autoscaling(best, instances=3))
    tables = {
        section.title: each
        for section in bench_page(result).sections
        for each in section.shows
        if isinstance(each, Table)
    }
    assert [row[1] for row in tables["What it costs"].rows] == ["$20.00", "-", "$20.30"]
    assert tables["Autoscaling"].rows[0][1] == "5,000"
