"""Encoders that keep rows as Arrow data: Arrow streams, Parquet files, and slices for Python callables."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from asyncbatch.codec.arrow import arrow, bytes_of, single, view
from asyncbatch.model import BatchPayload, BytesPayload, Payload

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends an Arrow IPC stream (Arrow columnar format, "IPC Streaming Format")."""
PIECE_BYTES = 8 * 2**20
"""A block is held in pieces of about this size, so that its memory is given back as its rows are answered."""
_PADDING_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEncoder:
    """An Encoder whose blocks stay Arrow data; `make_payload` makes the payload of a request's rows."""

    content_type: str
    schema: pa.Schema
    """What is sent; dictionaries are decoded."""
    sliceable: bool
    make_payload: "Callable[[pa.RecordBatch], Payload]"
    overhead_bytes: int
    """Bytes of a body without rows."""

    def encode(self, table: pa.Table) -> "TableBlock":
        """Cast to the schema sent and cut into pieces. Blocking: runs in a thread."""
        step = table.num_rows
        if table.num_rows:
            step = max(1, int(PIECE_BYTES * table.num_rows / max(bytes_of(table), 1)))
        pieces = []
        for start in range(0, table.num_rows, max(step, 1)):
            columns = [
                single(column if column.type == field.type else column.cast(field.type))
                for column, field in zip(table.slice(start, step).columns, self.schema, strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
            pieces.append(_copied(batch) if table.num_rows > step else batch)
        return TableBlock(pieces=pieces, encoder=self)


class TableBlock:
    """The rows of a block as record batches. Not safe for use from two threads at once."""

    def __init__(self, *, pieces: "list[pa.RecordBatch]", encoder: TableEncoder) -> None:
        self._pieces: list[pa.RecordBatch | None] = list(pieces)
        self._starts = np.concatenate([[0], np.cumsum([piece.num_rows for piece in pieces], dtype=np.int64)])
        self._encoder = encoder
        self._answered = np.zeros(self.rows, np.bool_)
        self._row_bytes = np.concatenate(
            [np.zeros(1, np.int64), *(_row_bytes(piece) for piece in pieces)]
        ).cumsum()
        """Upper bound of the bytes of the rows before each row."""

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    @property
    def sliceable(self) -> bool:
        return self._encoder.sliceable

    @property
    def nbytes(self) -> int:
        held = sum(piece.nbytes for piece in self._pieces if piece is not None)
        return held + self._row_bytes.nbytes + self._answered.nbytes

    def payload(self, start: int, stop: int) -> Payload:
        """The request for rows `[start, stop)`: one record batch.

        Raises:
            ValueError: an empty range, one outside the block, or one already released.
        """
        if not 0 <= start < stop <= self.rows:
            raise ValueError(f"rows [{start}, {stop}) are not within [0, {self.rows})")
        slices = []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in range(first, len(self._pieces)):
            base = int(self._starts[number])
            if base >= stop:
                break
            piece = self._pieces[number]
            if piece is None:
                raise ValueError(f"rows [{start}, {stop}) are released")
            low, high = max(start - base, 0), min(stop - base, piece.num_rows)
            slices.append(piece.slice(low, high - low))
        batch = slices[0] if len(slices) == 1 else arrow.concat_batches(slices)
        return self._encoder.make_payload(batch)

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        """The most rows from `start` within both limits, by an upper bound of their size; at least 1."""
        most = max(1, min(max_rows, self.rows - start))
        budget = int(self._row_bytes[start]) + max_bytes - self._encoder.overhead_bytes
        stop = int(np.searchsorted(self._row_bytes[start : start + most + 1], budget, side="right")) - 1
        return max(1, stop)

    def release(self, start: int, stop: int) -> None:
        """Mark rows as answered; a piece whose rows all are is dropped."""
        self._answered[start:stop] = True
        for number in range(len(self._pieces)):
            low, high = int(self._starts[number]), int(self._starts[number + 1])
            if low < stop and high > start and self._answered[low:high].all():
                self._pieces[number] = None


def arrow_encoder(schema: pa.Schema, *, content_type: str) -> TableEncoder:
    """Arrow IPC stream: schema message, one record batch, end mark. No metadata, dictionaries decoded."""
    sent = sent_schema(schema)
    head = memoryview(sent.serialize())

    def make_payload(batch: pa.RecordBatch) -> BytesPayload:
        body = memoryview(batch.serialize())
        return BytesPayload(
            pieces=(head, body, END_OF_STREAM),
            content_type=content_type,
            nbytes=len(head) + len(body) + len(END_OF_STREAM),
        )

    empty = make_payload(pa.RecordBatch.from_pylist([], schema=sent)).nbytes
    return TableEncoder(
        content_type=content_type,
        schema=sent,
        sliceable=True,
        make_payload=make_payload,
        overhead_bytes=empty + 3 * _PADDING_BYTES * _leaves(sent),
    )


def parquet_encoder(schema: pa.Schema, *, content_type: str) -> TableEncoder:
    """A Parquet file a request: real work, so `payload` must run off the event loop."""
    sent = sent_schema(schema)

    def make_payload(batch: pa.RecordBatch) -> BytesPayload:
        out = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_batches([batch]), out, store_schema=False, write_statistics=False)
        body = memoryview(out.getvalue())
        return BytesPayload(pieces=(body,), content_type=content_type, nbytes=len(body))

    empty = make_payload(pa.RecordBatch.from_pylist([], schema=sent)).nbytes
    return TableEncoder(
        content_type=content_type,
        schema=sent,
        sliceable=False,
        make_payload=make_payload,
        overhead_bytes=empty + 256 * _leaves(sent),
    )


def batch_encoder(schema: pa.Schema) -> TableEncoder:
    """Arrow slices for Python callables; no bytes, no content type."""
    return TableEncoder(
        content_type="",
        schema=sent_schema(schema),
        sliceable=True,
        make_payload=lambda batch: BatchPayload(batch=batch, nbytes=batch.nbytes),
        overhead_bytes=0,
    )


def sent_schema(schema: pa.Schema) -> pa.Schema:
    """Names, types and nullability only, with dictionary types replaced by their values'."""
    return pa.schema([pa.field(field.name, _plain_type(field.type), field.nullable) for field in schema])


def _plain_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pt.is_dictionary(type_) else type_


def _copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch that keeps no other batch's memory alive."""
    return pa.ipc.read_record_batch(batch.serialize(), batch.schema)


def _leaves(schema: pa.Schema) -> int:
    return sum(_type_leaves(field.type) for field in schema)


def _type_leaves(type_: pa.DataType) -> int:
    return 1 + sum(_type_leaves(type_.field(index).type) for index in range(type_.num_fields))


def _row_bytes(batch: pa.RecordBatch) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Upper bounds of the rows' sizes: exact for numbers and text, the batch's mean for nested columns."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        type_ = column.type
        if (
            pt.is_string(type_)
            or pt.is_binary(type_)
            or pt.is_large_string(type_)
            or pt.is_large_binary(type_)
        ):
            wide = pt.is_large_string(type_) or pt.is_large_binary(type_)
            offsets = view(column.buffers()[1], np.int64 if wide else np.int32)
            sizes += np.diff(offsets[column.offset : column.offset + len(column) + 1]) + (9 if wide else 5)
        else:
            sizes += -(-column.nbytes // max(batch.num_rows, 1)) + 1
    return sizes
