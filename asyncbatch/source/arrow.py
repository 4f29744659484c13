"""Arrow IPC: files (Feather V2 too) and streams.

One record batch of the read columns is in memory at a time. A file whose batches are large is mapped instead:
then its pages are the system's to drop, unless they are compressed. Feather V1 is not read.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.model import InputFile
from asyncbatch.source import opening
from asyncbatch.source.blocks import Gap, Piece
from asyncbatch.source.described import open_described
from asyncbatch.source.merge import conformed
from asyncbatch.source.opened import OpenedSource
from asyncbatch.source.paths import FoundFile
from asyncbatch.source.text import spread

_MAPPED_BATCH_BYTES = 32 << 20
_SPOTS = 4


def open_arrow(
    found: Sequence[FoundFile], config: InputConfig, where: opening.Files = opening.LOCAL
) -> OpenedSource:
    """Read every schema; row counts where the format has them (a stream has none).

    Raises:
        InputError: a file that is truncated or no Arrow, or columns that differ between files.
    """
    return open_described(
        found,
        describe=lambda path: _describe(path, where),
        make_reader=lambda schema: ArrowReader(schema, where),
        where=where,
    )


def _describe(path: str, where: opening.Files) -> tuple[pa.Schema, int | None]:
    with _open(path, None, where) as opened, _reading(path):
        return opened.schema, _count_rows(opened)


def _count_rows(opened: "pa.RecordBatchFileReader | pa.RecordBatchStreamReader") -> int | None:
    """Of a file, from the metadata of its batches alone where pyarrow can (23 and later); None for a stream."""
    if not isinstance(opened, pa.RecordBatchFileReader):
        return None
    count = getattr(opened, "count_rows", None)
    if count is not None:
        return int(count())
    return sum(opened.get_batch(index).num_rows for index in range(opened.num_record_batches))


class ArrowReader:
    """Goes through the batches of a file, or of a stream."""

    def __init__(self, schema: pa.Schema, where: opening.Files = opening.LOCAL) -> None:
        self._schema = schema
        self._where = where

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        fields = [self._schema.field(name) for name in columns]
        with _open(file.path, columns, self._where) as opened:
            batches = NumberedBatches(_batches(file.path, opened))
            for gap in gaps:
                yield (
                    gap,
                    (Piece(table=conformed(table, fields)) for table in batches.read(gap.start, gap.stop)),
                )

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """The first rows of up to four batches, evenly chosen; of a stream, of its first one with rows."""
        fields = [self._schema.field(name) for name in columns]
        with _open(file.path, columns, self._where) as opened, _reading(file.path):
            if isinstance(opened, pa.RecordBatchFileReader):
                chosen = spread(opened.num_record_batches, _SPOTS)
                share = -(-rows // max(len(chosen), 1))
                tables = [_head(opened.get_batch(number), share) for number in chosen]
            else:
                first = next((batch for batch in opened if batch.num_rows), None)
                tables = [] if first is None else [_head(first, rows)]
        return (
            pa.concat_tables([conformed(table, fields) for table in tables]).slice(0, rows)
            if tables
            else None
        )

    def close(self) -> None:
        """Nothing is held between readings."""


class NumberedBatches:
    """Goes forward through record batches by row number. Holds one batch."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: pa.RecordBatch | None = None
        self._held_start = 0

    def read(self, start: int, stop: int | None) -> Iterator[pa.Table]:
        """The rows `[start, stop)`; ascending calls only."""
        while self._held is not None or self._advance():
            assert self._held is not None
            batch, at = self._held, self._held_start
            low = max(start - at, 0)
            high = batch.num_rows if stop is None else min(batch.num_rows, stop - at)
            if high < batch.num_rows:
                if low < high:
                    yield pa.Table.from_batches([batch.slice(low, high - low)])
                return
            self._held, self._held_start = None, at + batch.num_rows
            if low < high:
                yield pa.Table.from_batches([batch.slice(low, high - low)])
            if stop is not None and self._held_start >= stop:
                return

    def _advance(self) -> bool:
        self._held = next(self._batches, None)
        return self._held is not None


def _head(batch: pa.RecordBatch, rows: int) -> pa.Table:
    return pa.Table.from_batches([batch.slice(0, rows)])


def _batches(
    path: str, opened: "pa.RecordBatchFileReader | pa.RecordBatchStreamReader"
) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        if isinstance(opened, pa.RecordBatchFileReader):
            for number in range(opened.num_record_batches):
                yield opened.get_batch(number)
        else:
            yield from opened


@contextmanager
def _open(
    path: str, columns: Sequence[str] | None, where: opening.Files
) -> Iterator["pa.RecordBatchFileReader | pa.RecordBatchStreamReader"]:
    """A file or a stream, told apart by its first bytes, of the named columns only."""
    head = where.read_range(path, 0, 6)
    if head.startswith(b"FEA1"):
        raise InputError(
            f"{path} is Feather version 1, which is not read", hint="write it again as version 2"
        )
    if head != b"ARROW1":
        with where.open_arrow(path) as stream:
            with _reading(path):
                opened = pa.ipc.open_stream(stream, options=_options(_schema_of_stream(path, where), columns))
            yield opened
        return
    with where.open_arrow(path) as stream, _reading(path):
        reader = pa.ipc.open_file(stream)
        large = stream.size() > _MAPPED_BATCH_BYTES * max(reader.num_record_batches, 1)
    mapped = where is opening.LOCAL and large and not _compressed(path)
    with where.open_arrow(path, mapped=mapped) as stream:
        with _reading(path):
            # Naming columns copies them out of the map; without, pages that nobody touches are never read.
            options = _options(reader.schema, None if mapped else columns)
            reader = pa.ipc.open_file(stream, options=options)
        yield reader


def _compressed(path: str) -> bool:
    """Whether frames of LZ4 or Zstandard begin near the file's: pyarrow does not tell."""
    head = opening.read_range(path, 0, 1 << 20)
    return b"\x04\x22\x4d\x18" in head or b"\x28\xb5\x2f\xfd" in head


def _schema_of_stream(path: str, where: opening.Files) -> pa.Schema:
    with where.open_arrow(path) as stream:
        return pa.ipc.open_stream(stream).schema


def _options(schema: pa.Schema, columns: Sequence[str] | None) -> pa.ipc.IpcReadOptions:
    indices = None if columns is None else [schema.get_field_index(name) for name in columns]
    return pa.ipc.IpcReadOptions(included_fields=indices, use_threads=False)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What pyarrow raises of a damaged file becomes an `InputError` that names it."""
    try:
        with opening.reading(path):
            yield
    except pa.ArrowException as error:
        raise InputError(
            f"{path} is no Arrow IPC file or stream, or a truncated or damaged one",
            hint="copy it again, leave it out, or name its format with --input-format",
        ) from error
