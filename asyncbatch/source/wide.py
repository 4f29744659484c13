"""Row groups whose columns cannot be read side by side: a page and a dictionary of each would be in memory at once.

A dictionary of distinct floats takes up to 2 MB, so 500 columns a gigabyte. Such a row group is read in windows of
rows, and each window some columns at a time. Parquet's pages cannot be skipped here, so a later window decodes
the earlier ones again: about 2.5 times the decoding at 65,536 rows of 500 floats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

HELD_BYTES = 96 << 20
"""What columns read side by side may hold before they are read one after the other."""
_TURN_BYTES = 32 << 20
_WINDOW_BYTES = 48 << 20
_PAGE_BYTES = 1 << 20
"""Pages and dictionaries are about so large at most, as writers make them."""
MOST_WINDOWS = 16
"""A row group that would need more is read side by side all the same: decoding would take too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How a row group is read."""

    columns: Sequence[Sequence[str]]
    """Those that are read side by side, turn by turn."""
    window_rows: int


def turns_of(
    metadata: pq.FileMetaData, group: int, names: Sequence[str], *, first_rows: int | None = None
) -> Turns | None:
    """How to read these columns of a row group within bounded memory; None: side by side.

    Args:
        first_rows: no more rows than these, at the group's beginning, are to be read.
    """
    described = metadata.row_group(group)
    held, size = dict.fromkeys(names, 0), 0
    for place in range(described.num_columns):
        chunk = described.column(place)
        name = chunk.path_in_schema.partition(".")[0]
        if name in held:
            held[name] += min(chunk.total_uncompressed_size, _PAGE_BYTES) * (1 + chunk.has_dictionary_page)
            # A dictionary hides how large the values are: eight bytes at least.
            size += max(chunk.total_uncompressed_size, 8 * described.num_rows)
    if sum(held.values()) <= HELD_BYTES:
        return None
    rows = first_rows or max(1, _WINDOW_BYTES * described.num_rows // size)
    if first_rows is None and described.num_rows > MOST_WINDOWS * rows:
        return None
    columns: list[list[str]] = [[]]
    taken = 0
    for name, share in held.items():
        if columns[-1] and taken + share > _TURN_BYTES:
            columns.append([])
            taken = 0
        columns[-1].append(name)
        taken += share
    return Turns(columns=columns, window_rows=rows)


def read_in_turns(
    parquet: pq.ParquetFile, group: int, turns: Turns, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a row group in order, in batches of at most `batch_rows`. Holds one window and one turn's columns."""
    rows = parquet.metadata.row_group(group).num_rows
    for start in range(0, rows, turns.window_rows):
        stop = min(start + turns.window_rows, rows)
        columns = [
            column for names in turns.columns for column in _window(parquet, group, names, start, stop)
        ]
        names = [name for names in turns.columns for name in names]
        whole = pa.Table.from_arrays(columns, names=names)
        for at in range(0, whole.num_rows, batch_rows):
            yield from whole.slice(at, batch_rows).combine_chunks().to_batches()


def _window(
    parquet: pq.ParquetFile, group: int, names: Sequence[str], start: int, stop: int
) -> "list[pa.ChunkedArray[pa.Scalar[pa.DataType]]]":
    """Rows `[start, stop)` of a row group, in the order of `names`."""
    at = 0
    found = []
    for batch in parquet.iter_batches(
        batch_size=stop - start, row_groups=[group], columns=list(names), use_threads=False
    ):
        low, high = max(start - at, 0), min(batch.num_rows, stop - at)
        if low < high:
            found.append(batch.slice(low, high - low))
        at += batch.num_rows
        if at >= stop:
            break
    return pa.Table.from_batches(found).select(list(names)).columns
