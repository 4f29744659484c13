"""A run that is killed again and again ends with what an undisturbed run would have written."""

import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")

JOBS = [("in.csv", "out"), ("in.parquet", "out.csv"), ("in.csv.gz", "out.parquet")]
KILLS = 5


@pytest.fixture
def torturing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the long form, importable for the processes that it starts too."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import torture

    return torture


def test_a_killed_run_ends_with_every_row_once(torturing: Any, tmp_path: Path) -> None:
    with torturing.torture(tmp_path, seed=5) as tortured:
        undisturbed = tortured.run("in.parquet", "out", kills=0)
        lost: list[int] = []
        for source, sink in JOBS:
            job = tortured.run(source, sink, kills=KILLS)
            assert job.killed >= 1
            assert job.rows_sent - torturing.ROWS <= torturing.overhead_allowed(job, undisturbed)
            lost += job.lost_rows
        assert sum(lost) <= torturing.LOST_ROWS * len(lost), f"answered and lost again by the kills: {lost}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.jsonl", "in.csv.gz"])
def test_every_input_into_every_output(torturing: Any, source: str, sink: str, tmp_path: Path) -> None:
    with torturing.torture(tmp_path, seed=6) as tortured:
        tortured.run(source, sink, kills=13)
