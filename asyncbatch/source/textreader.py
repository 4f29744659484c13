"""The reader of text files, CSV and JSON Lines alike: slabs from a cursor through a parser."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from asyncbatch.model import InputFile
from asyncbatch.source.blocks import Gap, Offsets, Piece
from asyncbatch.source.text import FindRows, Slab, TextCursor, TextFile, sample_slabs, spread

_SPOTS = 5
_SPOT_BYTES = 1 << 16


class Parser(Protocol):
    """Turns slabs into tables. One per reading, so that it may learn."""

    def parse(self, slab: Slab) -> Piece: ...


class TextReader:
    """Reads forward, slab by slab; seeks to a gap's byte offset, except in gzip, which it reads through."""

    def __init__(
        self,
        *,
        files: Mapping[str, TextFile],
        find: FindRows,
        make_parser: Callable[[TextFile, Sequence[str]], Parser],
    ) -> None:
        """`files`: by path."""
        self._files, self._find, self._make_parser = dict(files), find, make_parser

    def read(
        self, file: InputFile, columns: Sequence[str], gaps: Sequence[Gap], batch_rows: int
    ) -> Generator[tuple[Gap, Iterator[Piece]], None, None]:
        text = self._files[file.path]
        parser = self._make_parser(text, columns)
        cursor: TextCursor | None = None
        try:
            for gap in gaps:
                if cursor is None or (gap.offset is not None and not text.compressed):
                    if cursor is not None:
                        cursor.close()
                    cursor = self._cursor(text, gap)
                yield gap, self._pieces(text, parser, cursor.read(gap.start, gap.stop))
        finally:
            if cursor is not None:
                cursor.close()

    def row_ends(self, file: InputFile, max_rows: int | None) -> Iterator[tuple[int, Offsets | None]]:
        text = self._files[file.path]
        cursor = TextCursor(text, find=self._find)
        try:
            for slab in cursor.read(0, max_rows):
                yield slab.rows, None if text.compressed else slab.ends
        finally:
            cursor.close()

    def sample(self, file: InputFile, columns: Sequence[str], rows: int) -> pa.Table | None:
        text = self._files[file.path]
        parser = self._make_parser(text, columns)
        slabs = sample_slabs(
            text, find=self._find, size_bytes=file.size_bytes, spots=_SPOTS, spot_bytes=_SPOT_BYTES
        )
        found = [good for slab in slabs if (good := good_rows(parser.parse(slab))).num_rows]
        if not found:
            return None
        table = pa.concat_tables(found)
        return table.take(pa.array(spread(table.num_rows, rows), pa.int64()))

    def close(self) -> None:
        """Nothing is held between readings."""

    def _cursor(self, text: TextFile, gap: Gap) -> TextCursor:
        if gap.offset is None or text.compressed:
            return TextCursor(text, find=self._find)
        return TextCursor(text, find=self._find, row=gap.start, offset=gap.offset)

    def _pieces(self, text: TextFile, parser: Parser, slabs: Iterator[Slab]) -> Iterator[Piece]:
        for slab in slabs:
            piece = parser.parse(slab)
            yield Piece(table=piece.table, rejects=piece.rejects, ends=None if text.compressed else slab.ends)


def good_rows(piece: Piece) -> pa.Table:
    """Without the rows that are rejects; `piece` begins at row 0."""
    if not piece.rejects:
        return piece.table
    keep = np.ones(piece.table.num_rows, dtype=bool)
    keep[[reject.row for reject in piece.rejects]] = False
    return piece.table.filter(pa.array(keep))
