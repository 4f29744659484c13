"""`status` of a job that several processes are at work on: shards, rows a second and time left, from listings alone."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.cli.main import main
from asyncbatch.cli.status import summary
from asyncbatch.sink import footer, open_sink
from asyncbatch.sink.lease import HEARTBEAT_S
from asyncbatch.sink.status import output_status

ROWS = 1_000


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One of two shards is done."""
    (tmp_path / "status_model.py").write_text("def score(batch):\n    return batch.column(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pq.write_table(pa.table({"x": [float(row) for row in range(ROWS)]}), "in.parquet")
    score("0/2")
    yield tmp_path / "out"
    sys.modules.pop("status_model", None)


def score(shard: str | None) -> None:
    asyncbatch.run("in.parquet", "out", endpoint="python:status_model:score", block_rows=50, shard=shard)


def written(out: Path, ago_s: list[float]) -> None:
    """Let the first parts be written so long ago, and the others an hour."""
    now = time.time()
    for path in sorted(out.glob("*.parquet")):
        at = now - (ago_s.pop(0) if ago_s else 3_600)
        os.utime(path, (at, at))


def test_shards_pace_and_time_left(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_status("out").rows_per_s_now is None, "nobody is at work"
    with open_sink("out", shard="1-of-2"), open_sink("out", shard="0-of-2"):
        monkeypatch.setattr(footer, "read_part_footer", None)  # nothing but listings
        written(out, [])
        assert output_status("out").rows_per_s_now is None, "what was written before does not count"
        lease = out.with_name("out.asyncbatch") / "lease" / "1-of-2.json"
        values = json.loads(lease.read_text())
        lease.write_text(json.dumps({**values, "since": values["since"] - 100}))
        written(out, [float(second) for second in range(10)])
        found = output_status("out")
        assert found.state == "at work"
        assert found.rows_per_s_now == pytest.approx(500 / 60, rel=0.1)
        assert found.eta_s == pytest.approx(60, rel=0.1)
        assert {each.shard: (each.rows_done, each.rows_total) for each in found.holders} == {
            "0-of-2": (500, 500),
            "1-of-2": (0, 500),
        }
        said = summary(found)
        assert "now: 8." in said
        assert "min left" in said or "s left" in said
        assert ", shard 1/2: heartbeat" in said
        assert ", 0 of 500 rows" in said
        assert main(["status", "out", "--json"]) == 0


def test_a_shard_that_died_is_named_until_the_job_is_done(out: Path) -> None:
    output = open_sink("out", shard="1-of-2")
    lease = out.with_name("out.asyncbatch") / "lease" / "1-of-2.json"
    values = json.loads(lease.read_text())
    lease.write_text(json.dumps({**values, "owner": "killed", "pid": 2**22 + 1}))
    output.close()
    found = output_status("out")
    assert found.state == "stopped"
    assert [(each.shard, each.alive, each.rows_done) for each in found.holders] == [("1-of-2", False, 0)]
    assert ", shard 1/2: gone, 0 of 500 rows" in summary(found)
    score("1/2")
    assert output_status("out").holders == ()
    assert not lease.exists()


def test_whoever_was_killed_after_finishing_is_forgotten(out: Path) -> None:
    leases = out.with_name("out.asyncbatch") / "lease"
    output = open_sink("out", shard="1-of-2")
    values = json.loads((leases / "1-of-2.json").read_text())
    output.close()
    score("1/2")
    for name in ("1-of-2", "finish"):
        (leases / f"{name}.json").write_text(json.dumps({**values, "owner": "killed", "pid": 2**22 + 1}))
    score("0/3")
    assert list(leases.iterdir()) == []


def test_a_status_far_in_the_future_still_answers(out: Path) -> None:
    with open_sink("out", shard="1-of-2"):
        found = output_status("out", clock=lambda: time.time() + 10 * HEARTBEAT_S)
        assert found.eta_s is None or found.eta_s >= 0


def test_rows_of_text_are_known_once_shards_have_counted(out: Path) -> None:
    Path("in.csv").write_text("x\n" + "".join(f"{row}.0\n" for row in range(ROWS)))
    options = {"endpoint": "python:status_model:score", "block_rows": 50}
    asyncbatch.run("in.csv", "csv", shard="0/4", **options)
    found = output_status("csv")
    assert (found.rows_done, found.rows_total) == (250, ROWS)
