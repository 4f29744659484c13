"""Kill `asyncbatch run` with SIGKILL at random moments, again and again, and check what it leaves and what it ends with.

    python benchmarks/torture.py --kills 200            # writes results/torture.json
    python -m pytest tests/torture                      # the short form

A job is one input into one output. Its command is started, killed while it plans, scores or publishes, and started
again, until as many kills are done as were asked for; the last start is left alone. The endpoint throttles, fails in
every way that the simulated one knows, and refuses poison rows. After each kill every visible part must be whole and
hold the rows of its range. At the end every row is there once, in input order, with its own prediction, and rejected
are the poison rows and no others: what a run without kills writes, which is run once for each kind of input too.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background, background
from asyncbatch.server.config import ERROR_KINDS
from asyncbatch.server.simulation import poison_mask
from asyncbatch.sink.layout import parse_part_name

ROWS = 2_400
BLOCK_ROWS = 100
CHUNK_ROWS = 25
CONCURRENCY = 4
OPEN_BLOCKS = 12
"""Blocks with answered rows that a kill may cost: as many as requests in flight, those that wait for a retry, and
those being written."""
LOST_ROWS = 200
"""Rows that a kill may cost on average: those in flight, and blocks half answered. Measured: 50 to 60."""
PROBE_ROWS = 2 * (1 + 2 + 7 + 300)
"""Of a start that plans, each probe sent twice at most."""
INPUTS = ("in.parquet", "in.csv", "in.jsonl", "in.csv.gz")
SINKS = ("out", "joined", "out.parquet", "out.csv", "out.jsonl")
"""`joined` is a folder whose parts are joined at the end."""
Phase = Literal["planning", "scoring", "publishing"]
PHASES: tuple[Phase, ...] = ("planning", "scoring", "scoring", "scoring", "publishing")
_FAULTS = [kind for kind in ERROR_KINDS if kind not in ("nan", "hang", "trickle")]
_LONGEST_S = 120.0
_LEASE_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Data:
    """The rows of every input, and what must become of them."""

    table: pa.Table
    poison: "np.ndarray[Any, Any]"

    @classmethod
    def make(cls, seed: int, simulation: SimulationConfig) -> "Data":
        rng = np.random.default_rng(seed)
        x = np.round(rng.normal(size=ROWS), 6)
        text = [f'row "{row}",\nand more' if row % 3 else f"row {row}" for row in range(ROWS)]
        table = pa.table({"id": np.arange(ROWS), "x": x, "text": text})
        return cls(table, poison_mask(x, share=simulation.poison_share, seed=simulation.seed))

    def write(self, folder: Path) -> None:
        """All inputs; the CSV ones with newlines inside of quotes."""
        pq.write_table(self.table, folder / "in.parquet", row_group_size=700)
        rows = self.table.to_pylist()
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = io.StringIO()
        writer = csv.DictWriter(out, self.table.column_names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        (folder / "in.csv").write_text(out.getvalue())
        (folder / "in.csv.gz").write_bytes(gzip.compress(out.getvalue().encode()))

    def check(self, out: Path) -> None:
        """Every row once, in order, with its own answer; rejected are the poison rows."""
        found = read_output(out)
        assert [str(each) for each in found["id"]] == [str(each) for each in range(ROWS)], (
            "rows lost, twice or astray"
        )
        assert found["text"] == self.table["text"].to_pylist()
        rejected = [bool(each) for each in found["error"]]
        assert np.flatnonzero(rejected).tolist() == np.flatnonzero(self.poison).tolist(), (
            "rejects are not the poison"
        )
        x = self.table["x"].to_pylist()
        expected = [None if bad else value for value, bad in zip(x, self.poison, strict=True)]
        assert [None if each in (None, "") else float(each) for each in found["prediction"]] == expected
        state = out.with_name(out.name + ".asyncbatch")
        errors = pq.read_table(state / "errors.parquet")
        assert errors["row"].to_pylist() == np.flatnonzero(self.poison).tolist()
        assert (state / "_SUCCESS").exists()
        # Who is killed before its lease is visible leaves the lease's own temporary file for a minute.
        left = [path.name for path in (state / "tmp").glob("*") if path.stat().st_size > _LEASE_BYTES]
        assert not left, f"something unfinished was left: {left}"


def read_output(out: Path) -> dict[str, list[Any]]:
    """Columns of a folder or a single file."""
    if out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return {name: [row.get(name) for row in rows] for name in rows[0]}
    if out.suffix == ".csv":
        options = pyarrow.csv.ParseOptions(newlines_in_values=True)
        table = pyarrow.csv.read_csv(out, parse_options=options)
        return {name: table[name].to_pylist() for name in table.column_names}
    return pq.read_table(out).to_pydict()


def check_parts(folder: Path) -> int:
    """Every visible part is whole and holds its rows; how many rows there are in all."""
    rows = 0
    for path in folder.glob("*.parquet") if folder.is_dir() else ():
        block = parse_part_name(path.name)
        assert block is not None, f"{path.name} is no part"
        try:
            found = pq.read_table(path, page_checksum_verification=True)["id"].to_pylist()
        except FileNotFoundError:
            continue  # published meanwhile
        assert [int(each) for each in found] == list(range(block.start, block.stop)), (
            f"{path.name} is not whole"
        )
        rows += block.rows
    return rows


@dataclass(slots=True)
class Job:
    """One input into one output, killed on the way."""

    source: str
    sink: str
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    starts: int = 0
    rows_sent: int = 0
    """By the server's count, in all starts."""
    lost_rows: list[int] = field(default_factory=list)
    """For each kill: rows that were answered in that start, but not committed."""
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


class Torture:
    """A server, inputs in a folder, and processes that are forked from one that has imported everything."""

    def __init__(self, folder: Path, server: Background, data: Data, rng: random.Random) -> None:
        self._folder = folder
        self._server = server
        self._data = data
        self._rng = rng
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torture", "asyncbatch.cli.main", "asyncbatch.pipeline.api"])
        self._planning_s = 0.5

    def run(self, source: str, sink: str, *, kills: int) -> Job:
        """Start, kill, start again; the last start runs to its end, and everything is checked."""
        job = Job(source, sink)
        home = self._folder / f"{source}-{sink}-{kills}-{self._rng.getrandbits(32):08x}"
        home.mkdir()
        began = time.monotonic()
        while job.killed < kills and not (home / f"{sink}.asyncbatch" / "_SUCCESS").exists():
            self._start(job, home, self._rng.choice(PHASES))
        self._start(job, home, None)
        self._data.check(home / sink)
        job.seconds = time.monotonic() - began
        return job

    def _start(self, job: Job, home: Path, phase: Phase | None) -> None:
        """One start of the command: killed in `phase`, or to its end."""
        state = home / f"{job.sink}.asyncbatch"
        parts = state / "parts" if "." in job.sink else home / job.sink
        finished = (state / "_SUCCESS").exists()
        committed = check_parts(parts)
        before = self._server.stats()
        argv = [
            "run", str(self._folder / job.source), str(home / job.sink), "-e", self._server.invocations_url, "--send", "x",
            "--block-rows", str(BLOCK_ROWS), "--chunk-rows", str(CHUNK_ROWS), "--concurrency", str(CONCURRENCY),
            "--request-timeout", "2s", "--no-progress",
            *(("--file-size", "20KB") if job.sink == "joined" else ()),
        ]  # fmt: skip
        began = time.monotonic()
        process = self._context.Process(target=_command, args=(argv, str(home / "stderr")))
        process.start()
        job.starts += 1
        if phase is not None:
            self._await_moment(phase, state, process)
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        elif not (state / "job-000001.json").exists():
            self._note_planning(state, process, began)
        process.join(_LONGEST_S)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{argv} hangs; see {home / 'stderr'}")
        time.sleep(0.03)  # what it had sent is counted
        after = self._server.stats()
        job.rows_sent += after["rows_in"] - before["rows_in"]
        if process.exitcode == -signal.SIGKILL and phase is not None:
            job.kills[phase] += 1
            left = check_parts(parts)
            published = (state / "manifest.json").exists()
            lost = after["rows"] - before["rows"] - (left - committed)
            job.lost_rows.append(0 if published else max(0, lost))
        else:
            said = (home / "stderr").read_text()
            expected = 0 if finished else 3  # nothing was left to do, or done with rejects
            assert process.exitcode == expected, f"exit code {process.exitcode}: {said[-2000:]}"

    def _await_moment(self, phase: Phase, state: Path, process: Any) -> None:
        """Return when the process is to be killed."""
        if phase == "planning":
            process.join(self._rng.uniform(0, 1.2 * self._planning_s))
            return
        _until((state / "job-000001.json").exists, process)
        if phase == "scoring":
            process.join(self._rng.uniform(0.05, 0.8))
            return
        _until((state / "manifest.json").exists, process)
        process.join(self._rng.uniform(0, 0.03))

    def _note_planning(self, state: Path, process: Any, began: float) -> None:
        _until((state / "job-000001.json").exists, process)
        self._planning_s = time.monotonic() - began


def _until(happened: Any, process: Any) -> None:
    while not happened() and process.is_alive():
        time.sleep(0.002)


def _command(argv: list[str], stderr: str) -> None:
    """In a process of its own: what `asyncbatch ARGV` does."""
    from asyncbatch.cli.main import main

    descriptor = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    sys.exit(main(argv))


def simulation(seed: int) -> SimulationConfig:
    """Throttles, one request in thirty that fails, and poison."""
    errors = dict.fromkeys(_FAULTS, 0.03 / len(_FAULTS)) | {"hang": 0.0005, "trickle": 0.0005}
    return SimulationConfig(
        a=0.02, slots=64, rate=120, burst=30, throttle=429, errors=errors, poison_share=0.002, seed=seed
    )


@contextlib.contextmanager
def torture(folder: Path, seed: int) -> Iterator[Torture]:
    """Inputs in `folder` and a server while the block runs."""
    simulated = simulation(seed)
    data = Data.make(seed, simulated)
    data.write(folder)
    with background(ServeConfig(model="simulated", simulation=simulated)) as server:
        yield Torture(folder, server, data, random.Random(seed))


def overhead_allowed(job: Job, undisturbed: Job) -> int:
    """Rows that may be sent beyond the input: open at the kills, probes of each start, retries and bisecting."""
    retries = 3 * (undisturbed.rows_sent - ROWS) + ROWS // 4
    return job.killed * OPEN_BLOCKS * BLOCK_ROWS + job.starts * PROBE_ROWS + retries


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills-per-job", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=840, help="seconds; then no further job is begun")
    asked = parser.parse_args()
    began = time.monotonic()
    jobs: list[Job] = []
    with tempfile.TemporaryDirectory() as folder, torture(Path(folder), asked.seed) as tortured:
        undisturbed = {source: tortured.run(source, "out", kills=0) for source in INPUTS}
        pairs = list(product(INPUTS, SINKS))
        while sum(job.killed for job in jobs) < asked.kills and time.monotonic() - began < asked.longest:
            source, sink = pairs[len(jobs) % len(pairs)]
            job = tortured.run(source, sink, kills=asked.kills_per_job)
            assert job.rows_sent - ROWS <= overhead_allowed(job, undisturbed[source]), job
            jobs.append(job)
            print(f"{source} -> {sink}: {job.kills}, {job.starts} starts, {job.seconds:.0f} s", flush=True)
    lost = [rows for job in jobs for rows in job.lost_rows]
    assert sum(lost) <= LOST_ROWS * len(lost), f"answered and lost again by the kills: {lost}"
    kills = {phase: sum(job.kills[phase] for job in jobs) for phase in dict.fromkeys(PHASES)}
    result = {
        "what": "SIGKILL at random moments, then the same command again: outputs checked row by row",
        **surroundings("pyarrow"),
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(kills.values()),
        "kills_by_phase": kills,
        "jobs": len(jobs),
        "starts": sum(job.starts for job in jobs),
        "violations": 0,
        "rows_of_a_job": ROWS,
        "block_rows": BLOCK_ROWS,
        "chunk_rows": CHUNK_ROWS,
        "in_flight": CONCURRENCY,
        "poison_rows": int(Data.make(asked.seed, simulation(asked.seed)).poison.sum()),
        "rows_sent_by_an_undisturbed_run": {source: job.rows_sent for source, job in undisturbed.items()},
        "rows_answered_and_lost_by_a_kill": {"mean": round(mean(lost), 1), "most": max(lost)},
        "rows_sent_of_a_job": {
            "mean": round(mean(job.rows_sent for job in jobs)), "most": max(job.rows_sent for job in jobs)
        },
    }  # fmt: skip
    print(save("torture", result))


if __name__ == "__main__":
    main()
