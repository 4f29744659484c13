"""Conformance of encoders and decoders: what a run relies on, whoever wrote them."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from asyncbatch.errors import ReplyError
from asyncbatch.model import BatchPayload, Payload, Reply
from asyncbatch.protocols import Decoder, EncodedBlock, Encoder

if TYPE_CHECKING:
    import pyarrow as pa


def check_codec(
    *,
    encoder: Encoder,
    table: "pa.Table",
    decoder: Decoder | None = None,
    replies: Sequence[tuple[Reply, int]] = (),
    one_row: bool = False,
    same: Callable[[bytes, bytes], bool] = operator.eq,
) -> None:
    """Prove that an encoder, and a decoder if given, keep their Protocols' promises.

    Args:
        encoder: bodies are cut from `table` in many ways and compared with encoding each slice alone.
        table: at least 3 rows; more than a few thousand also try the encoder's own pieces.
        decoder: must read every one of `replies`, and refuse it for any other number of rows.
        replies: good replies, with their numbers of rows.
        one_row: each request of this encoder holds one row.
        same: whether two bodies say the same; byte for byte by default. For formats with padding that means
            nothing.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    check_encoder(encoder, table, one_row=one_row, same=same)
    if decoder is not None:
        check_decoder(decoder, replies)


def check_encoder(
    encoder: Encoder,
    table: "pa.Table",
    *,
    one_row: bool = False,
    same: Callable[[bytes, bytes], bool] = operator.eq,
) -> None:
    """Any slice of a block is what encoding that slice alone gives; `fit` keeps its limits; `release` frees.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    if table.num_rows < 3:
        raise ValueError("the table needs at least 3 rows")
    block = encoder.encode(table)
    assert block.rows == table.num_rows, "a block has as many rows as its table"
    assert block.nbytes >= 0, "nbytes is a size"
    for start, stop in _ranges(table.num_rows, one_row=one_row):
        payload = block.payload(start, stop)
        alone = encoder.encode(table.slice(start, stop - start)).payload(0, stop - start)
        assert _equal(payload, alone, same), f"rows [{start}, {stop}) differ from encoding them alone"
        assert _equal(block.payload(start, stop), payload, same), "a payload can be cut again"
        if not isinstance(payload, BatchPayload):
            assert payload.nbytes == sum(len(memoryview(piece)) for piece in payload.pieces), (
                "nbytes is exact"
            )
            assert payload.content_type, "a body has a content type"
    _check_fit(block, one_row=one_row)
    _check_release(encoder, table, one_row=one_row, same=same)
    assert encoder.encode(table.slice(0, 0)).rows == 0, "a block may be empty"


def check_decoder(decoder: Decoder, replies: Sequence[tuple[Reply, int]]) -> None:
    """Every reply gives one value a row for every field, and is refused for any other number of rows.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    assert decoder.fields, "there is at least one output field"
    for reply, rows in replies:
        columns = decoder.decode(reply, rows)
        assert len(columns) == len(decoder.fields), "one Values for each field"
        for field, column in zip(decoder.fields, columns, strict=True):
            assert len(column) == rows, f"field {field.name} has one value a row"
        for wrong in {rows + 1, rows * 2, max(rows - 1, 0)} - {rows, 0}:
            try:
                decoder.decode(reply, wrong)
            except ReplyError:
                continue
            raise AssertionError(f"a reply of {rows} rows was taken for {wrong}")


def _ranges(rows: int, *, one_row: bool) -> Iterator[tuple[int, int]]:
    """Ends, middles, and cuts at sizes where implementations change their storage."""
    cuts = sorted(
        {0, 1, rows // 3, rows // 2, rows - 1, rows, *(cut for cut in (255, 4096, 8193) if cut < rows)}
    )
    for start in cuts:
        for stop in [start + 1] if one_row else cuts:
            if start < stop <= rows:
                yield start, stop


def _equal(left: Payload, right: Payload, same: Callable[[bytes, bytes], bool]) -> bool:
    if isinstance(left, BatchPayload):
        # As text, since NaN is not equal to itself.
        return isinstance(right, BatchPayload) and str(left.batch.to_pydict()) == str(right.batch.to_pydict())
    assert not isinstance(right, BatchPayload), "an encoder gives payloads of one kind"
    bodies = [b"".join(bytes(piece) for piece in payload.pieces) for payload in (left, right)]
    return left.content_type == right.content_type and same(bodies[0], bodies[1])


def _check_fit(block: EncodedBlock, *, one_row: bool) -> None:
    for start in (0, block.rows // 2, block.rows - 1):
        assert block.fit(start, block.rows, 1) == 1, "one row always fits, so that a run can go on"
        assert block.fit(start, 1, 2**40) == 1, "fit keeps max_rows"
        left = block.rows - start
        assert block.fit(start, 2**40, 2**40) == (1 if one_row else left), (
            "everything left fits without limits"
        )
        for rows in {1, 2, left} if not one_row else {1}:
            if rows > left:
                continue
            limit = block.payload(start, start + rows).nbytes
            fitting = block.fit(start, left, limit)
            assert 1 <= fitting <= left, "fit stays within the block"
            if fitting > 1:
                assert block.payload(start, start + fitting).nbytes <= limit, "fit keeps max_bytes"


def _check_release(
    encoder: Encoder, table: "pa.Table", *, one_row: bool, same: Callable[[bytes, bytes], bool]
) -> None:
    block = encoder.encode(table)
    held, last = block.nbytes, table.num_rows - 1
    wanted = block.payload(last, last + 1)
    step = 1 if one_row else max(1, last // 5)
    for start in range(0, last, step):
        block.release(start, min(start + step, last))
        assert block.nbytes <= held, "release never holds more"
        held = block.nbytes
    assert _equal(block.payload(last, last + 1), wanted, same), "rows not released stay"
    block.release(last, last + 1)
    assert block.nbytes <= held, "release never holds more"
