"""How much memory reading takes: peaks of child processes, over what their imports take."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/status")

# What the child is asked for is its own peak (VmHWM), reset after the imports: a fork begins at its parent's.
CHILD = """
import sys
import pyarrow.parquet, pyarrow.csv, pyarrow.json
from asyncbatch.config import InputConfig
from asyncbatch.source import open_source
import asyncbatch.source.open

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = peak()
source = open_source(sys.argv[1], InputConfig())
rows = 0
for file in source.files:
    for block in source.blocks(file, columns=source.schema.names, block_rows=8192):
        rows += block.block.rows
source.sample(columns=source.schema.names, rows=300)
print(rows, (peak() - before) >> 10)
"""


def read_in_child(path: Path) -> tuple[int, int]:
    """Rows read, and MiB of memory that took."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True
    )
    rows, mebibytes = done.stdout.split()
    return int(rows), int(mebibytes)


def numbers(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table({f"f{column}": random.random(rows) for column in range(10)})


def test_one_large_row_group_is_never_in_memory_whole(tmp_path):
    table = numbers(2_000_000)
    assert table.nbytes > 150 << 20
    pq.write_table(
        table, tmp_path / "x.parquet", row_group_size=len(table), compression="none", use_dictionary=False
    )
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1
    rows, mebibytes = read_in_child(tmp_path / "x.parquet")
    assert rows == len(table)
    assert mebibytes < 70


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".arrow", ".arrows"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    peaks = {}
    for rows in (80_000, 800_000):
        path = tmp_path / f"{rows}{suffix}"
        write(numbers(rows), path)
        read, peaks[rows] = read_in_child(path)
        assert read == rows
    assert peaks[800_000] < 70
    assert peaks[800_000] < peaks[80_000] + 20


def write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".csv":
        import pyarrow.csv as pa_csv

        pa_csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        import polars as pl

        pl.from_arrow(table).write_ndjson(path)
    else:
        make = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with make(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=16_384)
