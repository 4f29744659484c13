"""Joining committed parts into one Parquet file: row groups moved as bytes, against decoding and encoding again.

Parts as a run commits them, about 200 MB in all, on local disk and in the page cache; of two kinds of rows: `mixed`
(18 columns: whole numbers, categories, timestamps, amounts, an id) and `floats` (20 columns of random float64, which
no encoding makes smaller: the worst case for moving, because nothing is cheaper to encode for each byte).

CPU seconds of the process, user and system, median of 5. Parts that the same process wrote are moved without comparing
page checksums, those of earlier processes with (`checked`). Groups under 50,000 rows are re-encoded in either case, so
that nothing is gained there but larger groups.

    python benchmarks/join.py
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import save, surroundings

from asyncbatch.model import Block
from asyncbatch.sink import join
from asyncbatch.sink.footer import PartFooter
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.parts import write_part
from asyncbatch.store.local import LocalStore

REPEATS = 5
TOTAL_BYTES = 200 * 10**6


def floats(rows: int, rng: np.random.Generator) -> pa.Table:
    """Incompressible."""
    columns = {f"x{number}": rng.normal(size=rows) for number in range(20)}
    ids = [f"r{number}" for number in rng.integers(0, 10**9, size=rows)]
    return pa.table({"id": ids, **columns, **answers(rows, rng)})


def mixed(rows: int, rng: np.random.Generator) -> pa.Table:
    """As tables of business data are."""
    names = np.array([f"name {number}" for number in range(400)])
    columns: dict[str, object] = {"id": rng.integers(0, 10**9, size=rows)}
    columns |= {f"n{number}": rng.integers(0, 10 ** (number % 4 + 1), size=rows) for number in range(6)}
    columns |= {f"c{number}": names[rng.integers(0, 400, size=rows)] for number in range(4)}
    columns |= {f"a{number}": np.round(rng.gamma(2, 50, size=rows), 2) for number in range(4)}
    columns["at"] = (rng.integers(0, 10**9, size=rows) * 10**6).astype("datetime64[us]")
    return pa.table({**columns, **answers(rows, rng)})


def answers(rows: int, rng: np.random.Generator) -> dict[str, object]:
    """The columns that a run adds."""
    return {"prediction": rng.random(rows), "error": pa.nulls(rows, pa.string())}


Maker = Callable[[int, np.random.Generator], pa.Table]


def write_parts(folder: Path, rows: int, make: Maker) -> pa.Schema:
    """Parts as a run commits them, until `TOTAL_BYTES`."""
    rng = np.random.default_rng(1)
    schema = make(1, rng).schema
    size = number = 0
    while size < TOTAL_BYTES:
        table = make(rows, rng)
        block = Block(file=0, start=number * rows, stop=(number + 1) * rows)
        footer = PartFooter(
            job_id="j", config_hash="c", block=block, rows_out=rows, rejects=0, rejects_file="", variants={},
            end_offset=None, last=False,
        )  # fmt: skip
        path = folder / f"{number:04d}.parquet"
        with path.open("wb") as file:
            write_part(file, table, footer, schema)
        size += path.stat().st_size
        number += 1
    return schema


def cpu_s(work: Callable[[], object], target: Path) -> float:
    """Median CPU seconds of `work`, which writes `target` anew."""
    found = []
    for _ in range(REPEATS):
        target.unlink(missing_ok=True)
        os.sync()
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return statistics.median(found)


def measure(rows: int, make: Maker) -> dict[str, object]:
    """Both ways over the same parts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema = write_parts(folder, rows, make)
        store = LocalStore(folder, folder / "state")
        pieces = [Piece(store=store, name=path.name) for path in sorted(folder.glob("*.parquet"))]
        size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        target = folder / "joined"

        def joined(check: bool) -> None:
            with target.open("wb") as file:
                join_parquet(
                    file, [replace(piece, check=check) for piece in pieces], schema=schema, key_values={}
                )

        moved_s = cpu_s(lambda: joined(False), target)
        checked_s = cpu_s(lambda: joined(True), target)
        groups = pq.read_metadata(target).num_row_groups
        before, join.MOVE_ROWS, join.MOVE_BYTES = (join.MOVE_ROWS, join.MOVE_BYTES), 2**62, 2**62
        reencoded_s = cpu_s(lambda: joined(True), target)
        join.MOVE_ROWS, join.MOVE_BYTES = before
    return {
        "rows": make.__name__,
        "rows_a_group": rows,
        "parts": len(pieces),
        "megabytes": round(size / 1e6, 1),
        "groups_joined": groups,
        "joined_cpu_s": round(moved_s, 4),
        "joined_checked_cpu_s": round(checked_s, 4),
        "reencoded_cpu_s": round(reencoded_s, 4),
        "times_less": round(reencoded_s / moved_s, 1),
        "times_less_checked": round(reencoded_s / checked_s, 1),
    }


def main() -> None:
    """Measure and save."""
    result = {
        "what": "CPU seconds to join parts into one file; median of 5",
        **surroundings("pyarrow"),
        "results": [
            measure(rows, make) for make in (mixed, floats) for rows in (10_000, 50_000, 65_536, 131_072)
        ],
    }
    print(json.dumps(result, indent=1))
    save("join", result)


if __name__ == "__main__":
    main()
