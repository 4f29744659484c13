"""`--processes N`: real processes, seen, stopped and ended as one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output

Serve = Callable[[ServeConfig], Background]
Start = Callable[..., "subprocess.Popen[bytes]"]
Hear = Callable[["subprocess.Popen[bytes]", str], str]

ROOT = Path(__file__).resolve().parents[2]
ROWS = 6_000
STEADY = SimulationConfig(a=0.02, slots=6)
SICK = SimulationConfig(a=0.002, slots=6, poison_share=0.01, seed=3)
HOLDING = """
import pathlib, threading, time

begun = []

def score(batch):
    print("scored", flush=True)
    begun.append(batch.num_rows)
    while pathlib.Path("hold").exists() and len(begun) > 4:
        time.sleep(0.02)
    return batch.column(0)
"""
"""Waits for as long as there is a file `hold`, once a part or two may be there."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x": np.random.default_rng(0).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    pyarrow.csv.write_csv(found, tmp_path / "in.csv")
    return found


def command(
    folder: Path, server: Background, *options: str, source: str = "in.csv", processes: int = 3
) -> list[str]:
    return [
        sys.executable, "-m", "asyncbatch", "run", str(folder / source), str(folder / "out"),
        "-e", server.invocations_url, "--no-send", "id", "--block-rows", "200", "--chunk-rows", "50",
        "--concurrency", "6", "--no-progress", "--processes", str(processes), *options,
    ]  # fmt: skip


@pytest.fixture
def holding(tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The command with a function as endpoint that can be held up."""
    (tmp_path / "holding_model.py").write_text(HOLDING)
    (tmp_path / "hold").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")

    def arguments(*options: str, processes: int = 3) -> list[str]:
        return [
            sys.executable, "-m", "asyncbatch", "run", str(tmp_path / "in.csv"), str(tmp_path / "out"),
            "-e", "python:holding_model:score", "--no-send", "id", "--block-rows", "100", "--chunk-rows", "100",
            "--concurrency", "12", "--no-progress", "--processes", str(processes), *options,
        ]  # fmt: skip

    return arguments


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that do not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(arguments: list[str]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[bytes]", *, within_s: float = 40) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, said = process.communicate(timeout=within_s)
    return process.returncode, out.decode(), said.decode()


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.parquet"))


def wait_for(
    condition: Callable[[], bool], process: "subprocess.Popen[bytes]", *, within_s: float = 40
) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def holders(folder: Path) -> dict[str, int]:
    """Shard and process id of every lease."""
    found = {}
    for path in (folder / "out.asyncbatch" / "lease").glob("*.json"):
        try:
            found[path.stem] = json.loads(path.read_text())["pid"]
        except (FileNotFoundError, ValueError):
            continue
    return found


def check_done(folder: Path, table: pa.Table) -> None:
    scored = pq.read_table(folder / "out")
    assert scored["id"].to_pylist() == [str(each) for each in table["id"].to_pylist()]
    assert scored["prediction"].to_pylist() == table["x"].to_pylist()
    assert verify_output(str(folder / "out")).problems == ()


def wait_for_three(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """All are at work, and parts are there."""
    wait_for(lambda: len(holders(folder)) == 3 and len(parts(folder)) > 2, process)


def check_goes_on(folder: Path, table: pa.Table, arguments: list[str], start: Start) -> None:
    (folder / "hold").unlink(missing_ok=True)
    code, _, said = ended(start(arguments))
    assert code == 0, said
    check_done(folder, table)


def test_three_processes_are_one_run(tmp_path: Path, table: pa.Table, serve: Serve, start: Start) -> None:
    server = serve(ServeConfig(model="simulated", simulation=STEADY))
    before = server.stats()
    process = start(command(tmp_path, server, "--json", "--report", str(tmp_path / "report.json")))
    code, out, said = ended(process)
    assert code == 0, said
    check_done(tmp_path, table)
    after = server.stats()
    report = json.loads(out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["metrics"]["rows_in"]) == ("done", ROWS)
    assert report["metrics"]["requests"] == after["requests"] - before["requests"]
    assert report["options"]["processes"] == 3
    assert report["options"]["concurrency"] == "6"
    assert sum(point["requests"] for point in report["timeline"]) == ROWS / 50
    assert after["rows_in"] - before["rows_in"] <= ROWS + 2 * 310 + 2 * 3, "each row once, but for the probes"
    lines = said.splitlines()
    assert len([line for line in lines if line.startswith("plan: 6,000 rows in 1 file")]) == 1, said
    assert len([line for line in lines if line.startswith("done: 6,000 rows")]) == 1, said
    kept = json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())
    assert kept["metrics"]["rows_in"] == ROWS, "the joined report, not the last shard's"
    assert not list((tmp_path / "out.asyncbatch" / "lease").iterdir())


@posix
def test_a_signal_reaches_all_and_the_same_command_goes_on(
    tmp_path: Path, table: pa.Table, holding: Callable[..., list[str]], start: Start, hear: Hear
) -> None:
    process = start(holding())
    wait_for_three(tmp_path, process)
    seen = output_status(str(tmp_path / "out"))
    assert seen.state == "at work"
    assert {each.shard for each in seen.holders} == {"0-of-3", "1-of-3", "2-of-3"}
    process.send_signal(signal.SIGINT)
    heard = hear(process, "stopping: ")
    (tmp_path / "hold").unlink()
    code, _, said = ended(process)
    said = heard + said
    assert code == 75, said
    assert said.count("stopping: SIGINT received") == 1, said
    assert said.count("the same command goes on") == 1
    assert "Traceback" not in said
    assert holders(tmp_path) == {}
    assert not list((tmp_path / "out.asyncbatch" / "tmp").iterdir())
    assert 3 < len(parts(tmp_path)) < ROWS // 100
    check_goes_on(tmp_path, table, holding(processes=1), start)


@linux
def test_the_processes_die_with_their_parent(
    tmp_path: Path, table: pa.Table, holding: Callable[..., list[str]], start: Start
) -> None:
    process = start(holding("--error-name", "hush"))
    wait_for_three(tmp_path, process)
    children = list(holders(tmp_path).values())
    for child in children:
        assert b"hush" not in Path(f"/proc/{child}/cmdline").read_bytes(), (
            "options do not travel in arguments"
        )
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while any(alive(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.01)
    check_goes_on(tmp_path, table, holding("--error-name", "hush", processes=1), start)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@posix
def test_a_process_that_is_killed_fails_the_run_and_the_others_end(
    tmp_path: Path, table: pa.Table, holding: Callable[..., list[str]], start: Start
) -> None:
    process = start(holding())
    wait_for_three(tmp_path, process)
    os.kill(holders(tmp_path)["1-of-3"], signal.SIGKILL)
    time.sleep(0.3)
    (tmp_path / "hold").unlink()
    code, _, said = ended(process)
    assert code == 1, said
    assert "the process of shard 1/3 was ended by SIGKILL" in said
    assert "the same command goes on" in said
    check_goes_on(tmp_path, table, holding(processes=1), start)


def can_be_process_1() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-p", "-f", "true"], stderr=subprocess.DEVNULL, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not can_be_process_1(), reason="needs util-linux's unshare and the right to use it")
def test_process_1_of_a_container_passes_signals_on(
    tmp_path: Path, holding: Callable[..., list[str]], start: Start, hear: Hear
) -> None:
    """The second signal, too: the processes leave at once, and no part is torn."""
    outside = start(["unshare", "-p", "-f", *holding("--grace", "1m")])
    wait_for_three(tmp_path, outside)
    inside = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", *inside], check=True)
    heard = hear(outside, "stopping: ")
    time.sleep(0.3)
    assert outside.poll() is None, "open blocks have their grace"
    subprocess.run(["kill", "-TERM", *inside], check=True)
    code, _, said = ended(outside)
    said = heard + said
    assert code == 130, said
    assert said.count("stopping: SIGTERM received") == 1, said
    assert "Traceback" not in said
    for path in parts(tmp_path):
        assert pq.read_table(path, page_checksum_verification=True).num_rows == 100


def test_rejects_of_all_and_an_error_limit_for_all(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    from asyncbatch.server.simulation import poison_mask

    server = serve(ServeConfig(model="simulated", simulation=SICK))
    bad = int(poison_mask(table["x"].to_numpy(), share=SICK.poison_share, seed=SICK.seed).sum())
    code, _, said = ended(start(command(tmp_path, server, "--max-errors", str(bad * 2 // 3), processes=2)))
    assert code == 1, said
    assert f"more than --max-errors {bad * 2 // 3}" in said
    code, out, said = ended(start(command(tmp_path, server, "--json", processes=2)))
    assert code == 3, said
    assert json.loads(out)["status"] == "done_with_rejects"
    assert pq.read_table(tmp_path / "out.asyncbatch" / "errors.parquet").num_rows == bad
    code, out, _ = ended(start(command(tmp_path, server, "--json", processes=3)))
    assert (code, json.loads(out)["metrics"]["rows_in"]) == (0, 0), "nothing is left to do"


def test_a_mistake_is_said_once_and_nothing_is_left(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=STEADY))
    code, out, said = ended(start(command(tmp_path, server, "--keep", "nothing_of_that_name")))
    assert (code, out) == (2, "")
    assert said.count("nothing_of_that_name") == 1
    assert said.splitlines()[-1].startswith("hint: ")
    assert not (tmp_path / "out.asyncbatch").exists()
    arguments = [each if each != str(tmp_path / "out") else "-" for each in command(tmp_path, server)]
    code, out, said = ended(start(arguments))
    assert (code, out) == (2, "")
    assert "--processes 3: standard output is one stream" in said


def test_overwriting_and_being_second(
    tmp_path: Path, table: pa.Table, holding: Callable[..., list[str]], start: Start
) -> None:
    """What the function prints goes to the error stream, not between the processes."""
    first = start(holding())
    wait_for_three(tmp_path, first)
    second, idle, waiting = (start(holding(*more, processes=2)) for more in ([], ["--if-idle"], ["--wait"]))
    code, _, said = ended(second)
    assert code == 75, said
    assert said.count("is at work on") == 1
    code, _, said = ended(idle)
    assert code == 0, said
    assert said.startswith("nothing done: process ")
    assert waiting.stderr is not None
    assert b"waiting for process" in waiting.stderr.readline()
    assert waiting.poll() is None
    (tmp_path / "hold").unlink()
    code, out, said = ended(first)
    assert (code, out) == (0, ""), said
    assert "scored" in said
    code, _, said = ended(waiting)
    assert code == 0, said
    before = (tmp_path / "out.asyncbatch" / "job-000001.json").read_text()
    code, _, said = ended(start(holding("--overwrite")))
    assert code == 0, said
    assert (tmp_path / "out.asyncbatch" / "job-000001.json").read_text() != before
    check_done(tmp_path, table)
