"""`asyncbatch run` and `plan` for real: a file, a Python function, and what a shell sees of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import time
import numpy as np
import pyarrow.compute as pc

def double(batch):
    return pc.multiply(batch["x"], 2)

def slow(batch):
    time.sleep(0.05)
    return double(batch)

def fussy(batch):
    if 13 in batch["x"].to_pylist():
        raise ValueError("thirteen is refused")
    return double(batch)
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    rows = 5000
    pq.write_table(
        pa.table({"id": range(rows), "x": [float(n) for n in range(rows)]}), tmp_path / "in.parquet"
    )
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command in this process, in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)

    def run(*arguments: str) -> Done:
        code = main(arguments)
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    yield run
    sys.modules.pop("my_model", None)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "asyncbatch", *arguments]


def environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ASYNCBATCH_", "AWS_"))}
    return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def test_a_file_through_a_function_into_a_folder(run: Run, folder: Path) -> None:
    done = run(
        "run",
        "in.parquet",
        "out",
        "-e",
        "python:my_model:double",
        "--send",
        "x",
        "--json",
        "--report",
        "r.json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(
        report, json.loads((ROOT / "docs" / "report-schema.json").read_text(encoding="utf-8"))
    )
    assert (report["metrics"]["rows_in"], report["sink"], report["status"]) == (5000, "out", "done")
    assert json.loads((folder / "r.json").read_text())["job_id"] == report["job_id"]
    assert pq.read_table(folder / "out")["prediction"].to_pylist() == [2.0 * n for n in range(5000)]
    assert "5,000 rows in" in done.stderr
    assert "\x1b" not in done.stderr


def test_the_same_command_again_has_nothing_to_do(run: Run) -> None:
    arguments = ("run", "in.parquet", "out", "-e", "python:my_model:double", "--send", "x")
    assert run(*arguments).returncode == 0
    again = run(*arguments)
    assert again.returncode == 0
    assert "nothing left to do: 5,000 rows were done before -> out" in again.stderr


def test_data_on_stdout_and_everything_else_on_stderr(run: Run) -> None:
    done = run("run", "in.parquet", "-", "-e", "python:my_model:double", "--send", "x", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["prediction"] for line in done.stdout.splitlines()] == [0.0, 2.0, 4.0]
    assert "done: 3 rows" in done.stderr


def test_a_closed_pipe_ends_quietly(folder: Path) -> None:
    first = subprocess.Popen(
        command(
            "run", "in.parquet", "-", "-e", "python:my_model:slow", "--send", "x", "--chunk-rows", "50", "-q"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(folder),
    )
    try:
        assert first.stdout is not None
        assert first.stderr is not None
        first.stdout.readline()
        first.stdout.close()
        assert first.stderr.read() == b""
        first.wait(timeout=30)
    finally:
        first.kill()
        first.wait()
        first.stderr.close()


def test_quiet_says_nothing(run: Run) -> None:
    done = run("run", "in.parquet", "out.csv", "-e", "python:my_model:double", "--send", "x", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_everything_from_a_job_file(run: Run, folder: Path) -> None:
    planned = run(
        "plan", "in.parquet", "o.parquet", "-e", "python:my_model:double", "--send", "x", "--print-config"
    )
    (folder / "job.toml").write_text(planned.stdout)
    done = run("run", "-f", "job.toml", "--limit", "10")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(folder / "o.parquet").num_rows == 10


def test_rejects_exit_with_three_unless_they_are_allowed(run: Run, folder: Path) -> None:
    arguments = [
        "run",
        "in.parquet",
        "-e",
        "python:my_model:fussy",
        "--send",
        "x",
        "--limit",
        "400",
        "--log-format",
        "json",
    ]
    done = run(*arguments, "out")
    assert done.returncode == 3, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"run_planned", "rows_rejected", "run_finished"} <= {each["event"] for each in events}
    assert events[-1]["metrics"]["rows_rejected"] == 1
    table = pq.read_table(folder / "out")
    assert [row["id"] for row in table.to_pylist() if row["error"]] == [13]
    assert run(*arguments, "out2", "--max-errors", "1").returncode == 0


def test_plan_tells_and_writes_nothing(run: Run, folder: Path) -> None:
    before = sorted(each.name for each in folder.iterdir() if each.name != "__pycache__")
    arguments = ("plan", "in.parquet", "out", "-e", "python:my_model:double", "--send", "x")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "5,000 rows" in done.stdout
    found = json.loads(run(*arguments, "--json").stdout)
    assert (found["rows"], found["columns_sent"]) == (5000, ["x"])
    assert sorted(each.name for each in folder.iterdir() if each.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.parquet", "out", "-e", "python:my_model:double"], "nope.parquet"),
        (["in.parquet", "out", "-e", "python:my_model:duble"], "duble"),
        (["in.parquet", "out", "-e", "python:my_model:double", "--send", "y"], "y"),
        (["in.parquet", "my_model.py/out", "-e", "python:my_model:double", "--send", "x"], "my_model.py"),
    ],
)
def test_bad_input_is_one_sentence_with_a_hint(
    run: Run, folder: Path, arguments: list[str], message: str
) -> None:
    done = run("run", *arguments, "--no-progress")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "this is a bug" not in done.stderr
    sentence = next(line for line in done.stderr.splitlines() if line.startswith("asyncbatch: "))
    assert message in sentence
    assert "\nhint: " in done.stderr
    assert not (folder / "out").exists()


def test_a_signal_stops_it_and_the_same_command_goes_on(folder: Path, run: Run) -> None:
    arguments = ["run", "in.parquet", "out", "-e", "python:my_model:slow", "--send", "x"]
    arguments += ["--chunk-rows", "128", "--concurrency", "1", "--block-rows", "256"]
    process = subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, cwd=folder, env=environment(folder)
    )
    try:
        deadline = time.monotonic() + 30
        while not list(folder.glob("out/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75, said
    assert "stopping: " in said
    assert "\nhint: " in said
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stderr
    assert pq.read_table(folder / "out")["id"].to_pylist() == list(range(5000))
