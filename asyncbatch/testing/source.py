"""Proves that a `Source` keeps its contract: `check_source(lambda: open_source("data/", config))`."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from asyncbatch.model import InputFile, SourceBlock
from asyncbatch.protocols import FindsBlocks, Source

_Done = tuple[int, int, int | None]


def check_source(make_source: Callable[[], Source], *, block_rows: Sequence[int] = (1, 3, 7, 1000)) -> None:
    """Read what `make_source` opens in every way the pipeline may, and compare.

    Checked: files and schema; the block grid, its last block and types; the same rows in any block size
    and column order; any committed ranges left out, with or without byte offsets; a row limit; reading ended
    early; samples; `close` twice.

    Args:
        make_source: opens the same input anew at each call; it should hold a few to a few hundred rows.
        block_rows: the block sizes to try.

    Raises:
        AssertionError: the first thing that does not hold.
    """
    source = make_source()
    try:
        _check_shape(source)
        files = list(source.files)
    finally:
        source.close()
        source.close()
    for file in files:
        whole = _joined(_blocks(make_source, file, block_rows=1 << 20))
        for size in block_rows:
            _check_file(make_source, file, whole, size)
        _check_columns(make_source, file, whole)
    _check_samples(make_source)
    if source.resumable:
        _check_early_end(make_source, files)


def _check_block_ends(
    make_source: Callable[[], Source], file: InputFile, blocks: Sequence[SourceBlock], block_rows: int
) -> None:
    source = make_source()
    try:
        if not isinstance(source, FindsBlocks):
            return
        expected = [(block.block.stop, block.end_offset) for block in blocks]
        assert list(source.block_ends(file, block_rows=block_rows)) == expected, (
            "blocks end where they are said to"
        )
    finally:
        source.close()


def _check_shape(source: Source) -> None:
    assert isinstance(source, Source)
    names = source.schema.names
    assert len(set(names)) == len(names), "column names are unique"
    partitions = list(source.partition_columns)
    assert names[len(names) - len(partitions) :] == partitions, "partition columns come last"
    assert [file.number for file in source.files] == list(range(len(source.files))), (
        "files are numbered from 0"
    )
    for file in source.files:
        assert set(file.partitions) == set(partitions)


def _blocks(
    make_source: Callable[[], Source],
    file: InputFile,
    *,
    block_rows: int,
    columns: Sequence[str] | None = None,
    done: Sequence[_Done] = (),
    max_rows: int | None = None,
) -> list[SourceBlock]:
    source = make_source()
    try:
        wanted = source.schema.names if columns is None else columns
        found = list(source.blocks(file, columns=wanted, block_rows=block_rows, done=done, max_rows=max_rows))
        for block in found:
            _check_block(block, source, file, wanted, block_rows)
    finally:
        source.close()
    return found


def _check_block(
    found: SourceBlock, source: Source, file: InputFile, columns: Sequence[str], block_rows: int
) -> None:
    block = found.block
    assert block.file == file.number
    assert block.start % block_rows == 0, "blocks lie on the grid"
    assert 0 < block.rows <= block_rows
    assert found.table.num_rows == block.rows, "a block holds all its rows, bad ones too"
    assert found.table.schema.names == list(columns), "columns as asked for, in that order"
    for name in columns:
        assert found.table.schema.field(name).type == source.schema.field(name).type, (
            f"type of {name} is frozen"
        )
    rows = [reject.row for reject in found.rejects]
    assert rows == sorted(set(rows)), "rejects ascend"
    assert all(block.start <= row < block.stop for row in rows)
    assert all(reject.code == "input" and reject.message for reject in found.rejects)


def _joined(blocks: Sequence[SourceBlock]) -> pa.Table | None:
    return pa.concat_tables([block.table for block in blocks]).combine_chunks() if blocks else None


def _rejects(blocks: Sequence[SourceBlock]) -> list[tuple[int, str, int | None]]:
    return [(reject.row, reject.message, reject.line) for block in blocks for reject in block.rejects]


def _check_file(
    make_source: Callable[[], Source], file: InputFile, whole: pa.Table | None, block_rows: int
) -> None:
    blocks = _blocks(make_source, file, block_rows=block_rows)
    rows = 0 if whole is None else whole.num_rows
    assert [block.block.start for block in blocks] == list(range(0, rows, block_rows)), "blocks tile the file"
    assert all(block.block.rows == block_rows for block in blocks[:-1]), "only the last block is shorter"
    assert [block.last for block in blocks] == [block is blocks[-1] for block in blocks]
    assert file.rows in (None, rows), "the row count is right where it is known"
    _check_block_ends(make_source, file, blocks, block_rows)
    joined = _joined(blocks)
    assert same_rows(joined, whole), "any block size gives the same rows"
    assert _rejects(blocks) == _rejects(_blocks(make_source, file, block_rows=1 << 20)), (
        "and the same rejects"
    )
    for limit in {1, block_rows, block_rows + 1, rows, rows + 1} & set(range(1, rows + 2)):
        limited = _blocks(make_source, file, block_rows=block_rows, max_rows=limit)
        assert sum(block.block.rows for block in limited) == min(limit, rows), "no row beyond max_rows"
        assert [block.last for block in limited] == [block is limited[-1] for block in limited]
    source = make_source()
    resumable = source.resumable
    source.close()
    if resumable:
        for skipped in (slice(0, 1), slice(None, None, 2), slice(1, None, 2), slice(1, 3), slice(-1, None)):
            _check_resumed(make_source, file, blocks, blocks[skipped], block_rows)


def _check_resumed(
    make_source: Callable[[], Source],
    file: InputFile,
    blocks: Sequence[SourceBlock],
    committed: Sequence[SourceBlock],
    block_rows: int,
) -> None:
    expected = [block for block in blocks if block not in committed]
    for offsets in (True, False):
        done = [(b.block.start, b.block.stop, b.end_offset if offsets else None) for b in committed]
        found = _blocks(make_source, file, block_rows=block_rows, done=done)
        assert [block.block for block in found] == [block.block for block in expected], (
            "committed ranges stay out"
        )
        for one, other in zip(found, expected, strict=True):
            assert same_rows(one.table, other.table), "a resumed run reads the same rows"
            assert one.rejects == other.rejects, "and the same rejects"
            assert (one.last, one.end_offset) == (other.last, other.end_offset)


def _check_columns(make_source: Callable[[], Source], file: InputFile, whole: pa.Table | None) -> None:
    if whole is None:
        return
    names = whole.schema.names
    for columns in (names[::-1], names[:1], names[-1:]):
        found = _joined(_blocks(make_source, file, block_rows=1 << 20, columns=columns))
        assert found is not None
        assert found.num_rows == whole.num_rows
        kept = _readable(make_source, file)
        assert same_rows(found.take(kept), whole.select(columns).take(kept)), (
            "columns do not depend on others"
        )


def _readable(make_source: Callable[[], Source], file: InputFile) -> "pa.Array[pa.Int64Scalar]":
    """Positions of the rows that no selection of columns rejects."""
    blocks = _blocks(make_source, file, block_rows=1 << 20)
    bad = {reject.row for block in blocks for reject in block.rejects}
    return pa.array([row for row in range(blocks[0].block.rows) if row not in bad], pa.int64())


def _check_samples(make_source: Callable[[], Source]) -> None:
    source = make_source()
    try:
        names = source.schema.names
        if not source.files:
            return
        for rows in (1, 2, 7, 300):
            sample = source.sample(columns=names[::-1], rows=rows)
            assert sample.num_rows <= rows
            assert sample.schema.names == names[::-1]
            assert sample.schema.types == source.schema.types[::-1]
        after = [
            block.block.rows
            for file in source.files
            for block in source.blocks(file, columns=names, block_rows=1 << 20)
        ]
        assert (sample.num_rows > 0) == (sum(after) > 0), "a source with readable rows gives samples"
    finally:
        source.close()


def _check_early_end(make_source: Callable[[], Source], files: Sequence[InputFile]) -> None:
    source = make_source()
    try:
        for file in files:
            blocks = source.blocks(file, columns=source.schema.names, block_rows=1)
            next(blocks, None)
            close = getattr(blocks, "close", None)
            assert close is not None, "reading can be ended early"
            close()
    finally:
        source.close()


def same_rows(one: pa.Table | None, other: pa.Table | None) -> bool:
    """Equal names, types and values; NaN equals NaN; however columns are chunked or dictionaries coded."""
    if one is None or other is None:
        return one is other
    if one.schema.names != other.schema.names or one.schema.types != other.schema.types:
        return False
    pairs = zip(one.columns, other.columns, strict=True)
    return all(_plain(left) == _plain(right) for left, right in pairs)


def _plain(column: "pa.ChunkedArray[Any]") -> list[str]:
    return [repr(value) for value in column.to_pylist()]
