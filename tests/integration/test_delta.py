"""Delta Lake tables as sinks, read back by delta-rs, DuckDB and polars."""

import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import emulators
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch.sink.delta as delta
from asyncbatch.errors import MissingExtraError, OutputError, StorageError
from asyncbatch.pipeline.api import retry_job
from asyncbatch.sink import load_plan
from asyncbatch.sink.parts import list_parts
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.local import LocalStore

ROWS = 500


class Killed(BaseException): ...


class Lake:
    """An input, and the command."""

    def __init__(self, scoring: Any) -> None:
        self.table = scoring.sink
        self.folder, self.add, self.run = scoring.folder, scoring.add, scoring.run

    def ids(self) -> list[int]:
        found: list[int] = pl.read_delta(self.table)["id"].sort().to_list()
        return found

    def commits(self) -> int:
        return int(deltalake.DeltaTable(self.table).version()) + 1


@pytest.fixture
def lake(scoring_to: Callable[..., Any]) -> Lake:
    return Lake(scoring_to("scores", format="delta"))


def test_one_commit_that_others_read(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    assert lake.commits() == 1
    assert lake.ids() == list(range(ROWS))
    frame = pl.read_delta(lake.table)
    assert frame["prediction"].to_list() == [float(each % ROWS) for each in frame["id"]]
    assert frame["error"].null_count() == ROWS
    names = ["id", "prediction", "error"]
    assert [each.name for each in deltalake.DeltaTable(lake.table).schema().fields] == names
    assert sorted(path.name for path in Path(lake.table).iterdir() if path.is_dir()) == ["_delta_log"]
    status = output_status(lake.table)
    assert (status.finished, status.rows_done) == (True, ROWS)
    found = verify_output(lake.table)
    assert found.sound
    assert found.rows == ROWS
    report = lake.run()
    assert (report.metrics.rows_in, lake.commits()) == (0, 1)


def test_duckdb_reads_the_files_of_the_table(lake: Lake) -> None:
    import duckdb

    lake.run()
    files = [f"{lake.table}/{name}" for name in data_files(lake.table)]
    with duckdb.connect() as database:
        rows = database.execute("select count(*), sum(prediction) from read_parquet(?)", [files]).fetchall()
    assert rows == [(ROWS, float(sum(range(ROWS))))]


def data_files(table: str) -> list[str]:
    actions = pa.table(deltalake.DeltaTable(table).get_add_actions(flatten=True))
    found: list[str] = actions["path"].to_pylist()
    return found


def test_later_files_are_one_more_commit(lake: Lake) -> None:
    lake.run()
    lake.add("0", ROWS)
    assert lake.run().metrics.rows_in == ROWS
    assert lake.commits() == 2
    assert lake.ids() == list(range(2 * ROWS))
    lake.run()
    assert lake.commits() == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("generation", [1, 2])
def test_killed_around_the_commit_nothing_is_committed_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str, generation: int
) -> None:
    if generation == 2:
        lake.run()
        lake.add("2", ROWS)
    real = deltalake.write_deltalake

    def killed(*values: Any, **named: Any) -> None:
        if when == "after":
            real(*values, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deltalake, "write_deltalake", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  # what a task group makes of it
            lake.run()
    assert not output_status(lake.table).finished
    assert lake.run().metrics.rows_in == 0
    assert lake.commits() == generation
    assert lake.ids() == list(range(generation * ROWS))


def test_of_two_that_publish_at_once_the_log_takes_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    deltalake.write_deltalake(
        lake.table, pa.table({"id": [-1], "prediction": [0.0], "error": pa.array([None], pa.string())})
    )
    with monkeypatch.context() as patch:
        patch.setattr(delta.DeltaTable, "publish", lambda *_: None)
        lake.run(mode="append")
    state = LocalStore(Path(f"{lake.table}.asyncbatch"), Path(f"{lake.table}.asyncbatch"))
    plan = load_plan(state)
    assert plan is not None
    parts = state.below("parts")
    both, first_is_in = threading.Barrier(2, timeout=30), threading.Event()
    real = delta._reader

    def together(*values: Any) -> Any:
        if both.wait() == 0:  # both have looked, and found that nothing is there
            assert first_is_in.wait(30)
        return real(*values)

    monkeypatch.setattr(delta, "_reader", together)
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            delta.DeltaTable(lake.table, mode="append", options={}).publish(plan, parts, list_parts(parts))
            first_is_in.set()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert lake.commits() == 2
    assert lake.ids() == list(range(-1, ROWS))


def test_modes(lake: Lake) -> None:
    other = pa.table({"id": [-1], "prediction": [0.0], "error": pa.array([None], pa.string())})
    deltalake.write_deltalake(lake.table, other)
    with pytest.raises(OutputError, match="exists"):
        lake.run()
    lake.run(mode="append")
    assert lake.ids() == list(range(-1, ROWS))
    lake.run(mode="append")
    assert lake.ids() == list(range(-1, ROWS))
    # Another job into the table of a finished one.
    lake.add("1", ROWS)
    lake.run(mode="append")
    assert lake.ids() == list(range(-1, 2 * ROWS))
    shutil.rmtree(f"{lake.table}.asyncbatch")
    lake.run(mode="replace", keep="id,x")
    assert lake.ids() == list(range(ROWS, 2 * ROWS))
    assert "x" in pl.read_delta(lake.table).columns


def test_appending_does_not_double_the_files_that_did_not_change(lake: Lake) -> None:
    lake.add("2", ROWS)
    lake.run(mode="append")
    lake.add("2", 2 * ROWS)
    with pytest.raises(OutputError, match=r"input .*2\.parquet: planned"):
        lake.run(mode="append")
    assert lake.ids() == list(range(2 * ROWS))


def test_what_the_table_cannot_take_is_refused_before_a_row_is_scored(lake: Lake) -> None:
    deltalake.write_deltalake(lake.table, pa.table({"id": ["a"]}))
    with pytest.raises(OutputError, match="column 'id' is long in the output and string in"):
        lake.run(mode="append")
    pq.write_table(pa.table({"id": pa.array([1], pa.time64("us")), "x": [1.0]}), lake.folder / "1.parquet")
    with pytest.raises(OutputError, match=r"column 'id' of type time64\[us\] cannot be"):
        lake.run(mode="replace")
    assert not list(Path(f"{lake.table}.asyncbatch").glob("parts/*"))


def test_a_table_that_was_removed_is_said(lake: Lake) -> None:
    lake.run()
    shutil.rmtree(lake.table)
    with pytest.raises(OutputError, match="was finished before and then removed"):
        lake.run()


def test_a_damaged_part_is_named_and_nothing_is_published(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(delta.DeltaTable, "publish", lambda *_: (_ for _ in ()).throw(StorageError("no")))
        with pytest.raises(StorageError):
            lake.run()
    part = sorted(Path(f"{lake.table}.asyncbatch/parts").iterdir())[2]
    content = bytearray(part.read_bytes())
    content[100] ^= 0xFF
    part.write_bytes(content)
    with pytest.raises(OutputError, match=part.name):
        lake.run()
    assert not deltalake.DeltaTable.is_deltatable(lake.table)


@pytest.mark.parametrize("sink", ["-", "gs://box/scores", "sqlite:///d.sqlite?table=t"])
def test_other_places_are_refused(lake: Lake, sink: str) -> None:
    with pytest.raises(OutputError) as error:
        lake.run(sink)
    assert error.value.hint


def test_retry_and_file_size_are_refused(lake: Lake) -> None:
    with pytest.raises(OutputError, match="--file-size"):
        lake.run(file_size="1MB")
    lake.run()
    with pytest.raises(OutputError, match="scored again in place"):
        retry_job(lake.table, {})


def test_without_the_library_the_extra_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(MissingExtraError) as error:
        lake.run()
    assert error.value.hint == "pip install 'asyncbatch[delta]'"


def test_in_a_bucket(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulators.s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        sink = f"{s3.make(f'box-{os.urandom(4).hex()}')}/scores"
        lake.run(sink)
        lake.add("2", ROWS)
        lake.run(sink)
        lake.run(sink)
        options = {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL_S3"], "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        assert deltalake.DeltaTable(sink, storage_options=options).version() == 1
        found = pl.read_delta(sink, storage_options=options)["id"].sort().to_list()
    assert found == list(range(2 * ROWS))
