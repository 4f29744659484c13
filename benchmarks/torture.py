"""Kill `asyncbatch run` with SIGKILL at random moments, again and again, and check what it leaves and what it ends with.

    python benchmarks/torture.py --kills 200            # writes results/torture.json
    python -m pytest tests/torture                      # the short form

A job is one input into one output. Its command is started, killed while it plans, scores, joins parts or publishes, and
started again, until as many kills are done as were asked for; the last start is left alone. The command is one process,
or two or three shards at once of which one or all are killed, or `--processes 3` of which the parent or a child is. Then
the rejects are retried, and that is killed too. The endpoint throttles, fails in every way that the simulated one knows,
and refuses poison rows. After each kill every visible part must be whole and
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
from collections.abc import Callable, Iterator
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
Phase = Literal["planning", "scoring", "publishing", "joining", "retrying"]
PHASES: tuple[Phase, ...] = ("planning", "scoring", "scoring", "scoring", "publishing")
Way = Literal["one", "three", "processes"]
WAYS: tuple[Way, ...] = ("one", "three", "three", "processes")
"""One process; two or three shards at once, another number at each start; `--processes 3`."""
KILLED = ("a single process", "one of several", "all")
_WRONG = ("short", "long", "empty", "garbage", "mistyped", "nan")
_FAULTS = [kind for kind in ERROR_KINDS if kind not in ("hang", "trickle", *_WRONG)]
"""Replies that are wrong with status 200 are left out: a plan whose probe gets one is refused, by rights."""
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
    way: Way = "one"
    home: Path = Path()
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*PHASES, "joining", "retrying"), 0))
    kills_of: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KILLED, 0))
    starts: int = 0
    """Of processes that score."""
    rows_sent: int = 0
    """By the server's count, in all starts."""
    lost_rows: list[float] = field(default_factory=list)
    """For each kill: rows that were answered in that start, but not committed."""
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    @property
    def out(self) -> Path:
        return self.home / self.sink

    @property
    def state(self) -> Path:
        return self.home / f"{self.sink}.asyncbatch"

    @property
    def parts(self) -> Path:
        return self.state / "parts" if "." in self.sink else self.out

    @property
    def finished(self) -> bool:
        return (self.state / "_SUCCESS").exists()


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

    def run(self, source: str, sink: str, *, kills: int, way: Way = "one") -> Job:
        """Start, kill, start again; the last start runs to its end, and everything is checked."""
        home = self._folder / f"{source}-{sink}-{way}-{kills}-{self._rng.getrandbits(32):08x}"
        home.mkdir()
        job = Job(source, sink, way, home)
        began = time.monotonic()
        phases: tuple[Phase, ...] = (*PHASES, "joining", "joining") if sink == "joined" else PHASES
        while job.killed < kills and not job.finished:
            self._round(job, self._commands(job), self._rng.choice(phases))
        self._round(job, self._commands(job, last=True), None)
        self._data.check(job.out)
        assert not list((job.state / "lease").iterdir()), "a lease was left"
        job.seconds = time.monotonic() - began
        return job

    def retry(self, job: Job, *, kills: int) -> None:
        """Score the rejects of the finished job again, killed on the way: they are poison still, and all is as before."""
        until = job.killed + kills
        while job.killed < until:
            self._round(job, [self._command("retry", str(job.out))], "retrying")
        self._round(job, [self._command("retry", str(job.out))], None)
        self._data.check(job.out)
        assert not (job.state / "retry.json").exists()

    def _commands(self, job: Job, *, last: bool = False) -> list[list[str]]:
        """What is started at once. The number of shards changes from start to start, and the last may be one process."""
        whole = self._command("run", str(self._folder / job.source), str(job.out), sink=job.sink)
        if job.way == "one":
            return [whole]
        if job.way == "processes":
            return [[*whole, "--processes", "3"]]
        shards = self._rng.choice((1, 2, 3) if last else (2, 3, 3, 3))
        return [[*whole, "--shard", f"{index}/{shards}"] for index in range(shards)]

    def _command(self, *arguments: str, sink: str = "") -> list[str]:
        return [
            *arguments, "-e", self._server.invocations_url, "--chunk-rows", str(CHUNK_ROWS), "--concurrency",
            str(CONCURRENCY), "--request-timeout", "2s", "--no-progress",
            *(("--send", "x", "--block-rows", str(BLOCK_ROWS)) if arguments[0] == "run" else ()),
            *(("--file-size", "20KB") if sink == "joined" else ()),
        ]  # fmt: skip

    def _round(self, job: Job, commands: list[list[str]], phase: Phase | None) -> None:
        """Start all `commands`; some or all of them are killed in `phase`, or none."""
        finished, planned = job.finished, (job.state / "job-000001.json").exists()
        committed = check_parts(job.parts)
        before = self._server.stats()
        began = time.monotonic()
        processes = []
        for number, argv in enumerate(commands):
            process = self._context.Process(target=_command, args=(argv, str(job.home / f"stderr-{number}")))
            process.start()
            processes.append(process)
        starts = 3 if job.way == "processes" and phase != "retrying" else len(commands)
        job.starts += starts
        killed: dict[Any, str] = {}
        wounded = False
        if phase is not None:
            self._await_moment(phase, job, processes)
            killed, wounded = self._kill(job, phase, processes)
        elif not planned:
            self._note_planning(job.state, processes, began)
        for process, argv in zip(processes, commands, strict=True):
            process.join(_LONGEST_S)
            if process.is_alive():
                process.kill()
                raise AssertionError(f"{argv} hangs; see {job.home}")
        _until(lambda: not self._at_work(job), processes, whatever=True)
        time.sleep(0.03)  # what they had sent is counted
        after = self._server.stats()
        job.rows_sent += after["rows_in"] - before["rows_in"]
        left = check_parts(job.parts)
        for number, process in enumerate(processes):
            if process in killed and process.exitcode == -signal.SIGKILL:
                continue
            said = (job.home / f"stderr-{number}").read_text()
            assert process.exitcode in _expected(commands[number], finished=finished, wounded=wounded), (
                f"{commands[number]} ended with {process.exitcode}: {said[-2000:]}"
            )
        dead = [name for process, name in killed.items() if process.exitcode == -signal.SIGKILL]
        dead += ["one of several"] * wounded
        for name in dead:
            job.kills_of[name] += 1
        count = len(dead)
        if phase is None or not count:
            assert phase is not None or job.finished, "every row is there, and nobody has finished the output"
            return
        job.kills[phase] += count
        if phase != "retrying":
            lost = (
                after["rows"]
                - before["rows"]
                - (left - committed)
                - starts * (3 if planned else PROBE_ROWS // 2)
            )
            published = (job.state / "manifest.json").exists()
            job.lost_rows += [0.0 if published else max(0, lost) / count] * count

    def _kill(self, job: Job, phase: Phase, processes: list[Any]) -> tuple[dict[Any, str], bool]:
        """One, some or all; which of `processes` were, as what, and whether one that they had started was."""
        living = [process for process in processes if process.is_alive()]
        if job.way == "processes" and phase != "retrying" and self._rng.random() < 0.5:
            children = [
                pid for pid in self._at_work(job) if pid not in {process.pid for process in processes}
            ]
            if children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(children), signal.SIGKILL)
                    return {}, True
        if not living:
            return {}, False
        victims = living if self._rng.random() < 0.5 else [self._rng.choice(living)]
        for process in victims:
            os.kill(process.pid, signal.SIGKILL)
        name = "a single process" if len(processes) == 1 else "all" if len(victims) > 1 else "one of several"
        if job.way == "processes" and phase != "retrying":
            name = "all"
        killed = dict.fromkeys(victims, name)
        others = [process for process in living if process not in victims]
        if others and self._rng.random() < 0.3:  # and these a little later
            others[0].join(self._rng.uniform(0, 0.4))
            for process in others:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                    killed[process] = "one of several"
        return killed, False

    def _at_work(self, job: Job) -> list[int]:
        """Processes that hold a lease and live."""
        found = []
        for path in (job.state / "lease").glob("*.json"):
            try:
                pid = json.loads(path.read_text())["pid"]
                alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            except (OSError, ValueError):
                continue
            if alive:
                found.append(int(pid))
        return found

    def _await_moment(self, phase: Phase, job: Job, processes: list[Any]) -> None:
        """Return when the time has come to kill."""
        slower = 4 if job.way == "processes" else 1  # interpreters of their own
        if phase == "planning":
            _until(lambda: False, processes, longest_s=self._rng.uniform(0, 1.2 * slower * self._planning_s))
            return
        if phase == "retrying":
            _until((job.state / "retry.json").exists, processes)
            _until(lambda: False, processes, longest_s=self._rng.uniform(0, 0.5))
            return
        _until((job.state / "job-000001.json").exists, processes)
        if phase == "scoring":
            _until(lambda: False, processes, longest_s=slower * self._rng.uniform(0.05, 0.8))
            return
        record = "joined.json" if phase == "joining" else "manifest.json"
        _until((job.state / record).exists, processes)
        _until(lambda: False, processes, longest_s=self._rng.uniform(0, 0.03))

    def _note_planning(self, state: Path, processes: list[Any], began: float) -> None:
        _until((state / "job-000001.json").exists, processes)
        self._planning_s = time.monotonic() - began


def _expected(argv: list[str], *, finished: bool, wounded: bool) -> tuple[int, ...]:
    """Exit codes of a process that was not killed: there are rejects, and it may be another shard that has them."""
    if wounded:
        return (0, 1, 3)
    if argv[0] == "retry":
        return (0, 3) if finished else (0, 2, 3)
    if "--shard" in argv:
        return (0, 3)
    return (0,) if finished else (3,)


def _until(
    happened: Callable[[], bool],
    processes: list[Any],
    *,
    longest_s: float = _LONGEST_S,
    whatever: bool = False,
) -> None:
    """Return when it has happened, or none of the processes lives, or time is up."""
    until = time.monotonic() + longest_s
    while (
        not happened()
        and time.monotonic() < until
        and (whatever or any(each.is_alive() for each in processes))
    ):
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
        sent: list[int] = []
        kinds = list(product(WAYS, INPUTS, SINKS))
        random.Random(asked.seed).shuffle(kinds)
        while sum(job.killed for job in jobs) < asked.kills and time.monotonic() - began < asked.longest:
            way, source, sink = kinds[len(jobs) % len(kinds)]
            job = tortured.run(source, sink, kills=asked.kills_per_job, way=way)
            assert job.rows_sent - ROWS <= overhead_allowed(job, undisturbed[source]), job
            sent.append(job.rows_sent)
            if len(jobs) % 3 == 0:
                tortured.retry(job, kills=2)
            jobs.append(job)
            print(
                f"{way}: {source} -> {sink}: {job.kills}, {job.starts} starts, {job.seconds:.0f} s",
                flush=True,
            )
    lost = [rows for job in jobs for rows in job.lost_rows]
    assert sum(lost) <= LOST_ROWS * len(lost), f"answered and lost again by the kills: {lost}"
    kills = {phase: sum(job.kills[phase] for job in jobs) for phase in jobs[0].kills}
    result = {
        "what": "SIGKILL at random moments, then the same command again: outputs checked row by row",
        **surroundings("pyarrow"),
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(kills.values()),
        "kills_by_phase": kills,
        "kills_by_way": {way: sum(job.killed for job in jobs if job.way == way) for way in dict.fromkeys(WAYS)},
        "kills_by_victims": {name: sum(job.kills_of[name] for job in jobs) for name in KILLED},
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
            "mean": round(mean(sent)), "most": max(sent)
        },
    }  # fmt: skip
    print(save("torture", result))


if __name__ == "__main__":
    main()
