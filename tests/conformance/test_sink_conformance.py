"""Our own sinks under the public conformance suite; and the suite under sinks that are wrong."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.protocols import Sink
from asyncbatch.sink import PartsSink, Plan, StreamSink, load_plan
from asyncbatch.sink.plan import create_plan
from asyncbatch.store import LocalStore
from asyncbatch.testing.sink import check_sink


class PartsHarness:
    durable = True

    def __init__(self, folder: Path) -> None:
        self._out, self._state = folder / "out", folder / "out.asyncbatch"

    def open(self, *, schema: pa.Schema, files: Sequence[InputFile], block_rows: int) -> Sink:
        state = LocalStore(self._state, self._state)
        plan = load_plan(state) or create_plan(
            state,
            Plan(
                files=tuple(files),
                block_rows=block_rows,
                schema=schema,
                reply={},
                options={},
                endpoint={},
                source="in",
            ),
        )
        return PartsSink(plan=plan, parts=LocalStore(self._out, self._state), state=state)

    def read(self) -> pa.Table:
        return ds.dataset(self._out).to_table()


class StreamHarness:
    durable = False

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def open(self, *, schema: pa.Schema, files: Sequence[InputFile], block_rows: int) -> Sink:
        sink = StreamSink(files=[file.number for file in files], emit=self._tables.append)
        for file in files:
            if file.rows == 0:
                sink.end_file(file.number)
        return sink

    def read(self) -> pa.Table:
        return pa.concat_tables(self._tables)


@pytest.fixture
def place(tmp_path: Path) -> Callable[[], Path]:
    numbers = iter(range(1000))

    def make() -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return folder

    return make


def test_parts_conform(place: Callable[[], Path]) -> None:
    check_sink(lambda: PartsHarness(place()))


def test_the_ordered_stream_conforms() -> None:
    check_sink(StreamHarness)


class Careless:
    """Keeps blocks in the order in which they came, and each as often as it came."""

    durable = True

    def __init__(self, *, sort: bool) -> None:
        self._sort = sort
        self._found: list[tuple[Block, pa.Table]] = []
        self._lock = threading.Lock()

    def open(self, *, schema: pa.Schema, files: Sequence[InputFile], block_rows: int) -> Sink:
        return self

    def write(
        self,
        block: Block,
        table: pa.Table,
        *,
        rejects: Sequence[Reject],
        variants: Mapping[str, int],
        end_offset: int | None,
        last: bool,
    ) -> None:
        with self._lock:
            self._found.append((block, table))

    def read(self) -> pa.Table:
        found = sorted(self._found, key=lambda each: each[0]) if self._sort else self._found
        return pa.concat_tables([table for _, table in found])


def test_a_sink_that_keeps_the_order_of_arrival_is_found_out() -> None:
    with pytest.raises(AssertionError, match="not those written, in input order"):
        check_sink(lambda: Careless(sort=False))


def test_a_sink_that_takes_a_block_twice_is_found_out() -> None:
    with pytest.raises(AssertionError, match="after two processes gave the same blocks"):
        check_sink(lambda: Careless(sort=True))
