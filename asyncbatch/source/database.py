"""Sources that are a table or a query of a database, streamed in the order of a stated key."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError, StorageError
from asyncbatch.model import InputFile
from asyncbatch.option import flag
from asyncbatch.source.arrow import NumberedBatches
from asyncbatch.source.blocks import Gap, Piece
from asyncbatch.source.merge import same_schema
from asyncbatch.source.opened import OpenedSource
from asyncbatch.store.database.connections import Connections, Transaction
from asyncbatch.store.database.uri import DatabaseUri, identifier, parse_database_uri

_PLACES = 3
"""Where samples are taken: start, middle and end."""
_FOR_TEXT = ("delimiter", "quote", "no_header", "types", "input_format")


def open_database(spec: str, config: InputConfig) -> OpenedSource:
    """Open `postgresql://…?table=t&order_by=id`, or `query=` in place of `table=`.

    Rows are counted, and its first and last key are looked at, so that a changed table is refused on resume; a change
    that leaves all three as they were is not noticed.

    Raises:
        ConfigError: the URI names nothing to read, or the driver is not installed.
        InputError: there is no such table or column, no key is stated, or it is not one.
    """
    uri = parse_database_uri(spec)
    for name in _FOR_TEXT:
        if getattr(config, name) != getattr(InputConfig(), name):
            raise InputError(
                f"{flag(name)} is for files, and {uri.shown} is a database",
                hint="leave it out; CAST in query= instead",
            )
    if not uri.table and not uri.query:
        raise InputError(
            f"{uri.shown} names nothing to read",
            hint="add ?table=NAME&order_by=KEY or ?query=SELECT…&order_by=KEY",
        )
    if not uri.order_by:
        raise InputError(
            f"{uri.shown} states no order, so a resumed run could not tell its rows",
            hint="add &order_by=KEY: columns that are unique together, such as the primary key",
        )
    try:
        return _opened(uri, config)
    except StorageError as error:
        raise InputError(error.message, hint=error.hint) from error


def _opened(uri: DatabaseUri, config: InputConfig) -> OpenedSource:
    connections = Connections(uri)
    base = f"({uri.query.rstrip().rstrip(';')}) AS source" if uri.query else uri.named
    with connections.transaction() as transaction:
        schema = _schema(transaction, base)
        for name in uri.order_by:
            if name not in schema.names:
                raise InputError(
                    f"{uri.shown} has no column {name} to order by",
                    hint=f"its columns: {', '.join(schema.names)}",
                )
        fingerprint = _fingerprint(transaction, base, uri)
    rows = int(fingerprint["rows"])
    if not rows and not config.allow_empty:
        raise InputError(f"{uri.shown} gives no rows", hint="say --allow-empty if that is fine")
    file = InputFile(number=0, path=uri.shown, size_bytes=0, rows=rows, fingerprint=fingerprint)
    columns = same_schema([(uri.shown, schema)])
    reader = _Reader(connections, base, pa.schema(columns))
    return OpenedSource(columns=columns, partitions=(), files=[file], reader=reader)


class _Reader:
    """One query a reading, in one snapshot; skips what is done."""

    def __init__(self, connections: Connections, base: str, schema: pa.Schema) -> None:
        self._connections = connections
        self._base = base
        self._schema = schema
        self._keys = connections.uri.order_by

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        first = gaps[0].start
        try:
            with self._connections.transaction() as transaction:
                _snapshot(transaction, self._connections.uri)
                now = _fingerprint(transaction, self._base, self._connections.uri)
                if now != dict(file.fingerprint):
                    raise InputError(
                        f"{file.path} has changed since the run was planned",
                        hint="choose another output, or --overwrite to start anew",
                    )
                batches = self._batches(transaction, columns, offset=first, rows=None)
                numbered = NumberedBatches(batches)
                for gap in gaps:
                    stop = None if gap.stop is None else gap.stop - first
                    yield gap, (Piece(table=table) for table in numbered.read(gap.start - first, stop))
        except StorageError as error:
            raise InputError(error.message, hint="the same command goes on from here") from error

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """From the start, the middle and the end."""
        each = -(-rows // _PLACES)
        total = file.rows or 0
        starts = sorted({0, max(0, total // 2 - each // 2), max(0, total - each)})
        found: list[pa.RecordBatch] = []
        with self._connections.transaction() as transaction:
            for start in starts:
                found += self._batches(transaction, columns, offset=start, rows=each)
        return pa.Table.from_batches(found) if found else None

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._connections.close()

    def _batches(
        self, transaction: Transaction, columns: Sequence[str], *, offset: int, rows: int | None
    ) -> Generator[pa.RecordBatch, None, None]:
        """Rows from `offset` on, in the order of the key, which is checked to be one."""
        names = [*columns, *(key for key in self._keys if key not in columns)]
        order = ", ".join(identifier(key) for key in self._keys)
        sql = f"SELECT {', '.join(map(identifier, names))} FROM {self._base} ORDER BY {order}"
        if rows is not None or offset:
            # SQLite has no OFFSET without LIMIT.
            sql += f" LIMIT {2**62 if rows is None else rows} OFFSET {offset}"
        fields = [self._schema.field(name) for name in columns]
        last: tuple[Any, ...] | None = None
        with contextlib.closing(transaction.batches(sql)) as batches:
            for batch in batches:
                if not batch.num_rows:
                    continue
                keys = [_plain(batch.column(name)) for name in self._keys]
                last = self._check_keys(keys, last)
                yield pa.RecordBatch.from_arrays(
                    [self._cast(batch.column(field.name), field) for field in fields],
                    schema=pa.schema(fields),
                )

    def _check_keys(self, keys: Sequence["pa.Array[Any]"], last: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """Raises InputError if two rows that follow each other have the same key, or one has none."""
        shown, named = self._connections.uri.shown, ", ".join(self._keys)
        if any(key.null_count for key in keys):
            raise InputError(
                f"the key {named} of {shown} is null in some rows",
                hint="order by a column that is never null",
            )
        same = pc.equal(keys[0].slice(1), keys[0].slice(0, len(keys[0]) - 1))
        for key in keys[1:]:
            same = pc.and_(same, pc.equal(key.slice(1), key.slice(0, len(key) - 1)))
        if pc.any(same).as_py() or last == tuple(key[0].as_py() for key in keys):
            raise InputError(
                f"the key {named} of {shown} is not unique, so the order of its rows is not fixed",
                hint="add columns to order_by until it is",
            )
        return tuple(key[-1].as_py() for key in keys)

    def _cast(self, values: "pa.Array[Any]", field: "pa.Field[Any]") -> "pa.Array[Any]":
        plain = _plain(values)
        if plain.type == field.type:
            return plain
        try:
            return plain.cast(field.type)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"column {field.name} of {self._connections.uri.shown} holds {plain.type} after {field.type}",
                hint=f"CAST({field.name} AS …) in a query= gives it one type",
            ) from error


def _schema(transaction: Transaction, base: str) -> pa.Schema:
    """Columns with the types of their values; extension types of the driver as what they are stored as."""
    found = transaction.schema(base)
    return pa.schema([pa.field(field.name, _storage(field.type)) for field in found])


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(values: "pa.Array[Any]") -> "pa.Array[Any]":
    return values.storage if isinstance(values, pa.ExtensionArray) else values


def _fingerprint(transaction: Transaction, base: str, uri: DatabaseUri) -> dict[str, str | int]:
    """Query, number of rows, and a digest of the first and the last key; no values."""
    ((rows,),) = transaction.rows(f"SELECT count(*) FROM {base}")
    edges = []
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{identifier(key)} {direction}" for key in uri.order_by)
        keys = ", ".join(map(identifier, uri.order_by))
        edges.append(transaction.rows(f"SELECT {keys} FROM {base} ORDER BY {order} LIMIT 1"))
    digest = blake2b(repr((base, uri.order_by, edges)).encode(), digest_size=16).hexdigest()
    return {"rows": int(rows), "edges": digest}


def _snapshot(transaction: Transaction, uri: DatabaseUri) -> None:
    """All statements of the transaction see the database as it is now; SQLite and DuckDB do so anyway."""
    if uri.system == "postgresql":
        transaction.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
