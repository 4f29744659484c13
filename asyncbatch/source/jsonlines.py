"""JSON Lines: one object a line. Types by samples of head, middle and tail, frozen; bad lines are rejects.

The columns are the union of the keys sampled, in order of first appearance; a key that appears nowhere in the
samples is no column, and passed over where it appears. A missing key is null.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pa_json

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.model import InputFile, Reject
from asyncbatch.source import opening
from asyncbatch.source.blocks import Piece
from asyncbatch.source.columns import select_columns
from asyncbatch.source.hive import partition_fields
from asyncbatch.source.jsontypes import JsonColumn, build, direct, infer_column
from asyncbatch.source.merge import check_names
from asyncbatch.source.opened import OpenedSource
from asyncbatch.source.paths import FoundFile
from asyncbatch.source.rowends import line_spans
from asyncbatch.source.text import Slab, TextFile, sample_slabs, spread
from asyncbatch.source.textreader import TextReader
from asyncbatch.source.texttypes import given_types, type_name

SAMPLED_FILES = 16
SPOTS = 8
SPOT_BYTES = 1 << 17
_PATIENCE = 16


def open_jsonlines(
    found: Sequence[FoundFile], config: InputConfig, where: opening.Files = opening.LOCAL
) -> OpenedSource:
    """Collect the keys, infer the types, freeze both.

    Raises:
        InputError: no sampled line holds an object, or an unknown column or type.
    """
    texts = {each.path: _text_file(each.path, where) for each in found}
    files = []
    for number, each in enumerate(found):
        fingerprint = where.fingerprint(each.path)
        size = int(fingerprint["size"])
        files.append(
            InputFile(
                number=number,
                path=each.path,
                size_bytes=size,
                rows=None,
                fingerprint=fingerprint,
                partitions=each.partitions,
            )
        )
    telling = [file for file, each in zip(files, found, strict=True) if not each.later]
    sampled = [
        value
        for number in spread(len(telling), SAMPLED_FILES)
        for value in _sampled(texts[telling[number].path], telling[number].size_bytes)
    ]
    if files and not sampled and not config.allow_empty:
        raise InputError(
            f"{files[0].path} holds no JSON object a line",
            hint="one object a line is needed: jq -c '.[]' makes it of an array; or see --input-format",
        )
    names = list(dict.fromkeys(name for value in sampled for name in value))
    given = {name: JsonColumn(dtype=dtype) for name, dtype in given_types(config.types, names).items()}
    partitions = partition_fields(found)
    partition_names = [field.name for field in partitions]
    check_names(names, partition_names, path=found[0].path if found else "")
    selection = select_columns([*names, *partition_names], partition_names, config)
    columns = {
        name: given.get(name)
        or infer_column((value.get(name) for value in sampled), sent=name in selection.send)
        for name in names
    }
    return OpenedSource(
        columns=[pa.field(name, column.dtype) for name, column in columns.items()],
        partitions=partitions,
        files=files,
        reader=TextReader(
            files=texts,
            find=line_spans,
            make_parser=lambda _, wanted: JsonLinesParser({name: columns[name] for name in wanted}),
        ),
    )


def _text_file(path: str, where: opening.Files) -> TextFile:
    compressed = opening.is_gzip(path, where)
    with where.open_binary(path, compressed=compressed) as stream:
        bom = opening.read_block(path, stream, 3) == b"\xef\xbb\xbf"
    return TextFile(path=path, compressed=compressed, data_offset=3 if bom else 0, names=(), files=where)


def _sampled(text: TextFile, size_bytes: int) -> Iterator[dict[str, Any]]:
    for slab in sample_slabs(
        text, find=line_spans, size_bytes=size_bytes, spots=SPOTS, spot_bytes=SPOT_BYTES
    ):
        for position in range(slab.rows):
            value = _object(slab.row(position))
            if value is not None:
                yield value


def _object(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None when it holds none. `NaN` and `Infinity`, which JSON has not, are read."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line)
            orjson.dumps(value)  # refuses lone surrogates, which Arrow cannot hold
        except (ValueError, TypeError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


class JsonLinesParser:
    """Reads some keys of JSON Lines: by pyarrow where all is clean, else line by line."""

    def __init__(self, columns: Mapping[str, JsonColumn]) -> None:
        self._columns = dict(columns)
        self._schema = pa.schema([(name, column.dtype) for name, column in columns.items()])
        self._direct = direct(columns)
        self._skip_direct = 0

    def parse(self, slab: Slab) -> Piece:
        """All rows of `slab`; a row that is a reject is null where it could not be read."""
        if self._direct and not self._skip_direct:
            table = self._read(slab)
            if table is not None:
                return Piece(table=table, ends=slab.ends)
            self._skip_direct = _PATIENCE
        self._skip_direct = max(0, self._skip_direct - 1)
        return self._line_by_line(slab)

    def _read(self, slab: Slab) -> pa.Table | None:
        """By pyarrow; None when it cannot, or might see other rows than the lines are."""
        data = slab.whole()
        buffer = np.frombuffer(slab.data, dtype=np.uint8)
        if not ((buffer[slab.starts] == ord("{")).all() and (buffer[slab.stops - 1] == ord("}")).all()):
            return None
        try:
            str(data, "utf-8")  # pyarrow passes over bad bytes in values that it does not keep
            table = pa_json.read_json(
                cast(Any, pa.BufferReader(data)),
                read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
                parse_options=pa_json.ParseOptions(
                    explicit_schema=self._schema, unexpected_field_behavior="ignore"
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
            return None
        if table.num_rows != slab.rows or table.schema.names != self._schema.names:
            return None
        return table

    def _line_by_line(self, slab: Slab) -> Piece:
        faults: dict[int, str] = {}
        objects: list[dict[str, Any]] = []
        for position in range(slab.rows):
            value = _object(slab.row(position))
            if value is None:
                faults[position] = "the line is not a JSON object"
            objects.append(value or {})
        arrays = []
        for name, column in self._columns.items():
            array, failed = build([value.get(name) for value in objects], column)
            arrays.append(array)
            for position in failed:
                faults.setdefault(position, f"column {name!r} is not {type_name(column.dtype)}")
        rejects = tuple(
            Reject(
                row=slab.first_row + position,
                code="input",
                message=faults[position],
                line=slab.line_at(int(slab.starts[position])),
            )
            for position in sorted(faults)
        )
        return Piece(table=pa.Table.from_arrays(arrays, schema=self._schema), rejects=rejects, ends=slab.ends)
