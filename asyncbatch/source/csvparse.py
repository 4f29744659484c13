"""From slabs of CSV to Arrow tables with frozen types; what cannot be read becomes a reject, no exception.

Three ways, tried in turn, that agree: pyarrow straight to the types (clean text); pyarrow to strings, rows
with a wrong number of fields taken out first, then one conversion a column (values that are no such type,
nulls spelled `NA`); row by row (bad quoting, bytes that are not UTF-8), for the 64 rows or fewer around the
fault that halving has found. The first runs at millions of rows a second, the second at about a third of
that.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
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
        self._text = dict.fromkeys(self._types, pa.string())
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
        text = self._read(slab, self._text)
        faults: dict[int, str] = {}
        if text is None:
            text, faults = self._without_miscounted(slab)
        if text is not None:
            return self._typed(text.columns, faults), faults
        if slab.rows <= _EXACT_ROWS:
            return self._row_by_row(slab)
        middle = slab.rows // 2
        low, low_faults = self._by_strings(slab.slice(0, middle))
        high, high_faults = self._by_strings(slab.slice(middle, slab.rows))
        table = pa.concat_tables([low, high])
        return table, {**low_faults, **{middle + position: text for position, text in high_faults.items()}}

    def _without_miscounted(self, slab: Slab) -> tuple[pa.Table | None, dict[int, str]]:
        """As text, null where the number of fields is wrong; None when quotes or other faults forbid it."""
        if self._quote.encode() in slab.data:
            return None, {}
        delimiters = np.flatnonzero(np.frombuffer(slab.data, dtype=np.uint8) == ord(self._delimiter))
        counts = np.searchsorted(delimiters, slab.stops) - np.searchsorted(delimiters, slab.starts) + 1
        good = counts == len(self._names)
        if good.all() or not good.any():
            return None, {}
        bounds = [-1, *np.flatnonzero(~good).tolist(), slab.rows]
        runs = [slab.slice(low + 1, high).whole() for low, high in pairwise(bounds) if high > low + 1]
        text = self._read_bytes(b"\n".join(runs), int(good.sum()), self._text, quoted=False)
        if text is None:
            return None, {}
        places = pa.array(np.cumsum(good) - 1, mask=~good)
        faults = {position: self._miscounted(int(counts[position])) for position in bounds[1:-1]}
        return text.take(places), faults

    def _miscounted(self, count: int) -> str:
        return f"{count} {'field' if count == 1 else 'fields'} where {len(self._names)} are expected"

    def _read(self, slab: Slab, types: Mapping[str, pa.DataType]) -> pa.Table | None:
        """By pyarrow; None when it cannot, or sees other rows than were found."""
        return self._read_bytes(slab.whole(), slab.rows, types, quoted=self._quote.encode() in slab.data)

    def _read_bytes(
        self, data: bytes | memoryview, rows: int, types: Mapping[str, pa.DataType], *, quoted: bool
    ) -> pa.Table | None:
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
        return table if table.num_rows == rows else None

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
                faults[position] = self._miscounted(len(values))
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
