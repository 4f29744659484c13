"""`asyncbatch run` against moto's SageMaker Runtime: the protocol as AWS's own tools speak it.

moto has no model: it answers a body it has seen before as it did then, and a new one with the next answer
queued. So every request that can be cut from a few rows is sent once by boto3, with its answer queued.
"""

import csv
import http.client
import io
import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

ROWS = [(n, n * 0.5, f"text, {n}") for n in range(9)]
AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ids, halves, texts = zip(*ROWS, strict=True)
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ids, "half": halves, "text": texts}), path)
    return path


def teach(url: str, **parameters: Any) -> None:
    """Answer 100 + id to each row, whichever range of rows a request holds."""
    ranges = list(itertools.combinations(range(len(ROWS) + 1), 2))
    answers = [
        {
            "Body": "".join(f"{100 + ROWS[n][0]}\n" for n in range(start, stop)),
            "ContentType": "text/csv",
            "InvokedProductionVariant": "blue",
        }
        for start, stop in ranges
    ]
    where = urlsplit(url)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port)
    queued = json.dumps({"region": AWS["AWS_REGION"], "results": answers})
    connection.request("POST", "/moto-api/static/sagemaker/endpoint-results", queued)
    assert connection.getresponse().status == 201
    connection.close()
    client = boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name=AWS["AWS_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    for start, stop in ranges:
        body = io.StringIO()
        csv.writer(body, lineterminator="\n").writerows(row[1:] for row in ROWS[start:stop])
        client.invoke_endpoint(
            EndpointName="canned",
            ContentType="text/csv",
            Body=body.getvalue().removesuffix("\n"),
            **parameters,
        )
    client.close()


def test_the_command_speaks_the_protocol(
    moto_url: str, source: Path, tmp_path: Path, run_command: Command
) -> None:
    teach(moto_url)
    done = run_command(
        "run", str(source), "out.parquet", "-e", "canned", "--endpoint-url", moto_url, "--no-send", "id",
        "--block-rows", "4", "--chunk-rows", "3", "--meta", "variant", "--json", "-q",
        env=AWS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["status"], report["metrics"]["rows_out"], report["metrics"]["retries"]) == ("done", 9, 0)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["prediction"].to_pylist() == [100 + row[0] for row in ROWS]
    assert table["text"].to_pylist() == [row[2] for row in ROWS]
    assert table["variant"].to_pylist() == ["blue"] * 9


def test_options_travel_under_their_aws_names(
    moto_url: str, source: Path, tmp_path: Path, run_command: Command
) -> None:
    """moto tells requests apart by Accept and its X-Amzn-SageMaker headers, in their order: so one option."""
    teach(moto_url, TargetVariant="blue", Accept="text/csv")
    arguments = ["run", str(source), "out.csv", "-e", "canned", "--endpoint-url", moto_url, "--no-send", "id"]
    options = ["--target-variant", "blue", "--accept", "text/csv", "-q"]
    done = run_command(*arguments, *options, env=AWS)
    assert (done.returncode, done.stderr) == (0, "")
    lines = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [float(line["prediction"]) for line in lines] == [100 + row[0] for row in ROWS]

    options[1] = "green"
    unlike = run_command(*arguments[:2], "other.csv", *arguments[3:], *options, env=AWS)
    assert unlike.returncode == 1
    assert "Traceback" not in unlike.stderr
    assert not (tmp_path / "other.csv").exists()
