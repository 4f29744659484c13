"""An endpoint that goes away, dies or wants a new login: nothing is rejected for it, and the same command goes on."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import emulators
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import StoppedError
from asyncbatch.observe.events import PartCommitted, RowsRejected
from asyncbatch.observe.report import RunReport
from asyncbatch.server import Credential, ServeConfig, SimulationConfig, serving
from asyncbatch.server.background import background

ROWS = 2_000
OPTIONS: dict[str, Any] = {"no_send": "id", "chunk_rows": 20, "concurrency": 4, "block_rows": 100}
HEALTHY = SimulationConfig(a=0.01, slots=100)
Act = Callable[[], Any]


@pytest.fixture(autouse=True)
def servers_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.01)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x0": np.random.default_rng(3).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


@pytest.fixture
def port() -> int:
    return emulators.free_port()


def served(port: int, simulation: SimulationConfig = HEALTHY, **more: Any) -> ServeConfig:
    return ServeConfig(model="simulated", port=port, simulation=simulation, **more)


async def score(
    folder: Path,
    port: int,
    *,
    when_parts: int = 10**9,
    act: Act | None = None,
    blamed: list[RowsRejected] | None = None,
    **options: Any,
) -> RunReport:
    """Run, and call `act` as soon as so many parts are committed."""
    parts = 0

    def watch(event: object) -> None:
        nonlocal parts
        if isinstance(event, RowsRejected) and blamed is not None:
            blamed.append(event)
        if isinstance(event, PartCommitted):
            parts += 1
            if parts == when_parts and act is not None:
                act()

    return await asyncbatch.arun(
        str(folder / "in.parquet"), str(folder / "out"), endpoint=f"http://127.0.0.1:{port}/invocations", hooks=[watch],
        **(OPTIONS | options),
    )  # fmt: skip


def check(folder: Path, table: pa.Table) -> None:
    scored = pq.read_table(folder / "out")
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()
    assert scored["error"].null_count == ROWS


@contextlib.asynccontextmanager
async def replaced(port: int, by: SimulationConfig | None) -> AsyncIterator[tuple[Act, Counter[str]]]:
    """A healthy server on `port`; the act given closes it and starts another there, whose outcomes are counted."""
    turn = asyncio.Event()

    async def serve() -> None:
        async with serving(served(port)):
            up.set()
            await turn.wait()
        if by is not None:
            async with serving(served(port, by)) as server:
                try:
                    await asyncio.Event().wait()
                finally:
                    outcomes.update(server.stats()["outcomes"])

    up = asyncio.Event()
    outcomes: Counter[str] = Counter()
    task = asyncio.create_task(serve())
    try:
        await up.wait()
        yield turn.set, outcomes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("away_s", [0.5, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_and_comes_back_costs_no_row(
    away_s: float, tmp_path: Path, table: pa.Table, port: int
) -> None:
    async def scenario() -> RunReport:
        with contextlib.ExitStack() as stack:
            first = await asyncio.to_thread(stack.enter_context, background(served(port)))
            killed = asyncio.Event()

            def kill() -> None:
                os.kill(first.pid, signal.SIGKILL)
                killed.set()

            running = asyncio.create_task(score(tmp_path, port, when_parts=3, act=kill))
            await killed.wait()
            await asyncio.sleep(away_s)
            await asyncio.to_thread(stack.enter_context, background(served(port)))
            return await running

    report = asyncio.run(scenario())
    assert report.exit_code == 0
    assert report.metrics.requests_by_outcome["unavailable"] > 0
    check(tmp_path, table)


def test_an_endpoint_that_never_returns_ends_the_run_resumably(
    tmp_path: Path, table: pa.Table, port: int
) -> None:
    async def scenario() -> None:
        async with replaced(port, None) as (away, _):
            began = time.monotonic()
            with pytest.raises(StoppedError, match="answered nothing for") as caught:
                await score(tmp_path, port, when_parts=4, act=away, max_outage="1s")
            assert caught.value.exit_code == 75
            assert "--max-outage" in str(caught.value.hint)
            assert time.monotonic() - began < 30

    asyncio.run(scenario())
    assert pq.read_table(tmp_path / "out")["error"].null_count >= 4 * 100

    async def resume() -> RunReport:
        async with serving(served(port)):
            return await score(tmp_path, port)

    report = asyncio.run(resume())
    assert report.exit_code == 0
    assert report.metrics.rows_resumed >= 4 * 100
    check(tmp_path, table)


@pytest.mark.parametrize(
    "kind",
    ["500", "424-400", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("424", "garbage", "reset"))],
)
def test_a_dead_model_is_not_a_thousand_bad_rows(
    kind: str, tmp_path: Path, table: pa.Table, port: int
) -> None:
    dead = SimulationConfig(errors={kind: 1.0}, slots=100)
    blamed: list[RowsRejected] = []

    async def scenario() -> int:
        async with replaced(port, dead) as (dies, outcomes):
            with pytest.raises(StoppedError) as caught:
                await score(
                    tmp_path, port, when_parts=10, act=dies, blamed=blamed, max_outage="2s", max_retries=1
                )
            assert caught.value.exit_code == 75
        return outcomes.total()

    asked = asyncio.run(scenario())
    assert not blamed, "rows were blamed for a dead model"
    assert asked <= 700, "a dead endpoint is asked now and then only"
    scored = pq.read_table(tmp_path / "out")
    assert scored.num_rows >= 10 * 100
    assert scored["error"].null_count == scored.num_rows, "rows were rejected for a dead model"

    async def resume() -> RunReport:
        async with serving(served(port)):
            return await score(tmp_path, port)

    assert asyncio.run(resume()).exit_code == 0
    check(tmp_path, table)


def test_a_stretch_of_bad_rows_is_not_a_dead_model(tmp_path: Path, port: int) -> None:
    x = np.random.default_rng(3).normal(size=ROWS)
    x[900:1_100] = -999.0
    pq.write_table(pa.table({"x0": x, "id": np.arange(ROWS)}), tmp_path / "in.parquet")

    async def scenario() -> RunReport:
        async with serving(served(port, SimulationConfig(poison_value="-999.0", slots=100))):
            return await score(tmp_path, port, max_outage="2s")

    assert asyncio.run(scenario()).exit_code == 3
    scored = pq.read_table(tmp_path / "out")
    assert np.flatnonzero(scored["error"].is_valid()).tolist() == list(range(900, 1_100))
    assert np.flatnonzero(scored["prediction"].is_null()).tolist() == list(range(900, 1_100))


def test_credentials_that_expire_mid_run_stop_it_until_the_next_login(
    tmp_path: Path, table: pa.Table, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = (
        Credential(access_key="AKIAOLD", secret_key="old", expires_at=time.time() + 1_000),
        Credential(access_key="AKIANEW", secret_key="new"),
    )
    later_s = 0.0

    def watch(event: object) -> None:
        nonlocal later_s
        if isinstance(event, PartCommitted):
            later_s = 2_000.0

    async def scenario() -> RunReport:
        async with serving(served(port, credentials=credentials)) as server:
            return await asyncbatch.arun(
                str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=server.name, endpoint_url=server.url,
                hooks=[watch], **OPTIONS,
            )  # fmt: skip

    monkeypatch.setattr("asyncbatch.server.app.EndpointApp._now_s", lambda _: time.time() + later_s)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOLD")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "old")
    with pytest.raises(StoppedError, match="credentials") as caught:
        asyncio.run(scenario())
    assert caught.value.exit_code == 75
    assert "aws sso login" in str(caught.value.hint)
    monkeypatch.setattr("asyncbatch.server.app.EndpointApp._now_s", lambda _: time.time())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANEW")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new")
    report = asyncio.run(scenario())
    assert report.exit_code == 0
    assert report.metrics.rows_resumed > 0
    check(tmp_path, table)
