"""Bad moments: a full disk, a second run, signals, a reader that leaves, a port in use. With real processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import pathlib
import time

CALLS = []

def score(batch):
    return [0.5] * batch.num_rows

def held(batch):
    CALLS.append(batch)
    while len(CALLS) > 14 and pathlib.Path("hold").exists():
        time.sleep(0.02)
    return score(batch)

def stuck(batch):
    CALLS.append(batch)
    if len(CALLS) > 6:
        pathlib.Path("is_stuck").touch()
        time.sleep(60)
    return score(batch)
"""
ROWS = 3000
PACED = ("--chunk-rows", "100", "--block-rows", "256", "--concurrency", "1", "--no-progress")

"""`held` waits for as long as there is a file `hold`, once a part or two may be there; `stuck` answers no block."""

Command = Callable[..., Any]
Hear = Callable[["subprocess.Popen[str]", str], str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "paced_model.py").write_text(MODEL)
    pq.write_table(
        pa.table({"id": range(ROWS), "text": [f"row {n}" for n in range(ROWS)]}), tmp_path / "in.parquet"
    )
    (tmp_path / "hold").touch()
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the command; whatever still runs at the end is killed."""
    running = []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCBATCH_")}

    def start(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "asyncbatch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("part-*.parquet"))


# -- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB: 16 MiB must be free to begin."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.getuid() != 0:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(mounted)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {done.stderr.decode().strip()}")
    yield mounted
    subprocess.run(
        ["umount", "-l", str(mounted)], check=True
    )  # also while a file there is still being closed


def fill(folder: Path) -> None:
    with (folder / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def test_a_disk_that_is_full_before_the_run(refused: Command, small_disk: Path) -> None:
    fill(small_disk)
    said = refused("run", "in.parquet", "disk/out", "-e", "python:paced_model:score")
    assert said.message == "disk/out.asyncbatch has 0 MB free, and about 17 MB are needed"
    assert "free some space" in said.hint


def test_a_disk_that_is_surely_too_small_is_refused_before_the_run(
    refused: Command, folder: Path, small_disk: Path
) -> None:
    with (small_disk / "filler").open("wb") as filler:
        filler.write(b"x" * 10_000_000)
    said = refused("run", "in.parquet", "disk/out", "-e", "python:paced_model:score")
    assert said.message.startswith("disk/out.asyncbatch has ")
    assert "MB free, and about 17 MB are needed" in said.message


def test_a_disk_that_fills_up_while_running(
    start: Callable[..., "subprocess.Popen[str]"], command: Command, folder: Path, small_disk: Path
) -> None:
    arguments = ("run", "in.parquet", "disk/out", "-e", "python:paced_model:held", "--block-rows", "256")
    process = start(*arguments, "--chunk-rows", "100", "--concurrency", "1", "--no-progress")
    until(lambda: len(parts(small_disk)) > 0, process)
    fill(small_disk)
    (folder / "hold").unlink()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    said = stderr.splitlines()
    assert said[-3].startswith("asyncbatch: ")
    assert "space" in said[-3]
    assert "the same command" in said[-1]
    assert "Traceback" not in stderr
    assert 0 < pq.read_table(small_disk / "out").num_rows < ROWS
    (small_disk / "filler").unlink()
    again = command(*arguments)
    assert again.code == 0, again.stderr
    assert pq.read_table(small_disk / "out")["id"].to_pylist() == list(range(ROWS))


# -- two runs, signals, pipes --------------------------------------------------------------------------------------


def test_a_second_run_at_once_names_the_first(
    start: Callable[..., "subprocess.Popen[str]"], command: Command, folder: Path
) -> None:
    arguments = ("run", "in.parquet", "out", "-e", "python:paced_model:held", *PACED)
    first = start(*arguments)
    until(lambda: len(parts(folder)) > 0, first)
    second = command(*arguments)
    assert second.code == 75
    lines = second.stderr.splitlines()
    assert lines[-3].startswith("asyncbatch: ")
    assert str(first.pid) in lines[-3]
    assert lines[-1].startswith("hint: ")
    assert first.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_open_blocks_and_says_how_to_go_on(
    start: Callable[..., "subprocess.Popen[str]"],
    command: Command,
    folder: Path,
    number: signal.Signals,
    hear: Hear,
) -> None:
    arguments = ("run", "in.parquet", "out", "-e", "python:paced_model:held", *PACED)
    process = start(*arguments)
    until(lambda: len(parts(folder)) > 0, process)
    process.send_signal(number)
    stderr = hear(process, "stopping: ")
    (folder / "hold").unlink()
    stderr += process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    assert f"stopping: {number.name}" in stderr
    assert stderr.splitlines()[-3].startswith("asyncbatch: ")
    assert "the same command" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert 0 < len(parts(folder)) < 12
    again = command("run", "in.parquet", "out", "-e", "python:paced_model:held", "--block-rows", "256")
    assert again.code == 0, again.stderr
    assert pq.read_table(folder / "out")["id"].to_pylist() == list(range(ROWS))


def test_two_signals_leave_at_once(
    start: Callable[..., "subprocess.Popen[str]"], folder: Path, hear: Hear
) -> None:
    """Long before the function returns, after a minute."""
    process = start("run", "in.parquet", "out", "-e", "python:paced_model:stuck", *PACED)
    until((folder / "is_stuck").exists, process)
    process.send_signal(signal.SIGINT)
    stderr = hear(process, "stopping: ")
    process.send_signal(signal.SIGINT)
    stderr += process.communicate(timeout=50)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert parts(folder) == []


def test_a_reader_that_leaves_ends_it_quietly(folder: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m asyncbatch run in.parquet - -e python:paced_model:score -q | head -n 1; "
        "echo ${PIPESTATUS[0]}",
        check=False,
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
    )
    row, code = done.stdout.splitlines()
    assert json.loads(row) == {"id": 0, "text": "row 0", "prediction": 0.5, "error": None}
    assert (code, done.stderr) == ("0", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plan", "in.parquet", "-e", "python:paced_model:score"]]
)
def test_help_and_plan_end_quietly_too(folder: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "asyncbatch", *arguments],
        check=False,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_overwrite_removes_nothing_before_the_new_run_can_begin(command: Command, folder: Path) -> None:
    arguments = ("run", "in.parquet", "out", "-e")
    assert command(*arguments, "python:paced_model:score").code == 0
    before = pq.read_table(folder / "out")
    assert command(*arguments, "http://127.0.0.1:9/x", "--overwrite").code == 1
    assert pq.read_table(folder / "out") == before
    again = command(*arguments, "python:paced_model:score")
    assert again.code == 0, again.stderr
    assert command(*arguments, "python:paced_model:score", "--send", "id", "--overwrite").code == 0


# -- serve ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use(refused: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("serve", "echo", "--port", str(port))
    assert (said.message, said.hint) == (
        f"port {port} on 127.0.0.1 is already in use", "give another with --port; 0 takes a free one"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "--port", "99999"], "port 99999 is not between 0 and 65535"),
        (["none.onnx"], "model 'none.onnx' is neither a file nor one of flights, echo, simulated"),
        (["flihgts"], "model 'flihgts' is neither a file nor one of flights, echo, simulated"),
        (["bad.onnx"], "bad.onnx is no ONNX model: Protobuf parsing failed"),
        (["python:paced_model:scroe"], "python:paced_model:scroe cannot be loaded: "),
        (["echo", "--slot", "4"], "asyncbatch serve has no option --slot"),
        (["simulated", "--errors", "503=2"], "simulated endpoint: a share is outside 0 to 1"),
        (["simulated", "--errors", "508=0.1"], "simulated endpoint: no error kind '508'"),
        (["simulated", "--latency", "soon"], "--latency 'soon': expected a duration such as 70s, 5m or 1h"),
        (["echo", "--verify-sigv4"], "--verify-sigv4 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_server_that_cannot_start(
    refused: Command, folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "bad.onnx").write_text("this is no model")
    if "--port" not in arguments:
        arguments = [*arguments, "--port", "0"]
    said = refused("serve", *arguments, env={"AWS_SECRET_ACCESS_KEY": None})
    assert said.message.startswith(message)


def test_a_demo_that_cannot_be_written(refused: Command, folder: Path) -> None:
    (folder / "plain").touch()
    assert refused("demo", "--folder", "plain").message.startswith("cannot write plain/flights.parquet: ")
