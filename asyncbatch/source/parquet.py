"""Parquet files: columns pushed down, row groups skipped, one row group never read whole.

Read without pre-buffering, with a small buffer for each column: a single row group of 640 MB then takes 60 MB
of memory, not 670. What is left is a page for each column, and its dictionary where the file has one.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

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
from asyncbatch.source.wide import read_in_turns, turns_of
from asyncbatch.store.ranged import Range, RangedFile, chunk_segments

_BUFFER_BYTES = 1 << 20
_BUFFERS_BYTES = 32 << 20
"""Of all columns' buffers together: each column chunk is a stream with one of its own."""
_LEAST_BUFFER_BYTES = 1 << 14
_MAX_BATCH_ROWS = 1 << 16
_SPOTS = 4


def open_parquet(
    found: Sequence[FoundFile], config: InputConfig, where: opening.Files = opening.LOCAL
) -> OpenedSource:
    """Read every footer: schema and row counts.

    Raises:
        InputError: a file that is truncated or no Parquet, or columns that differ between files.
    """
    return open_described(
        found,
        describe=lambda path: _describe(path, where),
        make_reader=lambda schema: ParquetReader(schema, where),
        where=where,
    )


def _describe(path: str, where: opening.Files) -> tuple[pa.Schema, int | None]:
    with _open(path, where) as (parquet, _):
        return parquet.schema_arrow, parquet.metadata.num_rows


class ParquetReader:
    """Holds one batch and a page or two a column."""

    def __init__(self, schema: pa.Schema, where: opening.Files = opening.LOCAL) -> None:
        self._schema = schema
        self._where = where

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        fields = [self._schema.field(name) for name in columns]
        with _open(file.path, self._where) as (parquet, ranged):
            if ranged is not None:
                ranged.plan(chunk_segments(_chunks(parquet, columns, gaps)))
            for gap in gaps:
                rows = min(batch_rows, _MAX_BATCH_ROWS)
                # What is fetched ahead is fetched in file order, once.
                yield gap, self._pieces(file.path, parquet, fields, gap, rows, in_turns=ranged is None)

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """The first rows of up to four row groups, evenly chosen: what lies deeper is not cheap."""
        fields = [self._schema.field(name) for name in columns]
        tables = []
        with _open(file.path, self._where) as (parquet, _):
            groups = [
                number
                for number in range(parquet.num_row_groups)
                if parquet.metadata.row_group(number).num_rows
            ]
            chosen = [groups[number] for number in spread(len(groups), _SPOTS)]
            share = -(-rows // max(len(chosen), 1))
            for group in chosen:
                turns = turns_of(parquet.metadata, group, columns, first_rows=share)
                with _reading(file.path):
                    batch = next(
                        read_in_turns(parquet, group, turns, share)
                        if turns is not None
                        else parquet.iter_batches(
                            batch_size=share, row_groups=[group], columns=list(columns), use_threads=False
                        )
                    )
                tables.append(conformed(pa.Table.from_batches([batch]), fields))
        return pa.concat_tables(tables).slice(0, rows) if tables else None

    def close(self) -> None:
        """Nothing is held between readings."""

    def _pieces(
        self,
        path: str,
        parquet: pq.ParquetFile,
        fields: "Sequence[pa.Field[pa.DataType]]",
        gap: Gap,
        batch_rows: int,
        *,
        in_turns: bool,
    ) -> Iterator[Piece]:
        groups, at = groups_of(
            [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)], gap
        )
        names = [field.name for field in fields]
        with _reading(path):
            for batch in _batches(parquet, groups, names, batch_rows, in_turns=in_turns):
                low = max(gap.start - at, 0)
                high = batch.num_rows if gap.stop is None else min(batch.num_rows, gap.stop - at)
                at += batch.num_rows
                if low < high:
                    yield Piece(
                        table=conformed(pa.Table.from_batches([batch.slice(low, high - low)]), fields)
                    )
                if gap.stop is not None and at >= gap.stop:
                    return


def _batches(
    parquet: pq.ParquetFile, groups: Sequence[int], names: Sequence[str], batch_rows: int, *, in_turns: bool
) -> Iterator[pa.RecordBatch]:
    """The rows of these row groups; in turns, where they may be, those whose columns would fill the memory."""
    turns = {group: turns_of(parquet.metadata, group, names) for group in groups if in_turns}
    if not any(turns.values()):
        yield from parquet.iter_batches(
            batch_size=batch_rows, row_groups=list(groups), columns=list(names), use_threads=False
        )
        return
    for group, turn in turns.items():
        if turn is not None:
            yield from read_in_turns(parquet, group, turn, batch_rows)
        else:
            yield from parquet.iter_batches(
                batch_size=batch_rows, row_groups=[group], columns=list(names), use_threads=False
            )


def buffer_bytes(columns: int) -> int:
    """Of one column's buffer: all together have 32 MiB, 2,048 and more columns 16 KiB each."""
    return max(_LEAST_BUFFER_BYTES, min(_BUFFER_BYTES, _BUFFERS_BYTES // max(1, columns)))


def groups_of(group_rows: Sequence[int], gap: Gap) -> tuple[list[int], int]:
    """The row groups that hold rows of `gap`, and the number of the first one's first row."""
    groups: list[int] = []
    first = at = 0
    for number, rows in enumerate(group_rows):
        if rows and at + rows > gap.start and (gap.stop is None or at < gap.stop):
            if not groups:
                first = at
            groups.append(number)
        at += rows
    return groups, first


def _chunks(parquet: pq.ParquetFile, columns: Sequence[str], gaps: Sequence[Gap]) -> list[list[Range]]:
    """Where the column chunks are that hold rows of the gaps, row group by row group."""
    metadata = parquet.metadata
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    found = []
    for number in sorted({number for gap in gaps for number in groups_of(rows, gap)[0]}):
        group = metadata.row_group(number)
        chunks = []
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.partition(".")[0] in columns:
                first = min(
                    offset
                    for offset in (chunk.dictionary_page_offset, chunk.data_page_offset)
                    if offset is not None and offset > 0
                )
                chunks.append(Range(first, first + chunk.total_compressed_size))
        found.append(chunks)
    return found


@contextmanager
def _open(path: str, where: opening.Files) -> Iterator[tuple[pq.ParquetFile, RangedFile | None]]:
    ranged = where.open_ranged(path)
    with pa.PythonFile(ranged, mode="r") if ranged is not None else where.open_arrow(path) as stream:
        with _reading(path):
            metadata = pq.read_metadata(stream)
            parquet = pq.ParquetFile(
                stream,
                metadata=metadata,
                buffer_size=buffer_bytes(metadata.num_columns),
                pre_buffer=False,
                page_checksum_verification=True,
            )
        with parquet:
            yield parquet, ranged


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What pyarrow raises of a damaged file becomes an `InputError` that names it."""
    try:
        with opening.reading(path):
            yield
    except pa.ArrowException as error:
        raise InputError(
            f"{path} is no Parquet file, or a truncated or damaged one",
            hint="copy it again, leave it out, or name its format with --input-format",
        ) from error
