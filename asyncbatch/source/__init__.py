"""The input: files, folders, globs and anything that speaks Arrow, read as blocks of rows."""

import os
from collections.abc import Sequence

from asyncbatch.config import InputConfig
from asyncbatch.model import InputFile
from asyncbatch.protocols import Source
from asyncbatch.source.columns import Selection, select_columns
from asyncbatch.source.earlier import Earlier
from asyncbatch.store.access import Access

__all__ = ["Earlier", "Selection", "open_source", "same_input", "select_columns"]


def open_source(
    spec: str | os.PathLike[str] | object,
    config: InputConfig,
    access: Access | None = None,
    earlier: Earlier | None = None,
) -> Source:
    """Open an input: list its files, read its columns, fix their types.

    Args:
        spec: a file, folder, glob, hive-partitioned folder or URI; or an object with
            `__arrow_c_stream__` (pyarrow, pandas, polars, DuckDB), or an iterable of record batches.
        config: the options under which it is read.
        access: to an object store.
        earlier: of a job that is gone on with.

    Raises:
        InputError: missing, empty, damaged, of mixed formats, or with columns that differ between files.
    """
    from asyncbatch.source.open import open_files, open_memory

    if isinstance(spec, (str, os.PathLike)):
        return open_files(os.fspath(spec), config, access or Access(), earlier)
    return open_memory(spec, config)


def same_input(
    spec: str | os.PathLike[str] | object,
    config: InputConfig,
    access: Access,
    earlier: Earlier,
    files: Sequence[InputFile],
) -> bool:
    """Whether an input has `files` and no others, by names and fingerprints, without a look into them.

    Raises:
        InputError: nothing is there.
    """
    from asyncbatch.source.open import is_unchanged

    return isinstance(spec, (str, os.PathLike)) and is_unchanged(
        os.fspath(spec), config, access, earlier, files
    )
