"""Loads of minutes under a virtual clock, against endpoints whose capacity, latency and stalls are set."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.load import Loaded
from asyncbatch.bench.measuring import Applied, measured_point
from asyncbatch.bench.result import BenchResult, Budget, EndpointFacts, Point
from asyncbatch.bench.session import Bench, Progress, Tools
from asyncbatch.config import RunConfig
from asyncbatch.errors import StoppedError, UsageError
from asyncbatch.pipeline.planning import prepare
from asyncbatch.source import open_source
from asyncbatch.testing.clock import run_with_virtual_clock
from asyncbatch.testing.station import Station, StationEndpoint

TABLE = pa.table({"x": [float(row) for row in range(3000)]})


class Watcher:
    """Remembers what a listener is told; may stop the bench."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.planned: Budget | None = None
        self.points: list[Point] = []
        self.progress: list[Progress] = []
        self.warnings: list[str] = []
        self.stop: Callable[[str], None] = lambda reason: None
        self.stop_after = stop_after

    def announced(self, planned: Budget, facts: EndpointFacts) -> None:
        self.planned = planned

    def progressed(self, progress: Progress) -> None:
        self.progress.append(progress)
        if self.stop_after is not None and len(self.progress) == self.stop_after:
            self.stop("SIGINT received")

    def measured(self, point: Point) -> None:
        self.points.append(point)

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def bench(
    station: Station,
    *,
    seed: int = 1,
    watcher: Watcher | None = None,
    kept: list[Loaded] | None = None,
    **load: Any,
) -> BenchResult:
    watcher = watcher or Watcher()
    config = RunConfig.from_options({"endpoint": "station"})

    async def main() -> BenchResult:
        loop = asyncio.get_running_loop()
        endpoint = StationEndpoint(replace(station, stall_every_s=0.0, most_inside=None), seed=seed)
        prepared = await prepare(
            config,
            open_source(TABLE, config.input),
            endpoint,
            planned=None,
            clock=loop.time,
            rng=random.Random(seed),
            record=lambda sample: None,
        )
        loaded = StationEndpoint(station, seed=seed)
        running = Bench(
            config=config,
            load=LoadConfig.from_options({"seed": seed, **load}),
            source_spec="rows.parquet",
            command=["asyncbatch", "bench", "rows.parquet"],
            listener=watcher,
            tools=Tools(
                clock=loop.time,
                meter=None,
                keep=None if kept is None else lambda point, loaded: kept.append(loaded),
            ),
        )
        watcher.stop = running.stop
        return await running.run(replace(prepared, endpoint=loaded))

    return run_with_virtual_clock(main)


SERVICE = Station(slots=4, request_s=0.1, row_s=0.001, noise=0.25)


def within(found: float | None, truth: float, share: float) -> bool:
    return found is not None and abs(found - truth) <= share * truth


@pytest.mark.parametrize(("concurrency", "busy"), [(1, 1), (4, 4), (12, 4)])
def test_closed_loop_measures_the_capacity_that_is_set(concurrency: int, busy: int) -> None:
    result = bench(SERVICE, chunk_rows="50", concurrency=str(concurrency), duration="60s")
    (point,) = result.points
    truth = busy * 50 / SERVICE.mean_s(50)
    assert within(point.rows_per_s, truth, 0.05)
    assert point.rows_per_s_low is not None
    assert point.rows_per_s_high is not None
    assert point.rows_per_s_low <= truth <= point.rows_per_s_high
    assert point.in_flight == pytest.approx(concurrency, rel=0.01)
    assert within(point.latency.mean_s, concurrency / busy * SERVICE.mean_s(50), 0.05)
    assert (point.error_share, point.saturated, point.stopped_by) == (0.0, False, "duration")
    assert result.best == 0
    assert result.exit_code == 0
    assert not result.partial


def coverage(seeds: range) -> tuple[float, float]:
    """Share of seeds whose 95 % intervals hold the true rows/s and the true median."""
    rate = median = 0
    for seed in seeds:
        (point,) = bench(SERVICE, seed=seed, chunk_rows="50", concurrency="6", duration="25s").points
        assert point.rows_per_s_low is not None
        assert point.rows_per_s_high is not None
        rate += point.rows_per_s_low <= 4 * 50 / 0.15 <= point.rows_per_s_high
        (alone,) = bench(SERVICE, seed=seed, chunk_rows="50", concurrency="4", duration="25s").points
        p50 = alone.latency.percentile(50.0)
        assert p50.low_s is not None
        assert p50.high_s is not None
        median += p50.low_s <= 0.15 * np.exp(-(0.25**2) / 2) <= p50.high_s
    return rate / len(seeds), median / len(seeds)


def test_intervals_hold_the_truth() -> None:
    rate, median = coverage(range(10))
    assert rate >= 0.8
    assert median >= 0.8


STALLS = Station(slots=1000, request_s=0.02, stall_every_s=20.0, stall_s=2.0)


def test_open_loop_shows_a_stall_that_the_naive_loop_misses() -> None:
    """Nothing is answered for 2 s in every 20 s, and else in 20 ms. At even arrivals a tenth of the requests come into a
    stall and wait for what is left of it: p99 is 2 s - 0.1 * 2 s. One request at a time meets a stall once in 20 s."""
    options = {"chunk_rows": "1", "warmup": "0", "cooldown": "0", "duration": "200s"}
    (arriving,) = bench(STALLS, rate="25", **options).points
    truth = 2.0 - 0.01 * 20.0
    assert within(arriving.latency.percentile(99.0).seconds, truth, 0.05)
    assert within(arriving.latency.percentile(95.0).seconds, 1.0, 0.05)
    (naive,) = bench(STALLS, concurrency="1", **options).points
    p99 = naive.latency.percentile(99.0).seconds
    assert p99 is not None
    assert p99 < 0.05
    assert (naive.latency.max_s or 0) > 1.9


def test_late_starts_are_counted_from_the_intended_start() -> None:
    kept: list[Loaded] = []
    bench(SERVICE, kept=kept, chunk_rows="1", rate="20", duration="30s")
    (loaded,) = kept
    assert (loaded.records.time("sent") >= loaded.records.time("intended")).all()
    due_s = loaded.window.start_s + 5
    loaded.records.add(intended_s=due_s, sent_s=due_s + 3, finished_s=due_s + 3.1, rows=1, body_bytes=1)
    point = measured_point(
        loaded, Applied(mode="constant", chunk_rows=1, rate=20.0), number=0, confidence=0.95
    )
    assert point.latency.max_s == pytest.approx(3.1)
    assert (point.latency_from_send.max_s or 0) < 1


def test_slow_replies_do_not_slow_the_starts() -> None:
    kept: list[Loaded] = []
    crawling = Station(slots=1000, request_s=3.0)
    (point,) = bench(
        crawling, kept=kept, chunk_rows="1", rate="20", duration="20s", warmup="4s", cooldown="0"
    ).points
    gaps = np.diff(np.sort(kept[0].records.time("sent")))
    assert gaps.max() < 0.06
    assert point.in_flight == pytest.approx(60, rel=0.05)
    assert within(point.rows_per_s, 20, 0.03)
    assert not point.saturated


def test_poisson_arrivals_wait_as_queueing_theory_says() -> None:
    """One slot, service of known variance: the formula of Pollaczek and Khinchine."""
    noise, rate, mean = 0.5, 6.0, 0.1
    station = Station(slots=1, request_s=mean, noise=noise)
    (point,) = bench(station, chunk_rows="1", rate=str(rate), arrivals="poisson", duration="1000s").points
    squared = np.exp(noise**2) - 1
    load = rate * mean
    wait = load * mean * (1 + squared) / (2 * (1 - load))
    assert within(point.latency.mean_s, mean + wait, 0.12)
    assert within(point.rows_per_s, rate, 0.04)


def test_a_rate_beyond_the_capacity_is_stopped_and_called_so() -> None:
    result = bench(SERVICE, chunk_rows="50", rate="10,20,60,80", duration="30s")
    assert [point.rate for point in result.points] == [10, 20, 60]
    assert [point.saturated for point in result.points] == [False, False, True]
    assert result.points[2].stopped_by == "saturation"
    assert result.points[2].seconds < 20
    assert result.points[2].unfinished > 0
    assert result.best == 1
    assert any("piled up at lower ones" in each for each in result.warnings)


def test_stages_are_measured_one_by_one_in_one_load() -> None:
    result = bench(SERVICE, chunk_rows="10", stages="30s@5,30s@20", warmup="5s")
    first, second = result.points
    assert within(first.rows_per_s, 50, 0.05)
    assert within(second.rows_per_s, 200, 0.05)
    assert (first.seconds, second.seconds) == (25.0, 25.0)
    assert first.requests == pytest.approx(125, abs=1)
    assert second.slices[0].start_s >= 35.0


def test_warm_up_and_cool_down_are_in_no_figure() -> None:
    slow_start = Station(slots=2, request_s=0.1, cold_s=12.0, cold_factor=10.0)
    (with_it,) = bench(slow_start, chunk_rows="1", concurrency="2", duration="20s", warmup="0").points
    (without,) = bench(slow_start, chunk_rows="1", concurrency="2", duration="20s", warmup="9s").points
    assert (with_it.latency.max_s or 0) > 0.9
    assert within(without.rows_per_s, 20, 0.02)
    assert (without.latency.max_s or 0) < 0.11
    assert without.requests == pytest.approx(400, abs=4)
    assert sum(not each for each in without.sample.measured) > 0


def test_so_many_requests_are_measured_however_long_they_take() -> None:
    watcher = Watcher()
    result = bench(SERVICE, watcher=watcher, chunk_rows="1,5", concurrency="3", requests="70")
    assert [point.requests for point in result.points] == [70, 70]
    assert [point.stopped_by for point in result.points] == ["requests", "requests"]
    (open_loop,) = bench(SERVICE, chunk_rows="1", rate="20", requests="50").points
    assert open_loop.requests == 50


def test_a_point_ends_once_it_is_precise_enough() -> None:
    (point,) = bench(SERVICE, chunk_rows="50", concurrency="4", duration="600s", precision="3%").points
    assert point.stopped_by == "precision"
    assert point.seconds < 300
    assert point.rows_per_s_low is not None
    assert point.rows_per_s_high is not None
    assert (point.rows_per_s_high - point.rows_per_s_low) / 2 <= 0.031 * point.rows_per_s


def test_errors_are_counted_by_kind_and_throttles_apart() -> None:
    crowded = replace(SERVICE, most_inside=4)
    (point,) = bench(crowded, chunk_rows="50", concurrency="8", duration="30s").points
    assert list(point.errors) == ["throttled: HTTP 400 ThrottlingException"]
    assert point.throttled == sum(point.errors.values()) > 100
    assert 0.5 < point.error_share < 1
    assert within(point.rows_per_s, 4 * 50 / 0.15, 0.08)
    assert point.latency.count == point.requests - point.throttled - point.unfinished


def test_a_point_that_only_fails_is_given_up_and_the_others_are_measured() -> None:
    small = replace(SERVICE, most_rows=100)
    result = bench(small, chunk_rows="50,200", concurrency="4", duration="20s")
    by_rows = {point.chunk_rows: point for point in result.points}
    assert by_rows[200].stopped_by == "errors"
    assert by_rows[200].rows_per_s == 0
    assert by_rows[50].stopped_by == "duration"
    assert result.best == by_rows[50].number
    assert any("first refusal was" in each for each in result.warnings)


def test_all_errors_say_so() -> None:
    result = bench(replace(SERVICE, most_inside=0), chunk_rows="50", concurrency="4", duration="20s")
    assert result.exit_code == 1
    assert result.best is None
    assert result.answer.startswith("no row was answered: ")
    assert "ThrottlingException" in result.answer


def test_the_sweep_is_in_random_order_by_its_seed() -> None:
    short = {"chunk_rows": "1,2,4", "concurrency": "1,2,4", "duration": "1s", "warmup": "0", "cooldown": "0"}
    orders = [
        [(point.chunk_rows, point.concurrency) for point in bench(SERVICE, seed=seed, **short).points]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_the_budget_is_announced_and_kept() -> None:
    watcher = Watcher()
    result = bench(
        SERVICE, watcher=watcher, chunk_rows="1", concurrency="1,2", duration="10s", max_requests="60"
    )
    assert watcher.planned is not None
    assert watcher.planned.requests == 60
    assert watcher.planned.seconds == pytest.approx(26.0)
    assert result.partial
    assert "--max-requests 60" in result.partial_reason
    assert sum(len(point.sample.sent_s) for point in result.points) <= 60


def test_who_listens_can_refuse_before_anything_is_loaded() -> None:
    class Refusing(Watcher):
        def announced(self, planned: Budget, facts: EndpointFacts) -> None:
            raise UsageError("nothing was measured")

    with pytest.raises(UsageError, match="nothing was measured"):
        bench(SERVICE, watcher=Refusing(), chunk_rows="1")


def test_an_interrupted_bench_keeps_what_was_measured() -> None:
    watcher = Watcher(stop_after=60)
    result = bench(SERVICE, watcher=watcher, chunk_rows="50", concurrency="1,2,4", duration="30s")
    assert result.partial
    assert result.partial_reason == "SIGINT received"
    assert result.exit_code == 130
    assert 1 <= len(result.points) < 3
    last = result.points[-1]
    assert last.stopped_by == "interrupted"
    assert 0 < last.seconds < 30
    assert last.rows_per_s > 0
    assert result.points[0].stopped_by == "duration"


def test_progress_tells_how_long_it_will_take() -> None:
    watcher = Watcher()
    bench(SERVICE, watcher=watcher, chunk_rows="50", concurrency="1,2", duration="30s")
    left = [each.left_s for each in watcher.progress]
    assert left[0] == pytest.approx(66, abs=2)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 3
    assert {each.point for each in watcher.progress} == {0, 1}


def test_the_time_of_a_request_is_split() -> None:
    (point,) = bench(SERVICE, chunk_rows="50", concurrency="4", duration="30s").points
    assert point.split.server_s == pytest.approx(0.15, rel=0.05)
    assert point.split.waiting_s == pytest.approx(0, abs=1e-3)
    assert point.split.send_s is None
    assert point.split.decode_s == pytest.approx(0, abs=1e-3)


def test_slices_show_a_drift_over_time() -> None:
    slow_start = Station(slots=2, request_s=0.1, cold_s=12.0, cold_factor=5.0)
    (point,) = bench(slow_start, chunk_rows="1", concurrency="2", duration="25s", warmup="0").points
    assert point.drifts
    assert point.drift is not None
    assert point.drift > 0.2
    assert point.slices[0].rows_per_s < point.slices[-1].rows_per_s
    assert point.slices[-1].rows_per_s == pytest.approx(20, rel=0.05)


def test_the_knee_is_found_and_confirmed() -> None:
    station = Station(slots=8, request_s=0.02, row_s=1e-4, noise=0.1)
    result = bench(
        station,
        find_knee=True,
        chunk_rows="1:2048",
        concurrency="1:64",
        slo="p95<200ms,errors<1%",
        duration="10s",
    )
    assert result.knee is not None
    assert (result.knee.verdict, result.knee.limited_by) == ("knee", "slo")
    # p95 of a request with a slot is its mean times exp(1.645 * 0.1 - 0.1 ** 2 / 2): 1,509 rows meet 200 ms.
    truth = station.capacity(1509)
    assert result.best is not None
    best = result.points[result.best]
    assert within(station.capacity(best.chunk_rows), truth, 0.06)
    assert within(result.knee.rows_per_s, truth, 0.07)
    assert 8 <= (best.concurrency or 0) <= 9
    assert len(result.knee.replicates) == 3
    assert "one billion rows would take" in result.answer


def test_an_error_that_ends_it_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that runs out, in the second point."""
    asked = StationEndpoint.invoke

    async def invoke(self: StationEndpoint, payload: Any, *, timeout_s: float) -> Any:
        if asyncio.get_running_loop().time() > 30:
            raise StoppedError("the login has run out", hint="log in")
        return await asked(self, payload, timeout_s=timeout_s)

    monkeypatch.setattr(StationEndpoint, "invoke", invoke)
    result = bench(SERVICE, chunk_rows="50", concurrency="1,2,4", duration="20s")
    assert (result.partial, result.partial_reason, result.exit_code) == (True, "the login has run out", 1)
    assert len(result.points) == 1
    with pytest.raises(StoppedError, match="run out"):
        bench(SERVICE, chunk_rows="50", concurrency="1", duration="60s")
