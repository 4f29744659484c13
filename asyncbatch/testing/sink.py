"""Conformance of a `Sink`: blocks in any order, from several threads, given twice, and after a new start."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.protocols import Sink

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 8
FILE_ROWS = (21, 0, 16, 3)


class SinkHarness(Protocol):
    """One place to write to, empty at first."""

    @property
    def durable(self) -> bool:
        """What was written is still there for a sink that is opened later, and takes the same block again."""
        ...

    def open(self, *, schema: "pa.Schema", files: Sequence[InputFile], block_rows: int) -> Sink:
        """A sink that writes to the place; called again to go on after an end of the process."""
        ...

    def read(self) -> "pa.Table":
        """All rows that were written, in the order that the place keeps them in."""
        ...


def check_sink(make: Callable[[], SinkHarness], *, seed: int = 0) -> None:
    """Prove that a sink keeps the contract of `asyncbatch.protocols.Sink`.

    Args:
        make: a harness over a new, empty place, each time.
        seed: of the orders that are tried.

    Raises:
        AssertionError: it does not; the message says what failed.
    """
    rng = random.Random(seed)
    _check_any_order(make(), rng)
    _check_threads(make(), rng)
    if make().durable:
        _check_reopened(make(), rng)
        _check_twice(make(), rng)


def conformance_schema() -> "pa.Schema":
    """A column of each sort: number, text, vector, and the error."""
    import pyarrow as pa

    fields: list[pa.Field[pa.DataType]] = [
        pa.field("id", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("prediction", pa.list_(pa.float64())),
        pa.field("error", pa.string()),
    ]
    return pa.schema(fields)


def _check_any_order(harness: SinkHarness, rng: random.Random) -> None:
    sink = _open(harness)
    blocks = _blocks()
    rng.shuffle(blocks)
    for block in blocks:
        _write(sink, block)
    _expect(harness, "after blocks in any order")


def _check_threads(harness: SinkHarness, rng: random.Random) -> None:
    sink = _open(harness)
    blocks = _blocks()
    rng.shuffle(blocks)
    failures: list[BaseException] = []

    def work(own: list[Block]) -> None:
        try:
            for block in own:
                _write(sink, block)
        except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(blocks[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, f"writing from three threads failed: {failures[0]!r}"
    _expect(harness, "after blocks from three threads")


def _check_reopened(harness: SinkHarness, rng: random.Random) -> None:
    blocks = _blocks()
    rng.shuffle(blocks)
    for block in blocks:
        _write(_open(harness), block)
    _expect(harness, "after a new start before each block")


def _check_twice(harness: SinkHarness, rng: random.Random) -> None:
    blocks = _blocks() * 2
    rng.shuffle(blocks)
    one, other = _open(harness), _open(harness)
    for number, block in enumerate(blocks):
        _write(one if number % 2 else other, block)
    _expect(harness, "after two processes gave the same blocks")


def _open(harness: SinkHarness) -> Sink:
    files = [
        InputFile(number=number, path=f"{number}.csv", size_bytes=rows, rows=rows, fingerprint={"size": rows})
        for number, rows in enumerate(FILE_ROWS)
    ]
    return harness.open(schema=conformance_schema(), files=files, block_rows=BLOCK_ROWS)


def _blocks() -> list[Block]:
    return [
        Block(file=number, start=start, stop=min(start + BLOCK_ROWS, rows))
        for number, rows in enumerate(FILE_ROWS)
        for start in range(0, rows, BLOCK_ROWS)
    ]


def _table(block: Block) -> "pa.Table":
    import pyarrow as pa

    rows = range(block.start, block.stop)
    columns = {
        "id": [block.file * 1000 + row for row in rows],
        "text": [None if row % 7 == 0 else f'a "quoted", line\n{row}' for row in rows],
        "prediction": [None if row % 5 == 4 else [row / 3, float(block.file)] for row in rows],
        "error": ["rejected: no" if row % 5 == 4 else None for row in rows],
    }
    return pa.table(columns, schema=conformance_schema())


def _write(sink: Sink, block: Block) -> None:
    rejected = [row for row in range(block.start, block.stop) if row % 5 == 4]
    sink.write(
        block,
        _table(block),
        rejects=[Reject(row=row, code="rejected", message="no", attempts=2) for row in rejected],
        variants={"AllTraffic": block.rows},
        end_offset=None,
        last=block.stop == FILE_ROWS[block.file],
    )


def _expect(harness: SinkHarness, when: str) -> None:
    import pyarrow as pa

    found = harness.read()
    wanted = pa.concat_tables([_table(block) for block in _blocks()])
    assert found.schema.names == wanted.schema.names, f"{when} the columns are {found.schema.names}"
    assert found.num_rows == wanted.num_rows, f"{when} there are {found.num_rows} of {wanted.num_rows} rows"
    assert found.to_pylist() == wanted.to_pylist(), f"{when} the rows are not those written, in input order"
