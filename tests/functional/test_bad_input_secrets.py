"""Secrets and row contents are in no message, log, report or state file, whether a run succeeds or fails."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.server.background import Background

HEADER = "HEADERSECRET"
PASSWORD = "PASSWORDSECRET"
TOKEN = "TOKENSECRET"
KEY = "AKIAKEYSECRET"
SECRET = "ACCESSSECRET"
ROW = "rowmarker"
NUMBER = "7654321.125"
MARKERS = (HEADER, PASSWORD, TOKEN, KEY, SECRET, ROW, NUMBER)
ROWS = 200
POISON = 77

Command = Callable[..., Any]
Answering = Callable[[Callable[..., tuple[int, Mapping[str, str], bytes]]], str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    table = pa.table(
        {"name": [f"{ROW}{n:03}" for n in range(ROWS)], "x": [7654321.125 + n for n in range(ROWS)]}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    return tmp_path


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What a run leaves beside its data: plan, report, manifest, lease and the rest; not the columns kept or the error column."""
    for each in folder.rglob("*"):
        if each.parent == folder and each.name != "report.json":
            continue  # the input
        if each.is_file() and each.suffix != ".parquet":
            yield str(each), each.read_bytes()
        elif each.is_file() and each.name.startswith("part-"):
            metadata = pq.read_schema(each).metadata or {}
            yield str(each), b"".join(value for key, value in metadata.items() if key != b"ARROW:schema")


def check(done: Any, folder: Path) -> None:
    for marker in MARKERS:
        assert marker not in done.stdout
        assert marker not in done.stderr
        for name, data in written(folder):
            assert marker.encode() not in data, (marker, name)


def echoing(status: int) -> Callable[..., tuple[int, Mapping[str, str], bytes]]:
    """Answers, but quotes the whole request where row 77 is in it."""

    def answer(path: str, body: bytes, number: int) -> tuple[int, Mapping[str, str], bytes]:
        if body.startswith(b"\xff"):  # Arrow; the bytes around a slice are of other rows
            names = pa.ipc.open_stream(body).read_all()["name"].to_pylist()
        else:
            names = re.findall(ROW + r"\d{3}", body.decode())
        if f"{ROW}{POISON:03}" in names:
            return status, {"Content-Type": "application/json"}, b'{"error": "cannot score ' + body + b'"}'
        return 200, {"Content-Type": "text/csv"}, b"1\n" * len(names)

    return answer


OUTPUTS = [
    pytest.param([], id="text"),
    pytest.param(["-v"], id="verbose"),
    pytest.param(["--log-format", "json", "-v"], id="json"),
    pytest.param(["--json", "--explain", "--report", "report.json"], id="report"),
]


@pytest.mark.parametrize(
    ("status", "body", "output"),
    [(400, body, ["-v"]) for body in ("json", "arrow")]
    + [(500, "csv", ["-v"])]
    + [(400, "csv", each.values[0]) for each in OUTPUTS],
)
def test_a_run_with_a_row_that_the_endpoint_quotes(
    command: Command, answering: Answering, folder: Path, output: list[str], body: str, status: int
) -> None:
    url = answering(echoing(status)).replace("http://", f"http://user:{PASSWORD}@")
    done = command(
        "run", "in.parquet", "out", "-e", f"{url}/invocations?token={TOKEN}", "-H", f"X-Key: {HEADER}",
        "--body", body, "--max-retries", "1", *output,
        env={"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
    )  # fmt: skip
    assert done.code == 3, done.stderr
    check(done, folder)
    errors = [each for each in pq.read_table(folder / "out")["error"].to_pylist() if each]
    assert len(errors) == 1
    if body != "arrow":
        assert f"{ROW}{POISON:03}" in errors[0]  # beside the row itself, the endpoint's words are whole


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("more", [["--on-error", "fail"], ["--max-errors", "0"]])
def test_a_run_that_a_quoted_row_ends(
    command: Command, answering: Answering, folder: Path, output: list[str], more: list[str]
) -> None:
    done = command("run", "in.parquet", "out", "-e", answering(echoing(400)), *more, *output)
    assert done.code == 1
    assert "cannot score" in done.stderr
    check(done, folder)


@pytest.mark.parametrize(
    ("status", "output"),
    [(status, ["-v"]) for status in (404, 403, 500, 503)] + [(400, each.values[0]) for each in OUTPUTS],
)
def test_an_endpoint_that_quotes_every_row(
    command: Command, answering: Answering, folder: Path, output: list[str], status: int
) -> None:
    url = answering(lambda path, body, number: (status, {}, b"cannot score " + body))
    done = command(
        "run",
        "in.parquet",
        "out",
        "-e",
        url,
        "-H",
        f"Authorization: Bearer {HEADER}",
        *output,
        "--max-outage",
        "100ms",
    )
    assert done.code == (75 if status == 503 else 1)
    assert "cannot score" in done.stderr
    check(done, folder)


def test_values_alone_and_in_quotes(command: Command, answering: Answering, folder: Path) -> None:
    def answer(path: str, body: bytes, number: int) -> tuple[int, Mapping[str, str], bytes]:
        name, value = body.splitlines()[0].split(b",")
        return 400, {}, b"name '" + name + b"' is unknown, x must not be " + value

    done = command("run", "in.parquet", "out", "-e", answering(answer))
    assert "name '…' is unknown, x must not be …" in done.stderr
    check(done, folder)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_function_that_quotes_its_rows(command: Command, folder: Path, output: list[str]) -> None:
    (folder / "quoting_model.py").write_text(
        "def score(batch):\n"
        "    names = batch['name'].to_pylist()\n"
        f"    if '{ROW}{POISON:03}' in names:\n"
        "        raise ValueError(f'cannot score {names} {batch.to_pylist()}')\n"
        "    return [1.0] * len(names)\n"
    )
    done = command(
        "run",
        "in.parquet",
        "out",
        "-e",
        "python:quoting_model:score",
        "--max-retries",
        "1",
        "--chunk-rows",
        "50",
        *output,
    )
    (folder / "quoting_model.py").unlink()
    assert done.code == 3, done.stderr
    check(done, folder)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_run_with_aws_keys(command: Command, echo: Background, folder: Path, output: list[str]) -> None:
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    where = ("--endpoint-url", echo.url.replace("http://", f"http://user:{PASSWORD}@"))
    send = ("--send", "x")
    done = command("run", "in.parquet", "out", "-e", "echo", *where, *send, *output, env=keys)
    assert done.code == 2, done.stderr
    check(done, folder)
    done = command(
        "run", "in.parquet", "out", "-e", "echo", "--endpoint-url", echo.url, *send, *output, env=keys
    )
    assert done.code == 0, done.stderr
    check(done, folder)
    done = command(
        "run", "in.parquet", "out2", "-e", "missing", "--endpoint-url", echo.url, *send, *output, env=keys
    )
    assert done.code == 1
    check(done, folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-e", f"http://user:{PASSWORD}@127.0.0.1:9/invocations?api_key={TOKEN}"],
        ["-e", f"http://user:{PASSWORD}@nowhere.invalid/invocations"],
        ["-e", f"http://user:{PASSWORD}@"],
        ["-e", f"http://user:{PASSWORD}@host:port/x"],
        ["-e", f"ftp://user:{PASSWORD}@host/x"],
        ["-e", "churn", "--endpoint-url", f"ftp://user:{PASSWORD}@host/x"],
        ["-e", "http://127.0.0.1:9/", "-H", f"no colon {HEADER}"],
        ["-e", "http://127.0.0.1:9/", "-H", f"X: {HEADER}\n"],
        ["-e", "http://127.0.0.1:9/", "-H", f"X: {HEADER}", "--template", "{"],
        ["-e", f"http://127.0.0.1:9/?token={TOKEN}", "-H", f"X: {HEADER}", "--unknown"],
    ],
)
def test_a_command_that_cannot_start(command: Command, folder: Path, arguments: list[str]) -> None:
    done = command("run", "in.parquet", "out", *arguments)
    assert done.code in (1, 2)
    check(done, folder)


def test_print_config_leaves_secrets_out(command: Command) -> None:
    url = f"http://user:{PASSWORD}@127.0.0.1:9/x?token={TOKEN}"
    done = command("plan", "in.parquet", "out", "-e", url, "-H", f"X: {HEADER}", "--print-config")
    assert done.code == 0
    assert "header was given too" in done.stdout
    for marker in (PASSWORD, TOKEN, HEADER):
        assert marker not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["bad.csv", "bad.jsonl"])
def test_rows_that_cannot_be_read_are_not_quoted(command: Command, folder: Path, name: str) -> None:
    (folder / "bad.csv").write_text(f'id,x\n1,2\n{ROW},{ROW},{ROW}\n3,{NUMBER}{ROW}\n"{ROW}\n')
    (folder / "bad.jsonl").write_text(
        f'{{"id": 1, "x": 2}}\n{ROW}\n{{"id": "{ROW}", "x": {{"a": "{ROW}"\n[1, "{NUMBER}"]\n'
    )
    (folder / "counting_model.py").write_text("def score(batch):\n    return [1.0] * batch.num_rows\n")
    done = command("run", name, "out", "-e", "python:counting_model:score", "-v", "--report", "report.json")
    (folder / name).unlink()
    assert done.code in (1, 2, 3), done.stderr
    for marker in (ROW, NUMBER):
        assert marker not in done.stdout + done.stderr
        for path, data in written(folder):
            assert marker.encode() not in data, path
