"""The report: its schema, its summary, and what must not be in it."""

import json
import platform
import re
import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.errors import StorageError
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.observe.machine import cpu_s, machine, peak_memory_bytes, versions
from asyncbatch.observe.metrics import MetricsCollector, RunTotals
from asyncbatch.observe.report import RunReport, done_status, make_report
from asyncbatch.observe.report_file import write_report
from asyncbatch.observe.schema import report_schema

ROOT = Path(__file__).resolve().parents[2]


def totals(*, rejected: int = 0) -> RunTotals:
    now = [0.0]
    collector = MetricsCollector(clock=lambda: now[0], rows_total=1000, rows_resumed=100)
    for number, outcome in enumerate([Outcome.SUCCESS] * 9 + [Outcome.THROTTLED]):
        collector.started()
        collector.finished(
            Sample(
                rows=100,
                body_bytes=20_000,
                started_s=number,
                finished_s=number + 0.02,
                outcome=outcome,
                kind=Kind.FIRST if number else Kind.RETRY,
            )
        )
    if rejected:
        collector.rejected(rejected, code="input")
    collector.committed(rows_in=900, rows_out=900)
    now[0] = 12.3
    return collector.totals()


def report(config: RunConfig | None = None, **changes: Any) -> RunReport:
    given: dict[str, Any] = {
        "config": config or RunConfig(),
        "totals": totals(),
        "status": "done",
        "exit_code": 0,
        "job_id": "j1",
        "endpoint": "churn",
        "source": "in.parquet",
        "sink": "out/",
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "warnings": ["one", "two", "one"],
    }
    return make_report(**{**given, **changes})


def test_the_report_follows_its_schema() -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(report().to_json()), schema)
    empty = MetricsCollector(clock=lambda: 0.0).totals()
    jsonschema.validate(report(totals=empty, status="failed", reason="x", sink=None).to_dict(), schema)


def test_the_schema_refuses_what_is_no_report() -> None:
    for change in ({"schema_version": 1}, {"status": "fine"}, {"metrics": {}}, {"exit_code": "0"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**report().to_dict(), **change}, report_schema())


def test_the_schema_in_the_documentation_is_this_one() -> None:
    assert json.loads((ROOT / "docs" / "report-schema.json").read_text(encoding="utf-8")) == report_schema()


def test_no_secret_host_name_or_path_of_the_interpreter_is_in_the_report() -> None:
    config = RunConfig.from_options(
        {
            "endpoint": "https://user:hunter2@models.example/score",
            "header": ["Authorization: Bearer s3cret"],
            "endpoint_url": "http://a:b@localhost:1",
        }
    )
    text = report(
        config,
        endpoint="https://user:hunter2@models.example/score",
        source="s3://key:pass@bucket/in",
        sink="x://k:p@b/o",
    ).to_json()
    for secret in (
        "hunter2",
        "s3cret",
        "Authorization",
        "key:pass",
        "k:p@",
        "a:b@",
        sys.prefix,
        sys.executable,
    ):
        assert secret not in text
    assert (
        re.search(rf"\b{re.escape(socket.gethostname())}\b", json.dumps(report().to_dict()["machine"]))
        is None
    )
    assert "https://models.example/score" in text


def test_options_are_the_effective_ones_without_defaults() -> None:
    config = RunConfig.from_options(
        {"endpoint": "e", "chunk_rows": "5:9", "max_errors": "2%", "types": "a=int64"}
    )
    assert report(config).to_dict()["options"] == {
        "endpoint": "e",
        "types": [["a", "int64"]],
        "chunk_rows": "5:9",
        "max_errors": "2%",
    }


def test_the_summary() -> None:
    lines = report(totals=totals(rejected=12), status="done_with_rejects").summary().splitlines()
    assert lines[0] == "done, with rejects: 900 rows in 12 s (73.2 rows/s) -> out/"
    assert lines[1] == "  resumed: 100 rows were done before"
    assert lines[2] == "  10 requests · 100 rows each · 0.02 in flight · 1 retry · 1 throttled"
    assert lines[3].startswith("  latency p50 20 ms · p95 20 ms · p99 20 ms · max 20 ms")
    assert lines[4] == "  12 rows rejected (12 input): see the error column"
    assert re.fullmatch(r"  .* of CPU · peak memory .*B", lines[5])


def test_the_summary_of_nothing() -> None:
    empty = MetricsCollector(clock=lambda: 0.0).totals()
    summary = report(totals=empty, sink=None).summary()
    assert summary.splitlines()[0] == "done: 0 rows in 0.0 s (0 rows/s)"
    assert len(summary.splitlines()) == 2


def test_a_finished_run_again_has_nothing_to_do() -> None:
    nothing = replace(totals(), rows_in=0, requests=0)
    assert report(totals=nothing).summary() == "nothing left to do: 100 rows were done before -> out/"
    assert "-> standard output" in report(sink="-").summary()


def test_times_are_utc_and_warnings_are_said_once() -> None:
    found = report()
    assert found.started_at == "2026-01-02T03:04:05.000Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.finished_at)
    assert found.warnings == ("one", "two")


@pytest.mark.parametrize(
    ("rejected", "max_errors", "expected"),
    [
        (0, None, ("done", 0)),
        (1, None, ("done_with_rejects", 3)),
        (1, "5", ("done_with_rejects", 0)),
        (0, "0", ("done", 0)),
    ],
)
def test_exit_code_of_a_finished_run(
    rejected: int, max_errors: str | None, expected: tuple[str, int]
) -> None:
    config = RunConfig.from_options({"max_errors": max_errors})
    assert done_status(config, replace(totals(), rows_rejected=rejected)) == expected


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    write_report(report(), str(path))
    assert json.loads(path.read_text())["job_id"] == "j1"
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(StorageError, match=r"cannot write the report .*: No such file") as caught:
        write_report(report(), str(tmp_path / "no" / "report.json"))
    assert caught.value.hint
    blocked = tmp_path / "folder.json"
    blocked.mkdir()
    with pytest.raises(StorageError, match=r"folder\.json"):
        write_report(report(), str(blocked))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.json", "report.json"]


def test_the_machine_is_described() -> None:
    assert machine().cores >= 1
    assert machine().platform.startswith(platform.system())
    assert versions()["python"] == platform.python_version()
    assert "pyarrow" in versions()
    assert cpu_s() > 0
    peak = peak_memory_bytes()
    assert peak is None or 5e6 < peak < 1e12


def test_peak_memory_grows_with_use() -> None:
    before = peak_memory_bytes()
    held = bytearray(60_000_000)
    held[::4096] = b"x" * len(held[::4096])
    after = peak_memory_bytes()
    assert before is None or (after is not None and after >= 60_000_000)
