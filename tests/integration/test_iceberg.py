"""Iceberg tables as sinks, in a catalog on SQLite; read back by pyiceberg, polars and DuckDB."""

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import emulators
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.utils.config import Config

import asyncbatch.sink.iceberg as iceberg
from asyncbatch.errors import MissingExtraError, OutputError, StorageError
from asyncbatch.pipeline.api import retry_job
from asyncbatch.sink import load_plan
from asyncbatch.sink.iceberg_types import iceberg_types
from asyncbatch.sink.parts import list_parts
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.local import LocalStore

ROWS = 500


class Killed(BaseException): ...


class Lake:
    """An input, the command, and the table that it makes."""

    def __init__(self, home: Path, scoring: Any) -> None:
        self.home = home
        self.sink, self.endpoint = scoring.sink, scoring.endpoint
        self.folder, self.add, self.run = scoring.folder, scoring.add, scoring.run

    def unpublished(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        """Everything but the publication."""
        with monkeypatch.context() as patch:
            patch.setattr(iceberg.IcebergTable, "publish", lambda *_: None)
            self.run(**options)

    def with_table(self, use: Callable[[Table], Any]) -> Any:
        with load_catalog() as catalog:
            return use(catalog.load_table("ml.scores"))

    def make_table(self, content: pa.Table, **named: Any) -> None:
        with load_catalog() as catalog:
            catalog.create_table("ml.scores", content.schema, **named).append(content)

    def ids(self) -> list[int]:
        found: list[int] = self.with_table(lambda table: table.scan().to_arrow()["id"].sort().to_pylist())
        return found

    def snapshots(self) -> list[tuple[str | None, str | None]]:
        names = ("asyncbatch.job-id", "asyncbatch.generation")
        return [
            tuple(each.summary.get(name) for name in names)
            for each in self.with_table(lambda table: table.snapshots())
        ]

    def data_files(self) -> list[str]:
        return [
            path.removeprefix("file://")
            for path in self.with_table(lambda table: table.inspect.files()["file_path"].to_pylist())
        ]


@pytest.fixture
def lake(tmp_path: Path, scoring_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Lake:
    warehouse = tmp_path / "warehouse"
    warehouse.mkdir()
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{warehouse}")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # read when the module was imported
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # another plans faster, and is one more package
    with load_catalog() as catalog:
        catalog.create_namespace("ml")
    return Lake(tmp_path, scoring_to("ml.scores", format="iceberg"))


def test_one_snapshot_that_others_read(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    state = LocalStore(Path(f"{lake.sink}.asyncbatch"), Path(f"{lake.sink}.asyncbatch"))
    plan = load_plan(state)
    assert plan is not None
    assert lake.snapshots() == [(plan.job_id, "1")]
    assert lake.ids() == list(range(ROWS))
    rows = lake.with_table(lambda table: table.scan().to_arrow().sort_by("id"))
    assert rows.column_names == ["id", "prediction", "error"]
    assert rows["prediction"].to_pylist() == [float(each) for each in range(ROWS)]
    assert lake.with_table(lambda table: pl.scan_iceberg(table).collect())["id"].sort().to_list() == list(
        range(ROWS)
    )
    (file,) = lake.data_files()
    with duckdb.connect() as database:
        found = database.execute("select count(*), sum(prediction) from read_parquet(?)", [file]).fetchall()
    assert found == [(ROWS, float(sum(range(ROWS))))]
    status = output_status(lake.sink)
    assert (status.finished, status.rows_done) == (True, ROWS)
    assert verify_output(lake.sink).sound
    assert lake.run().metrics.rows_in == 0
    assert len(lake.snapshots()) == 1
    assert lake.with_table(lambda table: "commit.retry.num-retries" in table.properties) is False


def test_columns_are_told_by_their_field_ids(lake: Lake) -> None:
    """So that readers find them after a column was renamed."""
    lake.run()
    names = [pq.read_schema(file).field(0).metadata for file in lake.data_files()]
    assert names == [{b"PARQUET:field_id": b"1"}]
    with load_catalog() as catalog:
        with catalog.load_table("ml.scores").update_schema() as update:
            update.rename_column("id", "row_id")
        rows = catalog.load_table("ml.scores").scan().to_arrow()
    assert rows["row_id"].sort().to_pylist() == list(range(ROWS))


def test_later_files_are_one_more_snapshot(lake: Lake) -> None:
    lake.run()
    lake.add("0", ROWS)
    assert lake.run().metrics.rows_in == ROWS
    assert [generation for _, generation in lake.snapshots()] == ["1", "2"]
    assert lake.ids() == list(range(2 * ROWS))
    lake.run()
    assert len(lake.snapshots()) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("generation", [1, 2])
def test_stopped_around_the_commit_nothing_is_committed_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str, generation: int
) -> None:
    if generation == 2:
        lake.run()
        lake.add("2", ROWS)
    real = Transaction.commit_transaction

    def stopped(transaction: Transaction) -> Table:
        if when == "after":
            real(transaction)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit_transaction", stopped)
        with pytest.raises(BaseException):  # noqa: B017, PT011  # what a task group makes of it
            lake.run()
    assert not output_status(lake.sink).finished
    assert lake.run().metrics.rows_in == 0
    assert len(lake.snapshots()) == generation
    assert lake.ids() == list(range(generation * ROWS))


KILLED = """
import os, signal, sys
from pyiceberg.table import Transaction
from asyncbatch.__main__ import main

real = Transaction.commit_transaction

def killed(transaction):
    real(transaction)
    os.kill(os.getpid(), signal.SIGKILL)

Transaction.commit_transaction = killed
sys.argv = ["asyncbatch", *sys.argv[1:]]
main()
"""


def test_killed_between_the_commit_and_its_record(lake: Lake) -> None:
    """By the command line, with the catalog from the environment as users have it."""
    command = [
        "run", str(lake.folder), lake.sink, "-e", lake.endpoint, "--block-rows", "100", "--send", "x",
        "--keep", "id", "--format", "iceberg",
    ]  # fmt: skip
    first = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert not output_status(lake.sink).finished
    assert len(lake.snapshots()) == 1
    subprocess.run([sys.executable, "-m", "asyncbatch", *command], check=True, timeout=60)
    assert output_status(lake.sink).finished
    assert len(lake.snapshots()) == 1
    assert lake.ids() == list(range(ROWS))


def test_of_two_that_publish_at_once_the_catalog_takes_one(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.make_table(ONE)
    lake.unpublished(monkeypatch, mode="append")
    state = LocalStore(Path(f"{lake.sink}.asyncbatch"), Path(f"{lake.sink}.asyncbatch"))
    plan = load_plan(state)
    assert plan is not None
    parts = state.below("parts")
    both = threading.Barrier(2, timeout=30)
    real = iceberg.IcebergTable._write

    def together(*values: Any) -> Any:
        both.wait()  # both have looked, and found that nothing is there
        return real(*values)

    monkeypatch.setattr(iceberg.IcebergTable, "_write", together)
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            iceberg.IcebergTable("ml.scores", mode="append").publish(plan, parts, list_parts(parts))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert lake.snapshots() == [(None, None), (plan.job_id, "1")]
    assert lake.ids() == list(range(-1, ROWS))
    # What the slower one had written is gone again.
    assert sorted(map(str, (lake.home / "warehouse").rglob("*.parquet"))) == sorted(lake.data_files())


def test_another_commit_in_between_is_no_failure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.make_table(ONE)
    real = Transaction.commit_transaction
    others = iter([ONE.set_column(0, "id", pa.array([-2])), ONE.set_column(0, "id", pa.array([-3]))])

    def later(transaction: Transaction) -> Table:
        for other in others:
            with monkeypatch.context() as patch:
                patch.setattr(Transaction, "commit_transaction", real)
                lake.with_table(lambda table, rows=other: table.append(rows))
            break
        return real(transaction)

    monkeypatch.setattr(Transaction, "commit_transaction", later)
    lake.run(mode="append")
    assert lake.ids() == list(range(-3, ROWS))
    monkeypatch.setattr(
        Transaction,
        "commit_transaction",
        lambda _: (_ for _ in ()).throw(CommitFailedException("always")),
    )
    lake.add("2", ROWS)
    with pytest.raises(StorageError, match="written by others all the time"):
        lake.run(mode="append")


def test_an_answer_that_was_lost_is_found_out_by_looking(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Transaction.commit_transaction

    def lost(transaction: Transaction) -> Table:
        real(transaction)
        raise ConnectionResetError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit_transaction", lost)
        assert lake.run().exit_code == 0
    assert len(lake.snapshots()) == 1

    def refused(transaction: Transaction) -> Table:
        raise ConnectionResetError("no answer")

    lake.add("2", ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit_transaction", refused)
        with pytest.raises(StorageError, match=r"ml\.scores cannot be used: no answer"):
            lake.run()
    assert lake.run().metrics.rows_in == 0
    assert lake.ids() == list(range(2 * ROWS))


ONE = pa.table({"id": [-1], "prediction": [0.0], "error": pa.array([None], pa.string())})


def test_modes(lake: Lake) -> None:
    lake.make_table(ONE)
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
    shutil.rmtree(f"{lake.sink}.asyncbatch")
    before = len(lake.snapshots())
    history = lake.with_table(lambda table: len(table.metadata.metadata_log))
    lake.run(mode="replace")
    assert lake.ids() == list(range(ROWS, 2 * ROWS))
    assert lake.with_table(lambda table: len(table.metadata.metadata_log)) == history + 1  # one commit
    assert len(lake.snapshots()) == before + 2  # the rows that go, and those that come


def test_a_table_made_meanwhile_is_left_alone(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = iceberg.IcebergTable.publish

    def late(*values: Any) -> None:
        lake.make_table(ONE)
        real(*values)

    monkeypatch.setattr(iceberg.IcebergTable, "publish", late)
    with pytest.raises(OutputError, match="exists"):
        lake.run()
    assert lake.ids() == [-1]


def test_what_the_table_cannot_take_is_refused_before_a_row_is_scored(lake: Lake) -> None:
    lake.make_table(pa.table({"id": ["a"]}))
    with pytest.raises(OutputError, match="column 'id' is int64 in the output and string in"):
        lake.run(mode="append")
    pq.write_table(pa.table({"id": pa.array([1], pa.uint64()), "x": [1.0]}), lake.folder / "1.parquet")
    with pytest.raises(OutputError, match="column 'id' of type uint64 cannot be"):
        lake.run(mode="replace")
    with pytest.raises(OutputError, match="has no namespace nowhere"):
        lake.run(str(lake.home / "nowhere.scores"), keep="none")
    with pytest.raises(OutputError, match="names no namespace"):
        lake.run(str(lake.home / "scores"))
    assert not list(lake.home.glob("*.asyncbatch/parts/*"))


def test_a_partitioned_table_is_refused(lake: Lake) -> None:
    with load_catalog() as catalog:
        table = catalog.create_table("ml.scores", ONE.schema)
        with table.update_spec() as update:
            update.add_identity("id")
    with pytest.raises(OutputError, match="is partitioned"):
        lake.run(mode="append")


def test_types_that_are_others_in_a_table(lake: Lake) -> None:
    moment = dt.datetime(2024, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001
    columns = {
        "id": pa.array([1], pa.int16()),
        "count": pa.array([2**32 - 1], pa.uint32()),
        "at": pa.array([moment], pa.timestamp("ns")),
        "zone": pa.array([moment], pa.timestamp("ms", "Europe/Berlin")),
        "kind": pa.array(["a"]).dictionary_encode(),
        "vector": pa.array([[1, 2]], pa.list_(pa.uint8(), 2)),
        "pair": pa.array([{"a": 1}], pa.struct([("a", pa.int8())])),
        "day": pa.array([moment.date()], pa.date64()),
        "x": pa.array([1.0]),
    }
    pq.write_table(pa.table(columns), lake.folder / "1.parquet")
    lake.run(keep="all")
    row = lake.with_table(lambda table: table.scan().to_arrow().to_pylist())[0]
    assert row["at"] == moment
    assert row["zone"] == moment.replace(tzinfo=dt.UTC, microsecond=0)
    assert (row["id"], row["count"], row["kind"]) == (1, 2**32 - 1, "a")
    assert (row["vector"], row["pair"], row["day"]) == ([1, 2], {"a": 1}, moment.date())
    with pytest.raises(OutputError, match="'d' of type duration"):
        iceberg_types(pa.schema([("d", pa.duration("s"))]))


def test_a_value_that_does_not_fit_is_said(lake: Lake) -> None:
    late = pa.array([1], pa.int64()).cast(pa.timestamp("ns"))
    pq.write_table(pa.table({"id": late, "x": [1.0]}), lake.folder / "1.parquet")
    with pytest.raises(OutputError, match="does not fit"):
        lake.run()
    assert not list((lake.home / "warehouse").rglob("*.parquet"))


def test_an_output_without_rows_is_a_table_without_rows(lake: Lake) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.int64()), "x": pa.array([], pa.float64())}),
                   lake.folder / "1.parquet")  # fmt: skip
    lake.run(allow_empty=True)
    assert lake.ids() == []
    lake.run(allow_empty=True)


def test_a_table_that_was_removed_is_said(lake: Lake) -> None:
    lake.run()
    with load_catalog() as catalog:
        catalog.drop_table("ml.scores")
    with pytest.raises(OutputError, match="was finished before and then removed"):
        lake.run()


def test_a_damaged_part_is_named_and_nothing_is_published(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(iceberg.IcebergTable, "publish", lambda *_: (_ for _ in ()).throw(StorageError("no")))
        with pytest.raises(StorageError):
            lake.run()
    part = sorted(Path(f"{lake.sink}.asyncbatch/parts").iterdir())[2]
    content = bytearray(part.read_bytes())
    content[100] ^= 0xFF
    part.write_bytes(content)
    with pytest.raises(OutputError, match=part.name):
        lake.run()
    assert lake.snapshots() == []
    assert not list((lake.home / "warehouse").rglob("*.parquet"))


def test_retry_and_file_size_are_refused(lake: Lake) -> None:
    with pytest.raises(OutputError, match="--file-size"):
        lake.run(file_size="1MB")
    with pytest.raises(OutputError, match="an Iceberg table cannot be written to stdout"):
        lake.run("-")
    lake.run()
    with pytest.raises(OutputError, match="scored again in place"):
        retry_job(lake.sink, {})


def test_without_a_catalog_the_setting_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PYICEBERG_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    with pytest.raises(OutputError, match="has no catalog to use") as error:
        lake.run()
    assert "PYICEBERG_CATALOG__DEFAULT__URI" in (error.value.hint or "")


def test_a_catalog_that_cannot_be_reached_leaves_the_rows_scored(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Catalog, name: str) -> Table:
        raise ConnectionRefusedError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(iceberg.IcebergTable, "check", lambda *_: None)
        patch.setattr("pyiceberg.catalog.sql.SqlCatalog.load_table", away)
        with pytest.raises(StorageError, match="cannot be used: connection refused"):
            lake.run()
    assert lake.run().metrics.rows_in == 0
    assert lake.ids() == list(range(ROWS))


def test_without_the_library_the_extra_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog.sql", None)
    with pytest.raises(MissingExtraError) as error:
        lake.run()
    assert error.value.hint == "pip install 'asyncbatch[iceberg]'"


def test_in_a_bucket(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulators.s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        bucket = s3.make(f"box-{os.urandom(4).hex()}")
        for name, value in {
            "WAREHOUSE": f"{bucket}/lake",
            "S3__ENDPOINT": os.environ["AWS_ENDPOINT_URL_S3"],
            "S3__ACCESS_KEY_ID": "test",
            "S3__SECRET_ACCESS_KEY": "test",
            "S3__REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__DEFAULT__{name}", value)
        monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
        lake.run(f"{bucket}/jobs/ml.scores")
        lake.add("2", ROWS)
        assert lake.run(f"{bucket}/jobs/ml.scores").metrics.rows_in == ROWS
        assert len(lake.snapshots()) == 2
        assert lake.ids() == list(range(2 * ROWS))
        assert all(path.startswith(f"{bucket}/lake/") for path in lake.data_files())
