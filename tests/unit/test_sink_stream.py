"""Blocks in row order, and text streams."""

import io
import os
import random
import threading
from typing import BinaryIO, cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.model import Block
from asyncbatch.sink import OrderedBlocks, ReaderGoneError, StreamSink, TextWriter

SCHEMA = pa.schema([("id", pa.int64())])


def blocks_of(rows: list[int], size: int) -> list[tuple[Block, bool]]:
    return [
        (Block(file=file, start=start, stop=min(start + size, count)), start + size >= count)
        for file, count in enumerate(rows)
        for start in range(0, count, size)
    ]


@given(
    rows=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    size=st.integers(1, 9),
    rng=st.randoms(use_true_random=False),
)
def test_any_order_in_row_order_out(rows: list[int], size: int, rng: random.Random) -> None:
    order: OrderedBlocks[str] = OrderedBlocks(files=range(len(rows)))
    wanted = blocks_of(rows, size)
    events: list[tuple[Block, bool] | int] = [*wanted, *(n for n, count in enumerate(rows) if count == 0)]
    rng.shuffle(events)
    given_out: list[Block] = []
    for event in events:
        if isinstance(event, int):
            ready = order.end_file(event)
        else:
            ready = order.add(event[0], event[0].name, last=event[1])
        given_out += [block for block, item in ready if item == block.name]
        assert given_out == [block for block, _ in wanted][: len(given_out)], "a prefix, at any time"
    assert len(given_out) == len(wanted)
    assert order.finished
    assert order.held == 0


def test_a_block_is_given_out_as_soon_as_it_is_next() -> None:
    order: OrderedBlocks[int] = OrderedBlocks(files=[0])
    one, two, three = (Block(file=0, start=start, stop=start + 5) for start in (0, 5, 10))
    assert order.add(three, 3, last=True) == []
    assert order.add(one, 1, last=False) == [(one, 1)]
    assert order.held == 1
    assert order.add(two, 2, last=False) == [(two, 2), (three, 3)]


@pytest.mark.parametrize("again", [Block(file=0, start=0, stop=5), Block(file=0, start=5, stop=10)])
def test_a_block_given_twice_is_a_mistake(again: Block) -> None:
    order: OrderedBlocks[int] = OrderedBlocks(files=[0])
    order.add(Block(file=0, start=0, stop=5), 1, last=False)
    order.add(Block(file=0, start=10, stop=15), 3, last=True)
    if again.start == 5:
        order.add(again, 2, last=False)
        assert order.finished
    with pytest.raises(ValueError, match="was given before"):
        order.add(again, 2, last=False)


def test_a_stream_sink_emits_in_order_from_many_threads() -> None:
    found: list[int] = []
    blocks = blocks_of([100, 0, 57], 7)
    sink = StreamSink(files=[0, 1, 2], emit=lambda table: found.extend(table.column("id").to_pylist()))
    sink.end_file(1)
    random.Random(1).shuffle(blocks)

    def work(own: list[tuple[Block, bool]]) -> None:
        for block, last in own:
            rows = pa.table(
                {"id": [block.file * 1000 + row for row in range(block.start, block.stop)]}, schema=SCHEMA
            )
            sink.write(block, rows, rejects=[], variants={}, end_offset=None, last=last)

    threads = [threading.Thread(target=work, args=(blocks[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [*range(100), *(2000 + row for row in range(57))]


def test_a_csv_stream_has_one_header_even_without_rows() -> None:
    table = pa.table({"id": [1, 2]}, schema=SCHEMA)
    some, none = io.BytesIO(), io.BytesIO()
    writer = TextWriter(some, format="csv", schema=SCHEMA)
    writer.write(table)
    writer.write(table)
    writer.finish()
    assert some.getvalue() == b'"id"\n1\n2\n1\n2\n'
    TextWriter(none, format="csv", schema=SCHEMA).finish()
    assert none.getvalue() == b'"id"\n'


def test_a_jsonl_stream() -> None:
    file = io.BytesIO()
    writer = TextWriter(file, format="jsonl", schema=SCHEMA)
    writer.write(pa.table({"id": [1, None]}, schema=SCHEMA))
    writer.finish()
    assert file.getvalue() == b'{"id":1}\n{"id":null}\n'


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_closed_pipe_ends_quietly(form: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    file = open(writing, "wb", buffering=0)  # noqa: SIM115, PTH123 (closing it is part of the test)
    try:
        writer = TextWriter(cast(BinaryIO, file), format=form, schema=SCHEMA)  # type: ignore[arg-type]
        with pytest.raises(ReaderGoneError) as caught:
            writer.write(pa.table({"id": list(range(1000))}, schema=SCHEMA))
        assert caught.value.exit_code == 0
    finally:
        file.close()
