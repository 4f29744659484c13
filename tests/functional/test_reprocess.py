"""`--reprocess`: files that changed are scored again, and their new rows take the place of the old ones."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError, OutputError, StorageError
from asyncbatch.model import Block
from asyncbatch.observe.events import Warned
from asyncbatch.pipeline.api import retry_job
from asyncbatch.server.background import Background
from asyncbatch.sink.plan import load_plan
from asyncbatch.sink.replaced import ReplacingParts
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.local import LocalStore

ROWS = 20
KillBefore = Callable[[int], contextlib.AbstractContextManager[list[str]]]


class Input:
    """A folder of inputs, the command, and what its output holds."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home = home
        self.folder = home / "in"
        self.out = home / "out"
        self.state = home / "out.asyncbatch"
        self.endpoint = endpoint
        self.said: list[str] = []
        self.folder.mkdir()

    def write(self, name: str, value: float, rows: int = ROWS) -> None:
        path = self.folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": pa.array([value] * rows, pa.float64())}), path)

    def run(self, sink: str = "out", **options: Any) -> Any:
        def hear(event: object) -> None:
            if isinstance(event, Warned):
                self.said.append(event.message)

        given: dict[str, Any] = {"endpoint": self.endpoint, "block_rows": 8, "chunk_rows": "8"}
        if "://" not in sink:
            sink = str(self.home / sink)
        return asyncbatch.run(str(self.folder), sink, **{**given, **options}, hooks=[hear])

    def predictions(self) -> list[float]:
        """Rows of the output as any reader sees them, by value and how many."""
        found = pq.read_table(self.out)["prediction"].to_pylist()
        return sorted(found)

    def check(self, *expected: tuple[float, int]) -> None:
        rows = sorted(value for value, count in expected for _ in range(count))
        assert self.predictions() == rows
        verified = verify_output(str(self.out))
        assert verified.sound, verified.problems
        assert verified.finished
        assert verified.rows == len(rows)
        status = output_status(str(self.out))
        assert (status.finished, status.rows_done, status.rows_total) == (True, len(rows), len(rows))

    def plan(self) -> Any:
        return load_plan(LocalStore(self.state, self.state))


@pytest.fixture
def data(tmp_path: Path, echo: Background) -> Input:
    return Input(tmp_path, echo.invocations_url)


def test_a_changed_file_is_scored_again_and_nothing_else(data: Input) -> None:
    for name in "123":
        data.write(name, float(name))
    data.run()
    kept = {each.name: each.stat().st_ino for each in data.out.iterdir() if "part-00000001" not in each.name}
    data.write("2", 9, rows=ROWS + 13)
    with pytest.raises(OutputError, match=r"2\.parquet: planned") as refused:
        data.run()
    assert "--reprocess" in (refused.value.hint or "")
    report = data.run(reprocess=True)
    assert report.metrics.rows_in == ROWS + 13
    assert data.said == ["1 file changed, and scored again: --reprocess"]
    data.check((1, ROWS), (9, ROWS + 13), (3, ROWS))
    now = {each.name: each.stat().st_ino for each in data.out.iterdir()}
    assert kept.items() <= now.items()
    assert not [name for name in now if "part-00000001" in name]
    assert not (data.state / "again").exists() or not list((data.state / "again").iterdir())
    plan = data.plan()
    assert (plan.generation, dict(plan.replaced), plan.listed) == (2, {1: 3}, (3, 4))
    assert [file.number for file in plan.current] == [0, 2, 3]
    for reprocess in (False, True):
        assert data.run(reprocess=reprocess).metrics.rows_in == 0


def test_again_and_again_with_files_that_appear(data: Input) -> None:
    data.write("1", 1)
    data.run()
    data.write("1", 2, rows=3)
    data.write("0", 5)
    assert data.run(reprocess=True).metrics.rows_in == 3 + ROWS
    data.check((2, 3), (5, ROWS))
    data.write("1", 3)
    data.write("0", 6)
    data.run(reprocess=True)
    data.check((3, ROWS), (6, ROWS))
    assert dict(data.plan().replaced) == {0: 1, 1: 4, 2: 3}
    data.write("7", 7)
    data.run()
    data.check((3, ROWS), (6, ROWS), (7, ROWS))


def test_readers_see_the_old_rows_until_the_new_ones_are_all_there(data: Input) -> None:
    data.write("1", 1)
    data.write("2", 2)
    data.run()
    data.write("2", 9)
    real, written = ReplacingParts.create_if_absent, itertools.count()

    def full(self: ReplacingParts, name: str, write: Any) -> bool:
        if next(written):
            raise StorageError("no space left")
        return real(self, name, write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplacingParts, "create_if_absent", full)
        with pytest.raises(StorageError):
            data.run(reprocess=True)
    assert data.predictions() == [1.0] * ROWS + [2.0] * ROWS
    status = output_status(str(data.out))
    assert not status.finished
    assert ROWS <= status.rows_done < 2 * ROWS
    assert verify_output(str(data.out)).problems, "rows are missing still"
    assert data.run().metrics.rows_in == 2 * ROWS - status.rows_done
    data.check((1, ROWS), (9, ROWS))


def test_a_file_that_changes_before_the_job_is_finished(data: Input) -> None:
    data.write("1", 1)
    data.write("2", 2)
    data.run()
    for part in ("part-00000000-000000000008-000000000016", "part-00000001-000000000000-000000000008"):
        (data.out / f"{part}.parquet").unlink()
    data.write("1", 7)
    data.run(reprocess=True)
    data.check((7, ROWS), (2, ROWS))


def test_a_file_that_is_gone_is_refused_still(data: Input) -> None:
    data.write("1", 1)
    data.write("2", 1)
    data.run()
    (data.folder / "1.parquet").unlink()
    with pytest.raises(OutputError, match=r"1\.parquet: planned listed, now missing"):
        data.run(reprocess=True)


@pytest.mark.parametrize(
    ("sink", "options", "said"),
    [
        ("out.parquet", {}, "is one file"),
        ("duckdb:///{home}/d.duckdb?table=t", {}, "cannot be told from others"),
        ("out", {"limit": 5}, "--limit counts rows over all files"),
    ],
)
def test_where_old_rows_cannot_be_replaced(
    data: Input, sink: str, options: dict[str, Any], said: str
) -> None:
    sink = sink.format(home=data.home)
    data.write("1", 1)
    data.run(sink, **options)
    data.write("1", 2)
    with pytest.raises(OutputError, match=said) as refused:
        data.run(sink, reprocess=True, **options)
    assert refused.value.exit_code == 2
    assert "--overwrite" in (refused.value.hint or "")


def test_rejects_and_text_files_of_a_changed_file(data: Input) -> None:
    source = data.folder / "1.csv"
    source.write_text("x\n" + "1\n" * ROWS + "1,2\n")
    report = data.run()
    assert report.metrics.rows_rejected == 1
    source.write_text("x\n" + "2\n" * (ROWS + 5) + "1,2\n1,3\n")
    data.run(reprocess=True)
    verified = verify_output(str(data.out))
    assert verified.sound, verified.problems
    assert (verified.rows, verified.rejects) == (ROWS + 7, 2)
    assert output_status(str(data.out)).blocks_with_rejects == 1
    assert len(list((data.state / "rejects").iterdir())) == 1
    assert [each.name for each in (data.state / "files").iterdir()] == ["00000001.json"]
    manifest = json.loads((data.state / "manifest.json").read_bytes())
    assert manifest["files"] == {"1": ROWS + 7}
    assert retry_job(str(data.out), {"endpoint": data.endpoint}).metrics.rows_in > 0
    assert verify_output(str(data.out)).sound


def test_an_empty_version_leaves_no_row(data: Input) -> None:
    data.write("1", 1)
    data.write("2", 2)
    data.run()
    data.write("2", 2, rows=0)
    data.run(reprocess=True)
    data.check((1, ROWS))
    data.write("1", 1, rows=0)
    data.run(reprocess=True)
    data.check()


def test_with_joined_files_and_partition_folders(data: Input, tmp_path: Path) -> None:
    data.write("1", 1)
    data.run(file_size="1MB")
    data.write("1", 2)
    data.run(reprocess=True, file_size="1MB")
    assert len(list(data.out.iterdir())) == 1
    data.check((2, ROWS))
    home = tmp_path / "partitions"
    home.mkdir()
    parts = Input(home, data.endpoint)
    for value in (1, 2):
        parts.write(f"day={value}/a", value)
    parts.run(partition_by="same")
    parts.write("day=2/a", 8)
    parts.run(partition_by="same", reprocess=True)
    parts.check((1, ROWS), (8, ROWS))
    assert sorted(each.name for each in parts.out.iterdir()) == ["day=1", "day=2"]


def test_a_late_commit_of_an_old_part_takes_itself_back(data: Input) -> None:
    from asyncbatch.sink import open_sink

    data.write("1", 1)
    data.run()
    (data.out / "part-00000000-000000000008-000000000016.parquet").unlink()
    with open_sink(str(data.out)) as late:  # a process that will be taken for dead
        sink = late.sink
        (gap, *_) = late.missing()
    part = pq.read_table(data.out).slice(0, 8)
    data.write("1", 2)
    data.run(reprocess=True)
    block = Block(file=0, start=gap.start, stop=gap.start + 8)
    sink.write(block, part, rejects=(), variants={}, end_offset=None, last=False)
    data.check((2, ROWS))


def test_shards_score_a_changed_file_together(data: Input) -> None:
    data.write("1", 1)
    data.write("2", 2)
    data.run()
    data.write("2", 5, rows=50)
    rows = [data.run(reprocess=True, shard=shard).metrics.rows_in for shard in ("0/2", "1/2")]
    assert all(rows)
    assert sum(rows) == 50
    data.check((1, ROWS), (5, 50))


def test_a_retry_takes_no_changed_files(data: Input) -> None:
    data.write("1", 1)
    data.run()
    with pytest.raises(ConfigError, match="--reprocess is for files that changed"):
        retry_job(str(data.out), {"reprocess": True})


def test_killed_before_each_change_the_same_command_goes_on(
    tmp_path: Path, echo: Background, monkeypatch: pytest.MonkeyPatch, kill_before: KillBefore
) -> None:
    home = tmp_path / "begun"
    home.mkdir()
    monkeypatch.chdir(home)
    data = Input(Path(), echo.invocations_url)
    for name in ("1", "2"):
        data.write(name, float(name), rows=10)
    data.run()
    data.write("1", 7, rows=12)
    shutil.copytree(home, tmp_path / "0")
    with kill_before(0) as seen:
        monkeypatch.chdir(tmp_path / "0")
        data.run(reprocess=True)
    assert seen[0] == "create_if_absent job-000002.json"
    assert any(each.startswith("swap") for each in seen)
    for step in range(1, len(seen) + 1):
        shutil.copytree(home, tmp_path / str(step))
        monkeypatch.chdir(tmp_path / str(step))
        with kill_before(step), pytest.raises(BaseException):  # noqa: B017, PT011  # what became of it in a task group
            data.run(reprocess=True)
        assert data.predictions() in (
            sorted([1.0] * 10 + [2.0] * 10),
            sorted([7.0] * 12 + [2.0] * 10),
        ), f"readers saw a mixture before {seen[step - 1]}"
        data.run(reprocess=True)
        data.check((7, 12), (2, 10))
        assert data.plan().generation == 2
