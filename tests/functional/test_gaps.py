"""What benchmarks/mutants.py broke and no other test noticed: each of these fails with one line of the code wrong."""

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

import asyncbatch
from asyncbatch.control.breaker import Breaker
from asyncbatch.errors import InvocationError, StorageError
from asyncbatch.model import BytesPayload, Failure, Outcome, Payload, Reply
from asyncbatch.pipeline import job as job_module
from asyncbatch.store.local import LocalStore

Behaviour = Callable[["Endpoint", list[int]], Awaitable[Failure | None]]


class Endpoint:
    """Answers each row's value, unless `behaviour` says otherwise of a request's rows."""

    name = "scripted"
    takes_batches = False
    max_body_bytes = 2**20

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[list[int]] = []

    @property
    def identity(self) -> Mapping[str, str | None]:
        return {"kind": "scripted"}

    async def open(self, *, concurrency: int) -> None: ...

    async def aclose(self) -> None: ...

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        rows = [int(float(line)) for line in b"".join(payload.pieces).splitlines()]
        self.requests.append(rows)
        failure = await self.behaviour(self, rows)
        if failure is not None:
            raise InvocationError(failure)
        return Reply(body=b"\n".join(b"%d" % row for row in rows), content_type="text/csv")


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[pa.Table, Endpoint]]:
    def predict(behaviour: Behaviour, rows: int, **options: Any) -> tuple[pa.Table, Endpoint]:
        endpoint = Endpoint(behaviour)
        monkeypatch.setattr(job_module, "make_endpoint", lambda config, *, session: endpoint)
        given = {"endpoint": "http://127.0.0.1:9/", "prediction_type": "int64", **options}
        found = asyncbatch.predict(pa.table({"x": list(range(rows))}), **given)
        assert isinstance(found, pa.Table)
        return found, endpoint

    return predict


def test_a_size_that_was_refused_is_not_tried_for_every_chunk(predict: Callable[..., Any]) -> None:
    refused = 0

    async def seven_at_most(endpoint: Endpoint, rows: list[int]) -> Failure | None:
        nonlocal refused
        refused += len(rows) > 7
        return Failure(status=413) if len(rows) > 7 else None

    found, _ = predict(seven_at_most, 1_000, chunk_rows=64, block_rows=250, concurrency=2)
    assert found["prediction"].to_pylist() == list(range(1_000))
    assert refused < 25, "each chunk of 64 rows would be refused, and its halves too: 7 times a chunk"


def test_an_answer_to_an_older_request_is_no_sign_that_the_endpoint_is_alive(
    predict: Callable[..., Any],
) -> None:
    """Row 11 is refused alone while the endpoint is away; then comes an answer to what it was sent before that."""
    gone_until: list[float] = []
    refused = anyio.Event()

    async def goes_away(endpoint: Endpoint, rows: list[int]) -> Failure | None:
        if rows == [10] and not gone_until:
            gone_until.append(anyio.current_time() + 1.0)
            await refused.wait()
            await anyio.sleep(0.02)
            return None
        if gone_until and anyio.current_time() < gone_until[0]:
            if endpoint.requests.count([11]) == 2:
                refused.set()
            return Failure(status=400, message="away")
        return None

    found, _ = predict(goes_away, 12, chunk_rows=1, block_rows=12, concurrency=2)
    assert refused.is_set()
    assert found["error"].null_count == 12
    assert found["prediction"].to_pylist() == list(range(12))


def test_throttling_between_outages_is_a_sign_of_life() -> None:
    breaker = Breaker(max_outage_s=100, started_s=0.0)
    breaker.record(Outcome.UNAVAILABLE, chunk=1, rows=1, now_s=90.0)
    breaker.record(Outcome.THROTTLED, chunk=2, rows=1, now_s=95.0)
    breaker.record(Outcome.UNAVAILABLE, chunk=1, rows=1, now_s=150.0)
    assert not breaker.gave_up(150.0)
    assert breaker.gave_up(196.0)


@pytest.mark.parametrize("number", [1, 2])
def test_a_sync_that_failed_is_not_asked_for_again(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time the kernel says that all is well: it has dropped what it could not write."""
    store = LocalStore(tmp_path / "out", tmp_path / "state")
    store.prepare()
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="the disk failed"):
        store.create_if_absent("a", lambda file: file.write(b"a"))
    assert len(synced) == number


def test_refusals_for_load_use_up_no_retries(
    predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many of them a chunk that fails is still sent again as it is, as often as any other."""
    monkeypatch.setattr("asyncbatch.pipeline.flow.full_jitter", lambda *_, **__: 0.0)
    whole = list(range(40, 60))
    statuses = [503] * 5 + [500] * 2

    async def busy_then_failing(endpoint: Endpoint, rows: list[int]) -> Failure | None:
        return Failure(status=statuses.pop(0)) if rows == whole and statuses else None

    found, endpoint = predict(
        busy_then_failing, 100, chunk_rows=20, block_rows=100, concurrency=1, max_retries=2, max_outage=60
    )
    assert found["prediction"].to_pylist() == list(range(100))
    assert endpoint.requests.count(whole) == 8
    assert whole[:10] not in endpoint.requests, "it was halved"


def test_what_changed_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out", tmp_path / "state")
    store.replace("a", lambda file: file.write(b"one"))
    seen = store.stat("a")
    store.replace("a", lambda file: file.write(b"another"))
    with pytest.raises(StorageError, match="meanwhile"):
        store.replace("a", lambda file: file.write(b"late"), expected=seen)
    assert (tmp_path / "out" / "a").read_bytes() == b"another"
    assert not list((tmp_path / "state" / "tmp").iterdir())
    store.replace("a", lambda file: file.write(b"three"), expected=store.stat("a"))
    assert (tmp_path / "out" / "a").read_bytes() == b"three"
