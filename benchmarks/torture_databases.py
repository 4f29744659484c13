"""Kill `asyncbatch run` with SIGKILL at random moments while it writes to a database, and look what it left.

    python benchmarks/torture_databases.py --kills 110        # writes results/torture_databases.json
    python -m pytest tests/torture/test_torture_databases.py  # the short form

A job is one input into one table of PostgreSQL (a server that is started here), DuckDB or SQLite, under each `--mode`.
Its command is started, killed and started again; the last start is left alone. After each kill the table must hold the
rows of whole blocks, each once: as many as its ledger says. At the end it holds every row once, each with its own
prediction, and under `append` the rows that were there before too. The model refuses some rows.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import emulators
import measuring
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2_400
BLOCK_ROWS = 100
POISON = 97
"""Every so many rows the model refuses one."""
SYSTEMS = ("postgresql", "duckdb", "sqlite")
MODES = ("fail", "append", "replace")
_LONGEST_S = 120.0


def predict(table: pa.Table) -> Any:
    """The model: twice `x`; slow enough to be killed at work; an error if it is given a row that it refuses."""
    time.sleep(0.003)
    values = table["x"].to_numpy()
    if any(int(value) % POISON == POISON - 1 for value in values):
        raise ValueError("refused")
    return values * 2


def work(arguments: list[str]) -> None:
    """In a process of its own: the command, which says what it says to a file."""
    from asyncbatch.cli.main import main

    with Path(arguments[1]).with_name("said.txt").open("w") as sys.stderr:
        code = main(arguments)
    os._exit(code)


@dataclass(frozen=True)
class Kill:
    """One start of the command and how it ended."""

    system: str
    mode: str
    after_s: float
    rows: int
    """In the table after it."""


class Torture:
    """Databases, an input, and processes that are forked from one that has imported everything."""

    def __init__(self, folder: Path, postgresql: str, rng: random.Random) -> None:
        self._folder = folder
        self._postgresql = postgresql
        self._rng = rng
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(
            ["torture_databases", "asyncbatch.cli.main", "asyncbatch.pipeline.api"]
        )
        self._source = folder / "in.parquet"
        pq.write_table(
            pa.table(
                {"id": pa.array(range(ROWS), pa.int64()), "x": [float(number) for number in range(ROWS)]}
            ),
            self._source,
        )
        self.kills: list[Kill] = []
        self.violations: list[str] = []
        self.jobs = 0
        self._whole_s: dict[str, float] = {}
        """Seconds of an undisturbed run into each database."""

    def run(self, kills: int) -> None:
        """Jobs over every mode, until as many kills are done: half of them in PostgreSQL, where servers outlive clients."""
        for number, system in enumerate(SYSTEMS):
            self._job(system, "fail", number, most=0)
        while len(self.kills) < kills:
            number = self.jobs
            there = sum(each.system == SYSTEMS[0] for each in self.kills)
            system = SYSTEMS[0] if 2 * there <= len(self.kills) else SYSTEMS[1 + number % 2]
            self._job(system, MODES[self._rng.randrange(3)], number, most=min(8, kills - len(self.kills)))

    def _job(self, system: str, mode: str, number: int, *, most: int) -> None:
        self.jobs += 1
        uri = {
            "postgresql": f"{self._postgresql}&table=t{number}",
            "duckdb": f"duckdb:///{self._folder}/d{number}.duckdb?table=t{number}",
            "sqlite": f"sqlite:///{self._folder}/d{number}.sqlite?table=t{number}",
        }[system]
        before = 0
        if mode != "fail":
            before = 5
            self._ask(
                uri,
                f"CREATE TABLE t{number} (id bigint, x double precision, prediction double precision, error text)",
            )
            self._ask(uri, f"INSERT INTO t{number} (id) VALUES (-1), (-2), (-3), (-4), (-5)")
        for _ in range(most):
            process = self._start(uri, mode)
            after_s = self._rng.uniform(0.1, self._whole_s[system])
            process.join(after_s)
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                rows = self._check(uri, number, mode, before)
                self.kills.append(Kill(system, mode, after_s, rows))
            else:
                break
        began = time.monotonic()
        process = self._start(uri, mode)
        process.join(_LONGEST_S)
        if process.exitcode not in (0, 3):  # 3: done, with rejects; 0: it was done before
            process.kill()
            raise RuntimeError(
                f"{system} {mode}: the last start ended with {process.exitcode}: {self._said()}"
            )
        if not most:
            self._whole_s[system] = time.monotonic() - began
        self._check_end(uri, number, mode, before)

    def _start(self, uri: str, mode: str) -> BaseProcess:
        arguments = [
            "run", str(self._source), uri, "-e", "python:torture_databases:predict", "--send", "x", "--mode", mode,
            "--block-rows", str(BLOCK_ROWS), "--chunk-rows", "25", "--concurrency", "2", "--no-progress", "--quiet",
            "--no-tuning",
        ]  # fmt: skip
        process = self._context.Process(target=work, args=(arguments,))
        process.start()
        return process

    def _check(self, uri: str, number: int, mode: str, before: int) -> int:
        """Whole blocks, each once, as the ledger says."""
        staged = mode == "replace"
        table = f"t{number}__asyncbatch" if staged else f"t{number}"
        try:
            ledger = self._ask(uri, f"SELECT count(*) FROM asyncbatch_ledger WHERE sink = 't{number}'")[0][0]
            published = self._ask(
                uri,
                f"SELECT count(*) FROM asyncbatch_ledger WHERE sink = 't{number}' AND part = '_published'",
            )[0][0]
            if published:
                table, ledger = f"t{number}", ledger - 1
            found = self._ask(uri, f"SELECT count(*), count(DISTINCT id) FROM {table}")[0]
        except Exception as error:  # of an early kill: nothing was made yet
            if "exist" in str(error) or "no such table" in str(error):
                return 0
            raise
        added = found[0] - (before if mode == "append" else 0)
        where = f"{uri.partition(':')[0]} {mode}"
        if added != ledger * BLOCK_ROWS:
            self.violations.append(f"{where}: {added} rows, and the ledger has {ledger} blocks")
        if found[0] != found[1]:
            self.violations.append(f"{where}: {found[0] - found[1]} rows are there twice")
        if staged and not published and self._ask(uri, f"SELECT count(*) FROM t{number}")[0][0] != before:
            self.violations.append(f"{where}: the old table changed before the new one was whole")
        return int(added)

    def _check_end(self, uri: str, number: int, mode: str, before: int) -> None:
        rows = self._ask(
            uri, f"SELECT id, x, prediction, error IS NULL FROM t{number} WHERE id >= 0 ORDER BY id"
        )
        expected = [
            (at, float(at), None if at % POISON == POISON - 1 else at * 2.0, at % POISON != POISON - 1)
            for at in range(ROWS)
        ]
        where = f"{uri.partition(':')[0]} {mode}"
        if [(a, b, c, bool(d)) for a, b, c, d in rows] != expected:
            self.violations.append(f"{where}: not every row is there once with its own prediction")
        left = self._ask(uri, f"SELECT count(*) FROM t{number} WHERE id < 0")[0][0]
        if left != (before if mode == "append" else 0):
            self.violations.append(f"{where}: {left} rows of before are there")

    def _said(self) -> str:
        """What the last command said."""
        return self._source.with_name("said.txt").read_text()[-300:]

    def _ask(self, uri: str, sql: str) -> list[tuple[Any, ...]]:
        """By the driver itself, in a connection of its own; nobody else is at work meanwhile."""
        from asyncbatch.store.database.connections import Connections
        from asyncbatch.store.database.uri import parse_database_uri

        connections = Connections(parse_database_uri(uri))
        try:
            with connections.transaction() as transaction:
                return transaction.rows(sql)
        finally:
            connections.close()


def torture(kills: int, seed: int) -> dict[str, Any]:
    """Run it; what happened, as JSON values."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, emulators.postgresql() as uri:
        found = Torture(Path(folder), uri, random.Random(seed))
        found.run(kills)
    by: dict[str, int] = {}
    for each in found.kills:
        key = f"{each.system} {each.mode}"
        by[key] = by.get(key, 0) + 1
    return {
        "seed": seed,
        "kills": len(found.kills),
        "kills_by_database_and_mode": dict(sorted(by.items())),
        "kills_with_rows_committed": sum(0 < each.rows < ROWS for each in found.kills),
        "jobs": found.jobs,
        "rows": ROWS,
        "block_rows": BLOCK_ROWS,
        "violations": found.violations,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = torture(options.kills, options.seed)
    print(json.dumps(found, indent=1))
    path = measuring.save(
        "torture_databases", {**measuring.surroundings("adbc-driver-postgresql", "duckdb"), **found}
    )
    print(path.name)
    if found["violations"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
