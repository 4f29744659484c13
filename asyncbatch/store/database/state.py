"""The state of a job in a table of the database that its output goes to."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from asyncbatch.errors import StorageError
from asyncbatch.store.base import Entry, Swap, Write
from asyncbatch.store.database.connections import Connections, Transaction
from asyncbatch.store.database.uri import DatabaseUri, qualified

STATE = "asyncbatch_state"
"""Name of the table; beside the output's, one for all outputs of that schema."""


class DatabaseState:
    """A `Store` of small files as rows `(sink, name, content, version)`."""

    def __init__(self, connections: Connections, prefix: str = "") -> None:
        """`prefix`: of the names; empty, or ends with a slash."""
        self._connections = connections
        self._prefix = prefix
        self._uri = connections.uri
        self._table = self._uri.beside(STATE)
        self._sink = self._uri.table
        self._made = False

    @property
    def root(self) -> str:
        """How messages call the place."""
        return f"{self._uri.shown} ({STATE})"

    def prepare(self, *, expected_bytes: int = 0) -> None:
        """Make the table where needed."""
        content = "bytea" if self._uri.system == "postgresql" else "blob"
        make_table(
            self._connections,
            f"CREATE TABLE IF NOT EXISTS {self._table} (sink text NOT NULL, name text NOT NULL,"
            f" content {content} NOT NULL, version bigint NOT NULL, PRIMARY KEY (sink, name))",
        )

    def list(self, prefix: str = "") -> list[Entry]:
        """By name; from an index alone."""
        size = "octet_length" if self._uri.system == "duckdb" else "length"
        start = self._prefix + prefix
        found = self._rows(
            f"SELECT name, {size}(content), version FROM {self._table}"
            " WHERE sink = $1 AND substr(name, 1, CAST($2 AS integer)) = $3 ORDER BY name",
            self._sink,
            len(start),
            start,
        )
        return [
            Entry(name=name.removeprefix(self._prefix), size_bytes=size, version=str(version))
            for name, size, version in found
        ]

    def stat(self, name: str) -> Entry | None:
        """None if there is no such row."""
        return next((entry for entry in self.list(name) if entry.name == name), None)

    def open(self, name: str) -> BinaryIO:
        """The content, in memory."""
        found = self._rows(
            f"SELECT content FROM {self._table} WHERE sink = $1 AND name = $2",
            self._sink,
            self._prefix + name,
        )
        if not found:
            raise FileNotFoundError(f"{self.root}: {name}")
        return io.BytesIO(bytes(found[0][0]))

    def local_path(self, name: str) -> Path | None:
        """Never on this machine as a file."""
        return None

    def create_if_absent(self, name: str, write: Write) -> bool:
        """One row of the primary key wins."""
        content = written(write)
        with self._connections.transaction() as transaction:
            made = transaction.rows(
                f"INSERT INTO {self._table} VALUES ($1, $2, $3, 1) ON CONFLICT DO NOTHING RETURNING version",
                self._sink,
                self._prefix + name,
                content,
            )
        return bool(made)

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        """Insert or update in one statement."""
        content = written(write)
        sql = (
            f"INSERT INTO {self._table} AS old VALUES ($1, $2, $3, 1) ON CONFLICT (sink, name)"
            " DO UPDATE SET content = excluded.content, version = old.version + 1"
        )
        given: list[object] = [self._sink, self._prefix + name, content]
        if expected is not None:
            sql += " WHERE old.version = $4"
            given.append(int(expected.version))
        with self._connections.transaction() as transaction:
            if not transaction.rows(sql + " RETURNING version", *given):
                raise StorageError(
                    f"{name} in {self.root} was replaced by another process",
                    hint="run the same command again",
                )

    def swap(self, swaps: Sequence[Swap]) -> bool:
        """In one transaction."""
        with self._connections.transaction() as transaction:
            for each in swaps:
                content = written(each.write)
                self._delete(transaction, (*each.removed, each.added))
                transaction.rows(
                    f"INSERT INTO {self._table} VALUES ($1, $2, $3, 1)",
                    self._sink,
                    self._prefix + each.added,
                    content,
                )
        return True

    def delete(self, *names: str) -> None:
        """In one transaction."""
        with self._connections.transaction() as transaction:
            self._delete(transaction, names)

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        """A transaction leaves nothing unfinished."""

    def below(self, folder: str) -> "DatabaseState":
        """Names that begin with `folder`."""
        return DatabaseState(self._connections, f"{self._prefix}{folder.strip('/')}/")

    def remove_empty_folders(self) -> None:
        """There are none."""

    def _delete(self, transaction: Transaction, names: Sequence[str]) -> None:
        for name in names:
            transaction.rows(
                f"DELETE FROM {self._table} WHERE sink = $1 AND name = $2", self._sink, self._prefix + name
            )

    def _rows(self, sql: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        """Nothing if nothing was made yet."""
        with self._connections.transaction() as transaction:
            self._made = self._made or table_exists(transaction, self._uri, STATE)
            return transaction.rows(sql, *parameters) if self._made else []


def written(write: Write) -> bytes:
    """What `write` writes."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def table_exists(transaction: Transaction, uri: DatabaseUri, name: str) -> bool:
    """Whether a table of this name is there, in the URI's schema or the connection's own."""
    if uri.system == "postgresql":
        ((found,),) = transaction.rows("SELECT to_regclass($1) IS NOT NULL", qualified(uri.namespace, name))
        return bool(found)
    if uri.system == "sqlite":
        return bool(transaction.rows("SELECT 1 FROM sqlite_master WHERE name = $1", name))
    sql = "SELECT 1 FROM information_schema.tables WHERE table_name = $1 AND table_schema = "
    if uri.namespace:
        return bool(transaction.rows(sql + "$2", name, uri.namespace))
    return bool(transaction.rows(sql + "current_schema()", name))


def make_table(connections: Connections, sql: str) -> None:
    """Run `CREATE TABLE IF NOT EXISTS`; two PostgreSQL sessions that do so at once may fail once."""
    try:
        with connections.transaction() as transaction:
            transaction.rows(sql)
    except StorageError:
        with connections.transaction() as transaction:
            transaction.rows(sql)
