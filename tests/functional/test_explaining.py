"""What a run tells of itself and keeps for the next: timeline, what binds, decisions, the learned point, bytes in flight."""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.cli.main import main
from asyncbatch.config import RunConfig
from asyncbatch.control import FixedController, LearnedPoint
from asyncbatch.errors import StoppedError
from asyncbatch.observe.events import Explained, Warned
from asyncbatch.observe.report import RunReport
from asyncbatch.observe.schema import report_schema
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]


def rows(count: int) -> pa.Table:
    return pa.table({"x": pa.array(np.arange(count) + 10_000_000)})


class Told:
    """A hook that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def __call__(self, event: object) -> None:
        self.events.append(event)

    @property
    def explained(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Explained)]

    @property
    def warned(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]


def run(
    tmp_path: Path,
    server: Background,
    count: int,
    *,
    told: Told | None = None,
    name: str = "out",
    **options: Any,
) -> RunReport:
    return asyncbatch.run(
        rows(count),
        str(tmp_path / name),
        endpoint=server.invocations_url,
        progress=told or False,
        keep="none",
        **options,
    )


def simulated(serve: Serve, **simulation: Any) -> Background:
    return serve(ServeConfig(model="simulated", simulation=SimulationConfig(**simulation)))


def bounds(report: RunReport) -> Counter[str | None]:
    found: Counter[str | None] = Counter()
    for point in report.timeline:
        if point.bound is not None:
            found[point.bound] += round(1000 * point.seconds)
    return found


@pytest.fixture(scope="module")
def slow(serve: Serve) -> Background:
    """Four slots, 20 ms a request and 0.2 ms a row."""
    return simulated(serve, a=0.02, b=0.0002, slots=4)


def test_the_timeline_in_the_report_adds_up(tmp_path: Path, slow: Background) -> None:
    report = run(tmp_path, slow, 20_000, block_rows=5_000)
    document = report.to_dict()
    jsonschema.validate(document, report_schema())
    assert (
        json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())["timeline"]
        == document["timeline"]
    )
    answered = sum(point.rows_per_s * point.seconds for point in report.timeline)
    assert answered == pytest.approx(20_000, rel=0.01)
    probes = report.metrics.requests_by_kind["probe"]
    assert sum(point.requests for point in report.timeline) == report.metrics.requests - probes
    assert report.timeline[-1].at_s == pytest.approx(report.metrics.elapsed_s, rel=0.5)
    assert report.decisions
    assert report.decisions[0].why.startswith("row ramp")
    assert 0 < report.decisions[0].at_s < report.metrics.elapsed_s


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"rate": 15, "chunk_rows": 20, "concurrency": 4}, "rate"),
        ({"row_rate": 300, "chunk_rows": 20, "concurrency": 4}, "row-rate"),
        ({"chunk_rows": 10, "concurrency": 1}, "concurrency"),
    ],
    ids=["rate", "row-rate", "concurrency"],
)
def test_what_binds_is_named(tmp_path: Path, slow: Background, options: dict[str, Any], bound: str) -> None:
    report = run(tmp_path, slow, 900, block_rows=900, **options)
    assert bounds(report).most_common(1)[0][0] == bound


def test_throttled_requests_are_seen(tmp_path: Path, serve: Serve) -> None:
    server = simulated(serve, a=0.02, slots=8, rate=10, burst=1)
    report = run(tmp_path, server, 500, block_rows=500, chunk_rows=50, concurrency=8)
    refused = sum(point.refused for point in report.timeline)
    assert 0 < refused <= report.metrics.requests_by_outcome["throttled"]
    assert bounds(report)["throttle"] > 0


def test_a_guest_is_bound_by_live_users(tmp_path: Path, slow: Background) -> None:
    report = run(tmp_path, slow, 1_500, block_rows=1_500, background=True, max_chunk_time="50ms")
    assert bounds(report).most_common(1)[0][0] == "live-users"
    assert report.metrics.chunk_rows_max is not None
    assert report.metrics.chunk_rows_max <= 150


class Learned(FixedController):
    """Has learned at once, and notes what it is told."""

    point = LearnedPoint(
        chunk_rows=77, concurrency=3, latency_s=0.02, call_s=0.019, row_s=1e-5, spread=0.1, slots=3.0
    )
    most_bytes = 0
    start: LearnedPoint | None = None

    def learned(self) -> LearnedPoint:
        return self.point

    def note_bytes_in_flight(self, most: int) -> None:
        self.most_bytes = most


@pytest.fixture
def controllers(monkeypatch: pytest.MonkeyPatch) -> list[Learned]:
    """The controllers of the runs that follow."""
    made: list[Learned] = []

    def make(config: RunConfig, *, start: LearnedPoint | None = None, **more: Any) -> Learned:
        made.append(Learned(chunk_rows=50, chunk_bytes=10**6, concurrency=2))
        made[-1].start = start
        return made[-1]

    monkeypatch.setattr("asyncbatch.pipeline.planning.make_controller", make)
    return made


def kept() -> list[dict[str, Any]]:
    """The points in the user's cache."""
    document = json.loads((Path(os.environ["XDG_CACHE_HOME"]) / "asyncbatch" / "tuning.json").read_text())
    return list(document["points"].values())


def test_a_second_run_starts_where_the_first_ended(
    tmp_path: Path, slow: Background, controllers: list[Learned]
) -> None:
    run(tmp_path, slow, 100, name="first")
    assert [entry["point"]["chunk_rows"] for entry in kept()] == [77]
    told = Told()
    run(tmp_path, slow, 100, name="second", told=told)
    assert [controller.start for controller in controllers] == [None, Learned.point]
    assert any("ended with 77 rows x 3 in flight: this one starts there" in each for each in told.explained)
    run(tmp_path, slow, 100, name="bounded", rate=1000)
    assert controllers[-1].start is None
    assert len(kept()) == 2


def test_no_tuning_neither_reads_nor_writes(
    tmp_path: Path, slow: Background, controllers: list[Learned]
) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    run(tmp_path, slow, 100, name="first", no_tuning=True)
    assert not cache.exists()
    file = tmp_path / "mine.json"
    run(tmp_path, slow, 100, name="second", tuning=str(file))
    assert not cache.exists()
    before = file.read_bytes()
    run(tmp_path, slow, 100, name="third", no_tuning=True)
    assert controllers[-1].start is None
    assert file.read_bytes() == before


def test_a_stopped_run_keeps_what_it_learned(
    tmp_path: Path, slow: Background, controllers: list[Learned]
) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, slow, 50_000, block_rows=2_000, deadline="500ms", grace="0.1s")
    assert len(kept()) == 1


@pytest.mark.parametrize("content", ["{", '{"format": "asyncbatch tuning", "version": 9, "points": {}}'])
def test_a_bad_file_is_said_once_and_never_fatal(
    tmp_path: Path, slow: Background, controllers: list[Learned], content: str
) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(content)
    told = Told()
    report = run(tmp_path, slow, 200, told=told, tuning=str(file))
    assert report.exit_code == 0
    assert sum("tuning.json" in each for each in told.warned) == 1
    assert sum("tuning.json" in each for each in report.warnings) == 1
    assert file.read_text() == content


def test_a_point_of_another_endpoint_is_distrusted(tmp_path: Path, slow: Background) -> None:
    """The same name, another endpoint behind it: what was learned is thrown away after a few answers."""
    file = tmp_path / "tuning.json"
    fast = Learned(chunk_rows=50, chunk_bytes=10**6, concurrency=2)
    fast.point = replace(Learned.point, chunk_rows=20, concurrency=4, latency_s=0.0005)
    with mock.patch("asyncbatch.pipeline.planning.make_controller", return_value=fast):
        run(tmp_path, slow, 100, name="first", tuning=str(file))
    told = Told()
    report = run(tmp_path, slow, 2_000, name="second", tuning=str(file), told=told)
    assert report.decisions[0].why == "learned by an earlier run"
    assert [each.what for each in report.decisions].count("start anew") == 1
    assert any("start anew" in each for each in told.explained)


def test_the_controller_is_told_how_many_bytes_may_be_in_flight(
    tmp_path: Path, slow: Background, controllers: list[Learned]
) -> None:
    run(tmp_path, slow, 500, max_memory="16MB")
    row = 9 + 16 + 4 * 9  # nothing kept: sent, answered
    assert controllers[0].most_bytes == pytest.approx(8_000_000 * 9 / row, rel=0.05)


def test_explain_ends_with_a_chart(
    tmp_path: Path, slow: Background, capfd: pytest.CaptureFixture[str]
) -> None:

    pq.write_table(rows(1_000), tmp_path / "in.parquet")
    arguments = ["--rate", "15", "--chunk-rows", "20", "--concurrency", "4", "--explain", "--no-progress"]
    code = main(
        ["run", str(tmp_path / "in.parquet"), str(tmp_path / "o"), "-e", slow.invocations_url, *arguments]
    )
    said = capfd.readouterr().err
    assert code == 0
    assert "explain: what binds now is --rate: requests wait for it" in said
    chart = said[said.index("explain: over ") :].splitlines()
    names = ("chunk rows ", "in flight  ", "rows/s     ", "p95        ", "refused    ", "bound by   ")
    assert [line.startswith(f"  {name}") for line, name in zip(chart[1:7], names, strict=True)] == [True] * 6
    assert "--rate" in chart[6]
