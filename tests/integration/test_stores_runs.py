"""Whole runs from and to buckets: readers, credentials, options, and what goes wrong."""

import contextlib
import functools
import gzip
import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import duckdb
import emulators
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.config import RunConfig
from asyncbatch.errors import (
    AsyncBatchError,
    ConfigError,
    InputError,
    OutputError,
    SourceError,
    StoppedError,
    StorageError,
)
from asyncbatch.pipeline.api import plan_job, retry_job
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.access import Access
from asyncbatch.store.client import ObjectClient
from asyncbatch.store.connect import connect
from asyncbatch.store.uri import parse_uri

ROWS = 900
TABLE = pa.table({"id": np.arange(ROWS), "x": np.round(np.random.default_rng(1).normal(size=ROWS), 6)})
Refuse = Callable[[str, str, Mapping[str, str]], tuple[int, str] | None]


@dataclass(slots=True)
class Proxy:
    """Before moto: sees every request, and answers some itself."""

    port: int
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    refuse: Refuse = lambda method, path, headers: None

    def requests(self, *methods: str) -> list[tuple[str, str, dict[str, str]]]:
        return [each for each in self.seen if each[0] in methods]


@contextlib.contextmanager
def proxied(upstream: int) -> Iterator[Proxy]:
    proxy = Proxy(port=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *values: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.seen.append((self.command, self.path, headers))
            refused = proxy.refuse(self.command, self.path, headers)
            if refused is not None:
                status, code = refused
                content = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                self.reply(status, {"Content-Type": "application/xml"}, content)
                return
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                reply = connection.getresponse()
                self.reply(reply.status, dict(reply.getheaders()), reply.read())

        def reply(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def s3() -> Iterator[emulators.Emulator]:
    with emulators.s3() as emulator:
        yield emulator


@pytest.fixture
def proxy(s3: emulators.Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """S3 for the test, behind a proxy."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with proxied(s3.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture
def base(s3: emulators.Emulator, proxy: Proxy) -> str:
    return s3.make(f"box-{os.urandom(4).hex()}")


@functools.cache
def client_of(base: str) -> ObjectClient:
    uri = parse_uri(base + "/")
    assert uri is not None
    return connect(uri, Access())


def put(base: str, key: str, data: bytes) -> None:
    client_of(base).put(key, data, condition=None, attempt="")


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def csv_text(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


def run(echo: Background, source: object, sink: str, **options: Any) -> Any:
    given = {"endpoint": echo.invocations_url, "send": "x", "block_rows": 100, "chunk_rows": "50"}
    return asyncbatch.run(source, sink, **{**given, **options})


def read_folder(base: str, folder: str) -> pa.Table:
    """By pyarrow's own S3 client."""
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://")
    files = pyarrow.fs.S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=endpoint, scheme="http", region="us-east-1"
    )
    return ds.dataset(f"{base.removeprefix('s3://')}/{folder}", filesystem=files).to_table()


# -- sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "csv.gz", "jsonl", "arrow", "arrows", "glob", "prefix", "partitions"]
)
def test_what_lies_in_a_bucket_is_read_as_on_a_disk(
    kind: str, base: str, echo: Background, tmp_path: Path
) -> None:
    halves = [TABLE.slice(0, 400), TABLE.slice(400)]
    keep = "id"
    source = f"{base}/in/data.{kind}"
    if kind == "parquet":
        put(base, "in/data.parquet", parquet(TABLE, row_group_size=130))
    elif kind == "csv":
        put(base, "in/data.csv", csv_text(TABLE))
    elif kind == "csv.gz":
        put(base, "in/data.csv.gz", gzip.compress(csv_text(TABLE)))
    elif kind == "jsonl":
        put(base, "in/data.jsonl", "".join(json.dumps(row) + "\n" for row in TABLE.to_pylist()).encode())
    elif kind in ("arrow", "arrows"):
        sink = pa.BufferOutputStream()
        make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with make(sink, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=200)
        put(base, f"in/data.{kind}", sink.getvalue().to_pybytes())
    elif kind == "partitions":
        for number, half in enumerate(halves):
            put(base, f"in/part={number}/a.parquet", parquet(half))
        source, keep = f"{base}/in/", "id,part"
    else:
        for number, half in zip([2, 10], halves, strict=True):
            put(base, f"in/2024/part-{number}.parquet", parquet(half))
        put(base, "in/2024/_SUCCESS", b"")
        put(base, "in/2025/other.csv", b"a,b\n1,2\n")
        source = f"{base}/in/202[34]/part-*.parquet" if kind == "glob" else f"{base}/in/2024"
    report = run(echo, source, str(tmp_path / "out"), keep=keep)
    assert report.exit_code == 0
    found = pq.read_table(tmp_path / "out")
    assert [int(each) for each in found["id"].to_pylist()] == TABLE["id"].to_pylist()
    assert found["prediction"].to_pylist() == pytest.approx(TABLE["x"].to_pylist())
    if kind == "partitions":
        assert found["part"].to_pylist() == [0] * 400 + [1] * 500


def test_columns_that_nobody_wants_are_not_fetched(base: str, proxy: Proxy, echo: Background) -> None:
    wide = TABLE.append_column("fat", pa.array([os.urandom(3000) for _ in range(ROWS)]))
    put(base, "wide.parquet", parquet(wide, row_group_size=300, compression="none"))
    proxy.seen.clear()
    report = run(echo, f"{base}/wide.parquet", f"{base}/narrow/", keep="id")
    assert report.exit_code == 0
    asked = 0
    for _, path, headers in proxy.requests("GET"):
        if path.endswith("wide.parquet"):
            start, _, stop = headers["range"].removeprefix("bytes=").partition("-")
            asked += int(stop) - int(start or 0) + 1 if start else int(stop)
    assert 0 < asked < 600_000 < wide.nbytes


def test_an_input_that_changes_while_it_is_read_ends_the_run(
    base: str, proxy: Proxy, echo: Background
) -> None:
    put(base, "in.csv", csv_text(TABLE))
    changed = itertools.count()

    def change(method: str, path: str, headers: Mapping[str, str]) -> None:
        if method == "PUT" and path.endswith("job-000001.json") and next(changed) == 0:
            put(base, "in.csv", csv_text(TABLE.slice(1)))

    proxy.refuse = change
    with pytest.raises(AsyncBatchError, match="was changed since the run began to read it"):
        run(echo, f"{base}/in.csv", f"{base}/out/")
    with pytest.raises(OutputError, match="differs from this command"):
        run(echo, f"{base}/in.csv", f"{base}/out/")


@pytest.mark.parametrize("ranges", [True, False])
def test_https_is_read_by_ranges(ranges: bool, echo: Background, tmp_path: Path) -> None:
    data = csv_text(TABLE)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *values: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/in.csv?X-Amz-Signature=secret")
                self.end_headers()
                return
            start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
            low = int(start) if start else len(data) - int(stop)
            high = min(int(stop) + 1, len(data)) if start else len(data)
            body = data[low:high] if ranges else data
            self.send_response(206 if ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            if ranges:
                self.send_header("Content-Range", f"bytes {low}-{high - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            if not ranges:
                with pytest.raises(InputError, match="sends whole files only"):
                    run(echo, f"{url}/in.csv", str(tmp_path / "out"))
                return
            report = run(echo, f"{url}/moved", str(tmp_path / "out"))
            assert report.exit_code == 0
            assert ds.dataset(tmp_path / "out").to_table().num_rows == ROWS
            run(echo, f"{url}/in.csv?X-Amz-Signature=secret", str(tmp_path / "two"))
            for path in (tmp_path / "two.asyncbatch").rglob("*.json"):
                assert "secret" not in path.read_text()
        finally:
            server.shutdown()


# -- sinks ---------------------------------------------------------------------------------------------------


def readers(base: str, name: str) -> dict[str, list[int]]:
    """The ids that each reader finds."""
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    options = {
        "aws_endpoint_url": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    files = pyarrow.fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
    )
    place = f"{base.removeprefix('s3://')}/{name}"
    single = name.endswith(".parquet")
    dataset = ds.dataset(place, filesystem=files)  # noqa: F841  # DuckDB finds it by name
    return {
        "polars": pl.read_parquet(
            f"{base}/{name}" + ("" if single else "*.parquet"), storage_options=options
        )["id"].to_list(),
        "pandas": pd.read_parquet(place, filesystem=files)["id"].tolist(),
        "duckdb": [row[0] for row in duckdb.sql("select id from dataset order by id").fetchall()],
    }


ANSWERS = """
from pathlib import Path

def answer(batch):
    x = batch.column("x").to_pylist()
    if Path({flag!r}).exists() and any(value > 2.5 for value in x):
        raise ValueError("too large")
    return [2 * value for value in x]
"""


@pytest.mark.parametrize(
    "name",
    [
        "out/",
        pytest.param("joined/", marks=pytest.mark.slow),
        pytest.param("out.parquet", marks=pytest.mark.slow),
    ],
)
def test_readers_see_a_run_and_then_its_retry(
    name: str, base: str, echo: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(base, "in.parquet", parquet(TABLE))
    flag = tmp_path / "flag"
    flag.touch()
    module = f"answers_{os.urandom(4).hex()}"
    (tmp_path / f"{module}.py").write_text(ANSWERS.format(flag=str(flag)))
    monkeypatch.syspath_prepend(tmp_path)
    options: dict[str, Any] = {"endpoint": f"python:{module}:answer", "max_retries": 0, "keep": "all"}
    if name == "joined/":
        options["file_size"] = "8KB"
    report = run(echo, f"{base}/in.parquet", f"{base}/{name}", **options)
    assert report.exit_code == 3
    expected = TABLE["id"].to_pylist()
    assert readers(base, name) == dict.fromkeys(("polars", "pandas", "duckdb"), expected)
    assert verify_output(f"{base}/{name}").sound
    flag.unlink()
    assert retry_job(f"{base}/{name}", {"endpoint": f"python:{module}:answer"}).exit_code == 0
    assert readers(base, name) == dict.fromkeys(("polars", "pandas", "duckdb"), expected)
    assert verify_output(f"{base}/{name}").sound
    found = read_folder(base, name.rstrip("/"))
    assert found["prediction"].null_count == 0
    assert output_status(f"{base}/{name}").finished


def test_a_finished_run_again_is_nothing_to_do_in_a_moment(base: str, echo: Background) -> None:
    put(base, "in.parquet", parquet(TABLE))
    run(echo, f"{base}/in.parquet", f"{base}/out/")
    sent = echo.stats()["requests"]
    began = time.monotonic()
    assert run(echo, f"{base}/in.parquet", f"{base}/out/").exit_code == 0
    assert echo.stats()["requests"] == sent
    assert time.monotonic() - began < 20  # nothing is waited for: a lease is kept for a minute


def test_the_plan_is_created_twice(base: str, proxy: Proxy, echo: Background) -> None:
    put(base, "in.parquet", parquet(TABLE))
    run(echo, f"{base}/in.parquet", f"{base}/out/")
    plans = [headers for _, path, headers in proxy.requests("PUT") if path.endswith("job-000001.json")]
    assert [each.get("if-none-match") for each in plans] == ["*", "*"]
    parts = [headers for _, path, headers in proxy.requests("PUT") if "/out/part-" in path]
    assert len(parts) == 9
    assert all(each.get("if-none-match") == "*" for each in parts)


def test_options_reach_the_store(base: str, proxy: Proxy, echo: Background) -> None:
    put(base, "in.parquet", parquet(TABLE))
    proxy.seen.clear()
    run(
        echo,
        f"{base}/in.parquet",
        f"{base}/out/",
        requester_pays=True,
        source_bucket_owner="123456789012",
        sink_bucket_owner="210987654321",
        kms_key="arn:aws:kms:us-east-1:210987654321:key/k",
    )
    for method, path, headers in proxy.seen:
        assert headers["x-amz-request-payer"] == "requester"
        owner = "123456789012" if "in.parquet" in path else "210987654321"
        assert headers["x-amz-expected-bucket-owner"] == owner, (method, path)
        if method == "PUT":
            assert headers["x-amz-server-side-encryption-aws-kms-key-id"].endswith("key/k")


def test_a_public_bucket_is_read_without_credentials(
    base: str, proxy: Proxy, echo: Background, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(base, "in.parquet", parquet(TABLE))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no AWS credentials were found for S3"):
        run(echo, f"{base}/in.parquet", str(tmp_path / "out"))
    proxy.seen.clear()
    owner = boto3.Session("test", "test", region_name="us-east-1").client("s3")
    owner.put_object_acl(Bucket=base.removeprefix("s3://"), Key="in.parquet", ACL="public-read")
    proxy.seen.clear()
    run(echo, f"{base}/in.parquet", str(tmp_path / "out"), anonymous=True)
    assert proxy.seen
    assert not [headers for _, _, headers in proxy.seen if "authorization" in headers]


# -- credentials ---------------------------------------------------------------------------------------------

ISSUE = """
import datetime, json, sys, time
now = time.time()
until = datetime.datetime.fromtimestamp(now + {seconds}, datetime.timezone.utc)
print(json.dumps({{"Version": 1, "AccessKeyId": f"{name}-{{now:.3f}}", "SecretAccessKey": "s",
                  "SessionToken": "t", "Expiration": until.isoformat()}}))
"""


def test_keys_that_expire_are_renewed_for_reading_and_writing_apart(
    base: str, proxy: Proxy, echo: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store takes a key for some seconds after it was issued, and the run is longer than that."""
    put(base, "in.csv", csv_text(TABLE))
    valid_s, taken_s = 1.5, 4.0  # what is between them is for machines that pause between signing and sending
    config = []
    for name in ("reader", "writer"):
        script = tmp_path / f"{name}.py"
        script.write_text(ISSUE.format(name=name, seconds=valid_s))
        config.append(
            f"[profile {name}]\ncredential_process = {sys.executable} {script}\nregion = us-east-1\n"
        )
    (tmp_path / "config").write_text("\n".join(config))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    keys: dict[str, set[str]] = {"reader": set(), "writer": set()}

    def check(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        key = headers["authorization"].partition("Credential=")[2].partition("/")[0]
        name, _, issued = key.partition("-")
        if name != ("reader" if "in.csv" in path else "writer"):
            return 403, "AccessDenied"
        keys[name].add(key)
        return (400, "ExpiredToken") if time.time() - float(issued) > taken_s else None

    proxy.refuse = check
    report = run(
        echo,
        f"{base}/in.csv",
        f"{base}/out/",
        source_profile="reader",
        sink_profile="writer",
        row_rate=150,
        chunk_rows="25",
    )
    assert report.exit_code == 0
    assert report.metrics.elapsed_s > 1.2 * taken_s
    assert len(keys["writer"]) >= 3
    proxy.refuse = lambda method, path, headers: None
    monkeypatch.setenv("AWS_CONFIG_FILE", "")
    assert sorted(int(each) for each in read_folder(base, "out")["id"].to_pylist()) == TABLE["id"].to_pylist()


def test_a_login_that_ends_stops_the_run_and_a_new_one_goes_on(
    base: str, proxy: Proxy, echo: Background
) -> None:
    put(base, "in.parquet", parquet(TABLE))
    parts = itertools.count()

    def expire(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if method == "PUT" and "/out/part-" in path and next(parts) >= 3:
            return 400, "ExpiredToken"
        return None

    proxy.refuse = expire
    with pytest.raises(StoppedError, match=r"the AWS login for s3://.* has expired") as caught:
        run(echo, f"{base}/in.parquet", f"{base}/out/")
    assert caught.value.exit_code == 75
    assert "aws sso login" in (caught.value.hint or "")
    proxy.refuse = lambda method, path, headers: None
    report = run(echo, f"{base}/in.parquet", f"{base}/out/")
    assert report.exit_code == 0
    assert read_folder(base, "out").num_rows == ROWS


@pytest.mark.parametrize(
    ("method", "part", "code", "error", "exit_code", "message"),
    [
        ("GET", "/in/7.parquet", "ExpiredToken", StoppedError, 75, "the AWS login for s3://.* has expired"),
        ("GET", "/in/7.parquet", "AccessDenied", SourceError, 1, "access denied while reading s3://.*/in/7"),
        ("PUT", "/out/part-00000004", "AccessDenied", StorageError, 1, "access denied while writing s3://"),
    ],
)
def test_rights_that_end_while_it_runs_stop_it_and_what_is_committed_stays(
    method: str,
    part: str,
    code: str,
    error: type[AsyncBatchError],
    exit_code: int,
    message: str,
    base: str,
    proxy: Proxy,
    echo: Background,
) -> None:
    for number in range(9):
        put(base, f"in/{number}.parquet", parquet(TABLE.slice(number * 100, 100)))
    planned = threading.Event()

    def refuse(asked: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if asked == "PUT" and "/out/part-" in path:
            planned.set()
        status = 400 if code == "ExpiredToken" else 403
        return (status, code) if planned.is_set() and asked == method and part in path else None

    proxy.refuse = refuse
    slowly = {"row_rate": 400, "chunk_rows": "20", "max_memory": "16MB"}
    with pytest.raises(error, match=message) as caught:
        run(echo, f"{base}/in/", f"{base}/out/", **slowly)
    assert caught.value.exit_code == exit_code
    assert caught.value.hint
    there = {info.key: info.version for info in client_of(base).list("out/")}
    assert there
    proxy.refuse = lambda method, path, headers: None
    assert run(echo, f"{base}/in/", f"{base}/out/").exit_code == 0
    now = {info.key: info.version for info in client_of(base).list("out/")}
    assert there.items() <= now.items()
    assert read_folder(base, "out").num_rows == ROWS


# -- what is wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "part", "error", "message", "hint"),
    [
        ("GET", "/in.parquet", InputError, "access denied while reading s3://", "s3:GetObject"),
        ("GET", "list-type", InputError, "access denied while listing s3://", "s3:ListBucket"),
        ("PUT", "/out", OutputError, "access denied while writing s3://", "s3:PutObject"),
    ],
)
def test_what_is_forbidden_is_said(
    method: str,
    part: str,
    error: type[AsyncBatchError],
    message: str,
    hint: str,
    base: str,
    proxy: Proxy,
    echo: Background,
) -> None:
    put(base, "in/in.parquet", parquet(TABLE))

    def forbid(asked: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        return (
            (403, "AccessDenied")
            if asked in (method, "HEAD" if method == "GET" else "") and part in path
            else None
        )

    proxy.refuse = forbid
    source = f"{base}/in/" if part == "list-type" else f"{base}/in/in.parquet"
    with pytest.raises(error, match=message) as caught:
        run(echo, source, f"{base}/out/")
    assert caught.value.exit_code == 2
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("source", "sink", "error", "message"),
    [
        ("s3://never-made/in.csv", "{tmp}/out", InputError, "the bucket s3://never-made does not exist"),
        ("{base}/nothing/", "{tmp}/out", InputError, "nothing/ does not exist"),
        ("{base}/*.csv", "{tmp}/out", InputError, "matches no object"),
        (
            "{base}/in.parquet",
            "s3://never-made/out",
            OutputError,
            "the bucket s3://never-made does not exist",
        ),
        ("{base}/in.parquet", "{base}/", OutputError, "cannot be an output"),
        ("{base}/in.parquet", "{base}/in.parquet", OutputError, "is the input itself"),
        ("{base}/", "{base}/out/", OutputError, "the next run would read it as input"),
        ("{base}/*/*.parquet", "{base}/out/", OutputError, "matches no object|read it as input"),
        ("{base}/in.parquet", "hdfs://x/y", OutputError, "outputs of scheme hdfs://"),
        ("hdfs://x/in.csv", "{tmp}/out", InputError, "scheme hdfs://, which cannot be read"),
        ("s3://", "{tmp}/out", ConfigError, "names no bucket"),
        ("az://box/in.csv", "{tmp}/out", ConfigError, "names no storage account"),
    ],
)
def test_bad_names(
    source: str,
    sink: str,
    error: type[AsyncBatchError],
    message: str,
    base: str,
    echo: Background,
    tmp_path: Path,
) -> None:
    put(base, "in.parquet", parquet(TABLE))
    with pytest.raises((error, InputError), match=message) as caught:
        run(echo, source.format(base=base), sink.format(base=base, tmp=tmp_path))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_plan_takes_uris_and_writes_nothing(base: str, echo: Background) -> None:
    put(base, "in.parquet", parquet(TABLE))
    config = RunConfig.from_options({"endpoint": echo.invocations_url, "send": "x"})
    report = plan_job(config, f"{base}/in.parquet", f"{base}/out/")
    assert (report.rows, report.files) == (ROWS, 1)
    assert [info.key for info in client_of(base).list("")] == ["in.parquet"]


def test_what_another_wrote_is_left_alone(base: str, echo: Background) -> None:
    put(base, "in.parquet", parquet(TABLE))
    put(base, "out/other.parquet", parquet(TABLE))
    put(base, "out.parquet", b"mine")
    with pytest.raises(OutputError, match=r"holds other\.parquet, which asyncbatch did not write"):
        run(echo, f"{base}/in.parquet", f"{base}/out/")
    with pytest.raises(OutputError, match="exists"):
        run(echo, f"{base}/in.parquet", f"{base}/out.parquet")
    assert run(echo, f"{base}/in.parquet", f"{base}/out.parquet", overwrite=True).exit_code == 0
    assert verify_output(f"{base}/out.parquet").sound
