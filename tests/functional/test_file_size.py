"""`--file-size`: parts become larger files at the end; readers, resume, verify and retry of what comes out."""

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import OutputError
from asyncbatch.pipeline.api import retry_job
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.filesystem import OsFileSystem

ROOT = Path(__file__).resolve().parents[2]
ROWS = 4_000
BAD = (13, 2_777)
MODEL = """
import pathlib
import pyarrow.compute as pc

def score(batch):
    mended = pathlib.Path("mended").exists()
    if not mended and any(x in (13.0, 2777.0) for x in batch["x"].to_pylist()):
        raise ValueError("refused")
    return pc.multiply(batch["x"], 3 if mended else 2)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "size_model.py").write_text(MODEL)
    (tmp_path / "in").mkdir()
    for number in range(2):
        first = number * ROWS // 2
        pq.write_table(
            pa.table({"x": [float(row) for row in range(first, first + ROWS // 2)]}),
            tmp_path / "in" / f"{number}.parquet",
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("size_model", None)


def score(sink: str = "out", **more: object) -> int:
    options: dict[str, object] = {"block_rows": 100, "file_size": "10MB", **more}
    return asyncbatch.run("in", sink, endpoint="python:size_model:score", **options).exit_code


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def no_exchange(files: OsFileSystem, one: Path, other: Path) -> None:
    raise OSError(errno.ENOSYS, "not on this system")


@pytest.mark.parametrize("exchange", [True, False])
def test_the_parts_of_each_input_file_become_one(
    exchange: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(OsFileSystem, "exchange", no_exchange)
    (folder / "mended").touch()
    assert score() == 0
    assert names(folder) == [
        "part-00000000-000000000000-000000002000.parquet",
        "part-00000001-000000000000-000000002000.parquet",
    ]
    expected = [3.0 * row for row in range(ROWS)]
    assert pq.read_table("out")["prediction"].to_pylist() == expected
    assert pl.read_parquet("out/*.parquet")["prediction"].to_list() == expected
    found = duckdb.sql(
        "select prediction from read_parquet('out/**', filename=true, file_row_number=true)"
        " order by filename, file_row_number"
    ).fetchall()
    assert [row[0] for row in found] == expected
    assert verify_output("out").problems == ()
    assert output_status("out").state == "finished"
    assert score() == 0, "nothing is left to do"
    assert list((folder / "out.asyncbatch" / "tmp").iterdir()) == []


def test_files_are_no_larger_than_asked(folder: Path) -> None:
    (folder / "mended").touch()
    assert score(file_size=8_000) == 0
    sizes = [path.stat().st_size for path in (folder / "out").iterdir()]
    assert 2 < len(sizes) < 40
    assert max(sizes) <= 8_000
    assert pq.read_table("out")["prediction"].to_pylist() == [3.0 * row for row in range(ROWS)]


def test_it_may_be_given_when_a_run_is_resumed(folder: Path) -> None:
    (folder / "mended").touch()
    assert score(file_size=None) == 0
    (folder / "out" / names(folder)[3]).unlink()
    assert score() == 0
    assert len(names(folder)) == 2
    assert pq.read_table("out")["prediction"].to_pylist() == [3.0 * row for row in range(ROWS)]


def test_a_single_file_has_no_parts_to_join(folder: Path) -> None:
    with pytest.raises(OutputError, match="--file-size joins the parts of a folder"):
        score("out.parquet")


@pytest.mark.parametrize("on_error", ["null", "drop"])
def test_a_retry_of_a_joined_part_changes_its_blocks_only(on_error: str, folder: Path) -> None:
    assert score(on_error=on_error) == 3
    assert len(names(folder)) == 2
    (folder / "mended").touch()
    report = retry_job("out", {})
    assert (report.exit_code, report.metrics.rows_in) == (0, 200)
    assert len(names(folder)) == 2
    again = {bad // 100 for bad in BAD}
    expected = [(3.0 if row // 100 in again else 2.0) * row for row in range(ROWS)]
    assert pq.read_table("out")["prediction"].to_pylist() == expected
    assert verify_output("out").problems == ()


def test_a_retry_joins_what_is_smaller_if_asked_to(folder: Path) -> None:
    assert score(file_size=None) == 3
    assert len(names(folder)) == 40
    (folder / "mended").touch()
    assert score("out.parquet", file_size=None) == 0
    with pytest.raises(OutputError, match="--file-size joins the parts of a folder"):
        retry_job("out.parquet", {"file_size": "10MB"})
    report = retry_job("out", {"file_size": "10MB"})
    assert (report.exit_code, report.metrics.rows_in) == (0, 200)
    assert names(folder) == [
        "part-00000000-000000000000-000000002000.parquet",
        "part-00000001-000000000000-000000002000.parquet",
    ]
    again = {bad // 100 for bad in BAD}
    expected = [(3.0 if row // 100 in again else 2.0) * row for row in range(ROWS)]
    assert pq.read_table("out")["prediction"].to_pylist() == expected
    assert verify_output("out").problems == ()
    assert score() == 0, "finished"


def test_a_member_that_came_back_is_removed_by_the_next_run(folder: Path) -> None:
    (folder / "mended").touch()
    assert score(file_size=None) == 0
    member = folder / "out" / names(folder)[5]
    shutil.copy2(member, folder / "kept.parquet")
    (folder / "out.asyncbatch" / "_SUCCESS").unlink()
    assert score() == 0
    shutil.copy2(folder / "kept.parquet", member)
    assert [problem.file for problem in verify_output("out").problems] == [f"out/{member.name}"]
    assert score() == 0
    assert not member.exists()
    assert verify_output("out").problems == ()


def test_a_link_to_a_folder_stays_a_link(folder: Path) -> None:
    (folder / "mended").touch()
    (folder / "real").mkdir(mode=0o750)
    (folder / "out").symlink_to("real")
    assert score() == 0
    assert (folder / "out").is_symlink()
    assert (folder / "real").stat().st_mode & 0o777 == 0o750
    assert pq.read_table("out").num_rows == ROWS


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere folders may not be able to change places")
def test_whoever_lists_the_folder_sees_every_row_once(folder: Path) -> None:
    (folder / "mended").touch()
    assert score(file_size=None) == 0
    (folder / "out.asyncbatch" / "_SUCCESS").unlink()
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            listed = [name.removesuffix(".parquet").split("-") for name in os.listdir("out")]  # noqa: PTH208
            rows = sum(int(stop) - int(start) for _, _, start, stop in listed)
            seen.add(rows)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert score() == 0
    finally:
        done.set()
        watcher.join()
    assert len(names(folder)) == 2
    assert seen == {ROWS}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_killed_while_joining(sink: str, folder: Path) -> None:
    """Of a folder and of a single file: the same command ends it, and no row is scored twice."""
    (folder / "mended").touch()
    assert score(sink, file_size=None, block_rows=5) == 0
    state = folder / f"{sink}.asyncbatch"
    if sink == "out.parquet":  # its parts as they are right before the file is made
        assert score("parts", file_size=None, block_rows=5) == 0
        shutil.rmtree(state)
        (folder / sink).unlink()
        (folder / "parts.asyncbatch").rename(state)
        (folder / "parts").rename(state / "parts")
        plan = state / "job-000001.json"
        plan.write_text(plan.read_text())
    (state / "_SUCCESS").unlink()
    (state / "manifest.json").unlink()
    for path in (folder / sink, state):
        if path.exists():
            shutil.copytree(path, folder / "before" / path.name)
    command = [sys.executable, "-m", "asyncbatch", "run", "in", sink, "-e", "python:size_model:score", "-q"]
    command += ["--block-rows", "5", *(["--file-size", "10MB"] if sink == "out" else [])]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    rng = random.Random(5)
    kills = 0
    while kills < 5:
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not any((state / "tmp").iterdir()):
            time.sleep(0.001)
        try:
            process.wait(rng.random() * 0.6)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        code = process.wait()
        assert code in (0, -9)
        if sink == "out":
            got = pq.read_table("out")["prediction"].to_pylist()
            assert got == [3.0 * row for row in range(ROWS)]
        if code == 0:  # it was not killed in time: from the beginning again
            assert pq.read_table(sink).num_rows == ROWS
            for path in (folder / sink, state):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                if (folder / "before" / path.name).exists():
                    shutil.copytree(folder / "before" / path.name, path)
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert pq.read_table(sink)["prediction"].to_pylist() == [3.0 * row for row in range(ROWS)]
    assert verify_output(sink).problems == ()
