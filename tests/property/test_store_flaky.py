"""The commit protocol over a store that fails in every way: nothing is lost, nothing is there twice, nothing is torn."""

import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_store import NONE, Bucket, CrashError, Faults, FlakyClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbatch.errors import AsyncBatchError, OutputError, StorageError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink.layout import SinkLocation, parse_part_name
from asyncbatch.sink.lease import Holder, acquire, new_owner
from asyncbatch.sink.output import Output
from asyncbatch.sink.plan import Plan
from asyncbatch.store import pieces
from asyncbatch.store.client import Condition, UnavailableError
from asyncbatch.store.object import ObjectStore
from asyncbatch.store.patience import Patience

ROWS, BLOCK_ROWS = 60, 7
SCHEMA = pa.schema([("id", pa.int64()), ("prediction", pa.float64()), ("error", pa.string())])
FILES = (InputFile(number=0, path="mem://in.parquet", size_bytes=1, rows=ROWS, fingerprint={}),)
REJECTED = frozenset({3, 20, 41, 42})


class Elsewhere:
    """A machine on which every other process is dead."""

    def myself(self, owner: str) -> Holder:
        return Holder(host="h", boot="b", pid=1, started="1", owner=owner, heartbeat=0.0)

    def process_started(self, pid: int) -> str | None:
        return None


def patience(rng: random.Random) -> Patience:
    """A minute of it, by a clock that only sleeping moves."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds + 0.001

    return Patience(seconds=60, clock=lambda: now[0], sleep=sleep, rng=rng)


def store_of(bucket: Bucket, rng: random.Random, faults: Faults, prefix: str, owner: str) -> ObjectStore:
    return ObjectStore(
        FlakyClient(bucket, rng, faults), prefix, "out.asyncbatch/", owner=owner, patience=patience(rng)
    )


def command(bucket: Bucket, rng: random.Random, faults: Faults, kind: str) -> None:
    """What `run` does with the sink, to the end or until it dies."""
    name = "out" if kind == "folder" else "out.parquet"
    location = SinkLocation(
        spec=f"mem://bucket/{name}",
        kind=cast(Any, kind),
        format="parquet",
        target=PurePosixPath(name),
        state=PurePosixPath("out.asyncbatch"),
    )
    owner = new_owner()
    state = store_of(bucket, rng, faults, "out.asyncbatch/", owner)

    def lease() -> Any:
        return acquire(state, owner=owner, machine=cast(Any, Elsewhere()))

    output = Output(
        location=location,
        state=state,
        parts=state.beside("out/" if kind == "folder" else "out.asyncbatch/parts/"),
        target=state.beside(""),
        lease=lease() if bucket.objects else None,
        take_lease=lease,
        file_size=3_500 if kind == "folder" and rng.random() < 0.5 else None,
    )
    if output.finished:
        return
    if output.plan is None:
        output.start(
            Plan(
                files=FILES,
                block_rows=BLOCK_ROWS,
                schema=SCHEMA,
                reply={},
                options={},
                endpoint={},
                source="in",
            )
        )
    done = [range(start, stop) for start, stop, _ in output.sink.done_by_file()[0]]
    blocks = [Block(file=0, start=at, stop=min(at + BLOCK_ROWS, ROWS)) for at in range(0, ROWS, BLOCK_ROWS)]
    rng.shuffle(blocks)
    for block in blocks:
        if not any(block.start in each for each in done):
            write(output, block, rng)
    if output.finish({}) is None:
        raise StorageError("rows are missing at the end")


def write(output: Output, block: Block, rng: random.Random) -> None:
    rows = range(block.start, block.stop)
    rejects = [
        Reject(row=row, code="rejected", message="poison", attempts=1) for row in rows if row in REJECTED
    ]
    table = pa.table(
        {
            "id": list(rows),
            "prediction": [None if row in REJECTED else row * 0.5 for row in rows],
            "error": ["rejected: poison" if row in REJECTED else None for row in rows],
        },
        schema=SCHEMA,
    )
    output.sink.write(block, table, rejects=rejects, variants={}, end_offset=None, last=block.stop == ROWS)


def check_visible(bucket: Bucket) -> None:
    """At any moment: a part is whole, and the rejects file that it names is there."""
    for key, stored in bucket.objects.items():
        block = parse_part_name(key.rpartition("/")[2])
        if block is None:
            continue
        table = pq.read_table(pa.BufferReader(stored.data), page_checksum_verification=True)
        assert table["id"].to_pylist() == list(range(block.start, block.stop)), key
        values = pq.read_metadata(pa.BufferReader(stored.data)).metadata
        rejects = values.get(b"asyncbatch.rejects_file", b"").decode()
        assert not rejects or f"out.asyncbatch/{rejects}" in bucket.objects, f"{key} has lost {rejects}"


def check_end(bucket: Bucket, kind: str) -> None:
    prefix = "out/" if kind == "folder" else "out.parquet"
    tables = [
        pq.read_table(pa.BufferReader(bucket.objects[key].data))
        for key in sorted(bucket.objects)
        if key.startswith(prefix)
    ]
    table = pa.concat_tables(tables)
    assert table["id"].to_pylist() == list(range(ROWS))
    assert [row for row, error in enumerate(table["error"].to_pylist()) if error] == sorted(REJECTED)
    errors = pq.read_table(pa.BufferReader(bucket.objects["out.asyncbatch/errors.parquet"].data))
    assert errors["row"].to_pylist() == sorted(REJECTED)
    manifest = json.loads(bucket.objects["out.asyncbatch/manifest.json"].data)
    assert manifest["rows_out"] == ROWS
    assert "out.asyncbatch/_SUCCESS" in bucket.objects


def torture(seed: int, kind: str, *, crashes: int = 4) -> tuple[int, Bucket]:
    """Some commands that die, one that does not; how often one died or gave up."""
    rng = random.Random(seed)
    bucket = Bucket()
    died = 0
    for _ in range(crashes):
        try:
            command(bucket, rng, Faults(crash=rng.choice([0.005, 0.02, 0.05])), kind)
        except (CrashError, StorageError, OutputError) as error:
            if isinstance(error, OutputError) and "hold the same rows" in error.message:
                raise
            died += 1
        check_visible(bucket)
    faults = Faults(torn_listing=0.02)
    for _ in range(20):  # a torn listing may end one early: the same command goes on
        try:
            command(bucket, rng, faults, kind)
            break
        except (StorageError, OutputError):
            check_visible(bucket)
    while bucket.late:  # what was given up long ago arrives now
        try:
            bucket.late.pop()()
        except (UnavailableError, FileNotFoundError, AsyncBatchError):
            pass
    command(bucket, rng, NONE, kind)
    check_visible(bucket)
    check_end(bucket, kind)
    return died, bucket


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a single file of some KB is sent in pieces."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 500)
    monkeypatch.setattr(pieces, "WHOLE_BYTES", 1_500)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_every_row_once_whatever_the_store_does(seed: int, kind: str) -> None:
    torture(seed, kind)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_file_in_pieces_is_there_whole_or_not_at_all(small_pieces: None, seed: int) -> None:
    _, bucket = torture(seed, "file")
    # A minute later: until then an upload may be that of a process whose lease nobody has seen.
    sweeper = store_of(bucket, random.Random(1), NONE, "out.asyncbatch/", "sweeper")
    sweeper.sweep(live=set(), dead=set(), before=time.time() + 1)
    assert not bucket.uploads, "an upload of a process that died was left behind"
    assert not [key for key in bucket.objects if "/uploads/" in key]


def test_the_torture_tortures() -> None:
    deaths = sum(torture(seed, kind)[0] for seed, kind in itertools.product(range(6), ["folder", "file"]))
    assert deaths > 12


# -- broken on purpose ---------------------------------------------------------------------------------------


def is_noticed(run: Callable[[int], object]) -> None:
    for seed in range(60):
        try:
            run(seed)
        except Exception:  # noqa: BLE001  # any check that fails will do
            return
    pytest.fail("nobody noticed")


def test_it_notices_when_a_lost_answer_counts_as_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a part that is ours is taken for another's, and the rejects file that it names is removed."""
    monkeypatch.setattr(ObjectStore, "_is_ours", lambda self, key, condition, attempt: False)
    is_noticed(lambda seed: torture(seed, "folder"))


def test_it_notices_when_conditions_are_ignored() -> None:
    rng = random.Random(1)
    bucket = Bucket(honours_conditions=False)
    with pytest.raises(OutputError, match="ignores If-None-Match"):
        command(bucket, rng, NONE, "folder")
    assert not [key for key in bucket.objects if "job-" in key]


def test_it_notices_when_a_late_request_replaces_what_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, rng = Bucket(), random.Random(3)
    store = store_of(bucket, rng, NONE, "", "me")
    store.replace("report.json", lambda file: file.write(b"old"))
    real = bucket.put
    waiting: list[Callable[[], None]] = []

    def slow(key: str, data: bytes, condition: Condition | None, attempt: str) -> None:
        if data == b"late":
            waiting.append(lambda: real(key, data, condition, attempt))
            raise StorageError("given up")
        real(key, data, condition, attempt)

    monkeypatch.setattr(Bucket, "put", lambda self, *values: slow(*values))
    with pytest.raises(StorageError, match="given up"):
        store.replace("report.json", lambda file: file.write(b"late"))
    store.replace("report.json", lambda file: file.write(b"new"))
    with pytest.raises(AsyncBatchError):
        waiting[0]()
    assert bucket.objects["report.json"].data == b"new"


def test_what_was_replaced_by_another_is_not_replaced_again() -> None:
    bucket, rng = Bucket(), random.Random(3)
    mine, other = (store_of(bucket, rng, NONE, "", owner) for owner in "ab")
    mine.replace("part", lambda file: file.write(b"1"))
    there = mine.stat("part")
    other.replace("part", lambda file: file.write(b"2"))
    with pytest.raises(StorageError, match="changed by another process"):
        mine.replace("part", lambda file: file.write(b"3"), expected=there)
    assert bucket.objects["part"].data == b"2"


def test_uploads_of_the_living_are_left_alone() -> None:
    bucket, rng = Bucket(), random.Random(3)
    for owner in ("dead", "live", "old"):
        store = store_of(bucket, rng, NONE, "out.asyncbatch/", owner)
        upload = FlakyClient(bucket, rng, NONE).upload("out.parquet", condition=None, attempt="x")
        store._record("out.parquet", upload.id)
    stray = FlakyClient(bucket, rng, NONE).upload("out.parquet", condition=None, attempt="x")
    sweeper = store_of(bucket, rng, NONE, "out.asyncbatch/", "me")
    sweeper.sweep(live={"live"}, dead={"dead"}, before=10.0)
    assert len(bucket.uploads) == 2, "the living one's, and the one whose record is young"
    assert stray.id not in bucket.uploads


def test_patience_ends() -> None:
    rng = random.Random(1)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise UnavailableError("503 SlowDown")

    with pytest.raises(StorageError, match="503 SlowDown while writing x, for 60 s") as caught:
        patience(rng).persist(fail, "writing x")
    assert len(calls) > 8
    assert "same command" in (caught.value.hint or "")
