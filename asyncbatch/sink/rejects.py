"""The rows that could not be read or answered, as Parquet. Never what was in them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from asyncbatch.errors import OutputError
from asyncbatch.model import InputFile, Reject

if TYPE_CHECKING:
    import pyarrow as pa

    from asyncbatch.store.base import Store


def rejects_schema() -> "pa.Schema":
    """`file` path, `row` in that file from 0, `line` in a text file from 1, `code`, `message`, `attempts`."""
    import pyarrow as pa

    fields: list[pa.Field[pa.DataType]] = [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
    return pa.schema(fields)


def rejects_table(rejects: Sequence[Reject], file: InputFile) -> "pa.Table":
    """The rejects of one block, by row."""
    import pyarrow as pa

    ordered = sorted(rejects, key=lambda reject: reject.row)
    columns = {
        "file": [file.path] * len(ordered),
        "row": [reject.row for reject in ordered],
        "line": [reject.line for reject in ordered],
        "code": [reject.code for reject in ordered],
        "message": [reject.message for reject in ordered],
        "attempts": [reject.attempts for reject in ordered],
    }
    return pa.table(columns, schema=rejects_schema())


def write_rejects(file: BinaryIO, tables: "Iterable[pa.Table]") -> None:
    """Each table is a row group; none makes an empty file that has the columns."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, rejects_schema(), compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)


def read_rejects(state: "Store", names: Iterable[str]) -> "Iterator[pa.Table]":
    """The rejects files of `names`, one after the other.

    Raises:
        OutputError: one is gone or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in names:
        try:
            with state.open(name) as file:
                yield pq.read_table(file, schema=rejects_schema(), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            gone = isinstance(error, FileNotFoundError)
            raise OutputError(
                f"the rejects file {state.root}/{name} is {'gone' if gone else 'damaged'}",
                hint="--overwrite starts anew; or choose another output",
            ) from error
