"""A folder that grows: the same command, again and again, scores what is new and nothing else."""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import BusyError, InputError, OutputError
from asyncbatch.observe.events import Warned
from asyncbatch.pipeline.api import retry_job
from asyncbatch.server.background import Background
from asyncbatch.sink.plan import load_plan
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.local import LocalStore

ROWS = 30
KillBefore = Callable[[int], contextlib.AbstractContextManager[list[str]]]


class Grown:
    """A folder of inputs, and the command."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home = home
        self.folder = home / "in"
        self.folder.mkdir()
        self.out = home / "out"
        self.endpoint = endpoint
        self.said: list[str] = []

    def add(self, name: str, value: float, rows: int = ROWS) -> Path:
        path = self.folder / name
        pq.write_table(pa.table({"x": [value] * rows}), path)
        return path

    def run(self, sink: str = "out", **options: Any) -> Any:
        def hear(event: object) -> None:
            if isinstance(event, Warned):
                self.said.append(event.message)

        given: dict[str, Any] = {"endpoint": self.endpoint, "block_rows": 8, "chunk_rows": "8"}
        source = options.pop("source", str(self.folder))
        return asyncbatch.run(source, str(self.home / sink), **{**given, **options}, hooks=[hear])

    def predictions(self) -> list[Any]:
        found: list[Any] = pq.read_table(self.out)["prediction"].to_pylist()
        return found

    def plan(self) -> Any:
        state = self.home / "out.asyncbatch"
        return load_plan(LocalStore(state, state))


@pytest.fixture
def grown(tmp_path: Path, echo: Background) -> Grown:
    return Grown(tmp_path, echo.invocations_url)


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    return {each.name: (each.stat().st_ino, each.stat().st_mtime_ns) for each in folder.iterdir()}


def test_new_files_are_scored_and_finished_parts_are_left(grown: Grown) -> None:
    grown.add("b.parquet", 1)
    grown.add("d.parquet", 2)
    grown.run()
    before = parts(grown.out)
    for names in (("a.parquet", "c.parquet"), ("0.parquet",)):
        for name in names:
            grown.add(name, {"a": 3, "c": 4, "0": 5}[name[0]])
        report = grown.run()
        assert report.metrics.rows_in == ROWS * len(names)
        now = parts(grown.out)
        assert before.items() <= now.items()
        before = now
    # Numbers of files never change: those of each generation follow those before, in natural order.
    assert grown.predictions() == [float(each) for each in (1, 2, 3, 4, 5) for _ in range(ROWS)]
    plan = grown.plan()
    assert [Path(file.path).name[0] for file in plan.files] == list("bdac0")
    assert [file.number for file in plan.files] == list(range(5))
    assert (plan.generation, plan.listed) == (3, (2, 4, 5))
    names = sorted(each.name for each in (grown.home / "out.asyncbatch").glob("job-*"))
    assert names == ["job-000001.json", "job-000002.json", "job-000003.json"]
    status = output_status(str(grown.out))
    assert (status.finished, status.generation, status.rows_done, status.missing) == (True, 3, ROWS * 5, ())
    found = verify_output(str(grown.out))
    assert found.sound
    assert found.finished
    assert found.rows == ROWS * 5
    manifest = json.loads((grown.home / "out.asyncbatch" / "manifest.json").read_bytes())
    assert (manifest["generation"], manifest["rows_in"]) == (3, ROWS * 5)
    with duckdb.connect() as reader:
        rows = reader.execute(f"select count(*) from '{grown.out}/*.parquet'").fetchall()
    assert rows == [(ROWS * 5,)]


def test_a_complete_run_again_is_a_no_op_in_less_than_a_second(grown: Grown) -> None:
    for number in range(300):
        grown.add(f"{number}.parquet", number, rows=1)
    grown.run()
    grown.add("new.parquet", 1, rows=1)
    grown.run()
    state = grown.home / "out.asyncbatch"
    before = {each.name: each.read_bytes() for each in state.iterdir() if each.is_file()}
    begin = time.process_time()
    report = grown.run()
    assert time.process_time() - begin < 1
    assert (report.exit_code, report.metrics.rows_in, report.metrics.rows_resumed) == (0, 0, 301)
    assert {each.name: each.read_bytes() for each in state.iterdir() if each.is_file()} == before


def test_an_unfinished_job_is_finished_first(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run()
    (grown.out / "part-00000000-000000000008-000000000016.parquet").unlink()
    grown.add("0.parquet", 2)
    assert grown.run().metrics.rows_in == 8
    assert grown.said == [
        "1 file appeared since the job was planned: the same command scores them when this run is done"
    ]
    assert grown.predictions() == [1.0] * ROWS
    assert grown.run().metrics.rows_in == ROWS
    assert grown.predictions() == [1.0] * ROWS + [2.0] * ROWS


def test_listed_files_that_changed_or_vanished_are_refused_by_name(grown: Grown) -> None:
    first = grown.add("1.parquet", 1)
    grown.run()
    second = grown.add("2.parquet", 2)
    grown.run()
    grown.add("3.parquet", 3)
    grown.add("2.parquet", 9)
    with pytest.raises(OutputError, match=r"input .*2\.parquet: planned"):
        grown.run()
    second.unlink()
    with pytest.raises(OutputError, match=r"input .*2\.parquet: planned listed, now missing"):
        grown.run()
    assert first.exists()
    assert grown.plan().generation == 2


def test_a_file_is_known_by_more_than_its_time(grown: Grown) -> None:
    """An older time than that of every listed file hides none."""
    grown.add("1.parquet", 1)
    grown.run()
    os.utime(grown.add("2.parquet", 2), (1, 1))
    assert grown.run().metrics.rows_in == ROWS


def test_a_single_file_takes_no_further_rows(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run("out.parquet")
    grown.add("2.parquet", 2)
    with pytest.raises(OutputError, match=r"1 file appeared .*2\.parquet.*out\.parquet is complete") as error:
        grown.run("out.parquet")
    assert "a folder" in (error.value.hint or "")
    assert grown.run("out.parquet", overwrite=True).metrics.rows_in == ROWS * 2


def test_a_limited_job_does_not_grow(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run(limit=20)
    grown.add("2.parquet", 2)
    assert grown.run(limit=20).metrics.rows_in == 0
    assert grown.said == ["1 file appeared since the job was planned, and is not looked at: --limit"]


def test_settle_leaves_young_files_for_later(grown: Grown) -> None:
    os.utime(grown.add("1.parquet", 1), (1, 1))
    young = grown.add("2.parquet", 2)
    assert grown.run(settle="60s").metrics.rows_in == ROWS
    assert grown.said == ["1 file left for a later run: younger than --settle"]
    os.utime(young, (time.time() - 61,) * 2)
    assert grown.run(settle="60s").metrics.rows_in == ROWS
    # A listed file is never too young: it is there, or it has changed.
    os.utime(young)
    with pytest.raises(OutputError, match=r"2\.parquet: planned \d+ bytes"):
        grown.run(settle="60s")


def test_settle_needs_one_file_that_is_old_enough(grown: Grown) -> None:
    path = grown.add("1.parquet", 1)
    with pytest.raises(InputError, match=r"every file of .* is younger than --settle"):
        grown.run(settle="60s")
    assert not grown.out.exists()
    assert grown.run(source=str(path), settle="60s").metrics.rows_in == ROWS  # a file that was named is meant


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_types_of_text_stay_those_of_the_first_plan(kind: str, grown: Grown) -> None:
    def add(name: str, value: str) -> None:
        row = f"{value},q" if kind == "csv" else json.dumps({"x": json.loads(value), "y": "q"})
        head = ["x,y"] if kind == "csv" else []
        (grown.folder / f"{name}.{kind}").write_text("\n".join([*head, *[row] * ROWS]) + "\n")

    add("1", "1")
    grown.run(send="x")
    assert pq.read_schema(next(grown.out.iterdir())).field("x").type == pa.int64()
    add("0", "2.5")  # whole numbers no more
    report = grown.run(send="x")
    found = pq.read_table(grown.out)
    assert found["x"].type == pa.int64()
    assert found["prediction"].to_pylist()[:ROWS] == [1.0] * ROWS
    assert report.metrics.rows_rejected == ROWS  # and said so, row by row
    add("2", "3")
    assert grown.run(send="x").metrics.rows_in == ROWS
    assert pq.read_table(grown.out)["prediction"].to_pylist()[-ROWS:] == [3.0] * ROWS
    assert verify_output(str(grown.out)).sound


def test_other_columns_in_a_new_file_are_refused(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run()
    pq.write_table(pa.table({"x": ["a"]}), grown.folder / "2.parquet")
    with pytest.raises((InputError, OutputError), match="x"):
        grown.run()
    assert grown.plan().generation == 1


def test_rejects_of_either_generation_are_scored_again(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    model = types.ModuleType("model_that_mends")
    refused = {1.0, 2.0}

    def answer(batch: pa.RecordBatch) -> Any:
        values = batch.column(0).to_pylist()
        if refused & set(values):
            raise ValueError("no")
        return values

    model.answer = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model_that_mends", model)
    grown.endpoint = "python:model_that_mends:answer"
    for name, value in (("0", 0.0), ("1", 1.0)):
        grown.add(f"{name}.parquet", value, rows=8)
    grown.run()
    for name, value in (("00", 2.0), ("01", 3.0)):
        grown.add(f"{name}.parquet", value, rows=8)
    grown.run()
    assert verify_output(str(grown.out)).rejects == 16
    refused.clear()
    assert retry_job(str(grown.out), {}).metrics.rows_in == 16
    assert grown.predictions() == [each for each in (0.0, 1.0, 2.0, 3.0) for _ in range(8)]
    found = verify_output(str(grown.out))
    assert found.sound
    assert found.rejects == 0


def test_file_size_joins_what_each_generation_adds(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run(file_size="1MB")
    grown.add("2.parquet", 2)
    grown.run(file_size="1MB")
    assert len(list(grown.out.iterdir())) == 2
    assert grown.predictions() == [1.0] * ROWS + [2.0] * ROWS
    assert verify_output(str(grown.out)).sound


def test_killed_before_each_change_of_a_generation_the_same_command_goes_on(
    tmp_path: Path, echo: Background, monkeypatch: pytest.MonkeyPatch, kill_before: KillBefore
) -> None:
    home = tmp_path / "begun"
    home.mkdir()
    monkeypatch.chdir(home)
    grown = Grown(Path(), echo.invocations_url)
    grown.add("1.parquet", 1, rows=10)
    grown.run()
    grown.add("0.parquet", 2, rows=10)
    shutil.copytree(home, tmp_path / "0")
    with kill_before(0) as seen:
        monkeypatch.chdir(tmp_path / "0")
        grown.run()
    names = [each.split()[1] for each in seen]
    assert names[:3] == ["job-000002.json", "_SUCCESS", "manifest.json"]
    assert "_SUCCESS" in names[3:]
    for step in range(1, len(seen) + 1):
        shutil.copytree(home, tmp_path / str(step))
        monkeypatch.chdir(tmp_path / str(step))
        with kill_before(step), pytest.raises(BaseException):  # noqa: B017, PT011  # what became of it in a task group
            grown.run()
        grown.run()
        assert grown.predictions() == [1.0] * 10 + [2.0] * 10, seen[step - 1]
        found = verify_output("out")
        assert found.sound, (seen[step - 1], found.problems)
        assert (grown.plan().generation, output_status("out").finished) == (2, True)


def test_two_at_once_make_one_generation(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    grown.run()
    for number in range(2, 12):
        grown.add(f"{number}.parquet", number)
    outcomes: list[str] = []

    def go(**options: Any) -> None:
        try:
            grown.run(**options)
            outcomes.append("done")
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=go, kwargs={"wait": wait}) for wait in (True, True)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert outcomes == ["done", "done"]
    assert grown.plan().generation == 2
    assert grown.predictions() == [float(each) for each in range(1, 12) for _ in range(ROWS)]
    assert verify_output(str(grown.out)).sound


def test_shards_take_up_new_files_together(grown: Grown) -> None:
    grown.add("1.parquet", 1)
    for shard in ("0/2", "1/2"):
        grown.run(shard=shard)
    for number in range(2, 6):
        grown.add(f"{number}.parquet", number)
    threads = [threading.Thread(target=grown.run, kwargs={"shard": each}) for each in ("0/2", "1/2")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert grown.plan().generation == 2
    assert grown.predictions() == [float(each) for each in range(1, 6) for _ in range(ROWS)]
    found = verify_output(str(grown.out))
    assert found.sound
    assert found.finished


def test_a_table_grows(grown: Grown) -> None:
    for mode in ("fail", "append", "replace"):
        uri = f"duckdb:///{grown.home}/{mode}.duckdb?table=scores"
        (grown.home / mode).mkdir()
        found = Grown(grown.home / mode, grown.endpoint)
        given: dict[str, Any] = {"endpoint": grown.endpoint, "block_rows": 8, "mode": mode}
        found.add("1.parquet", 1)
        asyncbatch.run(str(found.folder), uri, **given)
        found.add("0.parquet", 2)
        assert asyncbatch.run(str(found.folder), uri, **given).metrics.rows_in == ROWS
        assert asyncbatch.run(str(found.folder), uri, **given).metrics.rows_in == 0
        with duckdb.connect(f"{grown.home}/{mode}.duckdb") as database:
            rows = database.execute(
                "select prediction, count(*) from scores group by 1 order by 1"
            ).fetchall()
        assert rows == [(1.0, ROWS), (2.0, ROWS)], mode
        assert verify_output(uri).sound
