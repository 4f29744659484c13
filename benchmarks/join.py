"""Joining committed parts into one Parquet file: row groups moved as bytes, against decoding and encoding again.

Parts of 65,536 rows, 20 float64 columns, an id, text and a prediction, about 200 MB in all, on local disk and in
the page cache. CPU seconds of the process, user and system, median of 5. Parts that the same process wrote are
moved without comparing page checksums, those of earlier processes with (`checked`). Groups under 50,000 rows are
re-encoded in either case, so that nothing is gained there but larger groups.

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


def part_table(rows: int, rng: np.random.Generator) -> pa.Table:
    """The rows of one part."""
    columns = {f"x{number}": rng.normal(size=rows) for number in range(20)}
    ids = [f"r{number}" for number in rng.integers(0, 10**9, size=rows)]
    return pa.table(
        {"id": ids, **columns, "prediction": rng.random(rows), "error": pa.nulls(rows, pa.string())}
    )


def write_parts(folder: Path, rows: int) -> pa.Schema:
    """Parts as a run commits them, until `TOTAL_BYTES`."""
    rng = np.random.default_rng(1)
    schema = part_table(1, rng).schema
    size = number = 0
    while size < TOTAL_BYTES:
        table = part_table(rows, rng)
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


def cpu_s(work: Callable[[], object]) -> float:
    """Median CPU seconds of `work`."""
    found = []
    for _ in range(REPEATS):
        os.sync()
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return statistics.median(found)


def measure(rows: int) -> dict[str, object]:
    """Both ways over the same parts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema = write_parts(folder, rows)
        store = LocalStore(folder, folder / "state")
        pieces = [Piece(store=store, name=path.name) for path in sorted(folder.glob("*.parquet"))]
        size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        target = folder / "joined"

        def joined(check: bool) -> None:
            with target.open("wb") as file:
                join_parquet(
                    file, [replace(piece, check=check) for piece in pieces], schema=schema, key_values={}
                )

        moved_s = cpu_s(lambda: joined(False))
        checked_s = cpu_s(lambda: joined(True))
        groups = pq.read_metadata(target).num_row_groups
        before, join.MOVE_ROWS, join.MOVE_BYTES = (join.MOVE_ROWS, join.MOVE_BYTES), 2**62, 2**62
        reencoded_s = cpu_s(lambda: joined(True))
        join.MOVE_ROWS, join.MOVE_BYTES = before
    return {
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
        "results": [measure(rows) for rows in (10_000, 50_000, 65_536, 131_072)],
    }
    print(json.dumps(result, indent=1))
    save("join", result)


if __name__ == "__main__":
    main()
