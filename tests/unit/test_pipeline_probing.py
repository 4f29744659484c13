"""The plan's probes against endpoints that answer as containers do; no network."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pyarrow as pa
import pytest

from asyncbatch.codec import make_encoder
from asyncbatch.config import RunConfig
from asyncbatch.errors import EndpointError, InvocationError, ReplyError
from asyncbatch.model import BytesPayload, Failure, Payload, Reply
from asyncbatch.pipeline.planning import Prepared, prepare
from asyncbatch.pipeline.probing import Exchange, Prober
from asyncbatch.source import open_source

Answer = Callable[[list[list[str]]], Reply | Failure]


class Container:
    """Answers by a function of the CSV rows it gets, and remembers them."""

    name = "container"
    takes_batches = False
    max_body_bytes = 2**20
    identity: Mapping[str, str | None] = {"kind": "test"}

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[list[list[str]]] = []

    async def open(self, *, concurrency: int) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        body = b"".join(bytes(piece) for piece in payload.pieces).decode()
        rows = [line.split(",") for line in body.split("\n")]
        self.asked.append(rows)
        found = self.answer(rows)
        if isinstance(found, Failure):
            raise InvocationError(found)
        return found


def csv(text: str) -> Reply:
    return Reply(body=text.encode(), content_type="text/csv")


def one_line(rows: list[list[str]]) -> Reply:
    return csv(",".join(row[0] for row in rows))


def scores_on_one_line(rows: list[list[str]]) -> Reply:
    return csv(",".join(f"[{row[0]}, {row[0]}, 1.0]" for row in rows))


def vector_a_line(rows: list[list[str]]) -> Reply:
    return csv("\n".join(f"{row[0]},{row[0]},1.0" for row in rows))


def two_at_least(rows: list[list[str]]) -> Reply | Failure:
    return one_line(rows) if len(rows) > 1 else Failure(status=500, message="Expected 2D array, got 1D array")


def table(rows: int) -> pa.Table:
    return pa.table({"x": [float(row) for row in range(rows)], "y": [0.5] * rows})


def prepared(
    container: Container, rows: int, *, exchanges: list[Exchange] | None = None, head: int = 0, **options: Any
) -> Prepared:
    config = RunConfig.from_options({"endpoint": "x", **options})

    async def run() -> Prepared:
        return await prepare(
            config,
            open_source(table(rows), config.input),
            container,
            planned=None,
            clock=anyio.current_time,
            rng=random.Random(1),
            record=lambda _: None,
            watch=None if exchanges is None else exchanges.append,
            head=head,
        )

    return anyio.run(run)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 400])
def test_the_layout_is_settled_however_few_rows_there_are(rows: int) -> None:
    """Three numbers on a line are three rows, or one row of three: more rows tell, and few are repeated."""
    assert prepared(Container(one_line), rows).layout.form == "csv-line"
    found = prepared(Container(scores_on_one_line), rows).layout
    assert (found.form, found.fields[0].width) == ("csv-line", 3)
    found = prepared(Container(vector_a_line), rows).layout
    assert (found.form, found.fields[0].width) == ("csv-lines", 3)


def test_each_size_asks_with_other_rows_where_there_are_enough() -> None:
    container = Container(one_line)
    prepared(container, 5_000)
    assert [len(rows) for rows in container.asked] == [1, 2, 7, 300]
    seen = [row[0] for rows in container.asked for row in rows]
    assert len(set(seen)) == len(seen)
    spread = sorted(float(value) for value in seen)
    assert spread[0] < 50
    assert spread[-1] > 4_900


@pytest.mark.parametrize("rows", [1, 2, 500])
def test_one_row_refused_and_two_answered_is_no_fault_of_the_row(rows: int) -> None:
    found = prepared(Container(two_at_least), rows)
    assert found.min_rows == 2
    assert not found.one_row_works
    assert found.good_rows is not None
    assert found.good_rows.num_rows == 2


def test_one_row_answered_asks_for_no_padding() -> None:
    found = prepared(Container(one_line), 500)
    assert (found.min_rows, found.one_row_works) == (1, True)


def test_two_readings_are_an_error_that_names_the_option() -> None:
    def two_lists(rows: list[list[str]]) -> Reply:
        values = ",".join(row[0] for row in rows)
        return Reply(
            body=f'{{"scores":[{values}],"ranks":[{values}]}}'.encode(), content_type="application/json"
        )

    with pytest.raises(ReplyError, match="2 lists") as caught:
        prepared(Container(two_lists), 100)
    assert "--reply scores" in str(caught.value.hint)
    found = prepared(Container(two_lists), 100, reply="ranks")
    assert found.layout.path == "ranks"


def test_all_sizes_refused_end_the_plan_with_the_containers_words_and_the_option() -> None:
    def refuse(rows: list[list[str]]) -> Failure:
        return Failure(status=400, message="X has 2 features, but Ridge is expecting 1 features as input.")

    with pytest.raises(EndpointError, match=r"of 1, 2, 7, 300 rows .*expecting 1 features") as caught:
        prepared(Container(refuse), 400)
    assert caught.value.hint == "the model takes 1 column, and 2 are sent: --no-send y"


def test_what_is_watched_is_every_exchange_and_the_first_rows_are_among_them() -> None:
    exchanges: list[Exchange] = []
    container = Container(two_at_least)
    prepared(container, 400, exchanges=exchanges, head=3)
    assert [each.rows for each in exchanges] == [1, 1, 2, 3, 7, 300]
    assert [each.failure is not None for each in exchanges] == [True, True, False, False, False, False]
    assert [row[0] for row in container.asked[3]] == ["0.0", "1.0", "2.0"]
    assert exchanges[3].reply is not None


def test_a_request_that_holds_one_row_is_probed_with_one_row() -> None:
    async def ask() -> list[int]:
        texts = pa.table({"text": [f"t{row}" for row in range(50)]})
        encoder = make_encoder(RunConfig.from_options({"body": "raw"}).request, texts.schema)
        prober = Prober(
            endpoint=Container(one_line),
            timeout_s=1.0,
            max_outage_s=1.0,
            clock=anyio.current_time,
            rng=random.Random(1),
            record=lambda _: None,
        )
        result = await prober.probe(encoder.encode(texts), max_bytes=2**20)
        return [answer.rows for answer in result.answers]

    assert anyio.run(ask) == [1]
