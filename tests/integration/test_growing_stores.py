"""A prefix in a bucket that grows: keys and ETags decide, and a complete run again costs a listing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import InputError, OutputError, StorageError
from asyncbatch.observe.events import Warned
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.access import Access
from asyncbatch.store.client import ObjectClient
from asyncbatch.store.connect import connect
from asyncbatch.store.object import ObjectStore
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


def test_a_complete_run_again_asks_the_endpoint_nothing_and_the_source_for_its_listing_alone(
    bucket: Bucket, echo: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        bucket.add(str(number), number)
    bucket.run()
    asked = echo.stats()["rows_in"]
    calls: list[tuple[str, str]] = []
    for name in ("read", "tail", "head", "put", "upload", "list", "delete"):
        real = getattr(S3Client, name)

        def noted(
            self: S3Client, key: Any, *values: Any, _name: str = name, _real: Any = real, **named: Any
        ) -> Any:
            calls.append((_name, str(key)))
            return _real(self, key, *values, **named)

        monkeypatch.setattr(S3Client, name, noted)
    assert bucket.run().metrics.rows_in == 0
    assert echo.stats()["rows_in"] == asked
    assert [each for each in calls if each[1].startswith("in/")] == [("list", "in/")]
    written = [key for name, key in calls if name in ("put", "upload")]
    assert all("/lease/" in key or "/tmp/" in key for key in written), written
    assert len(calls) <= 32, "\n".join(map(str, calls))


def test_a_changed_object_is_scored_again_and_takes_the_place_of_the_old(bucket: Bucket) -> None:
    for number in (1, 2):
        bucket.add(str(number), number)
    bucket.run()
    kept = {each.key: each.version for each in bucket.client.list("out/part-00000000")}
    bucket.add("2", 7)
    with pytest.raises(OutputError, match="ETag") as refused:
        bucket.run()
    assert "--reprocess" in (refused.value.hint or "")
    real, breaks = ObjectStore.create_if_absent, iter(range(100))

    def broken(self: ObjectStore, name: str, write: Any) -> bool:
        if "part-00000002" in name and next(breaks) == 4:  # three that wait; then the second one that goes in
            raise StorageError("gone")
        return real(self, name, write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "create_if_absent", broken)
        with pytest.raises(StorageError):
            bucket.run(reprocess=True)
    assert not output_status(f"{bucket.base}/out/").finished
    there = {each.key[9:17] for each in bucket.client.list("out/")}
    assert there == {"00000000", "00000001", "00000002"}, "not stopped between the two"
    bucket.run()
    now = {each.key: each.version for each in bucket.client.list("out/")}
    assert kept.items() <= now.items()
    assert {key[9:17] for key in now} == {"00000000", "00000002"}
    rows = [
        value
        for key in now
        for value in pq.read_table(pa.BufferReader(bucket.client.tail(key, 1 << 20)[0]))[
            "prediction"
        ].to_pylist()
    ]
    assert sorted(rows) == [1.0] * ROWS + [7.0] * ROWS
    found = verify_output(f"{bucket.base}/out/")
    assert found.sound, found.problems
    assert not list(bucket.client.list("out.asyncbatch/again/"))
