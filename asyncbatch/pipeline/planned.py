"""The input as it was when the job was planned: its files, under their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from asyncbatch.model import InputFile, SourceBlock
from asyncbatch.protocols import FindsBlocks, Source

if TYPE_CHECKING:
    import pyarrow as pa


class UnreadSource:
    """The input of a finished job that has not changed: its files and columns are known, and no row is asked for."""

    resumable = True

    def __init__(self, files: Sequence[InputFile], schema: "pa.Schema") -> None:
        self._files = tuple(files)
        self._schema = schema

    @property
    def schema(self) -> "pa.Schema":
        return self._schema

    @property
    def files(self) -> Sequence[InputFile]:
        return self._files

    @property
    def partition_columns(self) -> Sequence[str]:
        return ()

    def blocks(
        self,
        file: InputFile,
        *,
        columns: Sequence[str],
        block_rows: int,
        done: Sequence[tuple[int, int, int | None]] = (),
        max_rows: int | None = None,
    ) -> Iterator[SourceBlock]:
        """Never called; nor is `sample`."""
        raise NotImplementedError

    def sample(self, *, columns: Sequence[str], rows: int) -> "pa.Table":
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


def as_planned(source: Source, planned: Sequence[InputFile]) -> Source:
    """`source` with the planned files only, under their planned numbers: a name that sorts in between shifts none.

    Every planned file must be there still; `plan_differences` says whether it is.
    """
    now = {file.path: file for file in source.files}
    files = tuple(replace(now[file.path], number=file.number) for file in planned)
    return source if files == tuple(source.files) else _PlannedSource(source, files)


def later_files(source: Source, planned: Sequence[InputFile]) -> list[InputFile]:
    """The files of `source` that are not among the planned ones, in their order."""
    known = {file.path for file in planned}
    return [file for file in source.files if file.path not in known]


def changed_files(source: Source, planned: Sequence[InputFile]) -> list[InputFile]:
    """The files of `source` that are among the planned ones and have another fingerprint, in their order."""
    known = {file.path: dict(file.fingerprint) for file in planned}
    return [
        file for file in source.files if file.path in known and dict(file.fingerprint) != known[file.path]
    ]


def with_rows(source: Source, rows: Mapping[int, int]) -> Source:
    """`source` with the rows of its files known, by file number."""
    files = tuple(replace(file, rows=rows[file.number]) for file in source.files)
    return source if files == tuple(source.files) else _PlannedSource(source, files)


def block_ends(
    source: Source, file: InputFile, *, block_rows: int, max_rows: int | None
) -> Iterator[tuple[int, int | None]]:
    """See `FindsBlocks`; by reading a column where the source cannot do better."""
    if isinstance(source, FindsBlocks):
        yield from source.block_ends(file, block_rows=block_rows, max_rows=max_rows)
        return
    columns = source.schema.names[:1]
    for each in source.blocks(file, columns=columns, block_rows=block_rows, max_rows=max_rows):
        yield each.block.stop, each.end_offset


class _PlannedSource:
    """See `as_planned` and `with_rows`."""

    def __init__(self, source: Source, files: tuple[InputFile, ...]) -> None:
        self._source = source
        self._files = files

    @property
    def schema(self) -> "pa.Schema":
        return self._source.schema

    @property
    def files(self) -> Sequence[InputFile]:
        return self._files

    @property
    def partition_columns(self) -> Sequence[str]:
        return self._source.partition_columns

    @property
    def resumable(self) -> bool:
        return self._source.resumable

    def blocks(
        self,
        file: InputFile,
        *,
        columns: Sequence[str],
        block_rows: int,
        done: Sequence[tuple[int, int, int | None]] = (),
        max_rows: int | None = None,
    ) -> Iterator[SourceBlock]:
        return self._source.blocks(file, columns=columns, block_rows=block_rows, done=done, max_rows=max_rows)

    def block_ends(
        self, file: InputFile, *, block_rows: int, max_rows: int | None = None
    ) -> Iterator[tuple[int, int | None]]:
        return block_ends(self._source, file, block_rows=block_rows, max_rows=max_rows)

    def sample(self, *, columns: Sequence[str], rows: int) -> "pa.Table":
        return self._source.sample(columns=columns, rows=rows)

    def close(self) -> None:
        self._source.close()
