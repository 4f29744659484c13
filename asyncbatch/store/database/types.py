"""Which columns a database takes."""

import uuid
from typing import TYPE_CHECKING

from asyncbatch.errors import OutputError, StorageError
from asyncbatch.store.database.connections import Connections
from asyncbatch.store.database.uri import DatabaseUri

if TYPE_CHECKING:
    import pyarrow as pa


def compare_columns(wanted: "pa.Schema", found: "pa.Schema", uri: DatabaseUri) -> None:
    """Whether the columns that are written fit a table that is there. It may have them in another order, and more.

    Raises:
        OutputError: it lacks a column, or has one that cannot hold every value.
    """
    types = {name: found.field(name).type for name in found.names}
    for column in wanted:
        if column.name not in types:
            raise OutputError(
                f"the table of {uri.shown} has no column {column.name}",
                hint="add it, leave it out with --keep, or give it another name with --rename",
            )
        # SQLite's columns take values of any type.
        if uri.system != "sqlite" and not _fits(column.type, types[column.name]):
            raise OutputError(
                f"column {column.name} of {uri.shown} is {types[column.name]}, and its values are {column.type}",
                hint="--prediction-type changes that of predictions; or write into another table",
            )


def check_types(connections: Connections, schema: "pa.Schema") -> None:
    """Try every type in a table that does not stay.

    Raises:
        OutputError: the database has no such type.
    """
    import pyarrow as pa

    uri = connections.uri
    probe = f"asyncbatch_probe_{uuid.uuid4().hex[:12]}"
    for column in schema:
        if uri.system == "sqlite" and (pa.types.is_nested(column.type) or pa.types.is_decimal(column.type)):
            raise _unknown_type(column, uri, "it has no such type")
        try:
            with connections.transaction() as transaction:
                one = pa.table([pa.nulls(1, column.type)], schema=pa.schema([column]))
                transaction.ingest(probe, one, mode="create", namespace=uri.namespace)
                transaction.rows(f"DROP TABLE {uri.beside(probe)}")
        except StorageError as error:
            if "permission" in error.message:
                raise
            raise _unknown_type(column, uri, error.message.rpartition("refused: ")[2]) from error


def _unknown_type(column: "pa.Field[pa.DataType]", uri: DatabaseUri, why: str) -> OutputError:
    return OutputError(
        f"column {column.name} of type {column.type} cannot be written to {uri.shown}: {why}",
        hint=f"leave it out: --keep with the other columns, without {column.name}",
    )


def widened(table: "pa.Table", found: "pa.Schema") -> "pa.Table":
    """The table with the types of `found`, as far as they differ; its own column order."""
    import pyarrow as pa

    target = pa.schema(
        [
            pa.field(name, _plain(found.field(name).type, table.schema.field(name).type))
            for name in table.schema.names
        ]
    )
    return table.cast(target)


def _plain(column: "pa.DataType", value: "pa.DataType") -> "pa.DataType":
    """Numbers take the column's width; anything else stays as it is."""
    import pyarrow.types as types

    numbers = (types.is_integer, types.is_floating)
    return column if any(test(value) for test in numbers) and any(test(column) for test in numbers) else value


def _fits(value: "pa.DataType", column: "pa.DataType") -> bool:
    """Whether every value can be stored as it is; widening counts."""
    import pyarrow.types as types

    if _is_text(value):
        return _is_text(column)
    if types.is_integer(value) and types.is_integer(column):
        return value.bit_width <= column.bit_width
    if types.is_integer(value) and types.is_floating(column):
        return value.bit_width < column.bit_width
    if types.is_floating(value) and types.is_floating(column):
        return value.bit_width <= column.bit_width
    if types.is_list(value) or types.is_large_list(value) or types.is_fixed_size_list(value):
        return types.is_list(column) and _fits(value.value_type, column.value_type)
    return value.id == column.id


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
