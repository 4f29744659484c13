"""A prefix in a bucket that grows: keys and ETags decide, and a complete run again costs a listing."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import InputError, OutputError
from asyncbatch.observe.events import Warned
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.access import Access
from asyncbatch.store.client import ObjectClient
from asyncbatch.store.connect import connect
from asyncbatch.store.s3 import S3Client
from asyncbatch.store.uri import parse_uri

ROWS = 20


@pytest.fixture(scope="module")
def s3() -> Iterator[emulators.Emulator]:
    with emulators.s3() as emulator:
        yield emulator


class Bucket:
    """A prefix of inputs, and the command."""

    def __init__(self, base: str, endpoint: str) -> None:
        uri = parse_uri(base + "/")
        assert uri is not None
        self.client: ObjectClient = connect(uri, Access())
        self.base = base
        self.endpoint = endpoint
        self.said: list[str] = []

    def add(self, name: str, value: float) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": [value] * ROWS}), sink, compression="none", use_dictionary=False)
        self.client.put(f"in/{name}.parquet", sink.getvalue().to_pybytes(), condition=None, attempt="")

    def run(self, sink: str | None = None, **options: Any) -> Any:
        def hear(event: object) -> None:
            if isinstance(event, Warned):
                self.said.append(event.message)

        given: dict[str, Any] = {"endpoint": self.endpoint, "block_rows": 8}
        return asyncbatch.run(
            f"{self.base}/in/", sink or f"{self.base}/out/", **{**given, **options}, hooks=[hear]
        )


@pytest.fixture
def bucket(s3: emulators.Emulator, echo: Background, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(s3.make(f"box-{os.urandom(4).hex()}"), echo.invocations_url)


def test_new_keys_are_scored_and_finished_parts_are_left(bucket: Bucket, tmp_path: Path) -> None:
    bucket.add("b", 1)
    bucket.run()
    before = {each.key: each.version for each in bucket.client.list("out/")}
    bucket.add("a", 2)
    bucket.add("c", 3)
    assert bucket.run().metrics.rows_in == 2 * ROWS
    now = {each.key: each.version for each in bucket.client.list("out/")}
    assert before.items() <= now.items()
    status = output_status(f"{bucket.base}/out/")
    assert (status.finished, status.generation, status.rows_done) == (True, 2, 3 * ROWS)
    found = verify_output(f"{bucket.base}/out/")
    assert found.sound
    assert found.rows == 3 * ROWS
    bucket.run(str(tmp_path / "out"))
    numbers = [int(key.partition("part-")[2][:8]) for key in sorted(now)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0, 1, 2}
    rows = [
        pq.read_table(pa.BufferReader(bucket.client.tail(key, 1 << 20)[0]))["prediction"][0].as_py()
        for key in sorted(now)
    ]
    assert rows == [float(number) for number in (1, 2, 3) for _ in range(3)]


def test_an_object_of_the_same_size_is_told_apart_by_its_etag(bucket: Bucket) -> None:
    bucket.add("1", 1)
    bucket.run()
    size = next(iter(bucket.client.list("in/"))).size_bytes
    bucket.add("1", 2)
    assert next(iter(bucket.client.list("in/"))).size_bytes == size
    bucket.add("2", 3)
    with pytest.raises(OutputError, match=r"input s3://.*/in/1\.parquet: planned .* ETag"):
        bucket.run()
    assert output_status(f"{bucket.base}/out/").generation == 1


def test_young_objects_wait_by_the_clock_of_the_store(bucket: Bucket) -> None:
    bucket.add("1", 1)
    with pytest.raises(InputError, match="every file of s3://"):
        bucket.run(settle="1h")
    bucket.run()
    bucket.add("2", 2)
    assert bucket.run(settle="1h").metrics.rows_in == 0
    assert bucket.said == ["1 file left for a later run: younger than --settle"]
    assert bucket.run().metrics.rows_in == ROWS


def test_ages_are_told_by_the_store_and_not_by_this_machine(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncbatch.store.s3 as s3_client

    bucket.add("1", 1)

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            raise AssertionError("this machine's clock was asked")

    monkeypatch.setattr(s3_client, "datetime", Wrong)
    (info,) = bucket.client.list("in/")
    assert info.age_s is not None
    assert -2 < info.age_s < 60


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_complete_run_again_reads_no_input(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: Path
) -> None:
    sink = str(tmp_path / "out") if kind == "folder" else f"{bucket.base}/out.parquet"
    for name in ("1", "2"):
        bucket.add(name, 1)
    bucket.run(sink)
    if kind == "folder":
        bucket.add("3", 3)
        bucket.run(sink)
    read: list[str] = []
    for name in ("read", "tail", "head"):
        real = getattr(S3Client, name)

        def noted(self: S3Client, key: str, *values: Any, _real: Any = real, **named: Any) -> Any:
            read.append(key)
            return _real(self, key, *values, **named)

        monkeypatch.setattr(S3Client, name, noted)
    report = bucket.run(sink)
    assert (report.metrics.rows_in, report.exit_code) == (0, 0)
    assert [key for key in read if key.startswith("in/") and key != "in/"] == []
    bucket.add("4", 4)
    if kind == "folder":
        assert bucket.run(sink).metrics.rows_in == ROWS
