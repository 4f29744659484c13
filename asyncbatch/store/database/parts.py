"""Parts whose rows lie in a table: each is one transaction of its rows and a line of the ledger.

To whoever looks at parts this is a store of part files. The rows of a block go into the table in bulk, and the footer that
its Parquet file would have, which says which block it is, into the ledger. The ledger's primary key decides who of several
writers wins; a writer whose connection breaks while it commits looks there.
"""

import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from asyncbatch.errors import OutputError, StorageError
from asyncbatch.store.base import Entry, Store, Swap, Write, replaced_meanwhile
from asyncbatch.store.database.amending import amend_rows
from asyncbatch.store.database.connections import Connections, Transaction
from asyncbatch.store.database.state import STATE, make_table, table_exists, written
from asyncbatch.store.database.types import check_types, compare_columns, widened
from asyncbatch.store.database.uri import identifier, qualified

if TYPE_CHECKING:
    import pyarrow as pa

LEDGER = "asyncbatch_ledger"
"""Name of the table; beside the output's, one for all outputs of that schema."""
_PUBLISHED = "_published"
"""The ledger's line that says that the finished table is in its place."""


class TableParts:
    """A `Store` of the parts of one table.

    Args:
        mode: `append` to a table that may be there already; `replace` it in one step when the job is done; `fail` if
            it is there and another wrote it.
    """

    def __init__(self, connections: Connections, *, mode: str) -> None:
        self._connections = connections
        self._uri = connections.uri
        self._ledger = self._uri.beside(LEDGER)
        self._sink = self._uri.table
        self._mode = mode
        self._made = False
        self._columns: pa.Schema | None = None

    @property
    def root(self) -> str:
        """How messages call the place."""
        return self._uri.shown

    @property
    def target(self) -> str:
        """Name of the table that rows go into until the job is finished; files that appear later go into the table itself."""
        return f"{self._uri.table}__asyncbatch" if self._mode == "replace" else self._uri.table

    def prepare(self, *, expected_bytes: int = 0) -> None:
        """Make the ledger where needed."""
        blob = "bytea" if self._uri.system == "postgresql" else "blob"
        make_table(
            self._connections,
            f"CREATE TABLE IF NOT EXISTS {self._ledger} (sink text NOT NULL, part text NOT NULL, attempt text NOT NULL,"
            f" bytes bigint NOT NULL, footer {blob} NOT NULL, PRIMARY KEY (sink, part))",
        )

    def check_columns(self, schema: "pa.Schema") -> None:
        """Refuse what the table cannot take, before anything is scored.

        Raises:
            OutputError: the table is there under `fail`, or lacks a column, or has one of another type; or the
                database has no such type.
        """
        with self._connections.transaction() as transaction:
            there = table_exists(transaction, self._uri, self._uri.table)
            if there and self._mode == "fail":
                raise OutputError(
                    f"the table {self._uri.table} of {self._uri.shown} exists",
                    hint="--mode append adds rows to it, --mode replace puts a new table in its place when it is complete",
                )
            if there and self._mode == "append":
                compare_columns(schema, transaction.schema(self._uri.named), self._uri)
        check_types(self._connections, schema)

    def make_target(self, schema: "pa.Schema") -> None:
        """Make the table that rows go into, unless it is there, or is published already.

        Raises:
            OutputError: rows were committed, and the table that held them is gone.
        """
        if self._has_target():
            return
        try:
            with self._connections.transaction() as transaction:
                transaction.ingest(
                    self.target, schema.empty_table(), mode="create", namespace=self._uri.namespace
                )
        except StorageError:
            # Another process, or the server for one that was killed, has just made it.
            if not self._has_target():
                raise

    def _has_target(self) -> bool:
        with self._connections.transaction() as transaction:
            if self._is_published(transaction) or table_exists(transaction, self._uri, self.target):
                return True
            if self._exists(transaction) and transaction.rows(
                f"SELECT 1 FROM {self._ledger} WHERE sink = $1 LIMIT 1", self._sink
            ):
                raise OutputError(
                    f"the table {self.target} of {self._uri.shown} is gone, and rows were committed to it",
                    hint="--overwrite with --mode replace scores every row again",
                )
        return False

    def publish(self) -> None:
        """Put the finished table in the place of the old one, in one transaction. Repeatable."""
        if self._mode != "replace":
            return
        with self._connections.transaction() as transaction:
            if self._is_published(transaction):
                return
            transaction.rows(f"DROP TABLE IF EXISTS {self._uri.named}")
            staged = qualified(self._uri.namespace, self.target)
            transaction.rows(f"ALTER TABLE {staged} RENAME TO {identifier(self._uri.table)}")
            transaction.rows(
                f"INSERT INTO {self._ledger} VALUES ($1, $2, $2, 0, $3)", self._sink, _PUBLISHED, b""
            )

    def forget(self) -> None:
        """Drop what an earlier job under `replace` has begun, so that a new one can begin; what it published stays."""
        with self._connections.transaction() as transaction:
            if self._exists(transaction):
                transaction.rows(f"DELETE FROM {self._ledger} WHERE sink = $1", self._sink)
            if self._mode == "replace":
                transaction.rows(f"DROP TABLE IF EXISTS {qualified(self._uri.namespace, self.target)}")

    def set_aside(self, label: str) -> None:
        """Give the records of a finished job, ledger and state, another name: the table is free for the next one."""
        with self._connections.transaction() as transaction:
            for table in (self._ledger, self._uri.beside(STATE)):
                transaction.rows(
                    f"UPDATE {table} SET sink = $1 WHERE sink = $2", f"{self._sink}@{label}", self._sink
                )

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._connections.close()

    def rows_there(self) -> int:
        """Rows of the table now; 0 if it is not there."""
        with self._connections.transaction() as transaction:
            if not table_exists(transaction, self._uri, self._uri.table):
                return 0
            ((count,),) = transaction.rows(f"SELECT count(*) FROM {self._uri.named}")
        return int(count)

    def list(self, prefix: str = "") -> list[Entry]:
        """The lines of the ledger."""
        with self._connections.transaction() as transaction:
            if not self._exists(transaction):
                return []
            found = transaction.rows(
                f"SELECT part, bytes, attempt FROM {self._ledger} WHERE sink = $1 ORDER BY part", self._sink
            )
        return [
            Entry(name=part, size_bytes=size, version=attempt)
            for part, size, attempt in found
            if part.startswith(prefix) and part != _PUBLISHED
        ]

    def stat(self, name: str) -> Entry | None:
        """None if there is no such part."""
        return next((entry for entry in self.list(name) if entry.name == name), None)

    def open(self, name: str) -> BinaryIO:
        """The end of the part file: its footer, and nothing of its rows."""
        with self._connections.transaction() as transaction:
            found = (
                transaction.rows(
                    f"SELECT footer FROM {self._ledger} WHERE sink = $1 AND part = $2", self._sink, name
                )
                if self._exists(transaction)
                else []
            )
        if not found:
            raise FileNotFoundError(f"{self.root}: {name}")
        return io.BytesIO(bytes(found[0][0]))

    def local_path(self, name: str) -> Path | None:
        """Never on this machine as a file."""
        return None

    def create_if_absent(self, name: str, write: Write) -> bool:
        """See `create_rows`, of a part as a Parquet file."""
        import pyarrow.parquet as pq

        content = written(write)
        return self.create_rows(name, pq.read_table(io.BytesIO(content)), lambda file: file.write(content))

    def create_rows(self, name: str, table: "pa.Table", write: Write) -> bool:
        """Rows and line in one transaction; the ledger's primary key lets one writer win.

        Args:
            write: writes a part with the footer for the ledger; its rows are not looked at.
        """
        attempt = uuid.uuid4().hex
        try:
            with self._connections.transaction() as transaction:
                won = transaction.rows(
                    f"INSERT INTO {self._ledger} VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING part",
                    self._sink,
                    name,
                    attempt,
                    table.nbytes,
                    _footer_of(written(write)),
                )
                if won and table.num_rows:
                    self._insert(transaction, table)
        except StorageError:
            # Committed or not: whether the line is there decides; a database that is gone raises again.
            there = self.stat(name)
            if there is None or there.version != attempt:
                raise
            return True
        return bool(won)

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        """A table has no rows of one part that could be told from the others'."""
        raise OutputError(
            f"rows of {self.root} cannot be replaced part by part", hint="--mode replace writes a new table"
        )

    def amend(
        self,
        name: str,
        write: Write,
        *,
        expected: Entry,
        before: "pa.Table",
        after: "pa.Table",
        added: "pa.Table",
        marker: str,
    ) -> None:
        """Change rows of a part, and add some, and say in the ledger what it is from then on: in one transaction.

        Args:
            write: writes a part with the new footer; its rows are not looked at.
            expected: the part as it was.
            before: some columns of the rows that change, as they are in the table; see `amend_rows`.
            after: other columns of the same rows.
            added: whole rows.
            marker: a column of `before`, null in no row that changes.

        Raises:
            StorageError: the part is not what was expected, or the database refuses.
            OutputError: a row that is to be changed is not there.
        """
        with self._connections.transaction() as transaction:
            if not transaction.rows(
                f"UPDATE {self._ledger} SET attempt = $1, footer = $2"
                " WHERE sink = $3 AND part = $4 AND attempt = $5 RETURNING part",
                uuid.uuid4().hex,
                _footer_of(written(write)),
                self._sink,
                name,
                expected.version,
            ):
                raise replaced_meanwhile(f"{self.root}: {name}")
            if before.num_rows:
                found = amend_rows(transaction, self._uri, before, after, marker=marker)
                if found != before.num_rows:
                    raise OutputError(
                        f"{before.num_rows - found:,} of {before.num_rows:,} rejected rows of {name} are not in"
                        f" {self.root} as they were written",
                        hint="they were changed or removed since: score them into another table",
                    )
            if added.num_rows:
                self._insert(transaction, added)

    def swap(self, swaps: Sequence[Swap]) -> bool:
        """See `replace`."""
        raise OutputError(f"parts of {self.root} cannot be joined", hint="leave --file-size out")

    def delete(self, *names: str) -> None:
        """See `replace`."""
        if names:
            raise OutputError(
                f"rows of {self.root} cannot be removed part by part",
                hint="--mode replace writes a new table",
            )

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        """A transaction leaves nothing unfinished."""

    def below(self, folder: str) -> "Store":
        """See `replace`."""
        raise OutputError(f"{self.root} has no folders", hint="name a folder as SINK")

    def remove_empty_folders(self) -> None:
        """There are none."""

    def _exists(self, transaction: Transaction) -> bool:
        self._made = self._made or table_exists(transaction, self._uri, LEDGER)
        return self._made

    def _is_published(self, transaction: Transaction) -> bool:
        return self._exists(transaction) and bool(
            transaction.rows(
                f"SELECT 1 FROM {self._ledger} WHERE sink = $1 AND part = $2", self._sink, _PUBLISHED
            )
        )

    def _insert(self, transaction: Transaction, table: "pa.Table") -> None:
        """Into a table that another made, with its types; `check_columns` has found that nothing is lost."""
        namespace = self._uri.namespace
        if self._mode == "append" and self._uri.system != "sqlite":
            if self._columns is None:
                self._columns = transaction.schema(self._uri.named)
            table = widened(table, self._columns)
        if self._mode == "append" and self._uri.system == "duckdb":
            # Its bulk ingest wants every column of the table.
            staged = f"{self.target}__asyncbatch_part"
            transaction.ingest(staged, table, mode="create", namespace=namespace)
            names = ", ".join(map(identifier, table.column_names))
            transaction.rows(
                f"INSERT INTO {self._uri.named} ({names}) SELECT {names} FROM {self._uri.beside(staged)}"
            )
            transaction.rows(f"DROP TABLE {self._uri.beside(staged)}")
        else:
            published = self._mode == "replace" and self._is_published(transaction)
            target = self._uri.table if published else self.target
            transaction.ingest(target, table, mode="append", namespace=namespace)


def _footer_of(content: bytes) -> bytes:
    """The end of a Parquet file from its footer on, with four bytes before it where a file has its first magic."""
    length = int.from_bytes(content[-8:-4], "little") + 8
    return content[-length - 4 :]
