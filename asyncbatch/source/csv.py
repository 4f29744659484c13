"""CSV files: headers, frozen types, and the reader.

Columns that are only kept are text, lossless: blanks, leading zeros and spellings stay; an unquoted empty
field is null, a quoted one the empty string. Sent columns have the type that samples of head, middle and tail
suggest, or `--types` says.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from asyncbatch.config import InputConfig
from asyncbatch.errors import ConfigError, InputError
from asyncbatch.model import InputFile
from asyncbatch.source import opening
from asyncbatch.source.columns import select_columns
from asyncbatch.source.csvparse import CsvParser
from asyncbatch.source.hive import partition_fields
from asyncbatch.source.merge import check_names, same_names
from asyncbatch.source.misread import missing_column_hint
from asyncbatch.source.opened import OpenedSource
from asyncbatch.source.passing import Lines, PassingParser
from asyncbatch.source.paths import FoundFile
from asyncbatch.source.rowends import CsvRows
from asyncbatch.source.text import MAX_ROW_BYTES, TextFile, sample_slabs, spread
from asyncbatch.source.textreader import TextReader, good_rows
from asyncbatch.source.texttypes import Text, given_types, infer_type

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
SAMPLED_FILES = 16
SPOTS = 8
SPOT_BYTES = 1 << 17
"""A file's types come from up to `SPOTS` places of `SPOT_BYTES`, in up to `SAMPLED_FILES` files."""


def open_csv(
    found: Sequence[FoundFile], config: InputConfig, where: opening.Files = opening.LOCAL
) -> OpenedSource:
    """Read the headers, infer the types of the sent columns, freeze both.

    A `.tsv` file is split at tabs unless `--delimiter` says otherwise. A file without any row is left out
    with `--allow-empty`.

    Raises:
        InputError: no header, not UTF-8, duplicate names, or files whose columns differ.
    """
    dialect = _Dialect(found, config, where)
    texts = {each.path: text for each in found if (text := dialect.open(each.path, config)) is not None}
    found = [each for each in found if each.path in texts]
    names = same_names([(path, text.names) for path, text in texts.items()])
    partitions = partition_fields(found)
    check_names(names, [field.name for field in partitions], path=found[0].path if found else "")
    every = [*names, *(field.name for field in partitions)]
    try:
        selection = select_columns(every, [field.name for field in partitions], config)
    except InputError as error:
        error.hint = missing_column_hint(names, no_header=config.no_header) or error.hint
        raise
    given = given_types(config.types, names)
    inferred = [name for name in names if name in selection.send and name not in given]
    types = (
        dict.fromkeys(names, pa.string())
        | given
        | dialect.infer([texts[each.path] for each in found if not each.later], inferred)
    )
    files = []
    for number, each in enumerate(found):
        fingerprint = where.fingerprint(each.path)
        files.append(
            InputFile(
                number=number,
                path=each.path,
                size_bytes=int(fingerprint["size"]),
                rows=None,
                fingerprint=fingerprint,
                partitions=each.partitions,
            )
        )

    def parser(text: TextFile, columns: Sequence[str]) -> CsvParser:
        return dialect.parser(text, {name: types[name] for name in columns})

    def passing(lines: Lines) -> TextReader:
        return TextReader(
            files=texts,
            find=dialect.rows.find,
            make_parser=lambda text, columns: PassingParser(
                columns=columns,
                sent=names,
                in_order=text.names == names,
                make_parser=lambda columns: parser(text, columns),
                lines=lines,
            ),
        )

    return OpenedSource(
        columns=[pa.field(name, types[name]) for name in names],
        partitions=partitions,
        files=files,
        reader=TextReader(files=texts, find=dialect.rows.find, make_parser=parser),
        passing=passing if dialect.delimiter == "," and dialect.quote == '"' else None,
    )


class _Dialect:
    """How these files are split, and what follows from it."""

    def __init__(self, found: Sequence[FoundFile], config: InputConfig, where: opening.Files) -> None:
        self._where = where
        tabs = bool(found) and found[0].path.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = "\t" if tabs and config.delimiter == "," else config.delimiter
        self.quote = config.quote
        for option, character in (("--delimiter", self.delimiter), ("--quote", self.quote)):
            if not character.isascii() or character in "\r\n\0":
                raise ConfigError(
                    f"{option} {character!r} cannot divide CSV", hint="give one ASCII character"
                )
        if self.delimiter == self.quote:
            raise ConfigError(
                f"--delimiter and --quote are both {self.quote!r}", hint="give different characters"
            )
        self.rows = CsvRows(delimiter=self.delimiter, quote=self.quote)

    def parser(self, text: TextFile, types: "dict[str, pa.DataType]") -> CsvParser:
        return CsvParser(
            names=text.names, types=types, rows=self.rows, delimiter=self.delimiter, quote=self.quote
        )

    def open(self, path: str, config: InputConfig) -> TextFile | None:
        """Names and where the rows begin; None for a file without a line, where that is allowed."""
        compressed = opening.is_gzip(path, self._where)
        first = self._first_row(path, compressed)
        if first is None:
            if config.allow_empty:
                return None
            raise InputError(f"{path} has no line of text", hint="leave it out, or say --allow-empty")
        row, start, end = first
        values = self.rows.split(row)
        if values is None:
            raise InputError(
                f"{path}: the quoting of the first line is wrong", hint="check --delimiter and --quote"
            )
        if config.no_header:
            return TextFile(
                path=path,
                compressed=compressed,
                data_offset=start,
                names=tuple(f"c{n}" for n in range(len(values))),
                files=self._where,
            )
        try:
            texts = [value.decode() for value, _ in values]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the header is not UTF-8", hint="convert it with iconv -t UTF-8"
            ) from error
        names = tuple(text or f"c{number}" for number, text in enumerate(texts))
        return TextFile(path=path, compressed=compressed, data_offset=end, names=names, files=self._where)

    def _first_row(self, path: str, compressed: bool) -> tuple[bytes, int, int] | None:
        """The first row with its beginning and the end of its line, in bytes of the file."""
        length = _HEAD_BYTES
        while True:
            if compressed:
                with self._where.open_binary(path, compressed=True) as stream:
                    head = opening.read_block(path, stream, length)
            else:
                head = self._where.read_range(path, 0, length)
            final = len(head) < length
            _check_text(path, head)
            skip = len(_BOM) if head.startswith(_BOM) else 0
            spans = self.rows.find(head[skip:], final=final)
            if len(spans.starts):
                start, stop, end = (int(each[0]) + skip for each in (spans.starts, spans.stops, spans.ends))
                return head[start:stop], start, end
            if final and not head[skip:].strip(b"\r\n"):
                return None
            if final or length >= MAX_ROW_BYTES:
                raise InputError(
                    f"{path}: a quote in the first line is not closed", hint="check --delimiter and --quote"
                )
            length *= 4

    def infer(self, texts: Sequence[TextFile], columns: Sequence[str]) -> "dict[str, pa.DataType]":
        """A type for each of `columns`, by samples from every part of the input."""
        if not columns:
            return {}
        tables = [
            table
            for number in spread(len(texts), SAMPLED_FILES)
            for table in self._sampled(texts[number], columns)
        ]
        found: dict[str, pa.DataType] = {}
        for name in columns:
            samples: list[Text] = [table.column(name) for table in tables]
            found[name] = infer_type(samples)
        return found

    def _sampled(self, text: TextFile, columns: Sequence[str]) -> Iterator[pa.Table]:
        parser = self.parser(text, dict.fromkeys(columns, pa.string()))
        size = self._where.stat(text.path).size_bytes
        for slab in sample_slabs(
            text, find=self.rows.find, size_bytes=size, spots=SPOTS, spot_bytes=SPOT_BYTES
        ):
            yield good_rows(parser.parse(slab))


def _check_text(path: str, head: bytes) -> None:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{path} is UTF-16 text, not UTF-8", hint=f"convert it: iconv -f UTF-16 -t UTF-8 {path}"
        )
    for magic, name in (
        (b"PAR1", "a Parquet file"),
        (b"ARROW1", "an Arrow file"),
        (b"PK\x03\x04", "a ZIP archive"),
    ):
        if head.startswith(magic):
            raise InputError(
                f"{path} is {name}, not text", hint="name its format with --input-format, or unpack it"
            )
    if b"\r" in head and b"\n" not in head:
        raise InputError(
            f"{path}: lines end in carriage returns alone", hint=f"convert it: tr '\\r' '\\n' < {path}"
        )
