"""The columns of many files as one schema, or the sentence that says where they differ. Pure."""

from collections.abc import Sequence

import pyarrow as pa

from asyncbatch.errors import InputError


def same_names(files: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """The names that all files share, in the order of the first; another order in another file is fine.

    Args:
        files: path and column names of each.

    Raises:
        InputError: a file has a column more or less, or two of one name.
    """
    if not files:
        return ()
    first_path, first = files[0]
    for path, names in files:
        repeated = [name for number, name in enumerate(names) if name in names[:number]]
        if repeated:
            raise InputError(
                f"{path} has two columns named {repeated[0]!r}",
                hint="rename one; for CSV without a header say --no-header",
            )
        for name in first:
            if name not in names:
                raise InputError(f"{path} has no column {name!r}, but {first_path} does", hint=_SEPARATE)
        for name in names:
            if name not in first:
                raise InputError(f"{path} has a column {name!r}, but {first_path} does not", hint=_SEPARATE)
    return tuple(first)


_SEPARATE = "run files of different columns by themselves, or give a glob that leaves them out"


def check_names(names: Sequence[str], partitions: Sequence[str], *, path: str) -> None:
    """No partition column may have the name of a column of the files.

    Raises:
        InputError: one has.
    """
    for name in partitions:
        if name in names:
            raise InputError(
                f"{name!r} is both a column of {path} and a partition folder", hint="rename one of the two"
            )


def same_schema(files: Sequence[tuple[str, pa.Schema]]) -> "list[pa.Field[pa.DataType]]":
    """The columns that all files share, in the order of the first; every one nullable, without metadata.

    A column that is all null (Arrow's null type) in one file has the type that it has in another.

    Raises:
        InputError: names or types differ, naming file and column.
    """
    names = same_names([(path, schema.names) for path, schema in files])
    types: dict[str, tuple[pa.DataType, str]] = {}
    for path, schema in files:
        for name in names:
            dtype = readable_type(schema.field(name).type)
            known, where = types.get(name, (pa.null(), path))
            if pa.types.is_null(known):
                types[name] = (dtype, path)
            elif dtype != known and not pa.types.is_null(dtype):
                raise InputError(
                    f"column {name!r} is {dtype} in {path}, but {known} in {where}",
                    hint="cast one of them, or run them by themselves",
                )
    return [pa.field(name, types[name][0]) for name in names]


def readable_type(dtype: pa.DataType) -> pa.DataType:
    """The type that blocks have for a column of `dtype`: view types, which few know, become large ones."""
    if dtype == pa.string_view():
        return pa.large_string()
    if dtype == pa.binary_view():
        return pa.large_binary()
    return dtype


def conformed(table: pa.Table, columns: "Sequence[pa.Field[pa.DataType]]") -> pa.Table:
    """The named columns of `table` with exactly these types."""
    target = pa.schema(list(columns))
    table = table.select(target.names)
    if table.schema.equals(target, check_metadata=True):
        return table
    return pa.Table.from_arrays(
        [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(table.columns, target, strict=True)
        ],
        schema=target,
    )
