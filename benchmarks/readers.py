"""Have readers that share no code with asyncbatch read what it wrote, after kills, after a retry, after a join.

    scripts/readers                      # Spark, in an environment of its own
    python benchmarks/readers.py         # writes results/readers.json; exits 1 if a reader sees other rows

Every output is made by `asyncbatch run` as a command, which is killed with SIGKILL while it scores and while it publishes,
and given again until it ends; one also has rejects, which are retried, and that is killed too. Then each reader reads it, and
every row is compared with what the model answers: id, two columns of the input, prediction, and no error. A reader that
is not installed, or cannot read a kind of output here, is named with the reason.
"""

import argparse
import contextlib
import datetime as dt
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from measuring import ROOT, save, surroundings

ROWS = 12_000
BLOCK_ROWS = 500
KINDS = ["a b", "é/+", None, 'q="%\\', "."]
POISON = 997
"""Every row of that number times something is rejected until the retry."""
COLUMNS = ["id", "kind", "day", "prediction", "error"]
_LONGEST_S = 120.0
_SPARK = ROOT / ".venv-readers" / "bin" / "python"
_NO_JAR = "reads such tables with jars from Maven only"
_MODEL = f"""
import os, time

def predict(rows):
    time.sleep(0.004)
    if os.environ.get("POISON") and any(each % {POISON} == 0 for each in rows["id"].to_pylist()):
        raise ValueError("poison")
    return [each * 2.0 + 1.0 for each in rows["x"].to_pylist()]
"""

Row = list[Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One output and what happens to it."""

    name: str
    sink: str
    options: tuple[str, ...] = ()
    retried: bool = False
    kind: str = "files"
    """`files`, `folders` (Hive partitions), `delta` or `iceberg`."""


CASES = (
    Case(name="folder", sink="folder"),
    Case(name="folder after retry", sink="retried", retried=True),
    Case(name="joined folder", sink="joined", options=("--file-size", "200kB")),
    Case(name="joined folder after retry", sink="joined2", options=("--file-size", "200kB"), retried=True),
    Case(name="single file", sink="single.parquet"),
    Case(name="single file after retry", sink="single2.parquet", retried=True),
    Case(name="partition folders", sink="hive", options=("--partition-by", "day,kind"), kind="folders"),
    Case(
        name="partition folders after retry",
        sink="hive2",
        options=("--partition-by", "day,kind"),
        retried=True,
        kind="folders",
    ),
    Case(name="Delta Lake table", sink="table", options=("--format", "delta"), kind="delta"),
    Case(name="Iceberg table", sink="ml.scores", options=("--format", "iceberg"), kind="iceberg"),
)


def expected() -> list[Row]:
    return [
        [row, KINDS[row % 5], f"2024-01-{1 + row % 2:02d}", row * 0.5 * 2.0 + 1.0, None]
        for row in range(ROWS)
    ]


def write_input(home: Path) -> None:
    rows = range(ROWS)
    columns = {
        "id": list(rows),
        "kind": [KINDS[row % 5] for row in rows],
        "day": [dt.date(2024, 1, 1 + row % 2) for row in rows],
        "x": [row * 0.5 for row in rows],
    }
    pq.write_table(pa.table(columns), home / "in.parquet")
    (home / "model.py").write_text(_MODEL)


# -- the writer --------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Makes the outputs below `home`, with kills."""

    home: Path
    rng: random.Random
    environment: dict[str, str] = field(default_factory=dict)

    def make(self, case: Case) -> int:
        """How often it was killed."""
        command = ["run", "in.parquet", case.sink, "-e", "python:model:predict", "--send", "id,x", "--quiet",
                   "--block-rows", str(BLOCK_ROWS), "--chunk-rows", "250", "--concurrency", "2", *case.options]  # fmt: skip
        poison = {"POISON": "1"} if case.retried else {}
        blocks = ROWS // BLOCK_ROWS
        # Twice while it scores, and once when every part is there: while it joins or publishes.
        moments = [*sorted(self.rng.sample(range(1, blocks), 2)), blocks]
        kills = sum(self._killed(command, case, poison, parts) for parts in moments)
        self._ends(command, poison, 3 if case.retried else 0)
        if case.retried:
            retry = ["retry", case.sink, "--quiet"]
            kills += self._killed(retry, case, {}, 0)
            self._ends(retry, {}, 0)
        return kills

    def _start(self, command: list[str], more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "asyncbatch", *command],
            cwd=self.home,
            env={**os.environ, **self.environment, **more, "PYTHONPATH": f"{self.home}:{ROOT}"},
            stdin=subprocess.DEVNULL,
        )

    def _killed(self, command: list[str], case: Case, more: Mapping[str, str], parts: int) -> bool:
        """Killed a moment after so many parts are there; False if it was faster."""
        process = self._start(command, more)
        until = time.monotonic() + _LONGEST_S
        # A retry scores into a folder of its own.
        retrying = self.home / f"{case.sink}.asyncbatch" / "retry.json"
        while process.poll() is None and time.monotonic() < until:
            if (self._parts(case) >= parts) if parts else retrying.exists():
                break
            time.sleep(0.002)
        time.sleep(self.rng.uniform(0, 0.03))
        killed = process.poll() is None
        if killed:
            process.kill()
        process.wait()
        return killed

    def _parts(self, case: Case) -> int:
        places = (self.home / case.sink, self.home / f"{case.sink}.asyncbatch" / "parts")
        return sum(1 for place in places if place.is_dir() for _ in place.rglob("part-*.parquet"))

    def _ends(self, command: list[str], more: Mapping[str, str], exit_code: int) -> None:
        process = self._start(command, more)
        if process.wait(_LONGEST_S) != exit_code:
            raise SystemExit(
                f"asyncbatch {' '.join(command)}: exit code {process.returncode}, not {exit_code}"
            )


# -- readers -----------------------------------------------------------------------------------------------------


def by_pyarrow(case: Case, path: Path) -> list[Row]:
    table = ds.dataset(path, partitioning="hive" if case.kind == "folders" else None).to_table()
    return in_order(table.select(COLUMNS).to_pylist())


def by_duckdb(case: Case, path: Path) -> list[Row]:
    import duckdb

    files = f"{path}/**/*.parquet" if path.is_dir() else str(path)
    hive = "true" if case.kind == "folders" else "false"
    with duckdb.connect() as database:
        rows = database.execute(
            f"select {','.join(COLUMNS)} from read_parquet(?, hive_partitioning = {hive}) order by id",
            [files],
        ).fetchall()
    return in_order([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def by_polars(case: Case, path: Path) -> list[Row]:
    import polars as pl

    if case.kind == "delta":
        frame = pl.read_delta(str(path))
    elif case.kind == "iceberg":
        frame = with_table(path, lambda table: pl.scan_iceberg(table).collect())
    else:
        frame = pl.read_parquet(path, hive_partitioning=case.kind == "folders")
    return in_order(frame.select(COLUMNS).to_dicts())


def by_pandas(case: Case, path: Path) -> list[Row]:
    import pandas as pd

    folders = ds.partitioning(pa.schema([("day", pa.string()), ("kind", pa.string())]), flavor="hive")
    frame = pd.read_parquet(path, partitioning=folders if case.kind == "folders" else None)
    columns = {name: [None if pd.isna(each) else each for each in frame[name]] for name in COLUMNS}
    return in_order([dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def by_deltalake(case: Case, path: Path) -> list[Row]:
    import deltalake

    return in_order(pa.table(deltalake.DeltaTable(str(path)).to_pyarrow_table()).select(COLUMNS).to_pylist())


def by_pyiceberg(case: Case, path: Path) -> list[Row]:
    return in_order(with_table(path, lambda table: table.scan().to_arrow()).select(COLUMNS).to_pylist())


def with_table(path: Path, use: Callable[[Any], Any]) -> Any:
    from pyiceberg.catalog import load_catalog

    with load_catalog("default", **catalog(path.parent)) as there:
        return use(there.load_table(path.name))


def catalog(home: Path) -> dict[str, str]:
    return {"uri": f"sqlite:///{home}/catalog.db", "warehouse": f"file://{home}/warehouse"}


def in_order(rows: list[dict[str, Any]]) -> list[Row]:
    found = [
        [row["id"], row["kind"], str(row["day"])[:10], row["prediction"], row["error"]]
        for row in rows
    ]  # fmt: skip
    return sorted(found, key=lambda row: row[0])


READERS: dict[str, tuple[Callable[[Case, Path], list[Row]], frozenset[str]]] = {
    "pyarrow": (by_pyarrow, frozenset(("files", "folders"))),
    "duckdb": (by_duckdb, frozenset(("files", "folders"))),
    "polars": (by_polars, frozenset(("files", "folders", "delta", "iceberg"))),
    "pandas": (by_pandas, frozenset(("files", "folders"))),
    "deltalake": (by_deltalake, frozenset(("delta",))),
    "pyiceberg": (by_pyiceberg, frozenset(("iceberg",))),
}
"""How each reads, and which kinds of output it can read without a download."""


def spark_is_missing() -> str | None:
    if not _SPARK.exists():
        return "not installed: scripts/readers"
    return None if shutil.which("java") else "there is no java on this machine"


def by_spark(paths: Mapping[str, Path]) -> tuple[str, dict[str, list[Row]]]:
    """Its version, and the rows of each output: one process, because it takes seconds to start."""
    command = [str(_SPARK), str(ROOT / "benchmarks" / "readers_spark.py")]
    asked = json.dumps({name: str(path) for name, path in paths.items()})
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, check=False, timeout=5 * _LONGEST_S
    )
    if done.returncode:
        raise SystemExit(f"Spark failed:\n{done.stderr[-3000:]}")
    first, *others = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return first["version"], {each["output"]: each["rows"] for each in others}


def verdict(rows: list[Row]) -> dict[str, Any]:
    """How many rows there are, and how many differ from what was to be written."""
    wanted = expected()
    wrong = sum(1 for row, other in zip(rows, wanted, strict=False) if row != other)
    return {"rows": len(rows), "different": wrong + abs(len(rows) - len(wanted))}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="outputs whose name has this in it; nothing is saved")
    given = parser.parse_args()
    os.environ["POLARS_ICEBERG_PLANNER"] = "pyiceberg"
    cases = [case for case in CASES if given.only in case.name]
    results: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        write_input(home)
        (home / "warehouse").mkdir()
        writer = Writer(home=home, rng=random.Random(given.seed))
        writer.environment = {
            f"PYICEBERG_CATALOG__DEFAULT__{key.upper()}": value for key, value in catalog(home).items()
        }
        with contextlib.suppress(ImportError):
            from pyiceberg.catalog import load_catalog

            with load_catalog("default", **catalog(home)) as there:
                there.create_namespace("ml")
        for case in cases:
            results[case.name] = {"kills": writer.make(case), "readers": {}, "not_read_by": {}}
            for reader, (read, kinds) in READERS.items():
                if case.kind not in kinds:
                    continue
                try:
                    found = verdict(read(case, home / case.sink))
                except ImportError:
                    left_out[reader] = "not installed"
                    continue
                results[case.name]["readers"][reader] = found
                print(f"{case.name}: {reader}: {found}", flush=True)
        if (missing := spark_is_missing()) is not None:
            left_out["spark"] = missing
            spark = None
        else:
            files = {case.name: home / case.sink for case in cases if case.kind in ("files", "folders")}
            spark, read_by_spark = by_spark(files)
            for name, rows in read_by_spark.items():
                results[name]["readers"]["spark"] = found = verdict(rows)
                print(f"{name}: spark: {found}", flush=True)
        for case in cases:
            if case.kind in ("delta", "iceberg"):
                results[case.name]["not_read_by"] = {
                    "spark": _NO_JAR,
                    "duckdb": "its extension is a download",
                }
    sound = all(
        each["readers"] and not any(found["different"] for found in each["readers"].values())
        for each in results.values()
    )
    print("every reader sees every row" if sound else "a reader sees other rows")
    if not given.only:
        installed = [name for name in READERS if name not in left_out]
        about = surroundings(*installed)
        about["versions"] |= {"spark": spark} if spark else {}
        save("readers", {**about, "seed": given.seed, "rows": ROWS, "outputs": results, "left_out": left_out})
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
