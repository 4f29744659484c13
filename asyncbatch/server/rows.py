"""Rows as a model takes them: a 2-D array of one type, or a table with columns of several types."""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from asyncbatch.server.answers import ContainerError

Matrix: TypeAlias = "np.ndarray[Any, Any]"
Rows: TypeAlias = "Matrix | pa.Table"
"""A 2-D array (numbers, or objects where text is among them), or a table; `len` is the number of rows."""

Predictions: TypeAlias = "np.ndarray[Any, Any] | list[Any]"
"""One value, vector, text or mapping a row."""


def to_matrix(rows: Rows) -> Matrix:
    """A 2-D array: numbers with NaN for nulls, or objects if a column is text."""
    if isinstance(rows, np.ndarray):
        return rows
    if all(_is_number(column.type) for column in rows.columns):
        return np.column_stack([_numbers(column) for column in rows.columns])
    columns = [np.array(column.to_pylist(), dtype=object) for column in rows.columns]
    return np.column_stack(columns)


def to_columns(rows: Rows) -> "list[np.ndarray[Any, Any]]":
    """One 1-D array a column: numbers with NaN for nulls, or objects."""
    if isinstance(rows, np.ndarray):
        return list(rows.T)
    return [
        _numbers(column) if _is_number(column.type) else np.array(column.to_pylist(), dtype=object)
        for column in rows.columns
    ]


def first_values(rows: Rows) -> "np.ndarray[Any, Any]":
    """The first value of each row."""
    return to_columns(rows)[0]


def matrix_of(values: list[Any]) -> Matrix:
    """A 2-D array of lists of equal length, or of single values (then one column). Null is NaN.

    Raises:
        ContainerError: 400, the lists differ in length or are nested deeper.
    """
    try:
        found = np.array(values)
        if found.dtype == object:
            found = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        found = _objects(values)
    if found.dtype.kind in "US":
        found = _objects(values)
    if found.ndim == 1:
        found = found.reshape(-1, 1)
    if found.ndim != 2:
        raise ContainerError(400, "every row must be a flat list of values")
    return found


def _objects(values: list[Any]) -> Matrix:
    """The values themselves, so that 5 beside "a" does not become "5"."""
    widths = {len(each) if isinstance(each, list) else -1 for each in values}
    if len(widths) > 1:
        raise ContainerError(400, f"rows differ in length: {', '.join(map(str, sorted(widths)[:5]))} values")
    found = np.empty((len(values), max(1, widths.pop())), dtype=object)
    for number, each in enumerate(values):
        found[number] = each if isinstance(each, list) else [each]
    if any(isinstance(each, (list, dict)) for each in found.flat):
        raise ContainerError(400, "every row must be a flat list of values")
    return found


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _numbers(column: "pa.ChunkedArray[Any]") -> "np.ndarray[Any, Any]":
    if column.null_count or pa.types.is_boolean(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy())
