"""However a run ends, it ends in order: no task, socket, thread or temp file stays, and it can go on.

The endpoint is scripted and in this process, so that it can fail, hang or be cancelled at a chosen request.
"""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import (
    EndpointError,
    InputError,
    InvocationError,
    ReplyMismatchError,
    SourceError,
    StorageError,
)
from asyncbatch.model import BytesPayload, Failure, Payload, Reply
from asyncbatch.observe.events import PartCommitted, RunPlanned, Warned
from asyncbatch.pipeline import job as job_module
from asyncbatch.pipeline.api import retry_job
from asyncbatch.pipeline.retrying import make_retry_job, retry_to_sink
from asyncbatch.pipeline.signals import interrupt_calls
from asyncbatch.server.background import Background
from asyncbatch.sink.parts import PartsSink

ROWS, BLOCK_ROWS = 60, 20
PROBES = 4
OPTIONS: dict[str, Any] = {
    "endpoint": "http://127.0.0.1:9/invocations",
    "no_send": "id",
    "block_rows": BLOCK_ROWS,
    "chunk_rows": 5,
    "concurrency": 4,
}


@dataclass
class Endpoint:
    """Answers each row's first value; `answers[n]` decides about the n-th request instead."""

    answers: dict[int, Callable[[], Awaitable[Reply] | Reply]] = field(default_factory=dict)
    poison: tuple[bytes, ...] = ()
    """First values of rows that are refused."""
    latency_s: float = 0.0
    calls: int = 0
    in_flight: int = 0
    opened: int = 0
    closed: int = 0
    name: str = "scripted"
    takes_batches: bool = False
    max_body_bytes: int = 2**20

    @property
    def identity(self) -> dict[str, str | None]:
        return {"kind": "scripted"}

    async def open(self, *, concurrency: int) -> None:
        await anyio.lowlevel.checkpoint()
        self.opened += 1

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        self.calls += 1
        number = self.calls
        self.in_flight += 1
        try:
            await anyio.sleep(self.latency_s)
            if number in self.answers:
                found = self.answers[number]()
                return found if isinstance(found, Reply) else await found
        finally:
            self.in_flight -= 1
        lines = b"".join(payload.pieces).splitlines()
        if any(line.split(b",")[0] in self.poison for line in lines):
            raise InvocationError(Failure(status=400, message="no"))
        return Reply(body=b"\n".join(line.split(b",")[0] for line in lines), content_type="text/csv")


def fails(failure: Failure) -> Callable[[], Reply]:
    def answer() -> Reply:
        raise InvocationError(failure)

    return answer


async def never() -> Reply:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The endpoint of every run of the test. One run was before: libraries keep a pipe from the first on."""
    found = Endpoint()
    monkeypatch.setattr(job_module, "make_endpoint", lambda config, *, session: found)
    asyncbatch.predict(pa.table({"x": [0.5, 1.5], "id": ["a", "b"]}), **OPTIONS)
    found.calls = found.opened = found.closed = 0
    return found


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of runs, of which none has to survive a loss of power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table(
        {"x": np.arange(ROWS) + 0.5, "y": np.arange(ROWS), "id": [f"r{row}" for row in range(ROWS)]}
    )
    pq.write_table(found, tmp_path / "in.parquet", row_group_size=25)
    return found


def open_files() -> dict[str, str]:
    """Open descriptors of this process: sockets, pipes and files."""
    found = {}
    for path in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = str(path.readlink())
    return {number: target for number, target in found.items() if not target.startswith("/proc/")}


@contextlib.contextmanager
def nothing_left(endpoint: Endpoint | None = None) -> Iterator[None]:
    """After the block: no thread, no descriptor, nothing in flight, and the endpoint is closed."""
    gc.collect()
    threads, files = set(threading.enumerate()), open_files()
    yield
    until = time.monotonic() + 30
    while time.monotonic() < until and (set(threading.enumerate()) > threads or open_files() != files):
        gc.collect()
        time.sleep(0.005)
    assert set(threading.enumerate()) <= threads
    assert open_files() == files
    if endpoint is not None:
        assert endpoint.in_flight == 0
        assert endpoint.closed >= endpoint.opened


def check_disk(out: Path, table: pa.Table) -> int:
    """What is on the disk is whole: returns the number of committed rows."""
    state = out.with_name(out.name + ".asyncbatch")
    assert not list((state / "tmp").glob("*")) if state.exists() else True
    assert not list(state.glob("lease/*"))
    rows = 0
    for part in sorted(out.glob("*.parquet")) if out.exists() else []:
        start, stop = (int(text) for text in part.stem.split("-")[2:])
        found = pq.read_table(part)
        assert found["prediction"].to_pylist() == table["x"].slice(start, stop - start).to_pylist()
        rows += stop - start
    return rows


def check_resume(tmp_path: Path, table: pa.Table, endpoint: Endpoint, committed: int) -> None:
    """The same command completes the output and asks for nothing that is committed."""
    endpoint.answers.clear()
    endpoint.latency_s = 0.0
    report = asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **OPTIONS)
    assert (report.exit_code, report.metrics.rows_resumed) == (0, committed)
    scored = pq.read_table(tmp_path / "out")
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x"].to_pylist()


# -- cancelled at every step ----------------------------------------------------------------------------


class SteppedLoop(asyncio.SelectorEventLoop):
    """Calls `act` before its `at`-th round; a round runs what every await has made ready."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.rounds = 0
        self.act: Callable[[], object] = lambda: None

    def _run_once(self) -> None:
        self.rounds += 1
        if self.rounds == self.at:
            self.act()
        super()._run_once()  # type: ignore[misc]


Job = Callable[[], Awaitable[None]]


def cancelled_at(job: Job, at: int, *, native: bool) -> tuple[bool, int]:
    """Run `job`, cancel it in round `at`: whether that ended it, and the rounds it took."""
    loop = SteppedLoop(at)
    caught = False

    async def main() -> None:
        nonlocal caught
        before = asyncio.all_tasks()
        if native:
            task = asyncio.ensure_future(job())
            loop.act = task.cancel
            await asyncio.wait([task])
            caught = task.cancelled()
            if not caught:
                task.result()
        else:
            with anyio.CancelScope() as scope:
                loop.act = scope.cancel
                await job()
            caught = scope.cancelled_caught
        assert asyncio.all_tasks() <= before

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    return caught, loop.rounds


def every_step(job: Job, *, native: bool, check: Callable[[bool], None]) -> int:
    """Cancel `job` in each of its rounds, a new one each time; `check` is told whether it was cut short."""
    cut = 0
    late = 0
    at = 1
    while late < 5:  # threads make the number of rounds vary
        caught, rounds = cancelled_at(job, at, native=native)
        check(caught)
        cut += caught
        late += rounds < at
        at += 1
    return cut


@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
def test_a_run_cancelled_at_any_await_leaves_nothing_and_goes_on(
    native: bool, tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    out = tmp_path / "out"
    state = tmp_path / "out.asyncbatch"
    partly = 0

    async def job() -> None:
        await asyncbatch.arun(str(tmp_path / "in.parquet"), str(out), **OPTIONS)

    def check(caught: bool) -> None:
        nonlocal partly
        committed = check_disk(out, table)
        partly += 0 < committed < ROWS
        assert endpoint.in_flight == 0
        assert endpoint.closed >= endpoint.opened
        if not caught or committed or partly % 5 == 0:
            check_resume(tmp_path, table, endpoint, committed)
        for folder in (out, state):
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            if folder.exists():
                folder.rmdir()

    with nothing_left():
        cut = every_step(job, native=native, check=check)
    assert cut > 30
    assert partly > 0


def test_a_commit_under_way_is_finished_before_a_cancelled_run_ends(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    write = PartsSink.write

    def slow(self: PartsSink, *arguments: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return write(self, *arguments, **more)

    monkeypatch.setattr(PartsSink, "write", slow)
    ended_early: list[bool] = []

    async def main() -> None:
        async def job() -> None:
            with scope:
                try:
                    await asyncbatch.arun(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **OPTIONS)
                finally:
                    ended_early.append(not go_on.is_set())

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job)
            await anyio.to_thread.run_sync(begun.wait, 30)
            scope.cancel()
            await anyio.sleep(0.1)
            go_on.set()

    with nothing_left(endpoint):
        anyio.run(main)
    assert ended_early == [False]
    assert check_disk(tmp_path / "out", table) >= BLOCK_ROWS


@pytest.mark.parametrize(
    ("sink", "options"),
    [("out.parquet", {}), ("out", {"file_size": 10**6})],
    ids=["a single file", "joined parts"],
)
def test_publishing_cancelled_at_any_await_leaves_nothing_and_goes_on(
    sink: str, options: dict[str, Any], tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    out, state = tmp_path / sink, tmp_path / f"{sink}.asyncbatch"

    async def job() -> None:
        await asyncbatch.arun(str(tmp_path / "in.parquet"), str(out), **OPTIONS | options)

    parts = tmp_path / "parts"
    asyncbatch.run(str(tmp_path / "in.parquet"), str(parts), **OPTIONS)

    def check(caught: bool) -> None:
        assert endpoint.in_flight == 0
        assert endpoint.closed >= endpoint.opened
        check_disk(out if out.is_dir() else state / "parts", table)
        assert not list((state / "tmp").glob("*"))
        assert not list(state.glob("lease/*"))
        if not out.suffix or out.exists():
            assert pq.read_table(out)["prediction"].to_pylist() == table["x"].to_pylist()
        for path in (out, state):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        before()

    def before() -> None:
        """Every row is scored, and nothing is made of it yet."""
        where = out if not out.suffix else state / "parts"
        shutil.copytree(f"{parts}.asyncbatch", state)
        shutil.copytree(parts, where)
        for name in ("_SUCCESS", "manifest.json"):
            (state / name).unlink()

    before()
    with nothing_left():
        assert every_step(job, native=True, check=check) > 15


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_retry_cancelled_at_any_await_leaves_nothing_and_goes_on(
    sink: str, tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    out, state = tmp_path / sink, tmp_path / f"{sink}.asyncbatch"
    endpoint.poison = (b"7.5", b"41.5")
    assert asyncbatch.run(str(tmp_path / "in.parquet"), str(out), **OPTIONS).exit_code == 3
    endpoint.poison = ()
    aside = tmp_path / "aside"
    shutil.copytree(state, aside / state.name)
    shutil.copytree(out, aside / out.name) if out.is_dir() else shutil.copy2(out, aside)
    given = {"endpoint": OPTIONS["endpoint"], "chunk_rows": 5, "concurrency": 4}
    checked = 0

    async def job() -> None:
        await retry_to_sink(make_retry_job(str(out), given), str(out))

    def check(caught: bool) -> None:
        nonlocal checked
        checked += 1
        assert endpoint.in_flight == 0
        assert endpoint.closed >= endpoint.opened
        assert not list((state / "tmp").glob("*"))
        assert not list(state.glob("lease/*"))
        found = pq.read_table(out)["prediction"].to_pylist()
        assert all(
            value == x or (value is None and x in (7.5, 41.5))
            for value, x in zip(found, table["x"].to_pylist(), strict=True)
        )
        if not caught or checked % 4 == 0:
            assert retry_job(str(out), given).exit_code == 0
            assert pq.read_table(out)["prediction"].to_pylist() == table["x"].to_pylist()
            assert not (state / "retry.json").exists()
        for path in (out, state):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            there = aside / path.name
            shutil.copytree(there, path) if there.is_dir() else shutil.copy2(there, path)

    with nothing_left():
        assert every_step(job, native=True, check=check) > 15


@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
def test_a_stream_cancelled_at_any_await_leaves_nothing(
    native: bool, tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    seen: list[float] = []

    async def job() -> None:
        async with contextlib.aclosing(asyncbatch.stream(str(tmp_path / "in.parquet"), **OPTIONS)) as stream:
            async for batch in stream:
                seen.extend(batch["prediction"].to_pylist())

    def check(caught: bool) -> None:
        assert endpoint.in_flight == 0
        assert endpoint.closed >= endpoint.opened
        assert seen == table["x"].to_pylist()[: len(seen)]
        assert caught or len(seen) == ROWS
        seen.clear()

    with nothing_left():
        cut = every_step(job, native=native, check=check)
    assert cut > 30


@pytest.mark.parametrize("by_name", [False, True], ids=["http", "sagemaker"])
def test_a_cancelled_run_closes_its_connections(
    by_name: bool, tmp_path: Path, table: pa.Table, echo: Background
) -> None:
    """The same against a real server, in some of the rounds: they are many, and a client of AWS is slow to make."""
    out = tmp_path / "out"
    where = (
        {"endpoint": echo.name, "endpoint_url": echo.url} if by_name else {"endpoint": echo.invocations_url}
    )

    async def job() -> None:
        await asyncbatch.arun(str(tmp_path / "in.parquet"), str(out), **OPTIONS | where)

    _, rounds = cancelled_at(job, 10**9, native=True)
    assert check_disk(out, table) == ROWS
    with nothing_left():
        for at in range(1, rounds, 25 if by_name else 7):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(out)
            cancelled_at(job, at, native=at % 2 == 0)
            check_disk(out, table)
        cancelled_at(job, 10**9, native=True)
    assert check_disk(out, table) == ROWS


# -- readers that stop reading --------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2])
def test_leaving_a_stream_early_ends_the_run(
    batches: int, tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    endpoint.answers[PROBES + 8] = never

    async def main() -> None:
        before = asyncio.all_tasks()
        seen = 0
        stream = asyncbatch.stream(str(tmp_path / "in.parquet"), **OPTIONS | {"block_rows": 5})
        async for _ in stream:
            seen += 1
            if seen == batches:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # a generator, which `async for` does not close
        assert asyncio.all_tasks() == before

    with nothing_left(endpoint):
        asyncio.run(main())


def test_a_stream_that_is_dropped_ends_with_its_loop(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    endpoint.answers[PROBES + 8] = never

    async def main() -> None:
        async for _ in asyncbatch.stream(str(tmp_path / "in.parquet"), **OPTIONS | {"block_rows": 5}):
            break

    with nothing_left(endpoint):
        asyncio.run(main())


@pytest.mark.parametrize("batches", [0, 1, 2, None])
@pytest.mark.parametrize("hangs", [False, True])
def test_a_reader_of_predictions_may_be_dropped_at_any_time(
    batches: int | None, hangs: bool, table: pa.Table, endpoint: Endpoint
) -> None:
    if hangs and batches is not None:
        endpoint.answers[PROBES + 8] = never
    with nothing_left(endpoint):
        reader = asyncbatch.predict(table.to_reader(10), **OPTIONS | {"block_rows": 5})
        assert isinstance(reader, pa.RecordBatchReader)
        if batches is None:
            assert reader.read_all()["prediction"].to_pylist() == table["x"].to_pylist()
        for _ in range(batches or 0):
            reader.read_next_batch()
        del reader


@pytest.mark.parametrize("lazy", [False, True], ids=["stream", "reader"])
def test_no_more_than_16_blocks_wait_for_the_oldest(lazy: bool, table: pa.Table, endpoint: Endpoint) -> None:
    oldest = threading.Event()
    finished: list[object] = []

    async def late() -> Reply:
        while not oldest.is_set():  # noqa: ASYNC110  # set by a thread that knows no loop
            await anyio.sleep(0.01)
        return Reply(body=b"0.5\n1.5", content_type="text/csv")

    def hook(event: object) -> None:
        if isinstance(event, RunPlanned):
            endpoint.answers[endpoint.calls + 1] = late
        if isinstance(event, PartCommitted):
            finished.append(event)

    def watch() -> None:
        until = time.monotonic() + 60
        while len(finished) < 15 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        counts.append(len(finished))
        oldest.set()

    counts: list[int] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    options = OPTIONS | {"block_rows": 2, "chunk_rows": 2, "hooks": [hook]}
    if lazy:
        found = asyncbatch.predict(table.to_reader(10), **options).read_all()["prediction"].to_pylist()  # type: ignore[union-attr]
    else:

        async def main() -> list[float]:
            stream = asyncbatch.stream(table, **options)
            return [value async for batch in stream for value in batch["prediction"].to_pylist()]

        found = asyncio.run(main())
    watcher.join()
    assert found == table["x"].to_pylist()
    assert counts == [15]


# -- errors ---------------------------------------------------------------------------------------------


def run(tmp_path: Path, **options: Any) -> asyncbatch.RunReport:
    return asyncbatch.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **OPTIONS | options)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_that_cannot_be_written_ends_the_run(
    part: int, tmp_path: Path, table: pa.Table, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartsSink.write
    written: list[object] = []

    def full(self: PartsSink, *arguments: Any, **named: Any) -> None:
        written.append(arguments)
        if len(written) >= part:
            raise StorageError("no space left on device", hint="free some")
        write(self, *arguments, **named)

    with monkeypatch.context() as patch, nothing_left(endpoint):
        patch.setattr(PartsSink, "write", full)
        with pytest.raises(StorageError, match="no space left") as caught:
            run(tmp_path)
    assert type(caught.value) is StorageError
    committed = check_disk(tmp_path / "out", table)
    assert committed == (part - 1) * BLOCK_ROWS
    check_resume(tmp_path, table, endpoint, committed)


def test_an_endpoint_that_refuses_for_good_ends_the_run(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    for number in range(PROBES + 7, PROBES + 20):
        endpoint.answers[number] = fails(
            Failure(status=403, error_name="AccessDeniedException", message="no")
        )
    with nothing_left(endpoint), pytest.raises(EndpointError, match="AccessDenied"):
        run(tmp_path)
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


def test_an_endpoint_with_a_defect_ends_the_run_with_that_error(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    def defect() -> Reply:
        raise ZeroDivisionError("in somebody's endpoint")

    endpoint.answers[PROBES + 7] = defect
    with nothing_left(endpoint), pytest.raises(ZeroDivisionError):
        run(tmp_path)
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


def test_a_reply_of_another_type_ends_the_run(tmp_path: Path, table: pa.Table, endpoint: Endpoint) -> None:
    endpoint.answers[PROBES + 7] = lambda: Reply(body=b"cat\ndog\ncat\ndog\ncat", content_type="text/csv")
    with nothing_left(endpoint), pytest.raises(ReplyMismatchError) as caught:
        run(tmp_path)
    assert caught.value.kind == "type"
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


def test_an_input_that_breaks_in_the_middle_ends_the_run(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    source = tmp_path / "in.parquet"
    whole, stat = source.read_bytes(), source.stat()
    middle = pq.ParquetFile(source).metadata.row_group(1).column(0).data_page_offset

    def damage(event: object) -> None:
        if isinstance(event, RunPlanned):
            source.write_bytes(whole[:middle] + b"\0" * 60 + whole[middle + 60 :])

    with nothing_left(endpoint), pytest.raises(SourceError, match=r"in\.parquet"):
        run(tmp_path, hooks=[damage])
    source.write_bytes(whole)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


class BrokenSourceError(Exception):
    """What somebody's generator raises."""


def broken(table: pa.Table, times: int) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(times):
            yield from table.to_batches()
        raise BrokenSourceError("the database went away")

    return pa.RecordBatchReader.from_batches(table.schema, batches())


@pytest.mark.parametrize(("times", "error"), [(0, InputError), (1, InputError), (200, SourceError)])
def test_a_stream_of_rows_that_breaks_ends_everything_with_one_error(
    times: int, error: type[Exception], tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    """Before the first block it is the input that is wrong; after it there is something to go on from."""
    options = OPTIONS | {"block_rows": 2_000, "chunk_rows": 500}
    with nothing_left(endpoint):
        with pytest.raises(error, match="database went away"):
            asyncbatch.run(broken(table, times), str(tmp_path / "out"), **options)
        with pytest.raises(error, match="database went away"):
            asyncbatch.predict(broken(table, times), **options).read_all()  # type: ignore[union-attr]

        async def collect() -> None:
            async for _ in asyncbatch.stream(broken(table, times), **options):
                pass

        with pytest.raises(error, match="database went away"):
            asyncio.run(collect())


def test_a_defect_reaches_the_reader_of_predictions(table: pa.Table, endpoint: Endpoint) -> None:
    """Not only errors of ours: a reader must never wait for a run that is gone."""

    def defect() -> Reply:
        raise ZeroDivisionError("in somebody's endpoint")

    endpoint.answers[PROBES + 7] = defect
    with nothing_left(endpoint):
        reader = asyncbatch.predict(table.to_reader(10), **OPTIONS)
        with pytest.raises(ZeroDivisionError):
            reader.read_all()
    endpoint.answers[endpoint.calls + 1] = defect
    with nothing_left(endpoint), pytest.raises(ZeroDivisionError):
        asyncbatch.predict(table.to_reader(10), **OPTIONS)


def test_a_hook_that_raises_is_told_nothing_more_and_the_run_goes_on(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    told: list[object] = []
    seen: list[object] = []

    def bad(event: object) -> None:
        told.append(event)
        if isinstance(event, PartCommitted):
            raise RuntimeError("a hook")

    with nothing_left(endpoint):
        report = run(tmp_path, hooks=[bad, seen.append])
    assert report.exit_code == 0
    assert sum(isinstance(event, PartCommitted) for event in told) == 1
    assert sum(isinstance(event, PartCommitted) for event in seen) == ROWS // BLOCK_ROWS
    warned = [
        event.message for event in seen if isinstance(event, Warned) and "RuntimeError" in event.message
    ]
    assert len(warned) == 1
    assert warned[0] in report.warnings
    assert check_disk(tmp_path / "out", table) == ROWS


# -- interrupts -----------------------------------------------------------------------------------------


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell has begun the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("begun", [True, False], ids=["while it runs", "before the first block"])
def test_an_interrupt_in_a_notebook_ends_the_run_in_order(
    begun: bool, tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    async def interrupted() -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return await never()

    endpoint.answers[PROBES + 9 if begun else 2] = interrupted

    async def cell() -> None:
        run(tmp_path, grace=0.2)

    loop = asyncio.new_event_loop()  # a notebook's loop, unlike that of `asyncio.run`, leaves SIGINT alone
    with (
        contextlib.closing(loop),
        nothing_left(endpoint),
        pytest.raises(asyncbatch.StoppedError, match="interrupted"),
    ):
        loop.run_until_complete(cell())
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_in_a_notebook_ends_the_run_at_once(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    async def interrupted_twice() -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # noqa: ASYNC110  (no event says so)
            await anyio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        return await never()

    endpoint.answers[PROBES + 9] = interrupted_twice

    async def cell() -> None:
        run(tmp_path, grace=600)

    with (
        contextlib.closing(asyncio.new_event_loop()) as loop,
        nothing_left(endpoint),
        pytest.raises(KeyboardInterrupt),
    ):
        loop.run_until_complete(cell())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    check_resume(tmp_path, table, endpoint, check_disk(tmp_path / "out", table))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_wait_for_a_run_raises_nothing_wherever_it_comes() -> None:
    """KeyboardInterrupt inside `threading.Condition.wait` would end as RuntimeError: its lock is not held."""
    calls: list[int] = []
    with interrupt_calls(lambda: calls.append(1)):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("the first interrupt was raised")
        assert calls == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def mine(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGINT, mine)
    with interrupt_calls(lambda: calls.append(2)):
        assert signal.getsignal(signal.SIGINT) is mine
    assert signal.getsignal(signal.SIGINT) is mine
    assert calls == [1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_run_gives_signal_handlers_back(tmp_path: Path, table: pa.Table, endpoint: Endpoint) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run(tmp_path)
        assert [signal.getsignal(number) for number in before] == [mine, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_signals_stay_with_whoever_has_the_event_loop(
    tmp_path: Path, table: pa.Table, endpoint: Endpoint
) -> None:
    """A service that awaits a run has its own way to stop: it cancels."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        await asyncbatch.arun(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **OPTIONS)
        async for _ in asyncbatch.stream(str(tmp_path / "in.parquet"), **OPTIONS):
            pass
        assert loop.remove_signal_handler(signal.SIGTERM), "somebody removed it"

    asyncio.run(main())
