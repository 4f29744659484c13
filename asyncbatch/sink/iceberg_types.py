"""The types of an Iceberg table's columns, as Arrow types (https://iceberg.apache.org/spec/#primitive-types).

Iceberg has no unsigned and no small integers, and times in microseconds. What has a type there that holds every value of
its own is given it; the rest is for pyiceberg to refuse.
"""

from typing import TYPE_CHECKING, Any

from asyncbatch.errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa


def iceberg_types(schema: "pa.Schema") -> "pa.Schema":
    """The columns with the types that they have in a table.

    Raises:
        OutputError: a table cannot have a column of that type.
    """
    import pyarrow as pa

    return pa.schema([column.with_type(_checked(column)) for column in schema])


def _checked(column: "pa.Field[Any]") -> "pa.DataType":
    import pyarrow as pa
    from pyiceberg.catalog import Catalog

    try:
        found = _table_type(column.type)
        Catalog._convert_schema_if_needed(pa.schema([column.with_type(found)]))
    except Exception as error:  # the library's own kind is none of its public names
        raise OutputError(
            f"column {column.name!r} of type {column.type} cannot be in an Iceberg table",
            hint=f"leave it out: --keep with the other columns, without {column.name}",
        ) from error
    return found


def _table_type(dtype: "pa.DataType") -> "pa.DataType":
    """Raises TypeError for an integer that no signed one of 64 bits holds."""
    import pyarrow as pa

    types, given = pa.types, _Parts(dtype)
    if types.is_dictionary(dtype):
        return _table_type(given.value_type)
    if types.is_struct(dtype):
        return pa.struct([field.with_type(_table_type(field.type)) for field in given.fields])
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        item = given.value_field
        return pa.list_(item.with_type(_table_type(item.type)))
    if types.is_uint64(dtype):
        raise TypeError("uint64")
    if types.is_integer(dtype):
        return pa.int64() if dtype.bit_width == 64 or types.is_uint32(dtype) else pa.int32()
    if types.is_timestamp(dtype):
        return pa.timestamp("us", "UTC" if given.tz is not None else None)
    if types.is_time(dtype):
        return pa.time64("us")
    if types.is_date(dtype):
        return pa.date32()
    return pa.float32() if types.is_float16(dtype) else dtype


class _Parts:
    """What only some types have; the stubs know none of it on the type they share."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype

    @property
    def value_type(self) -> "pa.DataType":
        return self._dtype.value_type  # type: ignore[no-any-return]

    @property
    def value_field(self) -> "pa.Field[Any]":
        return self._dtype.value_field  # type: ignore[no-any-return]

    @property
    def fields(self) -> "list[pa.Field[Any]]":
        return [self._dtype.field(index) for index in range(self._dtype.num_fields)]

    @property
    def tz(self) -> str | None:
        return self._dtype.tz  # type: ignore[no-any-return]
