"""Rows a second into and out of a database, beside the plain ADBC client's.

    python benchmarks/databases.py                      # 10 M rows, PostgreSQL; writes results/databases.json
    python benchmarks/databases.py --quick              # 2 M rows, one round; writes nothing
    python benchmarks/databases.py --system duckdb      # or sqlite

Writing: blocks of 131,072 rows that are ready as Arrow tables go through the sink, which makes a part of each, and in one
transaction its rows and its line of the ledger; the same tables go through `adbc_ingest` of the plain client, one
transaction each, by as many connections. A whole run is a third case: `asyncbatch run` from a Parquet file, with a
function as endpoint that costs nothing. Reading: the source in the order of its key, and `fetch_record_batch` of the same
query. Each in a process of its own. The server works on the same cores: wall time holds both, CPU is the client's alone.
"""

import argparse
import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulators
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stores import alone, in_threads

from asyncbatch.config import InputConfig
from asyncbatch.model import Block, InputFile
from asyncbatch.sink import open_sink
from asyncbatch.sink.plan import Plan
from asyncbatch.source import open_source
from asyncbatch.store.access import Access

BLOCK_ROWS = 131_072
SYSTEMS = ("postgresql", "duckdb", "sqlite")
CONNECTIONS = {"postgresql": 2, "duckdb": 1, "sqlite": 1}
"""Threads that commit blocks, as in a run; file databases take one writer."""


def block(number: int) -> pa.Table:
    rng = np.random.default_rng(number)
    return pa.table(
        {
            "id": np.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS),
            **{f"f{column}": rng.normal(size=BLOCK_ROWS) for column in range(4)},
            "prediction": rng.random(BLOCK_ROWS),
            "error": pa.nulls(BLOCK_ROWS, pa.string()),
        }
    )


def answer(batch: pa.RecordBatch) -> Any:
    """An endpoint that costs nothing."""
    return batch.column(0)


def write_sink(uri: str, name: str, threads: int, blocks: int, tables: list[pa.Table]) -> int:
    file = InputFile(number=0, path="in", size_bytes=1, rows=blocks * BLOCK_ROWS, fingerprint={})
    plan = Plan(
        files=(file,), block_rows=BLOCK_ROWS, schema=tables[0].schema, reply={}, options={}, endpoint={}, source="in"
    )  # fmt: skip
    with open_sink(_named(uri, name)) as output:
        output.start(plan)
        sink = output.sink

        def commit(number: int) -> None:
            sink.write(
                Block(file=0, start=number * BLOCK_ROWS, stop=(number + 1) * BLOCK_ROWS),
                tables[number % len(tables)],
                rejects=(),
                variants={},
                end_offset=None,
                last=False,
            )

        in_threads(commit, blocks, threads)
        assert output.finish({}) is not None
    return blocks * BLOCK_ROWS


def write_plain(uri: str, name: str, threads: int, blocks: int, tables: list[pa.Table]) -> int:
    """The client's own bulk ingest: no ledger, no part, one transaction a block."""
    connections = [_connect(uri) for _ in range(threads)]
    with connections[0].cursor() as cursor:
        cursor.adbc_ingest(name, tables[0].schema.empty_table(), mode="create")
    connections[0].commit()
    free = list(connections)

    def put(number: int) -> None:
        connection = free.pop()
        with connection.cursor() as cursor:
            cursor.adbc_ingest(name, tables[number % len(tables)], mode="append")
        connection.commit()
        free.append(connection)

    in_threads(put, blocks, threads)
    for each in connections:
        each.close()
    return blocks * BLOCK_ROWS


def whole_run(uri: str, name: str, threads: int, source: str) -> int:
    import asyncbatch

    report = asyncbatch.run(
        source, _named(uri, name), endpoint="python:databases:answer", send="f0", block_rows=BLOCK_ROWS,
        max_memory="1GB", no_tuning=True,
    )  # fmt: skip
    assert report.exit_code == 0
    return report.metrics.rows_in


def read_source(uri: str, name: str) -> int:
    source = open_source(f"{_named(uri, name)}&order_by=id", InputConfig(), Access())
    (file,) = source.files
    names = source.schema.names
    return sum(each.table.num_rows for each in source.blocks(file, columns=names, block_rows=BLOCK_ROWS))


def read_plain(uri: str, name: str) -> int:
    with _connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(f'SELECT * FROM "{name}" ORDER BY id')
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())


def _named(uri: str, name: str) -> str:
    return f"{uri}{'&' if '?' in uri else '?'}table={name}"


def _connect(uri: str) -> Any:
    from asyncbatch.store.database.connections import _driver
    from asyncbatch.store.database.uri import parse_database_uri

    parsed = parse_database_uri(uri)
    return _driver(parsed.system).connect(parsed.dsn)


def _drop(uri: str, name: str) -> None:
    with _connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(f'DROP TABLE "{name}"')
        connection.commit()


def _settle(uri: str, *more: str) -> None:
    """What earlier cases left PostgreSQL to write is written before the next one begins."""
    if not uri.startswith("postgresql"):
        return
    import adbc_driver_postgresql.dbapi as client

    with client.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in (*more, "CHECKPOINT"):
            cursor.execute(statement)


def measured(
    uri: str, threads: int, blocks: int, rounds: int, source: str
) -> dict[str, list[dict[str, float]]]:
    """Every case, round after round, so that what else the machine does falls on all of them."""
    tables = [block(number) for number in range(4)]
    found: dict[str, list[dict[str, float]]] = {}
    numbers = itertools.count()
    cases: list[tuple[str, Callable[..., int], tuple[Any, ...]]] = [
        ("write", write_sink, (threads, blocks, tables)),
        ("write, plain client", write_plain, (threads, blocks, tables)),
        ("whole run", whole_run, (threads, source)),
    ]
    for _ in range(rounds):
        for case, work, values in cases:
            name = f"t{next(numbers)}"
            _settle(uri)
            found.setdefault(case, []).append(alone(work, uri, name, *values))
            print(case, found[case][-1], flush=True)
            _drop(uri, name)
    # Keys that are unique: the tables above repeat theirs.
    with _connect(uri) as connection, connection.cursor() as cursor:
        for number in range(blocks):
            cursor.adbc_ingest("input", block(number), mode="append" if number else "create")
        cursor.execute("CREATE UNIQUE INDEX input_id ON input (id)")
        connection.commit()
    _settle(uri, "VACUUM ANALYZE input")
    for _ in range(rounds):
        for case, reading in (("read", read_source), ("read, plain client", read_plain)):
            _settle(uri)
            found.setdefault(case, []).append(alone(reading, uri, "input"))
            print(case, found[case][-1], flush=True)
    return found


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--system", choices=SYSTEMS, default="postgresql")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 M rows, one round; writes nothing")
    asked = parser.parse_args()
    rows, rounds = (2_100_000, 1) if asked.quick else (asked.rows, asked.rounds)
    blocks = max(1, rows // BLOCK_ROWS)
    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "in.parquet"
        with pq.ParquetWriter(source, block(0).drop_columns(["prediction", "error"]).schema) as writer:
            for number in range(blocks):
                writer.write_table(block(number).drop_columns(["prediction", "error"]))
        threads = CONNECTIONS[asked.system]
        if asked.system == "postgresql":
            with emulators.postgresql() as uri:
                found = measured(uri, threads, blocks, rounds, str(source))
        else:
            uri = f"{asked.system}:///{folder}/d.{asked.system}"
            found = measured(uri, threads, blocks, rounds, str(source))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    best = {name: max(each, key=lambda one: one["rows_per_s"]) for name, each in found.items()}
    ratios = {
        name: round(best[name]["rows_per_s"] / best[against]["rows_per_s"], 2)
        for name, against in (
            ("write", "write, plain client"),
            ("whole run", "write, plain client"),
            ("read", "read, plain client"),
        )
    }
    print(ratios)
    if asked.quick:
        return
    library = "duckdb" if asked.system == "duckdb" else f"adbc-driver-{asked.system}"
    result = {
        "what": "rows a second into and out of a database, the best of the rounds, beside the plain ADBC client's",
        **surroundings("pyarrow", "adbc-driver-manager", library),
        "system": asked.system,
        "rows": blocks * BLOCK_ROWS,
        "columns": 7,
        "rounds": rounds,
        "best": best,
        "ratio_to_plain_client": ratios,
    }
    print(save("databases" if asked.system == "postgresql" else f"databases_{asked.system}", result).name)


if __name__ == "__main__":
    main()
