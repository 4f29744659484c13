"""From slabs of CSV to Arrow tables with frozen types; what cannot be read becomes a reject, no exception.

Three ways, tried in turn, that agree: pyarrow straight to the types (clean text); pyarrow to strings, then
one conversion a column (values that are no such type, nulls spelled `NA`); row by row (wrong field counts,
bad quoting, bytes that are not UTF-8), for the 64 rows or fewer around the fault that halving has found.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv

from asyncbatch.model import Reject
from asyncbatch.source.blocks import Piece
from asyncbatch.source.rowends import CsvRows
from asyncbatch.source.text import Slab
from asyncbatch.source.texttypes import FALSE_SPELLINGS, TRUE_SPELLINGS, Text, convert, type_name

_EXACT_ROWS = 64
_PATIENCE = 16


class CsvParser:
    """Reads some columns of one CSV file."""

    def __init__(
        self,
        *,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        rows: CsvRows,
        delimiter: str,
        quote: str,
    ) -> None:
        """`names`: the file's columns in its order. `types`: the columns to read, in the order wanted."""
        self._names, self._types, self._rows = list(names), dict(types), rows
        self._indices = [self._names.index(name) for name in types]
        self._delimiter, self._quote = delimiter, quote
        self._schema = pa.schema(list(self._types.items()))
        self._skip_direct = 0
        """Slabs for which the direct way is not worth trying: the last one failed."""

    def parse(self, slab: Slab) -> Piece:
        """All rows of `slab`; a row that is a reject is null where it could not be read."""
        table, faults = self._parse(slab)
        rejects = tuple(
            Reject(
                row=slab.first_row + position,
                code="input",
                message=faults[position],
                line=slab.line_at(int(slab.starts[position])),
            )
            for position in sorted(faults)
        )
        return Piece(table=table, rejects=rejects, ends=slab.ends)

    def _parse(self, slab: Slab) -> tuple[pa.Table, dict[int, str]]:
        if not slab.regular:
            return self._row_by_row(slab)
        if self._skip_direct:
            self._skip_direct -= 1
        else:
            direct = self._read(slab, self._types)
            if direct is not None:
                return direct, {}
            self._skip_direct = _PATIENCE
        return self._by_strings(slab)

    def _by_strings(self, slab: Slab) -> tuple[pa.Table, dict[int, str]]:
        text = self._read(slab, dict.fromkeys(self._types, pa.string()))
        if text is not None:
            faults: dict[int, str] = {}
            return self._typed(text.columns, faults), faults
        if slab.rows <= _EXACT_ROWS:
            return self._row_by_row(slab)
        middle = slab.rows // 2
        low, low_faults = self._by_strings(slab.slice(0, middle))
        high, high_faults = self._by_strings(slab.slice(middle, slab.rows))
        table = pa.concat_tables([low, high])
        return table, {**low_faults, **{middle + position: text for position, text in high_faults.items()}}

    def _read(self, slab: Slab, types: Mapping[str, pa.DataType]) -> pa.Table | None:
        """By pyarrow; None when it cannot, or sees other rows than were found."""
        data = slab.whole()
        quoted = self._quote.encode() in slab.data
        try:
            table = pa_csv.read_csv(
                cast(Any, pa.BufferReader(data)),
                read_options=pa_csv.ReadOptions(
                    column_names=self._names, use_threads=False, block_size=len(data) + 1
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char=self._quote if quoted else False,
                    newlines_in_values=quoted,
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict(types),
                    include_columns=list(types),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=[*TRUE_SPELLINGS, "1"],
                    false_values=[*FALSE_SPELLINGS, "0"],
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError):
            return None
        return table if table.num_rows == slab.rows else None

    def _row_by_row(self, slab: Slab) -> tuple[pa.Table, dict[int, str]]:
        columns: list[list[str | None]] = [[] for _ in self._types]
        faults: dict[int, str] = {}
        for position in range(slab.rows):
            values = self._rows.split(slab.row(position))
            if values is None:
                faults[position] = (
                    "the quoting is wrong: a quote is not closed, or text follows a closing quote"
                )
            elif len(values) != len(self._names):
                faults[position] = f"{_fields(len(values))} where {len(self._names)} are expected"
                values = None
            for column, index in zip(columns, self._indices, strict=True):
                column.append(
                    self._decoded(values[index], index, position, faults) if values is not None else None
                )
        arrays: list[Text] = [pa.array(column, pa.string()) for column in columns]
        return self._typed(arrays, faults), faults

    def _decoded(
        self, value: tuple[bytes, bool], index: int, position: int, faults: dict[int, str]
    ) -> str | None:
        text, quoted = value
        if not text and not quoted:
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            faults.setdefault(position, f"column {self._names[index]!r} is not UTF-8")
            return None

    def _typed(self, columns: Sequence[Text], faults: dict[int, str]) -> pa.Table:
        """The text columns as their types; adds to `faults` the rows that do not convert."""
        arrays = []
        for (name, dtype), column in zip(self._types.items(), columns, strict=True):
            array, failed = convert(column, dtype)
            arrays.append(array)
            for position in failed:
                faults.setdefault(position, f"column {name!r} is not {type_name(dtype)}")
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
