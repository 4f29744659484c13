"""Row groups of Parquet files moved as they are: their bytes are copied, their places in the footer rewritten.

Of what a footer says, only the offsets change: types, statistics, encodings and whatever a later version of the
format adds are taken over as they stand. Page indexes and bloom filters are moved too, and every page keeps its
checksum. To compare the checksums on the way doubles the cost (benchmarks/join.py).
Field numbers: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import errno
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PREFIX
from asyncbatch.sink.thrift import (
    BINARY,
    I16,
    I32,
    I64,
    LIST,
    STRUCT,
    Struct,
    ThriftError,
    read_struct,
    write_struct,
)

MAGIC: Final = b"PAR1"
_READ_BYTES = 4 * 2**20
_HEADER_BYTES = 4096
"""Most page headers are below 100 bytes; those with long statistics are tried again with more."""
_LAST_ORDINAL = 2**15 - 1
_PAGE: Final = 4096
"""Bytes of a page of memory, and of a block of the common file systems."""
_PADDED_BYTES: Final = 64 * _PAGE
"""What is smaller is not worth a gap in front of it."""
_NO_COPY = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF})
"""`copy_file_range` cannot serve these two files; see copy_file_range(2)."""

# FileMetaData
_SCHEMA, _ROWS, _GROUPS, _KEY_VALUES = 2, 3, 4, 5
_ENCRYPTION = 8
# RowGroup
_COLUMNS, _GROUP_BYTES, _GROUP_ROWS, _GROUP_OFFSET, _GROUP_ORDINAL = 1, 2, 3, 5, 7
# ColumnChunk
_FILE_PATH, _CHUNK_OFFSET, _META = 1, 2, 3
_OFFSET_INDEX, _OFFSET_INDEX_BYTES, _COLUMN_INDEX, _COLUMN_INDEX_BYTES, _CRYPTO = 4, 5, 6, 7, 8
# ColumnMetaData
_CHUNK_BYTES, _DATA, _INDEX_PAGE, _DICTIONARY, _BLOOM, _BLOOM_BYTES = 7, 9, 10, 11, 14, 15
# PageHeader
_PAGE_BYTES, _PAGE_CRC = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One row group, where it is."""

    source: "ParquetBytes"
    number: int
    values: Struct

    @property
    def rows(self) -> int:
        return int(self.values.get(_GROUP_ROWS))

    @property
    def bytes(self) -> int:
        """Of its data, before compression."""
        return int(self.values.get(_GROUP_BYTES))

    @property
    def movable(self) -> bool:
        """Its data is in this file, and not encrypted."""
        return all(
            chunk.get(_META) is not None and chunk.get(_FILE_PATH) is None and chunk.get(_CRYPTO) is None
            for chunk in self.values.get(_COLUMNS)
        )


class ParquetBytes:
    """A Parquet file for reading, as bytes.

    Args:
        where: how messages call it.

    Raises:
        OutputError: it is no complete Parquet file.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file = file
        self.where = where
        try:
            size = file.seek(0, 2)
            tail = self.read(max(0, size - 8), min(size, 8))
            length = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 and tail[4:] == MAGIC else size
            if length + 12 > size:
                raise self.damaged()
            self.metadata = read_struct(self.read(size - 8 - length, length))[0]
        except (ThriftError, OSError) as error:
            raise self.damaged() from error

    @property
    def schema(self) -> list[Struct]:
        """The schema elements, as they stand."""
        elements: list[Struct] = self.metadata.get(_SCHEMA)
        return elements

    @property
    def encrypted(self) -> bool:
        return self.metadata.get(_ENCRYPTION) is not None

    def groups(self) -> list[Group]:
        return [
            Group(source=self, number=number, values=values)
            for number, values in enumerate(self.metadata.get(_GROUPS))
        ]

    def read(self, start: int, size: int) -> bytes:
        """Just these bytes."""
        try:
            self.file.seek(start)
            found = self.file.read(size)
        except (OSError, ValueError) as error:
            raise self.damaged() from error
        if len(found) != size:
            raise self.damaged()
        return found

    def damaged(self) -> OutputError:
        return OutputError(
            f"{self.where} is damaged",
            hint="remove that file and run the same command again: its rows are scored again",
        )

    def pages(self, start: int, size: int) -> Iterator[memoryview]:
        """The bytes of a column chunk, in pieces of some MB; every page's checksum is compared.

        Raises:
            OutputError: a checksum is wrong, or the pages do not end with the chunk.
        """
        window = memoryview(b"")
        base = at = given = start
        end = start + size
        header: Struct
        while at < end:
            wanted = min(_HEADER_BYTES, end - at)
            while True:
                if at + wanted > base + len(window):
                    if given < at:
                        yield window[given - base : at - base]
                    window = memoryview(self.read(at, max(wanted, min(_READ_BYTES, end - at))))
                    base = given = at
                try:
                    header, used = read_struct(window, at - base)
                    break
                except ThriftError as error:
                    if wanted >= end - at:
                        raise self.damaged() from error
                    wanted = min(16 * wanted, end - at)
            at = base + used
            left = header.get(_PAGE_BYTES, -1)
            if not 0 <= left <= end - at:
                raise self.damaged()
            checksum = 0
            while left:
                if at == base + len(window):
                    if given < at:
                        yield window[given - base :]
                    window = memoryview(self.read(at, min(_READ_BYTES, end - at)))
                    base = given = at
                piece = window[at - base : at - base + left]
                checksum = zlib.crc32(piece, checksum)
                at += len(piece)
                left -= len(piece)
            expected = header.get(_PAGE_CRC)
            if expected is not None and expected & 0xFFFFFFFF != checksum:
                raise self.damaged()
        if given < at:
            yield window[given - base : at - base]


@dataclass(slots=True)
class _Index:
    """A page index that is written before the footer."""

    chunk: Struct
    content: bytes
    offset_field: int
    length_field: int


@dataclass(slots=True)
class RowGroupWriter:
    """Makes a Parquet file of row groups of other files. All must have the schema of `like`.

    Args:
        file: new and empty; `finish` completes it.
        like: whose footer is taken over, but for rows, groups and the key-values of parts.
    """

    file: BinaryIO
    like: ParquetBytes
    _at: int = 0
    _rows: int = 0
    _groups: list[Struct] = field(default_factory=list)
    _column_indexes: list[_Index] = field(default_factory=list)
    _offset_indexes: list[_Index] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._write(MAGIC)

    def add(self, group: Group, *, check: bool) -> None:
        """Copy the row group; `group` is not to be used afterwards.

        Args:
            check: compare every page's checksum. Without that the system moves the bytes by itself.

        Raises:
            OutputError: the file it is in is damaged.
        """
        values = group.values
        places = [_place(chunk.get(_META)) for chunk in values.get(_COLUMNS)]
        by = self._move(group.source, places, check=check)
        for chunk, distance in zip(values.get(_COLUMNS), by, strict=True):
            self._add_chunk(group.source, chunk, distance)
        for chunk in values.get(_COLUMNS):
            self._add_bloom_filter(group.source, chunk.get(_META))
        if values.get(_GROUP_OFFSET) is not None:
            values.set(_GROUP_OFFSET, I64, places[0][0] + by[0])
        if values.get(_GROUP_ORDINAL) is not None:
            if len(self._groups) <= _LAST_ORDINAL:
                values.set(_GROUP_ORDINAL, I16, len(self._groups))
            else:
                values.drop(_GROUP_ORDINAL)
        self._rows += group.rows
        self._groups.append(values)

    def finish(self, key_values: Mapping[str, str]) -> None:
        """Write page indexes and footer; the file is complete then."""
        # Next to each other: readers fetch all of them with one request.
        for index in (*self._column_indexes, *self._offset_indexes):
            index.chunk.set(index.offset_field, I64, self._at)
            index.chunk.set(index.length_field, I32, len(index.content))
            self._write(index.content)
        metadata = self.like.metadata
        metadata.set(_ROWS, I64, self._rows)
        metadata.set(_GROUPS, LIST, (STRUCT, self._groups))
        kept = [each for each in metadata.get(_KEY_VALUES, []) if not each.get(1).startswith(PREFIX.encode())]
        metadata.set(_KEY_VALUES, LIST, (STRUCT, [*kept, *_key_values(key_values)]))
        footer = write_struct(metadata)
        self._write(footer + struct.pack("<I", len(footer)) + MAGIC)

    def _move(self, source: ParquetBytes, places: Sequence[tuple[int, int]], *, check: bool) -> list[int]:
        """Copy column chunks; by how far each of them was moved. What lies together is copied at once."""
        by: list[int] = []
        if check:
            for start, size in places:
                by.append(self._at - start)
                for piece in source.pages(start, size):
                    self._write(piece)
            return by
        for start, sizes in _together(places):
            self._pad(start, sum(sizes))
            by += [self._at - start] * len(sizes)
            self._copy(source, start, sum(sizes))
        return by

    def _pad(self, start: int, size: int) -> None:
        """Leave a gap, so that what begins at `start` of its file lies alike in the pages of this one.

        Then the system moves whole pages: a tenth less CPU (benchmarks/join.py), and next to none where file
        systems let files share blocks (XFS, Btrfs). Parquet's readers go by offsets; parquet-java leaves gaps too.
        """
        if size >= _PADDED_BYTES:
            self._write(bytes((start - self._at) % _PAGE))

    def _add_chunk(self, source: ParquetBytes, chunk: Struct, by: int) -> None:
        meta = chunk.get(_META)
        start, size = _place(meta)
        for name in (_DATA, _INDEX_PAGE, _DICTIONARY):
            if meta.get(name, 0) > 0:
                meta.shift(name, by)
        inside = start <= chunk.get(_CHUNK_OFFSET, 0) < start + size
        chunk.set(_CHUNK_OFFSET, I64, chunk.get(_CHUNK_OFFSET) + by if inside else 0)
        if chunk.get(_OFFSET_INDEX) is not None:
            content = source.read(chunk.get(_OFFSET_INDEX), chunk.get(_OFFSET_INDEX_BYTES))
            index = _Index(chunk, _shifted(content, by, source), _OFFSET_INDEX, _OFFSET_INDEX_BYTES)
            self._offset_indexes.append(index)
        if chunk.get(_COLUMN_INDEX) is not None:
            content = source.read(chunk.get(_COLUMN_INDEX), chunk.get(_COLUMN_INDEX_BYTES))
            self._column_indexes.append(_Index(chunk, content, _COLUMN_INDEX, _COLUMN_INDEX_BYTES))

    def _add_bloom_filter(self, source: ParquetBytes, meta: Struct) -> None:
        start, size = meta.get(_BLOOM), meta.get(_BLOOM_BYTES)
        if start is None:
            return
        if size is None:  # added to the format later: the filter's own header tells
            try:
                header, used = read_struct(source.read(start, 16))
            except ThriftError as error:
                raise source.damaged() from error
            size = used + header.get(1)
        meta.set(_BLOOM, I64, self._at)
        self._write(source.read(start, size))

    def _copy(self, source: ParquetBytes, start: int, size: int) -> None:
        """Within the kernel where that is possible, else in chunks."""
        end = start + size
        if sys.platform == "linux" and (descriptors := _descriptors(source.file, self.file)) is not None:
            head = source.read(
                start, min(-start % _PAGE, size)
            )  # blocks are shared from their beginning only
            self._write(head)
            start += len(head)
            self.file.flush()
            try:
                while start < end:
                    moved = os.copy_file_range(*descriptors, end - start, offset_src=start)
                    if moved == 0:
                        raise source.damaged()
                    start += moved
                    self._at += moved
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
            self.file.seek(0, os.SEEK_END)
        while start < end:
            content = source.read(start, min(_READ_BYTES, end - start))
            self._write(content)
            start += len(content)

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._at += len(data)


def _descriptors(source: BinaryIO, target: BinaryIO) -> tuple[int, int] | None:
    try:
        return source.fileno(), target.fileno()
    except (OSError, AttributeError):  # files in memory
        return None


def _together(places: Sequence[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Stretches of column chunks without gaps: first byte, and the size of each chunk."""
    found: list[tuple[int, list[int]]] = []
    end = -1
    for start, size in places:
        if start != end:
            found.append((start, []))
        found[-1][1].append(size)
        end = start + size
    return found


def _place(meta: Struct) -> tuple[int, int]:
    """First byte and size of a column chunk; some writers give 0 for a dictionary that is not there."""
    start, dictionary = meta.get(_DATA), meta.get(_DICTIONARY, 0)
    return (dictionary if 0 < dictionary < start else start), meta.get(_CHUNK_BYTES)


def _shifted(offset_index: bytes, by: int, source: ParquetBytes) -> bytes:
    """The offset index of a chunk that was moved by so many bytes."""
    try:
        index = read_struct(offset_index)[0]
    except ThriftError as error:
        raise source.damaged() from error
    for location in index.get(1):
        location.shift(1, by)
    return write_struct(index)


def _key_values(values: Mapping[str, str]) -> Sequence[Struct]:
    found = []
    for key, value in values.items():
        each = Struct()
        each.set(1, BINARY, key.encode())
        each.set(2, BINARY, value.encode())
        found.append(each)
    return found


def same_schema(one: ParquetBytes, other: ParquetBytes) -> bool:
    """Whether the files have the same columns, to the last annotation."""
    left: Any = one.schema
    return bool(left == other.schema)
