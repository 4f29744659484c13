"""Signals to a real process: one ends the run in order, two at once; the same command goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]
Start = Callable[..., "subprocess.Popen[bytes]"]
Hear = Callable[["subprocess.Popen[bytes]", str], str]

ROWS = 8_000
STEADY = SimulationConfig(a=0.02, slots=4)
HANGING = SimulationConfig(
    errors={"hang": 0.2}, seed=11
)  # not the first six requests: the probes are answered
SLOWLY = ("--row-rate", "1000")
"""8 s for all: whatever else the machine does, the signal comes before the end."""
NEVER_READY = SimulationConfig(errors={"429": 1.0})

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x": np.random.default_rng(0).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


def command(folder: Path, server: Background, *options: str, by_name: bool = False) -> list[str]:
    """`by_name`: as a SageMaker endpoint, whose address may be another when the run goes on."""
    where = [server.name, "--endpoint-url", server.url] if by_name else [server.invocations_url]
    return [
        sys.executable, "-m", "asyncbatch", "run", str(folder / "in.parquet"), str(folder / "out"),
        "-e", *where, "--no-send", "id", "--block-rows", "500", "--chunk-rows", "50",
        "--concurrency", "4", "--no-progress", *options,
    ]  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that do not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(arguments: list[str]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def parts(folder: Path) -> list[Path]:
    out = folder / "out"
    return sorted(out.glob("*.parquet")) if out.exists() else []


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr is not None else ""
        time.sleep(0.01)


def ended(process: "subprocess.Popen[bytes]", *, within_s: float) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    _, said = process.communicate(timeout=within_s)
    return process.returncode, said.decode()


def check_state(folder: Path) -> None:
    """Nothing unfinished, and no lease, was left."""
    state = folder / "out.asyncbatch"
    assert not list((state / "tmp").iterdir())
    assert not list((state / "lease").iterdir())


def check_goes_on(folder: Path, table: pa.Table, server: Background, *, by_name: bool = False) -> None:
    """What is committed is kept as it is, and the same command does the rest."""
    before = {path: path.stat().st_mtime_ns for path in parts(folder)}
    for path in before:
        begin, end = (int(text) for text in path.stem.split("-")[2:])
        assert (
            pq.read_table(path)["prediction"].to_pylist() == table["x"].slice(begin, end - begin).to_pylist()
        )
    done = subprocess.run(command(folder, server, by_name=by_name), stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    scored = pq.read_table(folder / "out")
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x"].to_pylist()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_finishes_the_open_blocks_and_exits_75(
    number: signal.Signals, tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=STEADY))
    process = start(command(tmp_path, server, *SLOWLY))
    wait_for(lambda: len(parts(tmp_path)) >= 2, process)
    process.send_signal(number)
    code, said = ended(process, within_s=60)
    assert code == 75
    assert f"{number.name} received" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert len(parts(tmp_path)) < ROWS // 500
    check_state(tmp_path)
    report = json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("stopped", 75)
    check_goes_on(tmp_path, table, server)


def test_after_the_grace_what_hangs_is_left(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=HANGING))
    # Blocks of one chunk: four of five are answered at once, and the others do not hold them up.
    process = start(command(tmp_path, server, "--chunk-rows", "500", "--grace", "1s", by_name=True))
    wait_for(lambda: len(parts(tmp_path)) >= 1, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process, within_s=60)
    assert code == 75, said
    check_state(tmp_path)
    check_goes_on(tmp_path, table, serve(ServeConfig(model="simulated", simulation=STEADY)), by_name=True)


def test_two_signals_leave_at_once_and_lose_nothing_committed(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start, hear: Hear
) -> None:
    """After the first alone it would wait for answers that never come, as long as it may."""
    own = replace(HANGING, slots=9)  # a server that no test has asked yet
    server = serve(ServeConfig(model="simulated", simulation=own))
    process = start(command(tmp_path, server, "--chunk-rows", "500", "--grace", "1h", by_name=True))
    wait_for(lambda: len(parts(tmp_path)) >= 1, process)
    process.send_signal(signal.SIGINT)
    hear(process, "SIGINT received")
    process.send_signal(signal.SIGINT)
    code, _ = ended(process, within_s=60)
    assert code == 130
    check_goes_on(tmp_path, table, serve(ServeConfig(model="simulated", simulation=STEADY)), by_name=True)


def test_a_signal_before_the_first_block_ends_the_run_too(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    server = serve(ServeConfig(model="simulated", simulation=NEVER_READY))
    process = start(command(tmp_path, server))
    asked = server.stats()["requests"]
    wait_for(lambda: server.stats()["requests"] > asked, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process, within_s=60)
    assert code == 75
    assert "SIGTERM received" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]


def test_a_function_that_does_not_return_does_not_hold_up_the_exit(
    tmp_path: Path, table: pa.Table, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread cannot be stopped: it gets the grace and 5 s more."""
    (tmp_path / "stuck_model.py").write_text(
        "import time\n"
        "calls = []\n"
        "def score(batch):\n"
        "    calls.append(batch)\n"
        "    if len(calls) > 8: time.sleep(60)\n"
        "    return batch.column(0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start([
        sys.executable, "-m", "asyncbatch", "run", str(tmp_path / "in.parquet"), str(tmp_path / "out"),
        "-e", "python:stuck_model:score", "--block-rows", "100", "--chunk-rows", "100", "--concurrency", "4",
        "--grace", "500ms", "--no-progress",
    ])  # fmt: skip
    wait_for(lambda: len(parts(tmp_path)) >= 1, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process, within_s=50)  # the function sleeps for 60 s
    assert code == 75, said
    check_state(tmp_path)


def can_be_process_1() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-p", "-f", "true"], stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    )


@pytest.mark.skipif(not can_be_process_1(), reason="needs util-linux's unshare and the right to use it")
def test_process_1_of_a_container_stops_in_order(
    tmp_path: Path, table: pa.Table, serve: Serve, start: Start
) -> None:
    """The kernel has no default action for it: what it does not handle is ignored."""
    server = serve(ServeConfig(model="simulated", simulation=STEADY))
    outside = start(["unshare", "-p", "-f", *command(tmp_path, server, *SLOWLY)])
    wait_for(lambda: len(parts(tmp_path)) >= 2, outside)
    inside = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", *inside], check=True)
    code, said = ended(outside, within_s=60)
    assert code == 75, said
    assert "SIGTERM received" in said
    check_state(tmp_path)
    check_goes_on(tmp_path, table, server)
