"""Reads every reply of a run by its layout, whatever the number of rows in it.

Usual replies take a short cut; what it does not understand is read again the careful way, so short cuts
change the speed and never the result.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.arrow import Array, DataType, single
from asyncbatch.codec.bodies import UnreadableError, may_hold_booleans
from asyncbatch.codec.convert import TypeMismatchError, convert_cells, describe_value, to_array
from asyncbatch.codec.layout import FORM_WORDS, LayoutField, ReplyLayout
from asyncbatch.codec.paths import compile_path
from asyncbatch.codec.readings import Reading, RowCountError, TextRows, read
from asyncbatch.codec.shortcuts import short_cut
from asyncbatch.errors import ReplyMismatchError
from asyncbatch.model import Reply, Values


def make_decoder(layout: ReplyLayout) -> "LayoutDecoder":
    """The decoder of a run."""
    return LayoutDecoder(layout)


class LayoutDecoder:
    """A Decoder bound to one layout. Stateless, safe in any thread."""

    def __init__(self, layout: ReplyLayout) -> None:
        self._layout = layout
        self._fields = tuple(layout.schema)
        self._path = compile_path(layout.path)
        self._reading = Reading(layout.form, layout.path, layout.header)
        self._short_cut = short_cut(layout)

    @property
    def fields(self) -> "Sequence[pa.Field[Any]]":
        """Output columns in order."""
        return self._fields

    @property
    def layout(self) -> ReplyLayout:
        return self._layout

    @property
    def slow(self) -> bool:
        """True: jmespath runs `--reply`, so large replies are better decoded off the event loop."""
        return not self._path.plain

    def decode(self, reply: Reply, rows: int) -> tuple[Values, ...]:
        """The values of `rows` rows: per field an Arrow array of exactly its type, or a numpy vector of float64 without nulls.

        Raises:
            ReplyMismatchError: another number of rows, unreadable, or a value of another type: see its
                `kind`.
        """
        if self._short_cut is not None:
            numbers = self._short_cut(reply.body, rows)
            if numbers is not None:
                return (numbers,)
        try:
            found = read(self._reading, reply, rows, self._path)
            arrays = self._arrays(found, booleans=not reply.body or may_hold_booleans(reply.body))
        except RowCountError as error:
            raise ReplyMismatchError(
                f"expected {rows} predictions as {FORM_WORDS[self._layout.form]}, found {error.found}",
                kind="rows",
                hint="the endpoint answered another number of rows than it was sent",
            ) from None
        except UnreadableError as error:
            raise ReplyMismatchError(
                f"expected {FORM_WORDS[self._layout.form]} with {rows} predictions, but {error}",
                kind="undecodable",
                hint="plan --show 1 prints a reply and how it is read",
            ) from None
        except TypeMismatchError as error:
            raise ReplyMismatchError(
                str(error),
                kind="type",
                hint="name a type that holds all answers with --prediction-type, such as string",
            ) from None
        for array in arrays:
            assert len(array) == rows
        return tuple(arrays)

    def _arrays(self, found: Any, *, booleans: bool) -> list[Array]:
        fields, explicit = self._layout.fields, self._layout.explicit_type
        if isinstance(found, TextRows):
            return self._text_arrays(found)
        if not self._layout.named:
            if isinstance(found, dict):
                raise UnreadableError("it has columns with names where none were before")
            column = _unwrapped(found, fields[0]) if self._layout.unwrap else found
            return [to_array(column, fields[0], explicit=explicit, booleans=booleans)]
        columns = found if isinstance(found, dict) else _split_objects(found, fields)
        missing = [field.key for field in fields if field.key not in columns]
        if missing:
            raise UnreadableError(f"it lacks {', '.join(map(repr, missing))}")
        return [to_array(columns[field.key], field, explicit=False, booleans=booleans) for field in fields]

    def _text_arrays(self, text: TextRows) -> list[Array]:
        fields, lines = self._layout.fields, text.cells
        if self._layout.header and text.names != [field.key for field in fields]:
            raise UnreadableError("its header line is another")
        if self._layout.named:
            whole = [line if len(line) == len(fields) else [""] * len(fields) for line in lines]
            return [
                convert_cells([line[index] for line in whole], field) for index, field in enumerate(fields)
            ]
        field = fields[0]
        if pt.is_list(field.type) and not self._layout.unwrap:
            return [self._text_vectors(lines, field)]
        for row, line in enumerate(lines):
            if len(line) != 1:
                where = f"on line {row + 1} of {len(lines)}"
                raise TypeMismatchError(f"expected one value for {field.name!r}, found {len(line)} {where}")
        return [convert_cells([line[0] for line in lines], field)]

    def _text_vectors(self, lines: list[list[str]], field: LayoutField) -> Array:
        list_type: DataType = field.type
        item = LayoutField(name=field.name, type=list_type.value_type)
        flat = convert_cells([cell for line in lines if line != [""] for cell in line], item)
        counts = [0 if line == [""] else len(line) for line in lines]
        if field.width is not None and any(count not in (0, field.width) for count in counts):
            row = next(index for index, count in enumerate(counts) if count not in (0, field.width))
            found = f"found {counts[row]} values on line {row + 1} of {len(lines)}"
            raise TypeMismatchError(f"expected a list of {field.width} for {field.name!r}, {found}")
        blank = np.array([*(count == 0 for count in counts), False])
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), pa.int32(), mask=blank)
        return pa.ListArray.from_arrays(offsets, flat, type=field.type)


def _unwrapped(column: Any, field: LayoutField) -> Any:
    if isinstance(column, list):
        for row, value in enumerate(column):
            if value is not None and not (isinstance(value, list) and len(value) == 1):
                raise TypeMismatchError(
                    f"expected a list of one value for {field.name!r} in row {row + 1} of {len(column)}"
                )
        return [None if value is None else value[0] for value in column]
    return column


def _split_objects(rows: Any, fields: Sequence[LayoutField]) -> dict[str, Any]:
    """Objects, one a row, to columns. A null row or missing key is null; unknown keys are left out."""
    if isinstance(rows, (pa.ChunkedArray, pa.Array)):
        if not pt.is_struct(rows.type):
            raise TypeMismatchError(f"expected an object a row, found {rows.type}")
        whole: Array = single(rows) if isinstance(rows, pa.ChunkedArray) else rows
        return dict(zip([each.name for each in whole.type], whole.flatten(), strict=True))
    known = {field.key for field in fields}
    for row, value in enumerate(rows):
        if value is not None and not (isinstance(value, dict) and known & value.keys()):
            keys = ", ".join(field.key for field in fields)
            found = f"found {describe_value(value)} without them in row {row + 1} of {len(rows)}"
            raise TypeMismatchError(f"expected an object with {keys}, {found}")
    return {field.key: [None if row is None else row.get(field.key) for row in rows] for field in fields}
