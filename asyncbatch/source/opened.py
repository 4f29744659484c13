"""The `Source` that all formats share; a format is a `Reader` behind it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import pyarrow as pa

from asyncbatch.errors import InputError
from asyncbatch.model import InputFile, SourceBlock
from asyncbatch.source.blocks import Gap, Offsets, Piece, cut_blocks, find_gaps
from asyncbatch.source.hive import partition_scalar
from asyncbatch.source.passing import LINE, Lines
from asyncbatch.source.text import spread

_SAMPLED_FILES = 4


class Reader(Protocol):
    """What a format must do. Knows files and their own columns; nothing of blocks and partitions."""

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        """For each gap in turn its rows, and no others, in pieces of about `batch_rows` rows or a few MiB.

        Closing the generator releases the file. The pieces have the types of the source's schema.
        """
        ...

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        """Up to about `rows` readable rows from several places of the file; None when there are none."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class CountsRows(Protocol):
    """A reader that can count rows for less than reading them."""

    def row_ends(self, file: InputFile, max_rows: int | None) -> Iterator[tuple[int, Offsets | None]]:
        """Piece by piece, how many rows follow, and the byte offset after each where the file can seek."""
        ...


class OpenedSource:
    """Blocks on a fixed grid, partition columns added, columns in the order asked for."""

    def __init__(
        self,
        *,
        columns: "Sequence[pa.Field[pa.DataType]]",
        partitions: "Sequence[pa.Field[pa.DataType]]",
        files: Sequence[InputFile],
        reader: Reader,
        resumable: bool = True,
        passing: Callable[[Lines], Reader] | None = None,
    ) -> None:
        """`passing`: makes a reader that gives the column `LINE` besides."""
        self._own = tuple(field.name for field in columns)
        self._partitions = {field.name: field.type for field in partitions}
        self._schema = pa.schema([*columns, *partitions])
        self._files = tuple(files)
        self._reader = reader
        self._resumable = resumable
        self._passing = passing
        self.left_out: Sequence[str] = ()
        """Files that `--settle` leaves for a later run; set by whoever lists them."""

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def files(self) -> Sequence[InputFile]:
        return self._files

    @property
    def partition_columns(self) -> Sequence[str]:
        return tuple(self._partitions)

    @property
    def resumable(self) -> bool:
        return self._resumable

    def blocks(
        self,
        file: InputFile,
        *,
        columns: Sequence[str],
        block_rows: int,
        done: Sequence[tuple[int, int, int | None]] = (),
        max_rows: int | None = None,
    ) -> Iterator[SourceBlock]:
        """See `asyncbatch.protocols.Source.blocks`. Nothing is opened before the first block is asked for.

        A file without rows yields nothing. When nothing follows the last range in `done`, nothing more is
        yielded: then that range's stop is the file's row count.
        """
        gaps = find_gaps(done, rows=file.rows, max_rows=max_rows)
        if not gaps:
            return
        runs = self._reader.read(file, self._own_among(columns), gaps, block_rows)
        try:
            for gap, pieces in runs:
                for each in cut_blocks(
                    pieces, file=file.number, gap=gap, block_rows=block_rows, path=file.path
                ):
                    yield SourceBlock(
                        block=each.block,
                        table=self._completed(each.table, file, columns),
                        rejects=each.rejects,
                        end_offset=each.end_offset,
                        last=each.last,
                    )
        finally:
            runs.close()

    def block_ends(
        self, file: InputFile, *, block_rows: int, max_rows: int | None = None
    ) -> Iterator[tuple[int, int | None]]:
        """See `asyncbatch.protocols.FindsBlocks`. Text is searched for row ends only, in about half the time of reading it."""
        if not isinstance(self._reader, CountsRows):
            for block in self.blocks(file, columns=self._own[:1], block_rows=block_rows, max_rows=max_rows):
                yield block.block.stop, block.end_offset
            return
        rows, end = 0, None
        for count, ends in self._reader.row_ends(file, max_rows):
            for position in range(block_rows - 1 - rows % block_rows, count, block_rows):
                yield rows + position + 1, None if ends is None else int(ends[position])
            rows += count
            end = None if ends is None else int(ends[-1])
        if rows % block_rows:
            yield rows, end

    def passing(self, sent: Sequence[str], lines: Lines) -> "OpenedSource | None":
        """The same with one more column, `LINE`: the rows as text, their own where `lines` can prove it.

        None where `sent` are not the columns of the files, all and in their order, or their text is no CSV.
        """
        if self._passing is None or tuple(sent) != self._own or LINE in self._schema.names:
            return None
        fields = [self._schema.field(name) for name in self._schema.names]
        return OpenedSource(
            columns=[*fields[: len(self._own)], pa.field(LINE, pa.large_string())],
            partitions=fields[len(self._own) :],
            files=self._files,
            reader=self._passing(lines),
            resumable=self._resumable,
        )

    def sample(self, *, columns: Sequence[str], rows: int) -> pa.Table:
        """At most `rows` readable rows: from the start, the middle and the end, and from up to four files."""
        files = [file for file in self._files if file.rows != 0]
        chosen = [files[number] for number in spread(len(files), _SAMPLED_FILES)]
        share = -(-rows // max(len(chosen), 1))
        found = [table for file in chosen if (table := self._sample_file(file, columns, share)) is not None]
        if not found:  # those files held no readable row: any other one does
            others = (self._sample_file(file, columns, rows) for file in files)
            found = [next((table for table in others if table is not None), self._empty(columns))]
        table = pa.concat_tables(found)
        return table.slice(0, rows) if table.num_rows > rows else table

    def close(self) -> None:
        """Release what the reader holds. Idempotent."""
        self._reader.close()

    def _sample_file(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        table = self._reader.sample(file, self._own_among(columns), rows)
        return None if table is None or not table.num_rows else self._completed(table, file, columns)

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return pa.schema([self._schema.field(name) for name in columns]).empty_table()

    def _own_among(self, columns: Sequence[str]) -> list[str]:
        """The columns to read of a file; one at least, so that its rows can be counted."""
        unknown = [name for name in columns if name not in self._partitions and name not in self._own]
        if unknown:
            raise InputError(
                f"column {unknown[0]!r} is not in the input", hint="asyncbatch plan FILE lists the columns"
            )
        return [name for name in columns if name not in self._partitions] or list(self._own[:1])

    def _completed(self, table: pa.Table, file: InputFile, columns: Sequence[str]) -> pa.Table:
        for name in columns:
            if name in self._partitions:
                value = partition_scalar(file.partitions[name], self._partitions[name])
                table = table.append_column(
                    self._schema.field(name), pa.repeat(cast(Any, value), table.num_rows)
                )
        return table.select(list(columns))
