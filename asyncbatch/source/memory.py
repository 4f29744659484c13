"""Sources that are Arrow data of this process: tables, frames, readers, record batches.

What has a length (tables, frames) can be read again; a reader or an iterable once only.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.model import InputFile
from asyncbatch.source.arrow import NumberedBatches
from asyncbatch.source.blocks import Gap, Piece
from asyncbatch.source.merge import conformed, same_schema
from asyncbatch.source.opened import OpenedSource
from asyncbatch.source.text import spread

_EDGE_ROWS = 1000
_BUFFERED_ROWS = 4096


@runtime_checkable
class ArrowStream(Protocol):
    """The Arrow PyCapsule interface: anything that can be read as a stream of record batches."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...  # not ours


def open_arrow_data(data: object, config: InputConfig) -> OpenedSource:
    """Open an object with `__arrow_c_stream__`, or an iterable of record batches.

    Raises:
        InputError: neither, or no rows and no schema to tell the columns.
    """
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return _table_source(data)
    if isinstance(data, ArrowStream):
        try:
            reader = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowException as error:
            raise InputError(
                f"a source of type {type(data).__name__} is no table", hint="give a table with named columns"
            ) from error
        # A frame is an array too; a DuckDB relation has a length, but is a query that may not fit.
        return (
            _table_source(reader.read_all())
            if hasattr(data, "__array__")
            else _stream_source(reader.schema, reader)
        )
    if isinstance(data, Iterable) and not isinstance(data, (bytes, bytearray, memoryview)):
        return _batches_source(iter(data), config)
    raise InputError(
        f"a source of type {type(data).__name__} is neither a path nor Arrow data",
        hint="give a path, a pyarrow, pandas, polars or DuckDB table, or an iterable of record batches",
    )


def _table_source(table: pa.Table) -> OpenedSource:
    columns = same_schema([("the table", table.schema)])
    file = InputFile(
        number=0,
        path="",
        size_bytes=table.get_total_buffer_size(),
        rows=table.num_rows,
        fingerprint=table_fingerprint(table),
    )
    return OpenedSource(
        columns=columns, partitions=(), files=[file], reader=_TableReader(table, pa.schema(columns))
    )


def _stream_source(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> OpenedSource:
    columns = same_schema([("the stream", schema)])
    file = InputFile(number=0, path="", size_bytes=0, rows=None, fingerprint={})
    reader = _StreamReader(batches, pa.schema(columns))
    return OpenedSource(columns=columns, partitions=(), files=[file], reader=reader, resumable=False)


def _batches_source(items: Iterator[Any], config: InputConfig) -> OpenedSource:
    first = next(items, None)
    if first is None:
        if config.allow_empty:
            return OpenedSource(
                columns=(), partitions=(), files=(), reader=_StreamReader(iter(()), pa.schema([]))
            )
        raise InputError("the source yields no record batch", hint="say allow_empty=True if that is fine")
    batches = _checked(itertools.chain([first], items), type(first))
    if not isinstance(first, pa.RecordBatch):
        next(batches)  # raises
    return _stream_source(first.schema, batches)


def _checked(items: Iterable[Any], kind: type) -> Iterator[pa.RecordBatch]:
    schema: pa.Schema | None = None
    for item in items:
        if not isinstance(item, pa.RecordBatch):
            raise InputError(
                f"the source yields {type(item).__name__}, not record batches",
                hint="pyarrow.RecordBatch.from_pylist makes a record batch of a list of dicts",
            )
        if schema is not None and not item.schema.equals(schema):
            raise InputError(
                "the source yields record batches of different schemas", hint="cast them to one schema"
            )
        schema = item.schema
        yield item


def table_fingerprint(table: pa.Table) -> dict[str, str | int]:
    """Rows, schema, and a hash of the first and last 1,000 rows: a change in between is not noticed."""
    digest = blake2b(table.schema.to_string().encode(), digest_size=16)
    tail = max(_EDGE_ROWS, table.num_rows - _EDGE_ROWS)
    for part in (table.slice(0, _EDGE_ROWS), table.slice(tail)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part.combine_chunks())
        digest.update(sink.getvalue())
    return {"rows": table.num_rows, "edges": digest.hexdigest()}


class _TableReader:
    """Slices of a table, no copies."""

    def __init__(self, table: pa.Table, schema: pa.Schema) -> None:
        self._table, self._schema = table, schema

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        for gap in gaps:
            yield gap, self._pieces(columns, gap, batch_rows)

    def _pieces(self, columns: Sequence[str], gap: Gap, batch_rows: int) -> Iterator[Piece]:
        stop = self._table.num_rows if gap.stop is None else gap.stop
        for start in range(gap.start, stop, batch_rows):
            yield Piece(table=self._part(columns, start, min(batch_rows, stop - start)))

    def _part(self, columns: Sequence[str], start: int, rows: int) -> pa.Table:
        return conformed(self._table.slice(start, rows), [self._schema.field(name) for name in columns])

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """Evenly spread rows."""
        total = self._table.num_rows
        parts = [self._part(columns, position, 1) for position in spread(total, rows)]
        return pa.concat_tables(parts) if parts else None

    def close(self) -> None:
        """The table is the caller's."""


class _StreamReader:
    """Record batches that come once. What `sample` takes from the front is kept and read again."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        self._batches, self._schema = batches, schema
        self._front: list[pa.RecordBatch] = []
        self._begun = False

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        if self._begun:
            raise InputError(
                "the source is a stream that has been read already",
                hint="give a table, or make the stream anew",
            )
        self._begun = True
        numbered = NumberedBatches(itertools.chain(self._drain(), iter(self._next, None)))
        fields = [self._schema.field(name) for name in columns]
        for gap in gaps:
            yield gap, (Piece(table=conformed(table, fields)) for table in numbered.read(gap.start, gap.stop))

    def _drain(self) -> Iterator[pa.RecordBatch]:
        while self._front:
            yield self._front.pop(0)

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """From the first batches, read ahead until they hold `_BUFFERED_ROWS` rows."""
        if self._begun:
            return None
        while sum(batch.num_rows for batch in self._front) < max(rows, _BUFFERED_ROWS):
            batch = self._next()
            if batch is None:
                break
            self._front.append(batch)
        if not self._front:
            return None
        table = conformed(pa.Table.from_batches(self._front), [self._schema.field(name) for name in columns])
        picked = [table.slice(position, 1) for position in spread(table.num_rows, rows)]
        return pa.concat_tables(picked) if picked else None

    def _next(self) -> pa.RecordBatch | None:
        try:
            return next(self._batches, None)
        except (pa.ArrowException, OSError) as error:  # what else was raised became one of these on its way
            said = str(error).partition(" Detail: ")[0].partition("\n")[0].rstrip(".")
            raise InputError(
                f"the source failed while it was read: {said}", hint="ask whoever makes the stream"
            ) from error

    def close(self) -> None:
        """Ends a generator or reader that was not read to its end. Idempotent."""
        self._front.clear()
        close: Callable[[], None] | None = getattr(self._batches, "close", None)
        if close is not None:
            close()
