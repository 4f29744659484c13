"""Whatever happens to a job between its runs, the end is what an undisturbed run would have written.

Runs go through the real pipeline, store and sink over a scripted endpoint in this process; crashes are a disk that
fails, a cancelled run and an endpoint that ends it. What must be refused is refused, and changes nothing.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import asyncbatch
from asyncbatch.errors import AsyncBatchError, InvocationError, OutputError, StoppedError, StorageError
from asyncbatch.model import BytesPayload, Failure, Payload, Reply
from asyncbatch.pipeline import job as job_module
from asyncbatch.pipeline.api import retry_job
from asyncbatch.sink import open_sink
from asyncbatch.sink.layout import parse_part_name
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.plan import load_plan
from asyncbatch.store.local import LocalStore

BLOCK_ROWS = 8
FILES = {"a": 30, "b": 13}
POISON = 7
"""Every so-manieth row is refused."""
OPTIONS: dict[str, Any] = {
    "endpoint": "http://127.0.0.1:9/invocations",
    "send": "x",
    "block_rows": BLOCK_ROWS,
    "chunk_rows": 4,
    "concurrency": 3,
}


class Endpoint:
    """Answers each row's value; refuses requests with a poison row; ends the run or hangs at a chosen request."""

    name = "scripted"
    takes_batches = False
    max_body_bytes = 2**20

    def __init__(self) -> None:
        self.calls = 0
        self.mended = False
        self.fatal_at: int | None = None
        self.hangs_at: int | None = None

    @property
    def identity(self) -> Mapping[str, str | None]:
        return {"kind": "scripted"}

    async def open(self, *, concurrency: int) -> None:
        self.calls = 0

    async def aclose(self) -> None:
        pass

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        await asyncio.sleep(0)
        self.calls += 1
        if self.calls == self.fatal_at:
            raise InvocationError(Failure(status=403, message="no"))
        if self.calls == self.hangs_at:
            await anyio.sleep_forever()
        lines = b"".join(payload.pieces).splitlines()
        if not self.mended and any(int(float(line)) % POISON == POISON - 1 for line in lines):
            raise InvocationError(Failure(status=400, message="no"))
        return Reply(body=b"\n".join(lines), content_type="text/csv")


def when(condition: Callable[["JobStates"], Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A step that does nothing otherwise. A precondition would let crashes, which come when they come, decide which
    steps are drawn: hypothesis needs the same steps for the same random numbers.
    """

    def decorate(step: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(step)
        def checked(self: "JobStates", **given: Any) -> None:
            if condition(self):
                step(self, **given)

        return checked

    return decorate


class JobStates(RuleBasedStateMachine):
    """A folder of two Parquet files into a folder or a single file."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.endpoint = Endpoint()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(os, "fsync", lambda descriptor: None)
        self.patches.setattr(job_module, "make_endpoint", lambda config, *, session: self.endpoint)
        # Waits between tries are of no interest here.
        self.patches.setattr("asyncbatch.pipeline.flow.full_jitter", lambda *_, **__: 0.0)
        self.source = self.home / "in"
        self.source.mkdir()
        self.values: dict[str, list[float]] = {}
        """By input file."""
        self.damaged: set[str] = set()
        self.retried = False
        """A retry was begun: some rows may have been answered that the endpoint refuses in a run."""

    @initialize(sink=st.sampled_from(["out", "out.parquet"]))
    def given(self, sink: str) -> None:
        start = 0
        for name, rows in FILES.items():
            values = [float(start + row) for row in range(rows)]
            pq.write_table(pa.table({"x": values}), self.source / f"{name}.parquet")
            self.values[name] = values
            start += rows
        self.out = self.home / sink
        self.state = self.home / f"{sink}.asyncbatch"
        self.parts = self.out if sink == "out" else self.state / "parts"

    # -- what can happen -------------------------------------------------------------------------------------------

    @rule(rate=st.sampled_from([None, 5_000.0, 100_000.0]), chunk_rows=st.sampled_from([1, 4, 8]))
    def run(self, rate: float | None, chunk_rows: int) -> None:
        """At another rate and with other requests: operational options may change."""
        if self.retrying():
            self.finish_the_retry()
        if self.damaged and not self.finished():
            with pytest.raises(OutputError) as caught:
                self.go(rate=rate, chunk_rows=chunk_rows)
            assert any(name in caught.value.message for name in self.damaged)
            return
        before = self.finished()
        self.go(rate=rate, chunk_rows=chunk_rows)
        if before:
            assert self.endpoint.calls == 0, "a finished job was run again"
        self.check_end()

    @rule(of=st.integers(2, 4), left_out=st.sets(st.integers(1, 3)))
    @when(lambda self: not self.damaged and not self.retrying())
    def shards(self, of: int, left_out: set[int]) -> None:
        """Some of the shards of one number or another, at once; the rest is left to whoever comes next."""
        chosen = set(range(of)) - left_out
        given = OPTIONS | {"concurrency": of}

        async def main() -> None:
            await asyncio.gather(
                *(
                    asyncbatch.arun(str(self.source), str(self.out), **given, shard=f"{index}/{of}")
                    for index in chosen
                )
            )

        asyncio.run(main())
        if len(chosen) == of:
            self.check_end()

    @rule(of=st.integers(2, 3), at=st.integers(1, 20))
    def shards_crash(self, of: int, at: int) -> None:
        """One after the other; one of them is ended by the endpoint."""
        self.endpoint.fatal_at = at
        for index in range(of):
            with contextlib.suppress(AsyncBatchError):
                self.go(shard=f"{index}/{of}")
        self.endpoint.fatal_at = None

    @rule(crashes=st.booleans(), at=st.integers(5, 30))
    def overwrite_the_output(self, crashes: bool, at: int) -> None:
        self.endpoint.fatal_at = at if crashes else None
        with contextlib.suppress(AsyncBatchError) if crashes else contextlib.nullcontext():
            self.go(overwrite=True)
            self.damaged.clear()
            self.retried = False
            self.check_end()
        self.endpoint.fatal_at = None
        self.damaged &= set(self.visible())  # wiped, or not: what is still there is said by the next run

    @rule()
    @when(lambda self: self.planned() and self.finished() and not self.damaged)
    def retry(self) -> None:
        """Every row is answered then, and nothing but the blocks with rejects is asked for."""
        self.retry_with(mended=True)
        assert self.errors() == 0
        self.check_end()

    @rule(at=st.integers(1, 20), by_the_disk=st.booleans())
    @when(lambda self: self.planned() and self.finished() and not self.damaged)
    def retry_crashes(self, at: int, by_the_disk: bool) -> None:
        with pytest.MonkeyPatch.context() as patches:
            if by_the_disk:
                replace, replaced = LocalStore.replace, 0

                def failing(store: LocalStore, *given: Any, **more: Any) -> None:
                    nonlocal replaced
                    replaced += 1
                    if replaced == at:
                        raise StorageError("no space left", hint="free some")
                    replace(store, *given, **more)

                patches.setattr(LocalStore, "replace", failing)
            else:
                self.endpoint.fatal_at = at
            with contextlib.suppress(AsyncBatchError):
                self.retry_with(mended=True)
        self.endpoint.fatal_at = None

    @rule(at=st.integers(1, 20))
    def crash_by_the_disk(self, at: int) -> None:
        with pytest.MonkeyPatch.context() as patches:
            write, writes = PartsSink.write, 0

            def failing(sink: PartsSink, *given: Any, **more: Any) -> None:
                nonlocal writes
                writes += 1
                if writes == at:
                    raise StorageError("no space left", hint="free some")
                write(sink, *given, **more)

            patches.setattr(PartsSink, "write", failing)
            self.stopped()

    @rule(at=st.integers(1, 40))
    def crash_by_the_endpoint(self, at: int) -> None:
        self.endpoint.fatal_at = at
        self.stopped()
        self.endpoint.fatal_at = None

    @rule(at=st.integers(1, 40))
    def cancelled(self, at: int) -> None:
        self.endpoint.hangs_at = at

        async def main() -> None:
            task = asyncio.create_task(asyncbatch.arun(str(self.source), str(self.out), **OPTIONS))
            for _ in range(2_000):
                if task.done() or self.endpoint.calls >= at:
                    break
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            task.cancel()
            await task

        with contextlib.suppress(AsyncBatchError, asyncio.CancelledError):
            asyncio.run(main())
        self.endpoint.hangs_at = None

    @rule(options=st.sampled_from([{"keep": "none"}, {"prediction_name": "y"}, {"on_error": "drop"}]))
    @when(lambda self: self.planned())
    def change_what_a_part_holds(self, options: dict[str, Any]) -> None:
        self.refused("differs", **options)

    @rule(name=st.sampled_from(sorted(FILES)))
    @when(lambda self: self.planned())
    def overwrite_an_input(self, name: str) -> None:
        path = self.source / f"{name}.parquet"
        content, times = path.read_bytes(), path.stat()
        pq.write_table(pa.table({"x": [-1.0, -2.0, -3.0]}), path)
        self.refused(name)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    @rule(name=st.sampled_from(sorted(FILES)), rows=st.integers(1, 20))
    @when(lambda self: self.planned())
    def append_to_an_input(self, name: str, rows: int) -> None:
        """The rows that were there are the same, and it is refused all the same."""
        path = self.source / f"{name}.parquet"
        content, times = path.read_bytes(), path.stat()
        pq.write_table(pa.table({"x": pq.read_table(path)["x"].to_pylist() + [7e6] * rows}), path)
        self.refused(name)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    @rule(name=st.sampled_from(["0", "aa", "c"]), part=st.integers(0, 20))
    @when(lambda self: self.planned() and not self.damaged and not self.retrying())
    def a_file_is_added(self, name: str, part: int) -> None:
        """Whatever its place in the order of files: it waits for the rows that were planned, and then comes after them."""
        if name in self.values:
            return
        if self.parts == self.out and part < len(self.visible()):
            (self.parts / self.visible()[part]).unlink()
        finished, added = self.finished(), self.source / f"{name}.parquet"
        values = [1_000.0 + 10 * len(self.values), 1_001.0 + 10 * len(self.values)]
        pq.write_table(pa.table({"x": values}), added)
        if finished and self.parts != self.out:
            self.refused("appeared since")
            added.unlink()
        elif finished:
            self.values[name] = values
            self.go()
        else:
            self.go()
            added.unlink()
        self.check_end()

    @rule()
    @when(lambda self: self.planned())
    def a_second_writer(self) -> None:
        with open_sink(str(self.out)):
            before = self.content()
            with pytest.raises(StoppedError, match="is at work on") as caught:
                self.go()
            assert caught.value.exit_code == 75
            assert self.content() == before

    @rule(part=st.integers(0, 20))
    @when(lambda self: self.visible())
    def delete_a_part(self, part: int) -> None:
        name = self.visible()[part % len(self.visible())]
        (self.parts / name).unlink()
        self.damaged.discard(name)

    @rule(part=st.integers(0, 20))
    @when(lambda self: self.visible() and not self.finished())
    def damage_a_part(self, part: int) -> None:
        """A run that ends over it says which part it is; once that is deleted the next run scores its rows again."""
        name = self.visible()[part % len(self.visible())]
        with (self.parts / name).open("r+b") as file:
            file.truncate(30)
        self.damaged.add(name)

    # -- what holds all the time -----------------------------------------------------------------------------------

    @invariant()
    def every_visible_part_is_whole(self) -> None:
        if not self.parts_folder():
            return
        files = self.files()
        for name in self.visible():
            if name in self.damaged:
                continue
            block = parse_part_name(name)
            assert block is not None
            table = pq.read_table(self.parts / name, page_checksum_verification=True)
            self.check_rows(table, files[block.file][block.start : block.stop])

    def teardown(self) -> None:
        for name in self.damaged:
            (self.parts / name).unlink()
        self.damaged.clear()
        try:
            if hasattr(self, "out"):
                if self.retrying():
                    self.finish_the_retry()
                self.go()
                self.check_end()
                calls = self.endpoint.calls
                self.go()
                assert self.endpoint.calls == 0, f"a finished job sent requests: {calls}"
        finally:
            self.patches.undo()
            shutil.rmtree(self.home)

    # -- how -------------------------------------------------------------------------------------------------------

    def go(self, **options: Any) -> None:
        self.endpoint.calls = 0
        given = {name: value for name, value in (OPTIONS | options).items() if value is not None}
        asyncbatch.run(str(self.source), str(self.out), **given)

    def stopped(self) -> None:
        """A run that may be ended by what was prepared, or be done before."""
        with contextlib.suppress(AsyncBatchError):
            self.go()

    def retry_with(self, *, mended: bool) -> None:
        self.endpoint.mended, self.retried = mended, True
        try:
            retry_job(str(self.out), {"endpoint": OPTIONS["endpoint"], "concurrency": 3})
        finally:
            self.endpoint.mended = False

    def retrying(self) -> bool:
        """A retry was interrupted; a run of a single file may say so then."""
        return hasattr(self, "state") and (self.state / "retry.json").exists()

    def finish_the_retry(self) -> None:
        """A run first, where the output is not complete: a part may have been deleted meanwhile."""
        with contextlib.suppress(OutputError):
            self.go()
        if not self.damaged:
            self.retry_with(mended=True)

    def errors(self) -> int:
        return pq.read_table(self.state / "errors.parquet").num_rows

    def refused(self, said: str, **options: Any) -> None:
        before = self.content()
        with pytest.raises(OutputError, match=said):
            self.go(**options)
        assert self.content() == before

    def planned(self) -> bool:
        return hasattr(self, "state") and (self.state / "job-000001.json").exists()

    def finished(self) -> bool:
        if not (self.state / "_SUCCESS").exists():
            return False
        held = sum(block.rows for block in map(parse_part_name, self.visible()) if block is not None)
        return self.parts != self.out or held == sum(len(values) for values in self.files())

    def files(self) -> list[list[float]]:
        """The values of the planned files, in the plan's order."""
        plan = load_plan(LocalStore(self.state, self.state)) if self.planned() else None
        names = sorted(self.values) if plan is None else [Path(file.path).stem for file in plan.files]
        return [self.values[name] for name in names]

    def parts_folder(self) -> bool:
        return hasattr(self, "parts") and self.parts.is_dir()

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.parts.iterdir()) if self.parts_folder() else []

    def content(self) -> dict[str, bytes]:
        found = {name: (self.parts / name).read_bytes() for name in self.visible()}
        return found | ({"": self.out.read_bytes()} if self.out.is_file() else {})

    def check_end(self) -> None:
        assert (self.state / "_SUCCESS").exists()
        assert not list((self.state / "tmp").glob("*"))
        if not self.damaged:
            self.check_rows(pq.read_table(self.out), [row for values in self.files() for row in values])
            assert self.errors() == pq.read_table(self.out)["error"].drop_null().length()

    def check_rows(self, table: pa.Table, rows: list[float]) -> None:
        bad = [int(row) % POISON == POISON - 1 for row in rows]
        if self.retried:
            answered = [each is None for each in table["error"].to_pylist()]
            bad = [no and not yes for no, yes in zip(bad, answered, strict=True)]
        assert table["x"].to_pylist() == rows
        assert table["prediction"].to_pylist() == [
            None if no else row for row, no in zip(rows, bad, strict=True)
        ]
        assert [each is not None for each in table["error"].to_pylist()] == bad


CHECKED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


class TestShort(JobStates.TestCase):
    # Found again by the same steps, so not shrunk here: that takes minutes.
    settings = settings(
        max_examples=10, stateful_step_count=15, derandomize=True, phases=[Phase.generate], **CHECKED
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestLong(JobStates.TestCase):
    settings = settings(max_examples=150, stateful_step_count=25, **CHECKED)
