"""The answer, the table, the files and what a run learns, from points made up for it."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncbatch.bench.answer import answer, best_point, setting_words, warnings
from asyncbatch.bench.export import check_output, points_csv, write_result
from asyncbatch.bench.learning import learned_point
from asyncbatch.bench.load import Allowance, CpuReading, Loaded
from asyncbatch.bench.measuring import Applied, latency, measured_point, pareto_front
from asyncbatch.bench.records import Records
from asyncbatch.bench.result import (
    BenchResult,
    Budget,
    DataFacts,
    EndpointFacts,
    Knee,
    Point,
    RoundTrip,
)
from asyncbatch.bench.schedule import Window
from asyncbatch.bench.slo import judge, parse_conditions
from asyncbatch.bench.table import markdown, summary, terminal_table
from asyncbatch.errors import ConfigError, InputError, StorageError
from asyncbatch.observe.machine import Machine


def loaded(
    *,
    rows: int,
    flight: int,
    seconds_each: float,
    lasted_s: float = 20.0,
    failing: float = 0.0,
    busy: float = 0.3,
) -> Loaded:
    """`flight` requests at a time, each of `seconds_each` (and some more), from 100 s on by the clock."""
    records, rng = Records(), np.random.default_rng(rows + flight)
    started = 0
    for worker in range(flight):
        now_s = 100.0 + worker * seconds_each / flight
        while now_s < 100.0 + lasted_s:
            took_s = seconds_each * rng.uniform(0.9, 1.1)
            failed = rng.random() < failing
            started += 1
            records.add(
                intended_s=now_s,
                sent_s=now_s + 0.0001,
                finished_s=now_s + took_s,
                rows=rows,
                body_bytes=10 * rows,
                outcome="timeout" if failed else "success",
                wire=(now_s + 0.001, now_s + 0.002, now_s + took_s - 0.003),
                received_s=now_s + took_s - 0.002,
            )
            now_s += took_s
    return Loaded(
        records=records,
        began_s=100.0,
        window=Window(start_s=102.0, stop_s=100.0 + lasted_s),
        started=started,
        stopped_by="duration",
        cpu=(
            CpuReading(at_s=102.0, process_s=1.0, loop_s=1.0),
            CpuReading(
                at_s=100.0 + lasted_s,
                process_s=1.0 + busy * (lasted_s - 2),
                loop_s=1.0 + busy * (lasted_s - 2),
            ),
        ),
        most_in_flight=flight,
    )


def point(
    number: int = 0, *, rows: int = 100, flight: int = 4, each_s: float = 0.1, slo: str = "", **more: Any
) -> Point:
    return measured_point(
        loaded(rows=rows, flight=flight, seconds_each=each_s, **more),
        Applied(mode="closed", chunk_rows=rows, concurrency=flight),
        number=number,
        confidence=0.95,
        conditions=parse_conditions(slo) if slo else (),
        warmup_s=2.0,
    )


def result(points: list[Point], **more: Any) -> BenchResult:
    best = best_point(points, objective=False)
    given: dict[str, Any] = {
        "command": "asyncbatch bench rows.parquet",
        "label": "churn",
        "started_at": "2026-01-01T00:00:00Z",
        "elapsed_s": 30.0,
        "versions": {"asyncbatch": "1.0"},
        "machine": Machine(platform="Linux", cores=2),
        "seed": 0,
        "confidence": 0.95,
        "options": {},
        "endpoint": EndpointFacts(name="churn", kind="http", local=True, variant=""),
        "data": DataFacts(
            source="rows.parquet",
            rows=10,
            rows_total=10,
            bytes_per_row=10.0,
            reply_bytes_per_row=2.0,
            body="csv",
            columns=("x",),
        ),
        "round_trip": RoundTrip(connect_s=0.001, one_row_s=0.02),
        "budget": Budget(requests=10, seconds=30.0, points=2, dollars=None),
        "slo": "",
        "points": tuple(points),
        "best": None if best is None else best.number,
        "knee": None,
        "answer": answer(points, best, slo=""),
        "partial": False,
        "partial_reason": "",
        "exit_code": 0,
        "warnings": (),
    }
    return BenchResult(**{**given, **more})


def test_figures_are_those_of_the_records() -> None:
    found = point()
    assert found.rows_per_s == pytest.approx(4000, rel=0.02)
    assert found.mb_per_s == pytest.approx(0.04, rel=0.02)
    assert found.requests_per_s == pytest.approx(40, rel=0.02)
    assert found.in_flight == pytest.approx(4, rel=0.01)
    assert found.latency.percentile(50.0).seconds == pytest.approx(0.1, rel=0.02)
    assert found.split.waiting_s == pytest.approx(0.001)
    assert found.split.send_s == pytest.approx(0.001)
    assert found.split.server_s == pytest.approx(0.095, rel=0.02)
    assert found.split.receive_s == pytest.approx(0.001)
    assert found.split.decode_s == pytest.approx(0.002)
    assert found.client_cpu_share == pytest.approx(0.3)
    assert found.client_cpu_s_per_request == pytest.approx(0.3 / 40, rel=0.02)
    assert not found.client_bound
    assert len(found.slices) == 24
    assert sum(each.requests for each in found.slices) == pytest.approx(found.requests, rel=0.02)
    assert len(found.sample.sent_s) == found.sample.of
    with pytest.raises(KeyError):
        found.latency.percentile(42.0)


def test_a_client_without_cpu_to_spare_is_said() -> None:
    found = point(busy=0.95)
    assert found.client_bound
    (said,) = warnings([found], local=False, one_row_s=None)
    assert "this client had no CPU left" in said
    not_metered = measured_point(
        loaded(rows=1, flight=1, seconds_each=0.1, busy=0.95),
        Applied(mode="closed", chunk_rows=1, concurrency=1),
        number=0,
        confidence=0.95,
        metered=False,
    )
    assert not not_metered.client_bound
    assert not_metered.client_cpu_share is None


def test_the_answer_is_one_sentence() -> None:
    points = [point(0, rows=100, flight=1), point(1, rows=2048, flight=24, each_s=0.6)]
    best = best_point(points, objective=False)
    assert best is points[1]
    said = answer(points, best, slo="", dollars_per_million_rows=0.00005)
    assert said.startswith("best: 2,048 rows x 24 in flight, 8")
    assert "rows/s ± " in said
    assert ", p95 6" in said
    assert said.endswith("; one billion rows would take 3.4 h and cost about $0.05")


def test_as_good_points_are_judged_by_their_p95() -> None:
    fast, slow = point(0, flight=4), point(1, flight=8, each_s=0.2)
    assert slow.rows_per_s == pytest.approx(fast.rows_per_s, rel=0.01)
    assert best_point([slow, fast], objective=False) is fast


def test_a_point_that_misses_the_objective_is_not_the_best() -> None:
    points = [point(0, flight=4, slo="p95<150ms"), point(1, flight=64, slo="p95<150ms", each_s=0.3)]
    assert [each.slo_met for each in points] == [True, False]
    assert points[1].slo_missed.startswith("p95 3")
    assert best_point(points, objective=True) is points[0]
    none = [points[1]]
    assert best_point(none, objective=True) is None
    said = answer(none, None, slo="p95<150ms")
    assert said.startswith("no point met p95<150ms: p95 3")


def test_a_few_requests_can_miss_an_objective_but_not_meet_it() -> None:
    few = point(flight=1, each_s=2.0, lasted_s=14.0)
    assert few.latency.percentile(95.0).seconds is None
    assert judge(parse_conditions("p95<1s"), few)[0] is False
    assert (
        "of requests take longer" in judge(parse_conditions("p95<1s"), few)[1]
        or "take longer" in judge(parse_conditions("p95<1s"), few)[1]
    )
    assert judge(parse_conditions("p95<5s"), few) == (None, "too few requests for p95")
    assert judge((), few) == (None, "")


def test_failing_points_are_no_answer() -> None:
    points = [point(0, failing=0.3)]
    assert points[0].error_share == pytest.approx(0.3, abs=0.06)
    assert points[0].errors == {"timeout": points[0].requests - points[0].latency.count}
    assert best_point(points, objective=False) is None
    assert "% of requests failed at 100 rows x 4 in flight" in answer(points, None, slo="")


def test_a_knee_is_answered_by_its_replicates() -> None:
    points = [point(0)]
    knee = Knee(
        verdict="knee", limited_by="slo", point=0, replicates=(1, 2), confirmed=False, rows_per_s=5000.0,
        rows_per_s_low=4900.0, rows_per_s_high=5100.0, why="with more load: p95 1s",
    )  # fmt: skip
    said = answer(points, points[0], slo="", knee=knee)
    assert "5,000 rows/s ± 2 %" in said
    assert "not confirmed by its replicates" in said
    assert said.endswith("(knee: with more load: p95 1s)")


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    points = [
        point(0, flight=1),  # 1,000 rows/s
        point(1, flight=8, each_s=0.2),  # 4,000 rows/s
        point(2, flight=8, each_s=0.25),  # less, and later
        point(3, flight=64, each_s=0.4),  # 16,000 rows/s
    ]
    assert [each.on_pareto_front for each in pareto_front(points)] == [True, True, False, True]


def test_the_table_marks_the_best_and_says_what_is_unknown() -> None:
    points = [
        point(0, rows=10, flight=1),
        point(1, rows=10, flight=8),
        point(2, rows=5, flight=1, lasted_s=2.4),
    ]
    lines = terminal_table(result(points)).splitlines()
    assert lines[0].split() == ["rows", "in", "flight", "rows/s", "±", "MB/s", "p50", "p95", "p99", "failed"]
    assert [line.split()[0] for line in lines[1:]] == ["5", "10", "*"]
    assert "?" in lines[1]
    assert len({len(line) for line in lines}) == 1
    said = summary(result(points, partial=True, partial_reason="SIGINT received", warnings=("look here",)))
    assert "partial: SIGINT received" in said
    assert "note: look here" in said
    assert "waiting 1.0 ms · send 1.0 ms" in said
    assert terminal_table(result([])) == ""


def test_files_hold_the_same_figures(tmp_path: Path) -> None:
    points = [point(0, rows=10, flight=1), point(1, rows=10, flight=8)]
    made = result(points)
    (first, second) = csv.DictReader(io.StringIO(points_csv(made)))
    assert float(first["rows_per_s"]) == points[0].rows_per_s
    assert float(second["p95_s"]) == points[1].latency.percentile(95.0).seconds
    assert first["rate"] == ""
    assert "| **10** | **8** |" in markdown(made)
    for name in ("r.json", "r.csv", "r.md"):
        write_result(made, str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 200
    assert BenchResult.from_dict(made.to_dict(), where="r.json") == BenchResult.from_dict(
        BenchResult.from_dict(made.to_dict(), where="r.json").to_dict(), where="r.json"
    )
    with pytest.raises(StorageError, match="cannot be written"):
        write_result(made, str(tmp_path / "no" / "r.json"))
    for name in ("r.txt", "no/r.json", "."):
        with pytest.raises(ConfigError):
            check_output(str(tmp_path / name))


def test_what_is_no_result_is_refused() -> None:
    document = result([point(0)]).to_dict()
    for broken, said in (
        ({}, "no result of asyncbatch bench"),
        ({**document, "schema_version": 99}, "version 99"),
        ({**document, "points": [{"number": 0}]}, "damaged"),
    ):
        with pytest.raises(InputError, match=said):
            BenchResult.from_dict(broken, where="r.json")


def test_latencies_survive_in_an_hdr_histogram() -> None:
    from hdrh.histogram import HdrHistogram

    values = np.random.default_rng(1).lognormal(-3, 0.5, 20_000)
    found = latency(values, 0.95)
    assert found.histogram is not None
    histogram = HdrHistogram.decode(found.histogram)
    assert histogram.get_total_count() == 20_000
    for percent in (50.0, 95.0, 99.9):
        exact = found.percentile(percent).seconds
        assert histogram.get_value_at_percentile(percent) / 1e6 == pytest.approx(exact, rel=0.002)


def test_a_run_learns_the_best_point_and_what_calls_and_rows_cost() -> None:
    points = [
        point(0, rows=10, flight=1, each_s=0.02 + 10 * 0.001),
        point(1, rows=100, flight=1, each_s=0.02 + 100 * 0.001),
        point(2, rows=100, flight=8, each_s=0.24),
    ]
    learned = learned_point(points[2], points, row_s=0.5)
    assert learned is not None
    assert (learned.chunk_rows, learned.concurrency) == (100, 8)
    assert learned.row_s == pytest.approx(0.001, rel=0.03)
    assert learned.call_s == pytest.approx(0.02, rel=0.1)
    assert learned.slots == pytest.approx(4, rel=0.05)
    one_size = learned_point(points[2], points[2:], row_s=0.001)
    assert one_size is not None
    assert one_size.call_s == pytest.approx(0.14, rel=0.03)
    assert learned_point(replace(points[2], concurrency=None, rate=5.0), points, row_s=0.0) is None
    assert all(math.isfinite(value) for value in learned.as_dict().values() if value is not None)


def test_an_allowance_is_spent_once() -> None:
    allowance = Allowance(left=2)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    assert setting_words(point()) == "100 rows x 4 in flight"
