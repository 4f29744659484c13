"""Files that carry their own schema (Parquet, Arrow), opened as one source."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from asyncbatch.model import InputFile
from asyncbatch.source.fingerprint import file_fingerprint
from asyncbatch.source.hive import partition_fields
from asyncbatch.source.merge import check_names, same_schema
from asyncbatch.source.opened import OpenedSource, Reader
from asyncbatch.source.paths import FoundFile


def open_described(
    found: Sequence[FoundFile],
    *,
    describe: Callable[[str], tuple[pa.Schema, int | None]],
    make_reader: Callable[[pa.Schema], Reader],
) -> OpenedSource:
    """Describe every file and check that they belong together.

    Args:
        found: the files, in order.
        describe: schema and, where the format knows them, rows of the file at a path.
        make_reader: the format's reader for the columns that the files share.

    Raises:
        InputError: a file that cannot be described, or columns that differ between files.
    """
    files, schemas = [], []
    for number, each in enumerate(found):
        schema, rows = describe(each.path)
        schemas.append((each.path, schema))
        fingerprint = file_fingerprint(each.path)
        files.append(
            InputFile(
                number=number,
                path=each.path,
                size_bytes=int(fingerprint["size"]),
                rows=rows,
                fingerprint=fingerprint,
                partitions=each.partitions,
            )
        )
    columns = same_schema(schemas)
    partitions = partition_fields(found)
    check_names(
        [field.name for field in columns],
        [field.name for field in partitions],
        path=found[0].path if found else "",
    )
    return OpenedSource(
        columns=columns, partitions=partitions, files=files, reader=make_reader(pa.schema(columns))
    )
