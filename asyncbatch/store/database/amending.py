"""Changing rows of a table that nothing but what they hold tells apart.

Rows that hold the same are as good as each other: so of those that match, as many are changed as were asked for. Who asks
says what they hold now, and gets back how many there were.
"""

import uuid
from typing import TYPE_CHECKING

from asyncbatch.store.database.connections import Transaction
from asyncbatch.store.database.types import widened
from asyncbatch.store.database.uri import DatabaseUri, identifier

if TYPE_CHECKING:
    import pyarrow as pa


def amend_rows(
    transaction: Transaction, uri: DatabaseUri, before: "pa.Table", after: "pa.Table", *, marker: str
) -> int:
    """Give rows of the table other values; how many were found.

    Args:
        before: some columns of the rows as they are; more rows than one may be equal.
        after: other columns of the same rows, as they are to be.
        marker: a column of `before`, null in no row that is meant.
    """
    import pyarrow as pa

    staged = f"{uri.table}__asyncbatch_{uuid.uuid4().hex[:8]}"
    keys, values = before.column_names, after.column_names
    # With the table's own types: then equal is what the table calls equal.
    copied = [f"{identifier(name)} AS k{at}" for at, name in enumerate(keys)]
    copied += [f"{identifier(name)} AS v{at}" for at, name in enumerate(values)]
    transaction.rows(
        f"CREATE TABLE {uri.beside(staged)} AS SELECT {', '.join(copied)} FROM {uri.named} LIMIT 0"
    )
    types = transaction.schema(uri.beside(staged))
    columns = [f"k{at}" for at in range(len(keys))] + [f"v{at}" for at in range(len(values))]
    rows = pa.table([*before.columns, *after.columns], names=columns)
    if uri.system != "sqlite":  # its columns have no types
        rows = widened(rows, types)
    transaction.ingest(staged, rows, mode="append", namespace=uri.namespace)
    found = transaction.rows(_statement(uri, staged, keys, values, marker))
    transaction.rows(f"DROP TABLE {uri.beside(staged)}")
    return len(found)


def _statement(uri: DatabaseUri, staged: str, keys: list[str], values: list[str], marker: str) -> str:
    """Pairs each staged row with a row of its own that holds the same."""
    names = [f"t.{identifier(name)}" for name in keys]
    wanted = [f"k{at}" for at in range(len(keys))]
    same = {"postgresql": "IS NOT DISTINCT FROM", "duckdb": "IS NOT DISTINCT FROM", "sqlite": "IS"}[
        uri.system
    ]
    rowid = "t.tableoid AS o, t.ctid AS id" if uri.system == "postgresql" else "t.rowid AS id"
    if uri.system == "postgresql":  # compared as records, whose nulls are equal: only so can it hash them
        names, wanted = [f"ROW({', '.join(names)})"], [f"ROW({', '.join(wanted)})"]
        same = "="
    there = ", ".join(f"{name} AS c{at}" for at, name in enumerate(names))
    meant = ", ".join(f"{name} AS w{at}" for at, name in enumerate(wanted))
    matches = " AND ".join(f"there.c{at} {same} wanted.w{at}" for at in range(len(names)))
    news = ", ".join(f"v{at}" for at in range(len(values)))
    sets = ", ".join(f"{identifier(name)} = pairs.v{at}" for at, name in enumerate(values))
    its = "t.tableoid = pairs.o AND t.ctid = pairs.id" if uri.system == "postgresql" else "t.rowid = pairs.id"
    columns = "there.o, there.id" if uri.system == "postgresql" else "there.id"
    return (
        f"WITH there AS (SELECT {rowid}, {there}, row_number() OVER (PARTITION BY {', '.join(names)}) AS n"
        f" FROM {uri.named} AS t WHERE t.{identifier(marker)} IS NOT NULL),"
        f" wanted AS (SELECT {meant}, {news}, row_number() OVER (PARTITION BY {', '.join(wanted)}) AS n"
        f" FROM {uri.beside(staged)}),"
        f" pairs AS (SELECT {columns}, {news} FROM there JOIN wanted ON there.n = wanted.n AND {matches})"
        f" UPDATE {uri.named} AS t SET {sets} FROM pairs WHERE {its} RETURNING 1"
    )
