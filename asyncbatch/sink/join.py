"""Several Parquet files of one schema as one: row groups that are large enough move as bytes, small ones are
re-encoded together.

Moving takes a small part of the CPU of decoding and encoding (benchmarks/join.py). Many small row groups make
every reader slow, so those are decoded, and what lies next to each other becomes larger groups.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, cast

from asyncbatch.errors import OutputError
from asyncbatch.sink.parts import COMPRESSION, dictionary_columns
from asyncbatch.sink.rowgroups import Group, ParquetBytes, RowGroupWriter, same_schema
from asyncbatch.store.base import Store

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 16_384
MOVE_ROWS = 50_000
"""Row groups of so many rows are moved as they are."""
MOVE_BYTES = 16 * 2**20
"""And those of so many bytes: rows of long vectors make few rows a group."""
GROUP_ROWS = 131_072
GROUP_BYTES = 32 * 2**20
"""A row group that is made of smaller ones is closed at this many rows or bytes of Arrow data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows `[start, stop)` of a Parquet file."""

    store: Store
    name: str
    start: int = 0
    stop: int | None = None
    """None: to the end."""
    check: bool = True
    """Compare the checksums of pages that are moved as bytes; those that are decoded are compared always."""


def join_parquet(
    file: BinaryIO,
    pieces: Sequence[Piece],
    *,
    schema: "pa.Schema",
    key_values: Mapping[str, str],
    named: "pa.Schema | None" = None,
) -> None:
    """All pieces, in order, as one Parquet file with `key_values` in its footer.

    Holds one row group that is re-encoded in memory, or some MB of one that is moved.

    Args:
        named: `schema` with what the file's footer is to say of the columns besides: their field ids.

    Raises:
        OutputError: a piece is gone or damaged.
    """
    schema = schema.remove_metadata()
    model = _encoded(schema, [])
    head = None if named is None else _encoded(named, [])
    writer: RowGroupWriter | None = None
    small: list[Piece] = []
    alone: int | None = None  # the row group, if `small` is one whole row group

    def started(like: ParquetBytes) -> RowGroupWriter:
        nonlocal writer
        if writer is None:
            writer = RowGroupWriter(file, head or like)
        return writer

    def flush() -> None:
        nonlocal alone
        if alone is not None:
            piece = small[0]
            with piece.store.open(piece.name) as opened:
                source = ParquetBytes(opened, _where(piece))
                started(source).add(source.groups()[alone], check=piece.check)
        else:
            for source in _reencoded(small, schema):
                started(model).add(source.groups()[0], check=False)
        small.clear()
        alone = None

    for piece in pieces:
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(piece.store.open(piece.name))
            except FileNotFoundError as error:
                raise _unusable(piece, "gone") from error
            source = ParquetBytes(opened, _where(piece))
            fits = not source.encrypted and same_schema(source, model)
            for group, at in _placed(source):
                start, stop = _overlap(piece, at, group.rows)
                if start >= stop:
                    continue
                whole = fits and group.movable and stop - start == group.rows
                if whole and (group.rows >= MOVE_ROWS or group.bytes >= MOVE_BYTES):
                    flush()
                    started(source).add(group, check=piece.check)
                    continue
                alone = group.number if whole and not small else None
                small.append(replace(piece, start=start, stop=stop))
    flush()
    started(model).finish(key_values)


def read_pieces(pieces: Sequence[Piece]) -> "Iterator[pa.RecordBatch]":
    """The rows, in order; every page's checksum is compared.

    Raises:
        OutputError: a file is gone or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for piece in pieces:
        try:
            with piece.store.open(piece.name) as file:
                reader = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
                groups, at = _groups_of(reader, piece)
                batches = reader.iter_batches(batch_size=READ_ROWS, row_groups=groups, use_threads=False)
                while (batch := next(batches, None)) is not None:
                    start, stop = _overlap(piece, at, batch.num_rows)
                    if start < stop:
                        yield batch.slice(start - at, stop - start)
                    at += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _unusable(piece, "gone" if isinstance(error, FileNotFoundError) else "damaged") from error


def _groups_of(reader: "pa.parquet.ParquetFile", piece: Piece) -> tuple[list[int], int]:
    """The row groups that hold rows of the piece, and the number of the first one's first row."""
    groups: list[int] = []
    first = at = 0
    for number in range(reader.num_row_groups):
        rows = reader.metadata.row_group(number).num_rows
        start, stop = _overlap(piece, at, rows)
        if start < stop:
            first = first if groups else at
            groups.append(number)
        at += rows
    return groups, first


def _placed(source: ParquetBytes) -> "Iterator[tuple[Group, int]]":
    """Each row group and the number of its first row."""
    at = 0
    for group in source.groups():
        rows = group.rows  # moving changes the group
        yield group, at
        at += rows


def _overlap(piece: Piece, at: int, rows: int) -> tuple[int, int]:
    """Which of `rows` rows from row `at` of the file belong to the piece, numbered in the file."""
    return max(piece.start, at), min(at + rows if piece.stop is None else piece.stop, at + rows)


def _reencoded(pieces: Sequence[Piece], schema: "pa.Schema") -> Iterator[ParquetBytes]:
    """The rows as files of one row group each, in memory."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in read_pieces(pieces):
        # The first version of the format has fewer types.
        group.append(batch if batch.schema.equals(schema) else batch.cast(schema))
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield _encoded(schema, group)
            group, rows, size = [], 0, 0
    if rows:
        yield _encoded(schema, group)


def _encoded(schema: "pa.Schema", batches: "Sequence[pa.RecordBatch]") -> ParquetBytes:
    """A file of one row group, or none, as the parts are written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression=COMPRESSION,
        use_dictionary=dictionary_columns(schema),  # type: ignore[arg-type]  # the stubs know bool only
        write_page_checksum=True,
    ) as writer:
        if batches:
            table = pa.Table.from_batches(list(batches), schema)
            writer.write_table(table, row_group_size=table.num_rows)
    return ParquetBytes(cast(BinaryIO, buffer), "a row group in memory")


def _where(piece: Piece) -> str:
    return f"{piece.store.root}/{piece.name}"


def _unusable(piece: Piece, how: str) -> OutputError:
    return OutputError(
        f"{_where(piece)} is {how}",
        hint="remove that file and run the same command again: its rows are scored again",
    )
