"""The input as it was when the job was planned: files that appeared since wait for the next job."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from asyncbatch.model import InputFile, SourceBlock
from asyncbatch.protocols import Source

if TYPE_CHECKING:
    import pyarrow as pa


def as_planned(source: Source, planned: Sequence[InputFile]) -> Source:
    """`source` with the planned files only, under their planned numbers: a name that sorts in between shifts none.

    Every planned file must be there still; `plan_differences` says whether it is.
    """
    now = {file.path: file for file in source.files}
    files = tuple(replace(now[file.path], number=file.number) for file in planned)
    return source if files == tuple(source.files) else _PlannedSource(source, files)


class _PlannedSource:
    """See `as_planned`."""

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

    def sample(self, *, columns: Sequence[str], rows: int) -> "pa.Table":
        return self._source.sample(columns=columns, rows=rows)

    def close(self) -> None:
        self._source.close()
