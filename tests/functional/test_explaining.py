"""What a run tells of itself and keeps for the next: timeline, what binds, decisions, the learned point, bytes in flight."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest

import asyncbatch
from asyncbatch.errors import StoppedError
from asyncbatch.observe.events import Explained, RunFinished, Warned
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
        found[point.bound] += round(1000 * point.seconds)
    return found


@pytest.fixture(scope="module")
def slow(serve: Serve) -> Background:
    """Four slots, 20 ms a request and 0.2 ms a row."""
    return simulated(serve, a=0.02, b=0.0002, slots=4)


def test_the_timeline_in_the_report_adds_up(tmp_path: Path, slow: Background) -> None:
    report = run(tmp_path, slow, 60_000, block_rows=10_000)
    document = report.to_dict()
    jsonschema.validate(document, report_schema())
    assert (
        json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())["timeline"]
        == document["timeline"]
    )
    answered = sum(point.rows_per_s * point.seconds for point in report.timeline)
    assert answered == pytest.approx(60_000, rel=0.01)
    probes = report.metrics.requests_by_kind["probe"]
    assert sum(point.requests for point in report.timeline) == report.metrics.requests - probes
    assert report.timeline[-1].at_s == pytest.approx(report.metrics.elapsed_s, abs=0.3)
    assert report.decisions
    assert report.decisions[0].why.startswith("row ramp")
    assert 0 < report.decisions[0].at_s < report.metrics.elapsed_s


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"rate": 15, "chunk_rows": 100, "concurrency": 4}, "rate"),
        ({"row_rate": 1500, "chunk_rows": 100, "concurrency": 4}, "row-rate"),
        ({"chunk_rows": 25, "concurrency": 2}, "concurrency"),
        ({"chunk_rows": "1:20", "concurrency": "1:64", "max_payload": "250"}, "payload"),
    ],
    ids=["rate", "row-rate", "concurrency", "payload"],
)
def test_what_binds_is_named(tmp_path: Path, slow: Background, options: dict[str, Any], bound: str) -> None:
    if bound == "payload":
        options = {**options, "chunk_rows": "1:5000", "concurrency": "1:3"}
    told = Told()
    report = run(tmp_path, slow, 4_000, told=told, block_rows=4_000, **options)
    found = bounds(report)
    accepted = {bound} | ({"concurrency", "search"} if bound == "payload" else set())
    assert found.most_common(1)[0][0] in accepted, found


def test_throttled_requests_are_seen(tmp_path: Path, serve: Serve) -> None:
    server = simulated(serve, a=0.02, slots=8, rate=10, burst=1)
    report = run(tmp_path, server, 3_000, block_rows=3_000, chunk_rows=50, concurrency=8)
    assert sum(point.refused for point in report.timeline) == report.metrics.requests_by_outcome["throttled"]
    assert bounds(report).most_common(1)[0][0] in ("throttle", "concurrency", "endpoint")
    assert bounds(report)["throttle"] > 0


def test_a_slow_consumer_binds(serve: Serve, tmp_path: Path) -> None:
    import asyncio

    async def take() -> RunReport | None:
        told = Told()
        stream = asyncbatch.stream(
            iter(rows(60_000).to_batches(max_chunksize=1_000)),
            endpoint=serve(ServeConfig(model="echo")).invocations_url,
            block_rows=1_000,
            chunk_rows=1_000,
            concurrency=2,
            progress=told,
        )
        async for _ in stream:
            await asyncio.sleep(0.04)
        return next((event.report for event in told.events if isinstance(event, RunFinished)), None)

    report = asyncio.run(take())
    assert report is not None
    assert bounds(report).most_common(1)[0][0] == "consumer", bounds(report)


def test_a_guest_is_bound_by_live_users(tmp_path: Path, slow: Background) -> None:
    report = run(tmp_path, slow, 2_500, block_rows=2_500, background=True, max_chunk_time="50ms")
    found = bounds(report)
    assert found.most_common(1)[0][0] == "live-users", found
    assert report.metrics.chunk_rows_max is not None
    assert report.metrics.chunk_rows_max <= 150


def test_bodies_in_flight_fit_in_memory(tmp_path: Path, serve: Serve) -> None:
    """16 MB for everything: half of it for blocks; the controller would like more in flight than that holds."""
    server = simulated(serve, a=0.3, slots=64)
    text = pa.table({"x": [f"{number:0>20000}" for number in range(1_200)]})
    told = Told()
    report = asyncbatch.run(
        text,
        str(tmp_path / "out"),
        endpoint=server.invocations_url,
        keep="none",
        body="csv",
        max_memory="16MB",
        progress=told,
    )
    assert report.metrics.rows_out == 1_200
    in_flight = max(point.in_flight * (point.chunk_rows or 0) for point in report.timeline)
    assert in_flight * 20_000 <= 8_000_000
    assert report.metrics.in_flight_max * 20_000 <= 8_000_000


def learned(cache: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cache / "asyncbatch" / "tuning.json").read_text())["points"]
    return found


def test_a_second_run_starts_where_the_first_ended(tmp_path: Path, slow: Background) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    first = run(tmp_path, slow, 120_000, name="first", block_rows=20_000)
    (entry,) = learned(cache).values()
    point = entry["point"]
    assert point["concurrency"] >= 3
    assert point["chunk_rows"] >= 100
    told = Told()
    second = run(tmp_path, slow, 60_000, name="second", block_rows=20_000, told=told)
    assert any(
        f"ended with {point['chunk_rows']:,} rows x {point['concurrency']}" in each for each in told.explained
    )
    assert second.decisions[0].why == "learned by an earlier run"
    assert first.decisions[0].why.startswith("row ramp")
    early = max(each.chunk_rows or 0 for each in second.timeline[:2])
    assert early >= 0.4 * point["chunk_rows"]


def test_no_tuning_neither_reads_nor_writes(tmp_path: Path, slow: Background) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    run(tmp_path, slow, 60_000, name="first", block_rows=20_000, no_tuning=True)
    assert not cache.exists()
    file = tmp_path / "mine.json"
    run(tmp_path, slow, 120_000, name="second", block_rows=20_000, tuning=str(file))
    assert not cache.exists()
    before = file.read_bytes()
    report = run(tmp_path, slow, 20_000, name="third", block_rows=20_000, no_tuning=True)
    assert report.decisions[0].why.startswith("row ramp")
    assert file.read_bytes() == before


def test_a_stopped_run_keeps_what_it_learned(tmp_path: Path, slow: Background) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, slow, 400_000, block_rows=20_000, deadline="7s", grace="0.1s")
    assert len(learned(Path(os.environ["XDG_CACHE_HOME"]))) == 1


@pytest.mark.parametrize("content", ["{", '{"format": "asyncbatch tuning", "version": 9, "points": {}}'])
def test_a_bad_file_is_said_once_and_never_fatal(tmp_path: Path, slow: Background, content: str) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(content)
    told = Told()
    report = run(tmp_path, slow, 2_000, told=told, tuning=str(file))
    assert report.exit_code == 0
    assert [each for each in told.warned if "tuning.json" in each] == [
        each for each in report.warnings if "tuning" in each
    ]
    assert sum("tuning.json" in each for each in told.warned) == 1
    assert file.read_text() == content


def test_a_point_of_another_endpoint_is_distrusted(tmp_path: Path, serve: Serve) -> None:
    """The same name, another endpoint behind it: what was learned is thrown away after a few answers."""
    fast, other = simulated(serve, a=0.02, b=0.0002, slots=32), simulated(serve, a=0.3, b=0.002, slots=2)
    file = tmp_path / "tuning.json"
    run(tmp_path, fast, 200_000, name="fast", block_rows=20_000, tuning=str(file), concurrency="1:64")
    document = json.loads(file.read_text())
    (entry,) = document["points"].values()
    run(tmp_path, other, 2_000, name="key", tuning=str(tmp_path / "other.json"), concurrency="1:64")
    key = _key_of(other, tmp_path)
    file.write_text(json.dumps({**document, "points": {key: entry}}))
    told = Told()
    report = run(tmp_path, other, 8_000, name="other", tuning=str(file), concurrency="1:64", told=told)
    assert [each.what for each in report.decisions].count("start anew") == 1
    assert any("start anew" in each for each in told.explained)


def _key_of(server: Background, tmp_path: Path) -> str:
    from asyncbatch.config import RunConfig
    from asyncbatch.endpoint import make_endpoint
    from asyncbatch.pipeline.tuning import tuning_for

    config = RunConfig.from_options(
        {
            "endpoint": server.invocations_url,
            "tuning": str(tmp_path / "t.json"),
            "concurrency": "1:64",
            "keep": "none",
        }
    )
    endpoint = make_endpoint(config, session=None)
    tuning = tuning_for(config, endpoint, content_type="text/csv", send=("x",), warn=lambda message: None)
    assert tuning is not None
    return tuning.key


def test_explain_ends_with_a_chart(
    tmp_path: Path, slow: Background, capfd: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    from asyncbatch.cli.main import main

    pq.write_table(rows(100_000), tmp_path / "in.parquet")
    code = main(
        [
            "run",
            str(tmp_path / "in.parquet"),
            str(tmp_path / "o"),
            "-e",
            slow.invocations_url,
            "--explain",
            "--no-progress",
        ]
    )
    said = capfd.readouterr().err
    assert code == 0
    assert "explain: over " in said
    for part in (
        "  chunk rows ",
        "  in flight  ",
        "  rows/s     ",
        "  p95        ",
        "  refused    ",
        "  bound by   ",
    ):
        assert part in said
