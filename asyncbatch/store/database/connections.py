"""Connections to a database by ADBC, and transactions on them."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asyncbatch.errors import ConfigError, StorageError
from asyncbatch.store.database.uri import DatabaseUri, System

if TYPE_CHECKING:
    import pyarrow as pa

_EXTRAS: dict[System, tuple[str, str]] = {
    "postgresql": ("adbc_driver_postgresql", "postgres"),
    "duckdb": ("adbc_driver_duckdb", "duckdb"),
    "sqlite": ("adbc_driver_sqlite", "sqlite"),
}
_BUSY_MS = 60_000
"""How long SQLite waits for another writer."""


class Transaction:
    """One transaction of one connection; not to be used by two threads at once.

    Each statement has a cursor of its own: a DuckDB statement that has ingested goes on ingesting.
    """

    def __init__(self, connection: Any, system: System) -> None:
        self._connection = connection
        self._system = system

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement; the rows that it gives, if any. Parameters are `$1`, `$2` …"""
        with self._connection.cursor() as cursor:
            if parameters:
                cursor.execute(sql, parameters)
            else:
                cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def ingest(
        self, table: str, data: "pa.Table", *, mode: Literal["create", "append"], namespace: str = ""
    ) -> None:
        """Write all rows of `data` in bulk; `create` makes the table from its schema."""
        with self._connection.cursor() as cursor:
            options = {"db_schema_name": namespace} if namespace else {}
            cursor.adbc_ingest(table, data, mode=mode, **options)

    def schema(self, source: str) -> "pa.Schema":
        """Columns of a table, or of a query in parentheses, as SQL writes it; no more rows are read than needed.

        PostgreSQL sends all that were asked for, read or not; SQLite's columns have the types of their first rows.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {source}" + ("" if self._system == "sqlite" else " LIMIT 0"))
            reader = cursor.fetch_record_batch()
            found: pa.Schema = reader.schema
            reader.close()
        return found

    def batches(self, sql: str) -> Generator["pa.RecordBatch", None, None]:
        """The rows that a query gives, as they come."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            reader = cursor.fetch_record_batch()
            try:
                yield from reader
            finally:
                reader.close()


class Connections:
    """A few connections to one database, opened when first wanted. Safe to use from several threads.

    SQLite and DuckDB get one connection: they take one writer at a time.
    """

    def __init__(self, uri: DatabaseUri) -> None:
        self.uri = uri
        most = 4 if uri.system == "postgresql" else 1
        self._permits = threading.BoundedSemaphore(most)
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._closed = False
        weakref.finalize(self, _close_all, self._idle)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commits at the end, rolls back on any error.

        Raises:
            ConfigError: the driver is not installed.
            StorageError: the database cannot be reached, or refuses a statement.
        """
        with self._permits:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self._connect()
            usable = False
            try:
                yield Transaction(connection, self.uri.system)
                connection.commit()
                usable = True
            except BaseException as error:
                with contextlib.suppress(Exception):
                    connection.rollback()
                    usable = not _is_lost(error)
                if _is_adbc(error):
                    raise StorageError(
                        f"the database {self.uri.shown} refused: {said_by(error)}", hint=_hint(error)
                    ) from error
                raise
            finally:
                if usable and not self._closed:
                    self._idle.put(connection)
                else:
                    with contextlib.suppress(Exception):
                        connection.close()

    def close(self) -> None:
        """Close what is idle now, and what is in use when its transaction ends. Idempotent."""
        self._closed = True
        _close_all(self._idle)

    def _connect(self) -> Any:
        driver = _driver(self.uri.system)
        try:
            connection = driver.connect(self.uri.dsn)
            if self.uri.system == "sqlite":
                Transaction(connection, self.uri.system).rows(f"PRAGMA busy_timeout = {_BUSY_MS}")
                connection.commit()
            return connection
        except Exception as error:
            if not _is_adbc(error):
                raise
            raise StorageError(
                f"cannot connect to {self.uri.shown}: {said_by(error)}", hint=_connect_hint(self.uri)
            ) from error


def _close_all(idle: "queue.LifoQueue[Any]") -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            connection = idle.get_nowait()
            with contextlib.suppress(Exception):
                connection.close()


def said_by(error: BaseException) -> str:
    """The database's own words, one line, without the driver's frame."""
    text = str(error)
    for marker in ("ERROR:", "FATAL:", "Error:", "] "):
        _, found, after = text.partition(marker)
        if found:
            text = after
            break
    line = " ".join(text.split("\n")[0].split())
    return line.partition(" SQLSTATE:")[0].rstrip(". ") or type(error).__name__


def _is_adbc(error: BaseException) -> bool:
    import adbc_driver_manager

    return isinstance(error, adbc_driver_manager.Error)


def _is_lost(error: BaseException) -> bool:
    """Whether the connection may be gone; one too many is closed, no harm."""
    import adbc_driver_manager

    return not isinstance(error, adbc_driver_manager.Error) or isinstance(
        error, (adbc_driver_manager.OperationalError, adbc_driver_manager.InternalError)
    )


def _hint(error: BaseException) -> str:
    text = str(error).lower()
    if (
        "permission denied" in text
        or "no schema has been selected" in text
        or "readonly" in text
        or "read-only" in text
    ):
        return "the role needs CREATE on the schema, and INSERT and SELECT on the table"
    return "what is committed stays; the same command goes on"


def _connect_hint(uri: DatabaseUri) -> str:
    if uri.system == "postgresql":
        return "check host, port, user and database; PGPASSWORD or ~/.pgpass hold the password"
    folder = Path(uri.dsn).parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    return "is the file of that system, and open in no other process?"


def _driver(system: System) -> Any:
    import importlib

    module, extra = _EXTRAS[system]
    try:
        return importlib.import_module(f"{module}.dbapi")
    except ImportError as error:
        raise ConfigError(
            f"{system}:// needs {module}, which is not installed", hint=f"pip install 'asyncbatch[{extra}]'"
        ) from error
