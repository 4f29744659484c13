"""From the values of columns to the names of folders, as Hive writes them.

`day=2024-01-01/label=a%2Fb/`: null and the empty text are `__HIVE_DEFAULT_PARTITION__`, and the characters of
`FileUtils.charToEscape` of Hive are `%` and two digits; other letters stand as they are, because Hive and Spark read
every `%` as one character of its own.
"""

import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncbatch.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST_FOLDERS = 10_000
"""Each is at least one file; whoever wants more has named a column whose values hardly repeat."""
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_LONGEST_NAME = 255
"""Bytes of a name that file systems take."""
_ESCAPED = re.compile(r"""[\x00-\x1f\x7f"#%'*/:=?\\{\[\]^]""")


def names_folders(dtype: "pa.DataType") -> bool:
    """Whether values of that type can be names of folders: text, whole numbers, truth values, dates."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(dtype):
        value_type: pa.DataType = dtype.value_type
        return names_folders(value_type)
    return (
        types.is_string(dtype)
        or types.is_large_string(dtype)
        or types.is_string_view(dtype)
        or types.is_integer(dtype)
        or types.is_boolean(dtype)
        or types.is_date(dtype)
        or types.is_null(dtype)
    )


def folder_name(column: str, value: str | None) -> str:
    """`column=value/`."""
    return f"{_escaped(column)}={_escaped(value) if value else NULL_FOLDER}/"


def folders_of(table: "pa.Table", columns: Sequence[str]) -> "tuple[list[str], np.ndarray[Any, Any]]":
    """The folders that the rows go into, and for each row the position of its own."""
    import numpy as np

    folders = [""]
    places = np.zeros(table.num_rows, dtype=np.int64)
    for column in columns:
        names, codes = _names(table.column(column), column)
        used, places = np.unique(places * len(names) + codes, return_inverse=True)
        folders = [folders[each // len(names)] + names[each % len(names)] for each in used.tolist()]
    return folders, places


def split(
    table: "pa.Table", columns: Sequence[str]
) -> "tuple[pa.Table, list[tuple[str, np.ndarray[Any, Any]]]]":
    """The rows without `columns`, and each folder with the numbers of its rows, ascending."""
    import numpy as np

    folders, places = folders_of(table, columns)
    order = np.argsort(places, kind="stable")
    counts = np.bincount(places, minlength=len(folders))
    rows = _without_views(table.drop_columns(list(columns))).combine_chunks()  # else each `take` does it
    return rows, list(zip(folders, np.split(order, np.cumsum(counts)[:-1]), strict=bool(folders)))


class FolderCount:
    """Refuses more folders than `MOST_FOLDERS`, and names too long for a folder. Safe to use from several threads."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def see(self, table: "pa.Table") -> None:
        """Raises OutputError, naming the columns."""
        self.add(folders_of(table, self._columns)[0])

    def add(self, folders: Sequence[str]) -> None:
        """Likewise, of folders by name."""
        with self._lock:
            new = {each.rstrip("/") for each in folders} - self._seen
            self._seen |= new
        asked = ",".join(self._columns)
        if len(self._seen) > MOST_FOLDERS:
            raise OutputError(
                f"--partition-by {asked} makes more than {MOST_FOLDERS:,} folders",
                hint="name columns of fewer values, with another output or --overwrite",
            )
        for name, column in ((each, column) for folder in new for each, column in self._segments(folder)):
            if len(name.encode()) > _LONGEST_NAME:
                raise OutputError(
                    f"--partition-by {asked}: a value of column {column!r} is too long for a folder's name",
                    hint="name columns of shorter values, with another output or --overwrite",
                )

    def _segments(self, folder: str) -> list[tuple[str, str]]:
        return list(zip(folder.split("/"), self._columns, strict=True))


def _names(column: "pa.ChunkedArray[Any]", name: str) -> "tuple[list[str], np.ndarray[Any, Any]]":
    """Folder names, each once, and for each row the position of its own."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if pa.types.is_date64(column.type):
        column = column.cast(pa.date32())
    encoded: Any = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    if not len(encoded):
        return [], np.zeros(0, dtype=np.int64)
    texts = encoded.dictionary.cast(pa.string()).to_pylist()
    found: dict[str, int] = {}
    positions = [found.setdefault(folder_name(name, text), len(found)) for text in texts]
    return list(found), np.asarray(positions)[encoded.indices.to_numpy(zero_copy_only=False)]


def _without_views(table: "pa.Table") -> "pa.Table":
    """Views as what they are views of, which Parquet does not tell apart: Arrow cannot take rows of views."""
    import pyarrow as pa

    kinds = [
        pa.string()
        if pa.types.is_string_view(each.type)
        else pa.binary()
        if pa.types.is_binary_view(each.type)
        else each.type
        for each in table.schema
    ]
    return table.cast(
        pa.schema([each.with_type(kind) for each, kind in zip(table.schema, kinds, strict=True)])
    )


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)
