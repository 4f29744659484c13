"""`asyncbatch run` through nginx: TLS, its limits, its closed connections, and an upstream that goes away."""

import dataclasses
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import EndpointError, StoppedError
from asyncbatch.observe.events import PartCommitted, RequestFailed
from asyncbatch.server.background import Background, background
from asyncbatch.server.config import ServeConfig, SimulationConfig

pytestmark = pytest.mark.real("nginx")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
StartNginx = Callable[..., Any]

ROWS = 6_007


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Row n holds the number n and 100 bytes of padding; the endpoint answers n."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"n": range(ROWS), "padding": ["x" * 100] * ROWS}), path)
    return path


def address(server: Background) -> str:
    return f"{server.host}:{server.port}"


def check(out: Path) -> None:
    """Every row is there, in order, with its own answer."""
    table = pq.read_table(out)
    assert table["n"].to_pylist() == list(range(ROWS))
    assert table["prediction"].to_pylist() == list(range(ROWS))
    assert table["error"].null_count == ROWS


class Away:
    """A hook: once the first part is committed its upstream stops, and starts again after a while."""

    def __init__(self, config: ServeConfig, *, away_s: float) -> None:
        self._config = config
        self._away_s = away_s
        self._due = threading.Event()
        self._up = threading.Event()
        self._back = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.upstream = ""
        self.was_away = False

    def __call__(self, event: object) -> None:
        if isinstance(event, PartCommitted):
            self._due.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._due.set()
        self._back.set()
        self._thread.join(60)

    def come_back(self) -> None:
        """Start again now."""
        self._up.clear()
        self._back.set()
        assert self._up.wait(60)

    def _serve(self) -> None:
        with background(self._config) as server:
            self.upstream = address(server)
            self._up.set()
            self._due.wait()
        if not self._over.is_set():
            self._back.wait(self._away_s)
            self.was_away = True
            with background(dataclasses.replace(self._config, port=server.port)):
                self._up.set()
                self._over.wait()


SLOW = SimulationConfig(a=0.02, slots=4)



@pytest.mark.parametrize(("away","retries"),[(15.0,6),(6.0,1),(40.0,6)])
def test_zz(start_nginx, rows, tmp_path, away, retries):
    from asyncbatch.observe.events import RequestFailed
    fails=[]
    def note(e):
        if isinstance(e, RequestFailed): fails.append((round(time.monotonic()-t0,2), e.outcome.value, e.rows, e.attempt))
    t0=time.monotonic()
    with Away(ServeConfig(model="simulated", simulation=SLOW), away_s=away) as a:
        nginx = start_nginx(upstream=a.upstream)
        r = asyncbatch.run(str(rows), str(tmp_path / "out"), endpoint=nginx.invocations_url, chunk_rows=40, block_rows=1_000, concurrency=4, hooks=[a,note], max_retries=retries)
    print("\nRESULT", away, retries, r.status, r.metrics.rows_rejected, r.metrics.requests_by_outcome, round(r.metrics.elapsed_s,1), "rows of fails:", Counter(f[2] for f in fails))
    print([f for f in fails][-12:])
