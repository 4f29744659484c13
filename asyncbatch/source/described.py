"""Files that carry their own schema (Parquet, Arrow), opened as one source."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from asyncbatch.model import InputFile
from asyncbatch.source import opening
from asyncbatch.source.hive import partition_fields
from asyncbatch.source.merge import check_names, same_schema
from asyncbatch.source.opened import OpenedSource, Reader
from asyncbatch.source.paths import FoundFile


def open_described(
    found: Sequence[FoundFile],
    *,
    describe: Callable[[str], tuple[pa.Schema, int | None]],
    make_reader: Callable[[pa.Schema], Reader],
    where: opening.Files = opening.LOCAL,
) -> OpenedSource:
    """Describe every file and check that they belong together.

    Args:
        found: the files, in order.
        describe: schema and, where the format knows them, rows of the file at a path.
        make_reader: the format's reader for the columns that the files share.
        where: they are.

    Raises:
        InputError: a file that cannot be described, or columns that differ between files.
    """
    files, schemas = [], []
    for number, (each, (schema, rows)) in enumerate(
        zip(found, _described([each.path for each in found], describe, where.parallel), strict=True)
    ):
        schemas.append((each.path, schema))
        fingerprint = where.fingerprint(each.path)
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


def _described(
    paths: Sequence[str], describe: Callable[[str], tuple[pa.Schema, int | None]], parallel: int
) -> list[tuple[pa.Schema, int | None]]:
    if parallel == 1 or len(paths) < 2:
        return [describe(path) for path in paths]
    with ThreadPoolExecutor(parallel, thread_name_prefix="asyncbatch-look") as pool:
        return list(pool.map(describe, paths))
