"""The event loop does no work by the row: no callback of a run takes more than 50 ms of CPU."""

import asyncio
import asyncio.events
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]
LIMIT_S = 0.05


class Longest:
    """The callback that took most CPU, of its own thread, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.where = ""
        self._running: tuple[int, float] | None = None
        """Thread and start of the callback that runs now."""
        self._seen = ""
        self._ended = threading.Event()

    def run(self, handle: asyncio.Handle, run: Callable[[asyncio.Handle], None]) -> None:
        self._seen = ""
        began = time.thread_time()
        self._running = (threading.get_ident(), time.monotonic())
        try:
            run(handle)
        finally:
            self._running = None
            if (seconds := time.thread_time() - began) > self.seconds:
                self.seconds, self.where = seconds, self._seen or repr(handle)

    def look(self) -> None:
        """In a thread: what is a long callback doing?"""
        while not self._ended.wait(LIMIT_S / 5):
            running = self._running
            if running is not None and time.monotonic() - running[1] > LIMIT_S / 2:
                frame = sys._current_frames().get(running[0])
                places = []  # without the lines' text: to read files would take longer than the callback
                while frame is not None and len(places) < 20:
                    code = frame.f_code
                    places.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
                    frame = frame.f_back
                self._seen = " < ".join(places)

    def end(self) -> None:
        self._ended.set()

    def check(self) -> None:
        assert self.seconds < LIMIT_S, f"{self.seconds * 1e3:.0f} ms: {self.where}"


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Longest]:
    """Watches every callback of asyncio's own event loops.

    What thousands of tests before this one have left in memory is set aside: a full garbage collection over all of it takes
    longer than the limit, may start inside any callback, and is no work of the run. What the run itself allocates is collected.
    """
    found = Longest()
    gc.collect()
    gc.freeze()
    run = asyncio.events.Handle._run
    monkeypatch.setattr(asyncio.events.Handle, "_run", lambda handle: found.run(handle, run))
    thread = threading.Thread(target=found.look)
    thread.start()
    yield found
    found.end()
    thread.join()
    gc.unfreeze()


def test_the_detector_sees_what_keeps_the_loop_busy(longest: Longest) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        until = time.thread_time() + 2 * LIMIT_S
        while time.thread_time() < until:
            pass

    asyncio.run(main())
    with pytest.raises(AssertionError, match="main"):
        longest.check()


def numbers(rows: int, columns: int = 5) -> pa.Table:
    values = np.random.default_rng(0).normal(size=rows)
    return pa.table({f"x{index}": values + index for index in range(columns)})


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f'row {row}, "quoted"\nand long ' + "x" * 200 for row in range(rows)]})


SOURCES: dict[str, Callable[[], pa.Table]] = {
    "one large block": lambda: numbers(120_000),
    "500 columns": lambda: numbers(3_000, 500),
    "many parts": lambda: numbers(40_000),
    "texts": lambda: texts(20_000),
}


@pytest.mark.parametrize("body", ["csv", "jsonl", "json", "npy", "arrow", "parquet"])
@pytest.mark.parametrize("source", SOURCES)
def test_runs(source: str, body: str, tmp_path: Path, echo: Background, longest: Longest) -> None:
    if source == "texts" and body == "npy":
        pytest.skip("npy holds numbers only")
    options: dict[str, Any] = {"endpoint": echo.invocations_url, "body": body, "max_memory": "1GB"}
    if source == "many parts":
        options |= {"block_rows": 256, "keep": "none"}
    else:
        options |= {"chunk_rows": 20_000}
    if body == "parquet":
        options["accept"] = "text/csv"
    pq.write_table(SOURCES[source](), tmp_path / "in.parquet")
    report = asyncio.run(asyncbatch.arun(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **options))
    assert report.exit_code == 0
    longest.check()
    if source == "many parts":  # going on from there lists and reads them all
        next((tmp_path / "out").iterdir()).unlink()
        report = asyncio.run(asyncbatch.arun(str(tmp_path / "in.parquet"), str(tmp_path / "out"), **options))
        assert report.metrics.rows_in == 256
        longest.check()


@pytest.mark.parametrize("body", ["csv", "npy"])
def test_a_run_over_sagemaker(body: str, tmp_path: Path, echo: Background, longest: Longest) -> None:
    asyncio.run(
        asyncbatch.arun(
            numbers(120_000),
            str(tmp_path / "out.csv"),
            endpoint=echo.name,
            endpoint_url=echo.url,
            body=body,
            chunk_rows=20_000,
            max_memory="1GB",
        )
    )
    longest.check()


@pytest.mark.parametrize("accept", ["application/json", "text/csv", "application/x-npy"])
def test_replies_of_several_megabytes(accept: str, tmp_path: Path, serve: Serve, longest: Longest) -> None:
    server = serve(ServeConfig(model="simulated", simulation=SimulationConfig(outputs=768)))
    pq.write_table(numbers(4_000), tmp_path / "in.parquet")
    asyncio.run(
        asyncbatch.arun(
            str(tmp_path / "in.parquet"),
            str(tmp_path / "out.parquet"),
            endpoint=server.invocations_url,
            accept=accept,
            chunk_rows=1_000,
            max_memory="1GB",
        )
    )
    longest.check()


def test_a_stream(echo: Background, longest: Longest) -> None:
    async def main() -> int:
        stream = asyncbatch.stream(numbers(120_000), endpoint=echo.invocations_url, chunk_rows=20_000)
        return sum([batch.num_rows async for batch in stream])

    assert asyncio.run(main()) == 120_000
    longest.check()


@pytest.mark.parametrize("returns", ["list", "array", "dicts"])
def test_a_function(returns: str, tmp_path: Path, longest: Longest, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop_watch_model.py").write_text(
        "def list(batch): return batch.column(0).to_pylist()\n"
        "def array(batch): return batch.column(0).to_numpy()\n"
        "def dicts(batch): return [{'a': value} for value in batch.column(0).to_pylist()]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asyncio.run(
        asyncbatch.arun(
            numbers(120_000),
            str(tmp_path / "out"),
            endpoint=f"python:loop_watch_model:{returns}",
            chunk_rows=100_000,
            block_rows=120_000,
            max_memory="1GB",
        )
    )
    longest.check()
