"""The stores under one suite: this machine's disk, and emulators of S3, Azure and Google Cloud Storage."""

import contextlib
import io
import os
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import OutputError, StorageError
from asyncbatch.model import InputFile
from asyncbatch.protocols import Sink
from asyncbatch.server.background import Background
from asyncbatch.sink import PartsSink, Plan, load_plan
from asyncbatch.sink.plan import create_plan
from asyncbatch.sink.verify import verify_output
from asyncbatch.store import LocalStore, pieces
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store, Swap, read_bytes
from asyncbatch.store.connect import connect
from asyncbatch.store.object import ObjectStore
from asyncbatch.store.uri import parse_uri
from asyncbatch.testing.sink import check_sink

KINDS = ["local", "s3", "az", "gs"]
MakeStore = Callable[[], ObjectStore | LocalStore]


@pytest.fixture(scope="module")
def emulator_of() -> Iterator[Callable[[str], emulators.Emulator]]:
    """One of each, started when first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, emulators.Emulator] = {}

        def get(kind: str) -> emulators.Emulator:
            if kind == "az" and emulators.azurite_command() is None:
                reason = "Azurite is not installed; scripts/real-servers does it"
                if os.environ.get("REAL_SERVERS") == "required":
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)
            if kind not in running:
                start = {"s3": emulators.s3, "az": emulators.azure, "gs": emulators.gcs}[kind]
                running[kind] = stack.enter_context(start())
            return running[kind]

        yield get


@pytest.fixture(params=KINDS)
def make(
    request: pytest.FixtureRequest,
    emulator_of: Callable[[str], emulators.Emulator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MakeStore:
    """Makes stores with the same root: as several processes would have them."""
    if request.param == "local":
        return lambda: LocalStore(tmp_path / "out", tmp_path / "out.asyncbatch")
    emulator = emulator_of(request.param)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"box-{os.urandom(4).hex()}"
    uri = parse_uri(emulator.make(bucket) + "/out/")
    assert uri is not None
    client = connect(uri, Access())
    return lambda: ObjectStore(client, "out/", "out.asyncbatch/")


def content(data: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(data)


def test_what_is_created_is_there_and_stays(make: MakeStore) -> None:
    store = make()
    store.prepare()
    assert store.list() == []
    assert store.stat("a") is None
    assert store.create_if_absent("a", content(b"first"))
    assert not store.create_if_absent("a", content(b"second"))
    assert read_bytes(store, "a") == b"first"
    there = store.stat("a")
    assert there is not None
    assert (there.name, there.size_bytes) == ("a", 5)
    assert store.list() == [there]
    with pytest.raises(FileNotFoundError):
        store.open("b")


def test_of_many_writers_one_wins(make: MakeStore) -> None:
    stores = [make() for _ in range(6)]
    won: list[int] = []
    barrier = threading.Barrier(len(stores))

    def write(number: int) -> None:
        barrier.wait()
        if stores[number].create_if_absent("x/part", content(str(number).encode() * 1000)):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_bytes(make(), "x/part") == str(won[0]).encode() * 1000


def test_replacing(make: MakeStore) -> None:
    store, other = make(), make()
    store.replace("a", content(b"one"))
    first = store.stat("a")
    other.replace("a", content(b"two!"))
    assert store.stat("a") != first
    with pytest.raises(StorageError, match="was changed by another process"):
        store.replace("a", content(b"three"), expected=first)
    store.replace("a", content(b"four"), expected=store.stat("a"))
    assert read_bytes(other, "a") == b"four"


def test_when_a_file_was_written_is_told_by_the_store(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock that a bucket's ages are reckoned by is wrong here by hours, and the store's replies put it right."""
    store, began = make(), time.time()
    wrong = types.SimpleNamespace(time=lambda: time.time() - 5_000)
    monkeypatch.setattr("asyncbatch.store.clock.time", wrong)
    store.create_if_absent("a", content(b"a"))
    (entry,) = store.list()
    assert entry.modified_s is not None
    assert began - 60 < entry.modified_s < time.time() + 60  # 5,000 s by the wrong clock


def test_names_prefixes_and_folders(make: MakeStore) -> None:
    store = make()
    names = ["a b.parquet", "d/x/y", "d/é+1.json", "e%20"]
    for name in names:
        assert store.create_if_absent(name, content(name.encode()))
    assert [entry.name for entry in store.list()] == names
    assert [entry.name for entry in store.list("d/")] == names[1:3]
    assert [entry.name for entry in store.below("d").list()] == ["x/y", "é+1.json"]
    assert read_bytes(store.below("d"), "é+1.json") == b"d/\xc3\xa9+1.json"
    store.delete("d/x/y", "a b.parquet", "never was")
    assert [entry.name for entry in store.list()] == ["d/é+1.json", "e%20"]
    store.delete()


def test_reading_here_and_there(make: MakeStore) -> None:
    store = make()
    data = bytes(range(256)) * 1000
    store.create_if_absent("a", content(data))
    store.create_if_absent("empty", content(b""))
    with store.open("a") as file:
        assert file.seek(0, 2) == len(data)
        assert file.read() == b""
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(1000)
        assert file.read(5000) == data[1000:6000]
        assert file.tell() == 6000
        assert file.read(1) == data[6000:6001]
        file.seek(0)
        assert file.read() == data
    assert read_bytes(store, "empty") == b""


def test_large_files_go_in_pieces(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 256 * 1024)
    monkeypatch.setattr(pieces, "WHOLE_BYTES", 300 * 1024)
    store, other = make(), make()
    data = os.urandom(1_500_000)

    def write(file: BinaryIO) -> None:
        file.writelines(data[at : at + 100_000] for at in range(0, len(data), 100_000))
        assert store.stat("big") is None, "nothing is seen before the end"

    assert store.create_if_absent("big", write)
    assert read_bytes(other, "big") == data
    assert not other.create_if_absent("big", content(data))
    store.replace("big", content(data[:700_000]))
    assert read_bytes(other, "big") == data[:700_000]


def test_a_write_that_fails_leaves_nothing(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 256 * 1024)
    monkeypatch.setattr(pieces, "WHOLE_BYTES", 300 * 1024)
    store = make()

    def fails(file: BinaryIO) -> None:
        file.write(b"x" * 700_000)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.create_if_absent("big", fails)
    assert store.stat("big") is None
    assert store.list() == []
    if isinstance(store, ObjectStore):
        assert list(store._client.unfinished("")) == []
        assert list(store._client.list("out.asyncbatch/uploads/")) == []


def test_joining(make: MakeStore) -> None:
    store = make()
    store.prepare()
    for name in ("a-1", "a-2", "b"):
        store.create_if_absent(name, content(name.encode()))
    store.swap([Swap(added="a-12", write=content(b"joined"), removed=("a-1", "a-2"))])
    assert [entry.name for entry in make().list()] == ["a-12", "b"]


@pytest.mark.parametrize("make", ["s3"], indirect=True)  # the others forget unfinished uploads by themselves
def test_what_the_dead_left_is_swept(make: MakeStore) -> None:
    store = make()
    assert isinstance(store, ObjectStore)
    dead = ObjectStore(store._client, "out/", "out.asyncbatch/", owner="dead")
    upload = store._client.upload("out", condition=None, attempt="x")
    upload.add(1, b"x" * 1000)
    dead._record("out", upload.id)
    store.sweep(live={"dead"}, dead=set(), before=0.0)
    assert len(store._client.unfinished("out")) == 1
    store.sweep(live=set(), dead={"dead"}, before=0.0)
    assert list(store._client.unfinished("out")) == []
    assert list(store._client.list("out.asyncbatch/uploads/")) == []


class PartsHarness:
    durable = True

    def __init__(self, parts: Store, state: Store) -> None:
        self._parts, self._state = parts, state

    def open(self, *, schema: pa.Schema, files: Sequence[InputFile], block_rows: int) -> Sink:
        plan = load_plan(self._state) or create_plan(
            self._state,
            Plan(
                files=tuple(files),
                block_rows=block_rows,
                schema=schema,
                reply={},
                options={},
                endpoint={},
                source="in",
            ),
        )
        return PartsSink(plan=plan, parts=self._parts, state=self._state)

    def read(self) -> pa.Table:
        return pa.concat_tables(
            [
                pq.read_table(pa.BufferReader(read_bytes(self._parts, entry.name)))
                for entry in self._parts.list()
            ]
        )


def test_parts_in_every_store_conform(make: MakeStore) -> None:
    numbers = iter(range(1000))

    def harness() -> PartsHarness:
        home = make().below(f"case{next(numbers)}")
        return PartsHarness(home.below("out"), home.below("state"))

    check_sink(harness)


@pytest.mark.parametrize("kind", ["s3", "az", "gs"])
def test_a_bucket_that_is_not_there(
    kind: str, emulator_of: Callable[[str], emulators.Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = emulator_of(kind)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    uri = parse_uri(f"{kind}://never-made/out/")
    assert uri is not None
    store = ObjectStore(connect(uri, Access()), "out/", "out.asyncbatch/")
    with pytest.raises(StorageError, match="never-made does not exist"):
        store.list()
    with pytest.raises(OutputError, match="never-made does not exist"):
        store.prepare()


def test_a_store_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcp-storage-emulator as it is."""
    with emulators.gcs(conditions=False) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        uri = parse_uri(emulator.make("box") + "/out/")
        assert uri is not None
        store = ObjectStore(connect(uri, Access()), "out/", "out.asyncbatch/")
        with pytest.raises(OutputError, match="it ignores If-None-Match"):
            store.prepare()
        state = store.beside("out.asyncbatch/")
        with pytest.raises(OutputError, match="nothing can be committed there safely"):
            PartsHarness(store, state).open(schema=pa.schema([("a", pa.int64())]), files=(), block_rows=1)


@pytest.mark.parametrize("kind", ["az", "gs"])  # S3 has a file of its own: test_stores_runs.py
def test_a_whole_run_from_a_bucket_into_it(
    kind: str,
    emulator_of: Callable[[str], emulators.Emulator],
    echo: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator = emulator_of(kind)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    bucket = emulator.make(f"box-{os.urandom(4).hex()}")
    uri = parse_uri(f"{bucket}/x")
    assert uri is not None
    client = connect(uri, Access())
    table = pa.table({"x": [float(each) for each in range(300)]})
    written = io.BytesIO()
    pq.write_table(table, written)
    client.put("in/1.parquet", written.getvalue(), condition=None, attempt="")
    for sink in ("out/", "out.parquet"):
        report = asyncbatch.run(
            f"{bucket}/in/", f"{bucket}/{sink}", endpoint=echo.invocations_url, block_rows=100
        )
        assert (report.exit_code, report.metrics.rows_out) == (0, 300)
        found = verify_output(f"{bucket}/{sink}")
        assert (found.sound, found.rows) == (True, 300)
    info = client.head("out.parquet")
    assert info is not None
    scored = pq.read_table(io.BytesIO(client.read("out.parquet", 0, info.size_bytes)))
    assert scored["prediction"].to_pylist() == scored["x"].to_pylist() == table["x"].to_pylist()
