"""What several processes measured, as if one had."""

import dataclasses

import pytest

from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.observe.events import RunPlanned
from asyncbatch.observe.joined import (
    Measured,
    joined_plan,
    joined_snapshot,
    joined_timeline,
    joined_totals,
    worst,
)
from asyncbatch.observe.metrics import MetricsCollector


def sample(seconds: float, rows: int = 10, at: float = 1.0, outcome: Outcome = Outcome.SUCCESS) -> Sample:
    return Sample(
        rows=rows, body_bytes=100, started_s=at, finished_s=at + seconds, outcome=outcome, kind=Kind.FIRST
    )


def collector(samples: list[Sample]) -> MetricsCollector:
    now = 0.0
    found = MetricsCollector(clock=lambda: now)
    for each in samples:
        found.started()
        now = each.finished_s
        found.finished(each)
        found.committed(rows_in=each.rows, rows_out=each.rows)
    now = 10.0
    return found


def measured(samples: list[Sample], began_s: float = 0.0) -> Measured:
    found = collector(samples)
    return Measured(
        totals=found.totals(), latencies=found.latencies, timeline=found.timeline(), began_s=began_s
    )


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 75, 0], 75),
        ([75, 1], 1),
        ([2, 75], 2),
        ([0, -9], 1),
        ([130, 3], 130),
    ],
)
def test_the_worst_exit_code_is_that_of_all(codes: list[int], code: int) -> None:
    assert worst(codes) == code


def test_totals_are_those_of_one_run_with_all_samples() -> None:
    one = [sample(0.1 * number, rows=number) for number in range(1, 10)]
    other = [sample(2.0, rows=50), sample(0.5, rows=30, outcome=Outcome.THROTTLED)]
    found = joined_totals([measured(one), measured(other)], elapsed_s=10.0)
    expected = collector([*one, *other]).totals()
    for field in dataclasses.fields(expected):
        if field.name != "in_flight_max":  # of processes that do not know of each other: the sum
            assert getattr(found, field.name) == pytest.approx(getattr(expected, field.name)), field.name


def test_totals_of_processes_that_sent_nothing() -> None:
    found = joined_totals([measured([]), measured([])], elapsed_s=0.0)
    assert (found.rows_in, found.latency_p50_s, found.chunk_rows_mean, found.rows_per_s) == (0, None, None, 0)


def test_a_moment_of_all() -> None:
    snapshots = []
    for rows in (100, 300):
        found = collector([sample(0.1, rows=rows)])
        found.planned(rows_total=1_000, rows_resumed=50)
        snapshots.append(found.snapshot(limit=4, chunk_rows=rows, blocks_open=1))
    joined = joined_snapshot(snapshots, elapsed_s=3.0)
    assert (joined.rows_total, joined.rows_done, joined.limit, joined.blocks_open) == (2_000, 500, 8, 2)
    assert joined.latency_p95_s == pytest.approx(0.1, rel=0.03)
    assert joined_snapshot([snapshots[0]], elapsed_s=snapshots[0].elapsed_s).rows_done == 150


def test_a_plan_of_all() -> None:
    planned = RunPlanned(
        job_id="j", endpoint="e", rows=10, resumed_rows=1, files=1, blocks=2, block_rows=5, columns_sent=("x",),
        shard="0/2",
    )  # fmt: skip
    joined = joined_plan([planned, dataclasses.replace(planned, rows=7, shard="1/2")])
    assert (joined.rows, joined.resumed_rows, joined.blocks, joined.files, joined.shard) == (17, 2, 4, 1, "")


def test_a_course_of_all_keeps_the_counts() -> None:
    found = joined_timeline(
        [
            measured([sample(0.1, rows=10, at=at) for at in (0.5, 1.5, 5.5)]),
            measured([sample(0.2, rows=40, at=0.5)], began_s=1.0),
        ]
    )
    assert sum(point.requests for point in found) == 4
    assert sum(point.rows_per_s * point.seconds for point in found) == pytest.approx(70, rel=0.1)
    assert [point.at_s for point in found] == sorted(point.at_s for point in found)
    assert joined_timeline([]) == ()
