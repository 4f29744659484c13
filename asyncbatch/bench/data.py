"""The rows that are sent: the user's own, encoded once, and cycled. Encoding is in no figure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncbatch.config import RunConfig
from asyncbatch.errors import InputError
from asyncbatch.model import FIRST, Block, SourceBlock
from asyncbatch.pipeline.blocks import OpenBlock, Work
from asyncbatch.pipeline.planning import Prepared

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Encoded rows."""

    block: OpenBlock
    distinct: int
    """Rows of the input among them."""
    total: int | None
    """Rows of the whole input; None when only reading tells."""


class Cycle:
    """Chunks of the rows, one after the other, from the start again at the end."""

    def __init__(self, rows: Rows, *, min_rows: int = 1) -> None:
        """`min_rows`: fewer are sent together with rows that the endpoint has answered."""
        self._block = rows.block
        self._size = rows.block.encoded.rows
        self._min_rows = min_rows
        self._at = 0
        self._chunks = 0

    def take(self, rows: int) -> Work:
        """The next chunk."""
        start = self._at
        if start + rows > self._size:
            start = min((start + rows) % max(1, self._size - rows + 1), self._size - rows)
        self._at = stop = start + rows
        self._chunks += 1
        work = Work(self._block, start, stop, FIRST, self._chunks)
        work.padded = rows < self._min_rows
        return work

    def fit(self, rows: int, most_bytes: int) -> int:
        """How many rows, up to `rows`, make a body of at most `most_bytes`."""
        return self._block.encoded.fit(0, min(rows, self._size), most_bytes)


def load_rows(prepared: Prepared, config: RunConfig, *, at_least: int, where: str) -> Rows:
    """Read and encode as many rows as half of `--max-memory` holds. Blocking: runs in a thread.

    Args:
        at_least: rows of the largest request; fewer are repeated.
        where: what messages call the input.

    Raises:
        InputError: the input has no row that can be sent, or cannot be read.
    """
    import pyarrow as pa

    sent, total = _read(prepared, config)
    if not sent.num_rows:
        raise InputError(f"{where} has no rows, so there is nothing to send", hint="name a source with rows")
    distinct = sent.num_rows
    if distinct < at_least:
        copies = -(-at_least // distinct)
        sent = pa.concat_tables([sent] * copies).combine_chunks()
    block = Block(file=0, start=0, stop=sent.num_rows)
    empty = sent.slice(0, 0)
    return Rows(
        block=OpenBlock(
            number=0,
            source=SourceBlock(block=block, table=empty),
            encoded=prepared.encoder.encode(sent),
            positions=None,
            sent=sent if prepared.min_rows > 1 else None,
        ),
        distinct=distinct,
        total=total,
    )


def _read(prepared: Prepared, config: RunConfig) -> "tuple[pa.Table, int | None]":
    import pyarrow as pa

    source, selection = prepared.source, prepared.selection
    most = max(1, int(config.speed.block_memory / max(1.0, prepared.row.sent)))
    most = min(most, config.input.limit or most)
    tables: list[pa.Table] = []
    held, total = 0, 0
    whole = True
    for file in source.files:
        if held >= most:
            whole = False
            break
        for block in source.blocks(
            file, columns=selection.read, block_rows=min(_BLOCK_ROWS, most), max_rows=most - held
        ):
            table = block.table.select(list(selection.send))
            if block.rejects:
                table = table.filter(_sendable(block))
            tables.append(table)
            held += table.num_rows
            if held >= most:
                break
    known = [file.rows for file in source.files]
    if all(rows is not None for rows in known):
        total = sum(rows or 0 for rows in known)
        return _joined(tables), total
    return _joined(tables), held if whole and held < most else None


def _sendable(block: SourceBlock) -> "pa.Array[pa.BooleanScalar]":
    import numpy as np
    import pyarrow as pa

    keep = np.ones(block.block.rows, dtype=bool)
    keep[[reject.row - block.block.start for reject in block.rejects]] = False
    return pa.array(keep)


def _joined(tables: "list[pa.Table]") -> "pa.Table":
    import pyarrow as pa

    return pa.concat_tables(tables).combine_chunks() if tables else pa.table({})
