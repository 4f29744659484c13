"""Kill `asyncbatch run` with SIGKILL at random moments while it reads from and writes to object stores.

    python benchmarks/torture_stores.py --kills 60       # writes results/torture_stores.json
    python -m pytest tests/torture/test_torture_stores.py     # the short form

As benchmarks/torture.py, with source and sink in a bucket of an emulator that is started here: moto (S3), and with
`--store` Azurite or gcp-storage-emulator. After each kill the bucket is copied to this machine by the store's own
library and looked through there: every visible part must be whole. Outputs go in pieces from 1 KiB on, so that uploads
are killed half-way too; at the end none is left behind.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import emulators
import torture
from torture import BLOCK_ROWS, CHUNK_ROWS, CONCURRENCY, PHASES, Data, Job, Phase, check_parts, simulation

from asyncbatch.server import ServeConfig
from asyncbatch.server.background import Background, background
from asyncbatch.store.access import Access
from asyncbatch.store.client import ObjectClient
from asyncbatch.store.connect import connect
from asyncbatch.store.uri import parse_uri

INPUTS = ("in.parquet", "in.csv")
SINKS = ("out", "out.parquet", "joined", "out.csv")
STORES = {"s3": emulators.s3, "gs": emulators.gcs, "az": emulators.azure}
_LONGEST_S = 120.0


class StoreTorture:
    """A server, inputs in a bucket, and processes that are forked from one that has imported everything."""

    def __init__(
        self,
        folder: Path,
        base: str,
        environment: Mapping[str, str],
        server: Background,
        data: Data,
        rng: random.Random,
    ) -> None:
        self._folder = folder
        self._base = base
        self._environment = environment
        self._server = server
        self._data = data
        self._rng = rng
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(
            ["torture_stores", "asyncbatch.cli.main", "asyncbatch.pipeline.api"]
        )
        self._planning_s = 1.5
        uri = parse_uri(f"{base}/x")
        assert uri is not None
        self.client: ObjectClient = connect(uri, Access())
        for name in INPUTS:
            self.client.put(f"in/{name}", (folder / name).read_bytes(), condition=None, attempt="")

    def run(self, source: str, sink: str, *, kills: int) -> Job:
        """Start, kill, start again; the last start runs to its end, and everything is checked."""
        job = Job(source, sink)
        home = f"{source}-{sink}-{self._rng.getrandbits(32):08x}".replace(".", "-")
        began = time.monotonic()
        while job.killed < kills and not self._there(f"{home}/{sink}.asyncbatch/_SUCCESS"):
            self._start(job, home, self._rng.choice(PHASES))
        self._start(job, home, None)
        copy = self._copied(home)
        self._data.check(copy / sink)
        shutil.rmtree(copy)
        left = [each.key for each in self.client.unfinished(f"{home}/") if each.begun_s < time.time() - 60]
        assert not left, f"uploads were left behind: {left}"
        job.seconds = time.monotonic() - began
        return job

    def _start(self, job: Job, home: str, phase: Phase | None) -> None:
        """One start of the command: killed in `phase`, or to its end."""
        state = f"{home}/{job.sink}.asyncbatch"
        finished = self._there(f"{state}/_SUCCESS")
        committed = self._check(home, job.sink)
        before = self._server.stats()
        argv = [
            "run", f"{self._base}/in/{job.source}", f"{self._base}/{home}/{job.sink}",
            "-e", self._server.invocations_url, "--send", "x", "--block-rows", str(BLOCK_ROWS),
            "--chunk-rows", str(CHUNK_ROWS), "--concurrency", str(CONCURRENCY), "--request-timeout", "2s",
            "--no-progress", *(("--file-size", "20KB") if job.sink == "joined" else ()),
        ]  # fmt: skip
        stderr = self._folder / "stderr"
        began = time.monotonic()
        process = self._context.Process(target=_command, args=(argv, str(stderr), self._environment))
        process.start()
        job.starts += 1
        if phase is not None:
            self._await_moment(phase, state, process)
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        elif not self._there(f"{state}/job-000001.json"):
            self._until(f"{state}/job-000001.json", process)
            self._planning_s = time.monotonic() - began
        process.join(_LONGEST_S)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{argv} hangs: {stderr.read_text()[-2000:]}")
        time.sleep(0.05)  # what it had sent is counted
        after = self._server.stats()
        job.rows_sent += after["rows_in"] - before["rows_in"]
        if process.exitcode == -signal.SIGKILL and phase is not None:
            job.kills[phase] += 1
            left = self._check(home, job.sink)
            published = self._there(f"{state}/manifest.json")
            lost = after["rows"] - before["rows"] - (left - committed)
            job.lost_rows.append(0 if published else max(0, lost))
        else:
            expected = 0 if finished else 3  # nothing was left to do, or done with rejects
            said = stderr.read_text()
            assert process.exitcode == expected, f"exit code {process.exitcode}: {said[-2000:]}"

    def _await_moment(self, phase: Phase, state: str, process: Any) -> None:
        """Return when the process is to be killed."""
        if phase == "planning":
            process.join(self._rng.uniform(0, 1.2 * self._planning_s))
            return
        self._until(f"{state}/job-000001.json", process)
        if phase == "scoring":
            process.join(self._rng.uniform(0.05, 1.5))
            return
        self._until(f"{state}/manifest.json", process)
        process.join(self._rng.uniform(0, 0.15))

    def _until(self, key: str, process: Any) -> None:
        while not self._there(key) and process.is_alive():
            time.sleep(0.02)

    def _there(self, key: str) -> bool:
        return self.client.head(key) is not None

    def _check(self, home: str, sink: str) -> int:
        copy = self._copied(home)
        rows = check_parts(copy / f"{sink}.asyncbatch" / "parts" if "." in sink else copy / sink)
        shutil.rmtree(copy, ignore_errors=True)
        return rows

    def _copied(self, home: str) -> Path:
        copy = Path(tempfile.mkdtemp(dir=self._folder))
        for info in self.client.list(f"{home}/"):
            path = copy / info.key.removeprefix(f"{home}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.client.read(info.key, 0, info.size_bytes) if info.size_bytes else b"")
        return copy


def _command(argv: list[str], stderr: str, environment: Mapping[str, str]) -> None:
    """In a process of its own, begun by one that may be older than the emulator: what `asyncbatch ARGV` does, with small
    pieces.
    """
    os.environ.update(environment)
    from asyncbatch.store import pieces

    pieces.PIECE_BYTES, pieces.WHOLE_BYTES = 16 * 1024, 20 * 1024
    torture._command(argv, stderr)


@contextlib.contextmanager
def tortured(folder: Path, seed: int, store: str = "s3") -> Iterator[StoreTorture]:
    """Inputs in a bucket of an emulator, and a server, while the block runs."""
    simulated = simulation(seed)
    data = Data.make(seed, simulated)
    data.write(folder)
    with (
        STORES[store]() as emulator,
        background(ServeConfig(model="simulated", simulation=simulated)) as server,
    ):
        os.environ.update(emulator.environment)
        yield StoreTorture(
            folder, emulator.make("bucket"), emulator.environment, server, data, random.Random(seed)
        )


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--kills-per-job", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=STORES, default="s3")
    parser.add_argument("--longest", type=float, default=840, help="seconds; then no further job is begun")
    asked = parser.parse_args()
    began = time.monotonic()
    jobs: list[Job] = []
    with tempfile.TemporaryDirectory() as folder, tortured(Path(folder), asked.seed, asked.store) as store:
        pairs = list(product(INPUTS, SINKS))
        while sum(job.killed for job in jobs) < asked.kills and time.monotonic() - began < asked.longest:
            source, sink = pairs[len(jobs) % len(pairs)]
            job = store.run(source, sink, kills=asked.kills_per_job)
            jobs.append(job)
            print(f"{source} -> {sink}: {job.kills}, {job.starts} starts, {job.seconds:.0f} s", flush=True)
    lost = [rows for job in jobs for rows in job.lost_rows]
    kills = {phase: sum(job.kills[phase] for job in jobs) for phase in dict.fromkeys(PHASES)}
    result = {
        "what": "SIGKILL at random moments of runs from a bucket to a bucket: outputs checked row by row",
        **surroundings("pyarrow", "moto", "boto3"),
        "store": asked.store,
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(kills.values()),
        "kills_by_phase": kills,
        "jobs": len(jobs),
        "starts": sum(job.starts for job in jobs),
        "violations": 0,
        "rows_of_a_job": torture.ROWS,
        "block_rows": BLOCK_ROWS,
        "in_flight": CONCURRENCY,
        "rows_answered_and_lost_by_a_kill": {"mean": round(sum(lost) / max(1, len(lost)), 1), "most": max(lost, default=0)},
    }  # fmt: skip
    print(save("torture_stores" if asked.store == "s3" else f"torture_stores_{asked.store}", result))


if __name__ == "__main__":
    main()
