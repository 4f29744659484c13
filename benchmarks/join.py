"""Joining committed parts into one Parquet file: row groups moved as bytes, against decoding and encoding again.

Parts as a run commits them, about 200 MB in all, on disk and in the page cache; of two kinds of rows: `mixed` (18 columns:
whole numbers, categories, timestamps, amounts, an id) and `floats` (20 columns of random float64, which no encoding makes
smaller: the worst case for moving, because nothing is cheaper to encode for each byte).

CPU seconds of the process, user and system; median of 5 rounds, in each of which every way has its turn:

- `moved`: parts that the same process wrote; `moved_checked`: parts of earlier ones, whose page checksums are compared.
- `reencoded`: what asyncbatch does with groups under 50,000 rows: decoded, and encoded as groups of 131,072.
- `looped`: the shortest program with pyarrow, which keeps the groups as they are: less work than `reencoded`.

Nearly all of `moved` is the system's copy. Tried on ext4 and not taken: sendfile, splice through a larger pipe, reads and
writes through a small buffer (all within a tenth), mmap (a bad sector ends the process), O_DIRECT (half the CPU, but what
is in memory is read from the disk). What helps is to begin each group at the same place of a page as before: a tenth on
ext4; and where files can share blocks (XFS, Btrfs) the system then copies nothing: `--folder` measures there.

    python benchmarks/join.py                       # writes results/join.json
    python benchmarks/join.py --folder /mnt/xfs     # writes results/join-xfs.json
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import save, surroundings

from asyncbatch.model import Block
from asyncbatch.sink import join
from asyncbatch.sink.footer import PartFooter
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.parts import COMPRESSION, dictionary_columns, write_part
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
            write_part(file, table, footer.key_values(), schema)
        size += path.stat().st_size
        number += 1
    return schema


def cpu_s(ways: dict[str, Callable[[], object]], target: Path) -> dict[str, float]:
    """Median CPU seconds of each way to write `target` anew; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, work in ways.items():
            target.unlink(missing_ok=True)
            os.sync()
            before = time.process_time()
            work()
            found[name].append(time.process_time() - before)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def measure(rows: int, make: Maker, where: Path | None) -> dict[str, object]:
    """All ways over the same parts."""
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        schema = write_parts(folder, rows, make)
        paths = sorted(folder.glob("*.parquet"))
        store = LocalStore(folder, folder / "state")
        target = folder / "joined"

        def moved(*, check: bool) -> None:
            pieces = [Piece(store=store, name=path.name, check=check) for path in paths]
            with target.open("wb") as file:
                join_parquet(file, pieces, schema=schema, key_values={})

        def reencoded() -> None:
            before, join.MOVE_ROWS, join.MOVE_BYTES = (join.MOVE_ROWS, join.MOVE_BYTES), 2**62, 2**62
            moved(check=True)
            join.MOVE_ROWS, join.MOVE_BYTES = before

        def looped() -> None:
            columns = dictionary_columns(schema)
            with pq.ParquetWriter(
                target, schema, compression=COMPRESSION, use_dictionary=columns, write_page_checksum=True
            ) as writer:
                for path in paths:
                    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as source:
                        for number in range(source.num_row_groups):
                            writer.write_table(source.read_row_group(number, use_threads=False))

        found = cpu_s(
            {
                "moved": lambda: moved(check=False),
                "moved_checked": lambda: moved(check=True),
                "reencoded": reencoded,
                "looped": looped,
            },
            target,
        )
        moved(check=False)
        groups = pq.read_metadata(target).num_row_groups
        size = sum(path.stat().st_size for path in paths)
    return {
        "rows": make.__name__,
        "rows_a_group": rows,
        "parts": len(paths),
        "megabytes": round(size / 1e6, 1),
        "groups_joined": groups,
        **{f"{name}_cpu_s": round(seconds, 4) for name, seconds in found.items()},
        **{
            f"{name}_times_less_than_{other}": round(found[other] / found[name], 1)
            for name in ("moved", "moved_checked")
            for other in ("reencoded", "looped")
        },
    }


def file_system(folder: Path) -> str:
    """Its type, where the system tells."""
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="of another file system")
    asked = parser.parse_args()
    kind = file_system(asked.folder or Path(tempfile.gettempdir()))
    about = surroundings("pyarrow")
    about["command"] = "python benchmarks/join.py" + (f" --folder {kind.upper()}" if asked.folder else "")
    result = {
        "what": "CPU seconds to join parts into one file; median of 5",
        **about,
        "file_system": kind,
        "results": [
            measure(rows, make, asked.folder)
            for make in (mixed, floats)
            for rows in (10_000, 50_000, 65_536, 131_072)
        ],
    }
    print(json.dumps(result, indent=1))
    save(f"join-{kind}" if asked.folder else "join", result)


if __name__ == "__main__":
    main()
