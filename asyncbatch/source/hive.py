"""Columns whose values are folder names: `year=2024/part-0.parquet`."""

import re
from collections.abc import Sequence

import pyarrow as pa

from asyncbatch.source.paths import NULL_PARTITION, FoundFile

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


def partition_fields(files: Sequence[FoundFile]) -> "list[pa.Field[pa.DataType]]":
    """The partition columns: int64 where every value is a whole number without leading zeros, else string."""
    if not files:
        return []
    fields: list[pa.Field[pa.DataType]] = []
    for key in files[0].partitions:
        values = {each.partitions[key] for each in files} - {NULL_PARTITION}
        whole = bool(values) and all(_INTEGER.fullmatch(value) for value in values)
        fields.append(pa.field(key, pa.int64() if whole else pa.string()))
    return fields


def partition_scalar(text: str, dtype: pa.DataType) -> "pa.Scalar[pa.DataType]":
    """One partition value; Hive's name for null is null."""
    if text == NULL_PARTITION:
        return pa.scalar(None, type=dtype)
    return pa.scalar(int(text) if pa.types.is_integer(dtype) else text, type=dtype)
