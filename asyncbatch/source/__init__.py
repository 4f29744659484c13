"""The input: files, folders, globs and anything that speaks Arrow, read as blocks of rows."""

import os

from asyncbatch.config import InputConfig
from asyncbatch.protocols import Source
from asyncbatch.source.columns import Selection, select_columns

__all__ = ["Selection", "open_source", "select_columns"]


def open_source(spec: str | os.PathLike[str] | object, config: InputConfig) -> Source:
    """Open an input: list its files, read its columns, fix their types.

    Args:
        spec: a file, folder, glob, hive-partitioned folder or `file://` URI; or an object with
            `__arrow_c_stream__` (pyarrow, pandas, polars, DuckDB), or an iterable of record batches.
        config: the options under which it is read.

    Raises:
        InputError: missing, empty, damaged, of mixed formats, or with columns that differ between files.
    """
    from asyncbatch.source.open import open_files, open_memory

    if isinstance(spec, (str, os.PathLike)):
        return open_files(os.fspath(spec), config)
    return open_memory(spec, config)
