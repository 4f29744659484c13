"""A job that is killed again and again ends with what an undisturbed run would have written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL, and looks at processes in /proc")

JOBS = [
    ("one", "in.csv", "joined", 4),
    ("one", "in.csv.gz", "out.parquet", 3),
    ("three", "in.parquet", "joined", 5),
    ("three", "in.csv", "out.csv", 5),
    ("processes", "in.jsonl", "out", 2),
]


@pytest.fixture(scope="module")
def torturing() -> Iterator[Any]:
    """The module of the long form, importable for the processes that it starts too."""
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import torture

        yield torture


@pytest.fixture(scope="module")
def tortured(torturing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A server and inputs, and a run that nobody has disturbed."""
    with torturing.torture(tmp_path_factory.mktemp("torture"), seed=5) as tortured:
        yield tortured, tortured.run("in.parquet", "out", kills=0)


@pytest.mark.parametrize(("way", "source", "sink", "kills"), JOBS)
def test_a_killed_run_ends_with_every_row_once(
    way: str, source: str, sink: str, kills: int, torturing: Any, tortured: tuple[Any, Any]
) -> None:
    """One process, shards of which one or all are killed, and `--processes`; then a retry that is killed too."""
    torture, undisturbed = tortured
    job = torture.run(source, sink, kills=kills, way=way)
    if way == "one":  # a start of several may end before its kill
        assert job.killed >= 1
    assert job.rows_sent - torturing.ROWS <= torturing.overhead_allowed(job, undisturbed)
    lost = job.lost_rows
    assert sum(lost) <= 2 * torturing.LOST_ROWS * len(lost), f"answered and lost again by the kills: {lost}"
    if sink == "joined" and way == "one":
        torture.retry(job, kills=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sink", ["out", "joined", "out.parquet", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.jsonl", "in.csv.gz"])
@pytest.mark.parametrize("way", ["one", "three"])
def test_every_input_into_every_output(way: str, source: str, sink: str, tortured: tuple[Any, Any]) -> None:
    job = tortured[0].run(source, sink, kills=13, way=way)
    tortured[0].retry(job, kills=2)
