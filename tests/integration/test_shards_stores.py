"""Several processes into one bucket and into one table: every row once, also when one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import adbc_driver_postgresql.dbapi
import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.access import Access
from asyncbatch.store.connect import connect
from asyncbatch.store.uri import parse_uri

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

ROWS = 1_200
BLOCK_ROWS = 100
Rows = Callable[[], list[tuple[int, float]]]
HOLDING = """
import pathlib, time

begun = []

def score(batch):
    begun.append(batch)
    while len(begun) > 8 and pathlib.Path("hold").exists():
        time.sleep(0.02)
    return batch.column(0)
"""
"""Waits for as long as there is a file `hold`, once a part or two may be there."""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with emulators.postgresql() as uri:
        yield uri


@pytest.fixture(scope="module")
def s3() -> Iterator[emulators.Emulator]:
    with emulators.s3() as emulator:
        yield emulator


@pytest.fixture(params=["s3", "postgresql"])
def sink(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Rows]:
    """The sink, and what is in it, by the store's own client."""
    name = f"t{os.urandom(4).hex()}"
    if request.param == "s3":
        emulator: emulators.Emulator = request.getfixturevalue("s3")
        for variable, value in emulator.environment.items():
            monkeypatch.setenv(variable, value)
        base = emulator.make(f"box-{name}")
        uri = parse_uri(f"{base}/out/")
        assert uri is not None
        client = connect(uri, Access())

        def in_bucket() -> list[tuple[int, float]]:
            found: list[tuple[int, float]] = []
            for each in client.list("out/"):
                part = pq.read_table(pa.BufferReader(client.read(each.key, 0, each.size_bytes)))
                found += zip(part["id"].to_pylist(), part["prediction"].to_pylist(), strict=True)
            return sorted(found)

        return f"{base}/out/", in_bucket
    dsn = request.getfixturevalue("postgresql")

    def in_table() -> list[tuple[int, float]]:
        with adbc_driver_postgresql.dbapi.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT id, prediction FROM {name} ORDER BY id")
            return list(cursor.fetchall())

    return f"{dsn}&table={name}", in_table


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"x": [number / 2 for number in range(ROWS)], "id": range(ROWS)}), path)
    return path


@pytest.fixture
def server(serve: Callable[[ServeConfig], Background]) -> Background:
    return serve(ServeConfig(model="simulated", simulation=SimulationConfig(a=0.1, slots=8)))


EXPECTED = [(number, number / 2) for number in range(ROWS)]


def test_shards_write_every_row_once(sink: tuple[str, Rows], source: Path, server: Background) -> None:
    where, rows = sink
    failed: list[Exception] = []
    before = server.stats()["rows_in"]

    def go(shard: str) -> None:
        try:
            asyncbatch.run(
                str(source), where, endpoint=server.invocations_url, no_send="id", shard=shard,
                block_rows=BLOCK_ROWS, chunk_rows="50",
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  # in a thread; looked at below
            failed.append(error)

    threads = [threading.Thread(target=go, args=(f"{number}/2",)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert rows() == EXPECTED
    status = output_status(where)
    assert (status.finished, status.rows_done, status.holders) == (True, ROWS, ())
    assert verify_output(where).sound
    assert server.stats()["rows_in"] - before < ROWS * 1.6, "shards scored one another's rows"


@pytest.mark.parametrize("sink", [pytest.param("s3", marks=pytest.mark.slow), "postgresql"], indirect=True)
def test_a_process_of_several_is_killed_and_the_same_command_goes_on(
    sink: tuple[str, Rows], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, rows = sink
    (tmp_path / "holding_model.py").write_text(HOLDING)
    (tmp_path / "hold").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    command = [
        sys.executable, "-m", "asyncbatch", "run", str(source), where, "-e", "python:holding_model:score", "--no-send", "id",
        "--block-rows", str(BLOCK_ROWS), "--chunk-rows", "25", "--concurrency", "4", "--no-progress", "--processes", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        until = time.monotonic() + 60
        victim = None
        while victim is None:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "it did not happen"
            time.sleep(0.1)
            try:
                status = output_status(where)
            except asyncbatch.errors.AsyncBatchError:  # nothing was planned yet
                continue
            holders = [each for each in status.holders if each.alive]
            if status.rows_done and len(holders) == 2:
                victim = holders[0].pid
                assert status.rows_per_s_now or "://box" not in where, "the bucket's listing tells when"
        os.kill(victim, signal.SIGKILL)
        (tmp_path / "hold").unlink()
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 1, said
    assert b"was ended by SIGKILL" in said
    left = output_status(where)
    assert not left.finished
    assert len(rows()) == left.rows_done
    again = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert again.returncode == 0, again.stderr
    assert rows() == EXPECTED
    assert verify_output(where).sound


def test_duckdb_files_take_one_process(source: Path, server: Background, tmp_path: Path) -> None:
    where = f"duckdb:///{tmp_path}/d.duckdb?table=t"
    with pytest.raises(ConfigError, match="one process at a time") as refused:
        asyncbatch.run(str(source), where, endpoint=server.invocations_url, no_send="id", shard="0/2")
    assert refused.value.exit_code == 2
    assert "--shard" in (refused.value.hint or "")
