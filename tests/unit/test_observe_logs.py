"""Log lines for people and machines."""

import dataclasses
import io
import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.model import Block, Outcome
from asyncbatch.observe import events
from asyncbatch.observe.logs import LogLines, json_line, text_line
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.report import make_report
from asyncbatch.observe.terminal import Terminal

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
COLLECTOR = MetricsCollector(clock=lambda: 0.0)
SNAPSHOT = COLLECTOR.snapshot(limit=4, chunk_rows=10, blocks_open=1)
PLANNED = events.RunPlanned(
    job_id="j1",
    endpoint="churn",
    rows=1000,
    resumed_rows=0,
    files=1,
    blocks=4,
    block_rows=256,
    columns_sent=("a", "b"),
)
FAILED = events.RequestFailed(summary="HTTP 503: busy", outcome=Outcome.UNAVAILABLE, rows=100, attempt=1)
REJECTED = events.RowsRejected(count=2, code="input", message="not a number")
REPORT = make_report(
    config=RunConfig(),
    totals=COLLECTOR.totals(),
    status="done",
    exit_code=0,
    job_id="j1",
    endpoint="churn",
    source="in",
    sink="out",
    started_at=NOON,
)
ALL = [
    PLANNED,
    events.Progressed(snapshot=SNAPSHOT),
    events.PartCommitted(block=Block(file=0, start=256, stop=512), rows_out=256, rows_rejected=2),
    REJECTED,
    FAILED,
    events.Warned(message="the endpoint is slow", hint="wait"),
    events.Explained(message="blocks of 256 rows: the probe took long"),
    events.Stopping(reason="SIGTERM received"),
    events.Waiting(holder="process 7 on a", waited_s=0.0, rows_done=10, rows_total=1000),
    events.ShardDone(shard="0/4", missing_rows=300),
    events.RunFinished(report=REPORT),
]


def written(*given: Any, as_json: bool = False, level: Any = "info", explain: bool = False) -> list[str]:
    stream = io.StringIO()
    log = LogLines(
        Terminal(stream, environ={}), as_json=as_json, level=level, explain=explain, now=lambda: NOON
    )
    for event in given:
        log(event)
    return stream.getvalue().splitlines()


def test_every_event_is_known_here() -> None:
    assert {type(each) for each in ALL} == set(get_args(events.Event))


def test_text_lines() -> None:
    assert [text_line(each) for each in ALL[:-1]] == [
        "plan: 1,000 rows in 1 file, 2 columns sent to churn, 4 blocks of up to 256 rows",
        "",
        "committed: file 0, rows 256 to 512, 2 rejects",
        "rejected: 2 rows (input): not a number",
        "request unavailable: HTTP 503: busy (100 rows, attempt 1)",
        "warning: the endpoint is slow\n  hint: wait",
        "explain: blocks of 256 rows: the probe took long",
        "stopping: SIGTERM received; open blocks are being finished, once more to leave at once",
        "waiting for process 7 on a, which is at work on the output",
        "shard 0/4 is done; the others have 300 rows left, and the last finishes the output",
    ]
    unknown = dataclasses.replace(PLANNED, rows=None, blocks=None, resumed_rows=512)
    assert text_line(unknown) == (
        "plan: rows unknown until read in 1 file, 2 columns sent to churn, blocks of up to 256 rows\n"
        "resuming: 512 rows were done before"
    )
    assert text_line(dataclasses.replace(PLANNED, shard="0/4")).startswith("shard 0/4: 1,000 rows in 1 file")
    assert text_line(object()) == ""
    assert text_line(events.RunFinished(report=REPORT)).startswith("done: 0 rows")


@pytest.mark.parametrize("event", ALL, ids=lambda each: type(each).__name__)
def test_json_lines_are_one_object_each(event: object) -> None:
    line = json_line(event, level="info", at=NOON)
    assert "\n" not in line
    found = json.loads(line)
    assert list(found)[:3] == ["ts", "level", "event"]
    assert found["ts"] == "2026-01-02T12:00:00.000Z"


def test_json_fields_are_those_of_the_event() -> None:
    found = json.loads(json_line(FAILED, level="warning", at=NOON))
    assert found == {
        "ts": "2026-01-02T12:00:00.000Z",
        "level": "warning",
        "event": "request_failed",
        "summary": "HTTP 503: busy",
        "outcome": "unavailable",
        "rows": 100,
        "attempt": 1,
    }
    committed = json.loads(json_line(ALL[2], level="debug", at=NOON))
    assert committed["block"] == {"file": 0, "start": 256, "stop": 512}
    assert json.loads(json_line(ALL[-1], level="info", at=NOON))["metrics"]["requests"] == 0


def test_levels() -> None:
    assert written(*ALL, level="error") == []
    begins = [line.split(":")[0] for line in written(*ALL)]
    assert begins[:6] == ["plan", "rejected", "request unavailable", "warning", "  hint", "stopping"]
    assert [begin.split()[0] for begin in begins[6:9]] == ["waiting", "shard", "done"]
    assert "of CPU" in begins[-1]
    assert len(written(*ALL, level="debug")) == len(written(*ALL)) + 2
    assert "explain: blocks of 256 rows: the probe took long" in written(*ALL, explain=True)


def test_a_kind_of_failure_is_said_once_unless_verbose() -> None:
    other = dataclasses.replace(FAILED, outcome=Outcome.TIMEOUT)
    assert len(written(*[FAILED] * 50, *[other] * 50)) == 2
    assert len(written(*[REJECTED] * 50)) == 1
    assert len(written(*[FAILED] * 50, *[other] * 50, level="debug")) == 100


def test_waiting_is_said_once() -> None:
    looks = [
        events.Waiting(holder="process 7 on a", waited_s=s, rows_done=None, rows_total=None) for s in range(9)
    ]
    assert written(*looks) == ["waiting for process 7 on a, which is at work on the output"]


def test_json_logs_hold_progress_every_ten_seconds() -> None:
    ticks = [
        events.Progressed(snapshot=dataclasses.replace(SNAPSHOT, elapsed_s=tenth / 10))
        for tenth in range(351)
    ]
    found = [json.loads(line) for line in written(*ticks, as_json=True)]
    assert [each["elapsed_s"] for each in found] == [2.0, 10.0, 20.0, 30.0]
    assert {each["event"] for each in found} == {"progressed"}
    assert written(*ticks) == []


def test_events_are_frozen_and_named() -> None:
    for each in get_args(events.Event):
        parameters = each.__dataclass_params__
        assert parameters.frozen
        assert all(field.kw_only for field in dataclasses.fields(each))
