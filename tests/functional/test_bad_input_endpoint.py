"""What a wrong or broken endpoint gets: the status and the endpoint's words in one sentence, and the next step."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.server.background import Background

ROWS = 500
CSV = {"Content-Type": "text/csv"}
Command = Callable[..., Any]
Answering = Callable[[Callable[..., tuple[int, Mapping[str, str], bytes]]], str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"x": [float(n) for n in range(ROWS)]}), tmp_path / "in.parquet")
    return tmp_path


def good(body: bytes) -> tuple[int, Mapping[str, str], bytes]:
    return 200, CSV, b"".join(b"%d\n" % n for n in range(len(body.splitlines())))


# -- no answer at all ----------------------------------------------------------------------------------------------


def test_connection_refused(refused: Command) -> None:
    said = refused("run", "in.parquet", "out", "-e", "http://127.0.0.1:9/invocations", code=1)
    assert said.message == (
        "cannot reach http://127.0.0.1:9/invocations: no connection to 127.0.0.1:9: connection refused"
    )


def test_an_unknown_host(refused: Command) -> None:
    said = refused("run", "in.parquet", "out", "-e", "https://nowhere.invalid/x", code=1)
    assert said.message == "cannot reach https://nowhere.invalid/x: the name nowhere.invalid is not known"


def test_an_aws_address_that_is_not_there(refused: Command) -> None:
    where = ("--endpoint-url", "http://127.0.0.1:9")
    said = refused("run", "in.parquet", "out", "-e", "churn", *where, code=1)
    assert said.message == "cannot reach churn: no connection to 127.0.0.1:9: connection refused"


def test_tls_without_trust(refused: Command, folder: Path) -> None:
    (folder / "ca.pem").write_text("no certificate")
    for name, why in (("none.pem", "no such file or directory"), ("ca.pem", "it holds no certificate")):
        said = refused("run", "in.parquet", "out", "-e", "https://127.0.0.1:9/", "--ca-bundle", name)
        assert said.message == f"--ca-bundle {name} cannot be used: {why}"


def test_tls_with_a_server_that_speaks_plain_http(refused: Command, answering: Answering) -> None:
    url = answering(lambda path, body, number: good(body)).replace("http://", "https://")
    said = refused("run", "in.parquet", "out", "-e", f"{url}/invocations", code=1)
    assert "https" in said.message
    assert "http://" in said.hint or "TLS" in said.message or "certificate" in said.hint


# -- names, regions, credentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://", "-e 'http://' is no URL with a host"),
        ("ftp://x/y", "-e 'ftp://x/y' is no SageMaker endpoint name"),
        ("my endpoint!", "-e 'my endpoint!' is no SageMaker endpoint name"),
        ("python:no_such_module:f", "there is no Python module no_such_module"),
        ("python:math:no_such", "module math has no no_such"),
        ("python:math", "-e 'python:math' names no function"),
    ],
)
def test_a_name_that_cannot_be(refused: Command, endpoint: str, message: str) -> None:
    assert refused("run", "in.parquet", "out", "-e", endpoint).message == message


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ([], {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}, "no AWS region is set"),
        (["--region", "us_east 1"], {}, "--region 'us_east 1' is no AWS region"),
        (["--profile", "prodd"], {}, "AWS profile 'prodd' does not exist"),
        (["--endpoint-url", "localhost:8080"], {}, "--endpoint-url 'localhost:8080' is no URL"),
        ([], {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials"),
    ],
)
def test_aws_settings(
    refused: Command, arguments: list[str], env: dict[str, str | None], message: str
) -> None:
    said = refused("run", "in.parquet", "out", "-e", "churn", *arguments, env=env)
    assert said.message.startswith(message)


def test_an_unknown_endpoint_name(refused: Command, echo: Background) -> None:
    where = ("--endpoint-url", echo.url)
    said = refused("run", "in.parquet", "out", "-e", "no-such-endpoint", *where, code=1)
    assert "no-such-endpoint" in said.message
    assert "ValidationError" in said.message
    assert "not found" in said.message


# -- statuses ------------------------------------------------------------------------------------------------------

PAGE = b"<html>\n<head><title>Not Found</title></head>\n<body><h1>Not\nFound</h1></body></html>"


@pytest.mark.parametrize(
    ("status", "headers", "reply", "message", "hint"),
    [
        (404, {"Content-Type": "text/html"}, PAGE, "refuses: HTTP 404: ", "check the path of the URL"),
        (405, {}, b"POST\nis not allowed", "refuses: HTTP 405: POST is not allowed", "check the path of the URL"),
        (401, {}, b"who are you?", "refuses: HTTP 401: who are you?", "the server wants a login"),
        (403, {}, b"go away", "refuses: HTTP 403: go away", "the server forbids this"),
        (301, {"Location": "https://u:hidden@h/x?token=hidden"}, b"", "refuses: HTTP 301: redirects to https://h/x",
         "redirects are not followed"),
        (403, {"x-amzn-ErrorType": "ExpiredTokenException"}, b"{}", "ExpiredTokenException", ""),
    ],
)  # fmt: skip
def test_a_status_that_ends_it(
    refused: Command, answering: Answering, status: int, headers: dict[str, str], reply: bytes, message: str, hint: str
) -> None:  # fmt: skip
    url = answering(lambda path, body, number: (status, headers, reply)) + "/invocations"
    said = refused("run", "in.parquet", "out", "-e", url, code=1)
    assert said.message.startswith(url)
    assert message in said.message
    assert "\n" not in said.message
    assert hint in said.hint


@pytest.mark.parametrize(
    ("status", "reply", "message"),
    [
        (500, b"boom", "HTTP 500: boom"),
        (415, b"no such type", "HTTP 415: no such type"),
        (413, b"too big", "HTTP 413: too big"),
        (500, PAGE, "HTTP 500: <html> <head><title>Not Found"),
    ],
)
def test_an_endpoint_that_answers_nobody(
    refused: Command, answering: Answering, status: int, reply: bytes, message: str
) -> None:
    url = answering(lambda path, body, number: (status, {}, reply)) + "/invocations"
    said = refused("run", "in.parquet", "out", "-e", url, code=1)
    assert said.message.startswith(f"{url} answered none of the probes of 1, 2, 7, 300 rows (the largest: ")
    assert message in said.message


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_is_not_ready(refused: Command, answering: Answering, status: int) -> None:
    url = answering(lambda path, body, number: (status, {}, b"later")) + "/invocations"
    said = refused("run", "in.parquet", "out", "-e", url, "--max-outage", "200ms", code=75)
    assert f"HTTP {status}: later" in said.message
    assert "the same command tries again" in said.hint


# -- replies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "content_type", "message", "hint"),
    [
        (lambda rows: b"", "text/csv", "every reply is empty", "check the address"),
        (
            lambda rows: b"\xff\xfe\x00garbage",
            "application/octet-stream",
            "no reading gives one prediction a row",
            "",
        ),
        (lambda rows: b"1\n" * (rows // 2), "text/csv", "no reading gives one prediction a row", "--reply"),
        (
            lambda rows: b"1\n" * (rows - 1),
            "text/csv",
            "replies hold one prediction less",
            "--body csv-header",
        ),
        (lambda rows: b"1\n" * (rows + 1), "text/csv", "replies hold one prediction more", "--body csv"),
        (lambda rows: b"<html>Log in</html>", "text/html", "replies are web pages", "a login page"),
        (
            lambda rows: b'{"ok": true}',
            "application/json",
            "no reading gives one prediction a row",
            "--reply",
        ),
    ],
)
def test_replies_that_cannot_be_read(
    refused: Command, answering: Answering, reply: Callable[[int], bytes], content_type: str, message: str, hint: str
) -> None:  # fmt: skip
    url = answering(
        lambda path, body, number: (200, {"Content-Type": content_type}, reply(len(body.splitlines())))
    )
    said = refused("run", "in.parquet", "out", "-e", url, code=1)
    assert said.message.startswith(message)
    assert hint in said.hint


def test_a_reply_over_the_bound(refused: Command, answering: Answering) -> None:
    url = answering(lambda path, body, number: (200, CSV, b"1" * 20_000))
    said = refused("run", "in.parquet", "out", "-e", url, "--max-reply", "10KB", code=1)
    assert "the reply is larger than 10,000 bytes" in said.message
    assert "--max-reply" in said.hint


def test_not_a_number_is_a_prediction(command: Command, answering: Answering, folder: Path) -> None:
    url = answering(lambda path, body, number: (200, CSV, b"nan\n" * len(body.splitlines())))
    assert command("run", "in.parquet", "out", "-e", url).code == 0
    predictions = pq.read_table(folder / "out")["prediction"]
    assert predictions.null_count == 0
    assert all(value != value for value in predictions.to_pylist())


# -- an endpoint that turns bad while running ----------------------------------------------------------------------

FIXED = ("--concurrency", "1", "--chunk-rows", "20", "--block-rows", "100", "--no-progress")


def turning(answering: Answering, then: Callable[[bytes], tuple[int, Mapping[str, str], bytes]]) -> str:
    """Answers the probes (4) and ten chunks, then as `then` says."""
    return answering(lambda path, body, number: good(body) if number <= 14 else then(body)) + "/invocations"


@pytest.mark.parametrize(
    ("status", "reply", "message"),
    [
        (404, PAGE, "asyncbatch: the endpoint refuses: HTTP 404: "),
        (401, b"who?", "asyncbatch: the endpoint refuses: HTTP 401: who?"),
    ],
)
def test_a_refusal_for_good_ends_the_run_and_what_is_committed_stays(
    command: Command, answering: Answering, folder: Path, status: int, reply: bytes, message: str
) -> None:
    done = command(
        "run", "in.parquet", "out", "-e", turning(answering, lambda body: (status, {}, reply)), *FIXED
    )
    assert done.code == 1
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert pq.read_table(folder / "out").num_rows in (100, 200)


@pytest.mark.parametrize(
    "then",
    [
        lambda body: (500, {}, b"boom"),
        lambda body: (400, {}, b"boom"),
        lambda body: (200, CSV, b"1\n" * 50),
        lambda body: (200, CSV, b"1" * 20_000),
        lambda body: (413, {}, b"boom"),
    ],
    ids=["500", "400", "too many rows", "too large", "413"],
)
def test_a_dead_model_is_not_a_million_rejects(
    command: Command, answering: Answering, folder: Path, then: Callable[[bytes], Any]
) -> None:
    """Rows are not rejected on the word of an endpoint that answers nobody: it stops, and the same command goes on."""
    url = turning(answering, then)
    more = ("--max-outage", "300ms", "--max-retries", "1", "--max-reply", "10KB")
    done = command("run", "in.parquet", "out", "-e", url, *FIXED, *more)
    assert done.code == 75, done.stderr
    assert "asyncbatch: the endpoint has answered nothing for " in done.stderr
    parts = pq.read_table(folder / "out")
    assert parts.num_rows <= 200
    assert parts["error"].null_count == parts.num_rows


def test_a_reply_of_another_type_stops_the_run(command: Command, answering: Answering, folder: Path) -> None:
    url = turning(answering, lambda body: (200, CSV, b"high\n" * len(body.splitlines())))
    done = command("run", "in.parquet", "out", "-e", url, *FIXED)
    assert done.code == 1
    assert "asyncbatch: expected a number for 'prediction', found text in row 1 of 20" in done.stderr
    assert "--prediction-type" in done.stderr.splitlines()[-1]


def test_rows_that_are_all_refused_before_the_first_success_are_no_rejects(
    refused: Command, answering: Answering
) -> None:
    url = answering(lambda path, body, number: (400, {}, b"a feature is missing")) + "/invocations"
    said = refused("run", "in.parquet", "out", "-e", url, code=1)
    assert "HTTP 400: a feature is missing" in said.message
