"""Blocks in row order, for consumers that need a stream: stdout and the Python API.

Nothing here waits: a block that is not next in line is held, and its bytes stay reserved until it was given
out. What bounds memory is admission, which goes in row order: so the block that everybody waits for has
always been admitted, and nothing can deadlock.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Generic, TypeVar

from asyncbatch.errors import StoppedError
from asyncbatch.model import Block, Reject
from asyncbatch.sink.layout import Format
from asyncbatch.sink.text import write_csv, write_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class ReaderGoneError(StoppedError):
    """Whoever read the stream has closed it, as `head` does: the run ends, quietly and well."""

    exit_code: ClassVar[int] = 0


class OrderedBlocks(Generic[T]):
    """Takes items in any order and gives them in row order. Pure; not safe to use from several threads.

    The order is that of files, and of rows in them; a file ends with the block that is said to be its last.

    Args:
        files: numbers of the input files, in order.
    """

    def __init__(self, *, files: Sequence[int]) -> None:
        self._files = list(files)
        self._at = 0  # index into files
        self._row = 0
        self._held: dict[tuple[int, int], tuple[Block, T, bool]] = {}

    @property
    def held(self) -> int:
        """Blocks that are finished and wait for an earlier one."""
        return len(self._held)

    @property
    def finished(self) -> bool:
        """Every file has ended."""
        return self._at == len(self._files)

    def add(self, block: Block, item: T, *, last: bool) -> list[tuple[Block, T]]:
        """The blocks that can be given out now, in order; often none, sometimes several.

        Raises:
            ValueError: the block was added before, or is not among the files.
        """
        key = (block.file, block.start)
        if block.file not in self._files[self._at :] or key in self._held or self._passed(block):
            raise ValueError(f"block {block.name} was given before, or is of no listed file")
        self._held[key] = (block, item, last)
        return self._ready()

    def end_file(self, number: int) -> list[tuple[Block, T]]:
        """File `number` has no rows at all; the blocks that can be given out now."""
        index = self._files.index(number)
        if index > self._at or (index == self._at and self._row == 0):
            del self._files[index]
        return self._ready()

    def _passed(self, block: Block) -> bool:
        return block.file == self._files[self._at] and block.start < self._row

    def _ready(self) -> list[tuple[Block, T]]:
        found = []
        while self._at < len(self._files):
            entry = self._held.pop((self._files[self._at], self._row), None)
            if entry is None:
                break
            block, item, last = entry
            found.append((block, item))
            self._row = block.stop
            if last:
                self._at += 1
                self._row = 0
        return found


class StreamSink:
    """A `Sink` that gives tables in row order to `emit`. Safe to use from several threads.

    Args:
        files: numbers of the input files, in order.
        emit: takes each table, one at a time, in the thread that finished the block before it.
    """

    def __init__(
        self,
        *,
        files: Sequence[int],
        emit: "Callable[[pa.Table], None]",
    ) -> None:
        self._order: OrderedBlocks[pa.Table] = OrderedBlocks(files=files)
        self._emit = emit
        self._lock = threading.Lock()

    def write(
        self,
        block: Block,
        table: "pa.Table",
        *,
        rejects: Sequence[Reject],
        variants: Mapping[str, int],
        end_offset: int | None,
        last: bool,
    ) -> None:
        """Take one finished block, and emit it and those that waited for it if it is next. A stream keeps no
        rejects.

        Raises:
            ReaderGoneError: from `emit`; the stream's reader has closed it.
        """
        with self._lock:
            self._give(self._order.add(block, table, last=last))

    def end_file(self, number: int) -> None:
        """A file without rows."""
        with self._lock:
            self._give(self._order.end_file(number))

    def _give(self, ready: "list[tuple[Block, pa.Table]]") -> None:
        for _, table in ready:
            self._emit(table)


class TextWriter:
    """Writes tables to a binary stream such as `sys.stdout.buffer`, and flushes after each.

    Args:
        file: stays open.
        format: `csv` or `jsonl`.
        schema: of the tables; the header line of a CSV stream is written even when no row follows.
    """

    def __init__(self, file: BinaryIO, *, format: Format, schema: "pa.Schema") -> None:  # noqa: A002  # the name of the option
        if format == "parquet":
            raise ValueError("a stream is csv or jsonl")
        self._file = file
        self._csv = format == "csv"
        self._schema = schema
        self._header = self._csv

    def write(self, table: "pa.Table") -> None:
        """Raises ReaderGoneError when the other end was closed."""
        try:
            if self._csv:
                write_csv(table, self._file, header=self._header)
                self._header = False
            else:
                write_jsonl(table, self._file)
            self._file.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError("the reader of the output closed it") from error

    def finish(self) -> None:
        """Write the header line if there were no rows."""
        if self._header:
            self.write(self._schema.empty_table())
