"""The middle of a run against a scripted endpoint, on a virtual clock: every row is answered once, or is a reject."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.control import FixedController
from asyncbatch.control.breaker import Breaker
from asyncbatch.errors import EndpointError, InvocationError, StoppedError
from asyncbatch.model import (
    Block,
    BytesPayload,
    Failure,
    Payload,
    Reply,
    Sample,
    SourceBlock,
    Transport,
    Values,
)
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.pipeline.flow import Flow, FlowOptions
from asyncbatch.pipeline.gate import Gate
from asyncbatch.pipeline.invoking import Invoker
from asyncbatch.testing.clock import run_with_virtual_clock

Behaviour = Callable[["ScriptedEndpoint", list[int]], Failure | None]


@dataclass
class IntBlock:
    """Rows are whole numbers; a body is a line each."""

    values: list[int]
    sliceable: bool = True
    released: int = 0

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        return 8 * len(self.values)

    def payload(self, start: int, stop: int) -> Payload:
        body = "".join(f"{value}\n" for value in self.values[start:stop]).encode()
        return BytesPayload(pieces=(body,), content_type="text/csv", nbytes=len(body))

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        return max(1, min(max_rows, self.rows - start))

    def release(self, start: int, stop: int) -> None:
        self.released += stop - start


class IntEncoder:
    content_type = "text/csv"

    def encode(self, table: pa.Table) -> IntBlock:
        return IntBlock(table.column(0).to_pylist())


class IntDecoder:
    fields = (pa.field("prediction", pa.float64()),)

    def decode(self, reply: Reply, rows: int) -> tuple[Values, ...]:
        values = np.array([float(line) for line in reply.body.split()])
        assert len(values) == rows
        return (values,)


@dataclass
class ScriptedEndpoint:
    """Doubles each row after `latency_s`, unless `behaviour` gives a failure."""

    behaviour: Behaviour
    latency_s: float = 0.05
    calls: list[list[int]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    in_flight_at_calls: list[int] = field(default_factory=list)
    name: str = "scripted"
    takes_batches: bool = False
    max_body_bytes: int = 2**20

    @property
    def identity(self) -> dict[str, str | None]:
        return {"kind": "scripted"}

    async def open(self, *, concurrency: int) -> None: ...

    async def aclose(self) -> None: ...

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        assert isinstance(payload, BytesPayload)
        rows = [int(line) for line in b"".join(payload.pieces).split()]
        self.calls.append(rows)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.in_flight_at_calls.append(self.in_flight)
        try:
            await anyio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        if failure := self.behaviour(self, rows):
            raise InvocationError(failure)
        return Reply(body="\n".join(str(2 * row) for row in rows).encode(), content_type="text/csv")


class SteppedController(FixedController):
    """A limit that follows the number of answers."""

    def __init__(self, limit: Callable[[int], int], *, chunk_rows: int) -> None:
        super().__init__(chunk_rows=chunk_rows, chunk_bytes=2**20, concurrency=1)
        self._limit = limit
        self._answers = 0

    def concurrency(self) -> int:
        return self._limit(self._answers)

    def record(self, sample: Sample) -> None:
        self._answers += 1


@dataclass
class Ran:
    predictions: dict[int, float]
    rejects: dict[int, str]
    endpoint: ScriptedEndpoint
    elapsed_s: float
    finished: list[int]


def run_flow(
    behaviour: Behaviour,
    *,
    blocks: Sequence[int] = (100, 100, 37),
    chunk_rows: int = 10,
    concurrency: int = 4,
    max_outage_s: float = 300.0,
    one_row_works: bool = True,
    seed: int = 1,
    rate: float | None = None,
    limit: Callable[[int], int] | None = None,
) -> Ran:
    endpoint = ScriptedEndpoint(behaviour)
    predictions: dict[int, float] = {}
    rejects: dict[int, str] = {}
    finished: list[int] = []

    async def main() -> float:
        clock = anyio.current_time
        metrics = MetricsCollector(clock=clock)
        controller = SteppedController(limit or (lambda _: concurrency), chunk_rows=chunk_rows)
        breaker = Breaker(max_outage_s=max_outage_s, started_s=clock())
        good_row = pa.table({"x": [10**9]})

        async def finish(block: OpenBlock) -> None:
            await anyio.sleep(0.01)
            finished.append(block.number)
            assert isinstance(block.encoded, IntBlock)
            assert block.encoded.released == block.encoded.rows
            for result in block.results:
                rows = block.encoded.values[result.start : result.stop]
                values: Any = result.columns[0]
                for row, value in zip(rows, values, strict=True):
                    assert row not in predictions, f"row {row} was answered twice"
                    predictions[row] = float(value)
            for reject in block.rejects:
                value = block.encoded.values[reject.row - block.block.start]
                assert value not in rejects
                rejects[value] = reject.code

        flow = Flow(
            invoker=Invoker(
                endpoint=endpoint,
                encoder=IntEncoder(),
                decoder=IntDecoder(),
                timeout_s=10,
                clock=clock,
                good_rows=good_row,
            ),
            controller=controller,
            gate=Gate(controller=controller, breaker=breaker, rate=rate, row_rate=None),
            breaker=breaker,
            options=FlowOptions(
                max_payload_bytes=2**20, max_retries=3, max_outage_s=max_outage_s, one_row_works=one_row_works
            ),
            metrics=metrics,
            emit=lambda event: None,
            rejected=lambda rows, code, message: None,
            finish=finish,
            clock=clock,
            rng=random.Random(seed),
        )
        send, receive = anyio.create_memory_object_stream[OpenBlock](2)

        async def feed() -> None:
            start = 0
            async with send:
                for number, rows in enumerate(blocks):
                    values = list(range(start, start + rows))
                    table = pa.table({"x": values})
                    await send.send(
                        OpenBlock(
                            number=number,
                            source=SourceBlock(
                                block=Block(file=0, start=start, stop=start + rows), table=table
                            ),
                            encoded=IntBlock(values),
                            positions=None,
                            sent=table,
                        )
                    )
                    flow.wake()
                    start += rows
            flow.wake()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed)
            await flow.run(receive)
        assert flow.open_blocks == 0
        assert flow.in_flight == 0
        return clock()

    elapsed_s = run_with_virtual_clock(main)
    return Ran(predictions, rejects, endpoint, elapsed_s, finished)


def _all_right(ran: Ran, rows: int, poison: set[int]) -> None:
    assert set(ran.predictions) == set(range(rows)) - poison
    assert all(value == 2 * row for row, value in ran.predictions.items())
    assert set(ran.rejects) == poison


BAD_ROW = Failure(status=424, error_name="ModelError", original_status=400, original_message="bad row")


def poisoned(poison: set[int]) -> Behaviour:
    return lambda endpoint, rows: BAD_ROW if poison & set(rows) else None


def test_a_healthy_endpoint_gets_every_row_once_and_never_more_in_flight_than_the_limit() -> None:
    ran = run_flow(lambda endpoint, rows: None)
    _all_right(ran, 237, set())
    assert sum(len(call) for call in ran.endpoint.calls) == 237
    assert ran.endpoint.most_in_flight == 4


def test_the_places_in_flight_are_kept_busy() -> None:
    ran = run_flow(lambda endpoint, rows: None, blocks=[100] * 10, concurrency=5)
    assert ran.elapsed_s < 100 / 5 * 0.05 * 1.1


def test_a_limit_that_rises_and_falls_is_filled_at_once() -> None:
    steps = {0: 2, 20: 8, 60: 1, 80: 6}
    ran = run_flow(
        lambda endpoint, rows: None,
        blocks=[1_000, 1_000],
        limit=lambda answers: next(limit for at, limit in reversed(steps.items()) if answers >= at),
    )
    _all_right(ran, 2_000, set())
    seen = ran.endpoint.in_flight_at_calls
    assert set(seen[2:20]) == {2}
    assert set(seen[30:60]) == {8}
    assert set(seen[68:80]) == {1}
    assert set(seen[90:-10]) == {6}
    # 10 rounds of 2, 5 of 8, 20 of 1 (7 of them of the round before) and what is left by 6
    assert ran.elapsed_s < 1.15 * 0.05 * (10 + 5 + 20 + 120 / 6)


def test_a_block_without_rows_is_finished_too() -> None:
    assert run_flow(lambda endpoint, rows: None, blocks=[0, 5, 0]).finished == [0, 2, 1]


def test_poison_rows_are_found_by_bisection_within_the_stated_number_of_calls() -> None:
    poison = {3, 120, 121, 236}
    ran = run_flow(poisoned(poison), chunk_rows=64)
    _all_right(ran, 237, poison)
    assert set(ran.rejects.values()) == {"rejected"}
    extra = len(ran.endpoint.calls) - len(run_flow(lambda endpoint, rows: None, chunk_rows=64).endpoint.calls)
    assert extra <= len(poison) * (2 * 6 + 1)


def test_throttling_is_waited_out_and_costs_no_row() -> None:
    refused = Counter[int]()

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        refused[rows[0]] += 1
        if refused[rows[0]] <= 30:
            return Failure(status=400, error_name="ThrottlingException")
        return None

    ran = run_flow(behaviour, blocks=[40])
    _all_right(ran, 40, set())


def test_retry_after_is_honoured() -> None:
    first: list[float] = []

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        if not first:
            first.append(0.0)
            return Failure(status=429, retry_after_s=100.0)
        return None

    assert run_flow(behaviour, blocks=[10]).elapsed_s > 100


def test_an_endpoint_that_comes_back_within_the_outage_loses_nothing() -> None:
    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        away = 5.0 < anyio.current_time() < 65.0
        return Failure(transport=Transport.CONNECT, message="refused") if away else None

    ran = run_flow(behaviour, blocks=[2_000] * 10, concurrency=10)
    _all_right(ran, 20_000, set())
    assert ran.elapsed_s > 65
    calls_while_away = len(ran.endpoint.calls) - 2_000
    assert calls_while_away < 100


@pytest.mark.parametrize("chunk_rows", [1, 2, 5])
@pytest.mark.parametrize("away_s", [3.0, 60.0])
def test_rows_that_failed_alone_during_an_outage_are_sent_again(chunk_rows: int, away_s: float) -> None:
    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        return Failure(status=502) if 2.0 < anyio.current_time() < 2.0 + away_s else None

    for seed in range(3):
        _all_right(run_flow(behaviour, blocks=[400] * 5, chunk_rows=chunk_rows, seed=seed), 2_000, set())


def test_many_bad_rows_at_once_are_still_rejected() -> None:
    poison = set(range(0, 200, 3))

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        return Failure(status=500) if poison & set(rows) else None

    _all_right(run_flow(behaviour, blocks=[200]), 200, poison)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(transport=Transport.CONNECT, message="refused"),
        Failure(status=500),
        Failure(status=424, error_name="ModelError", original_status=500),
        BAD_ROW,
    ],
    ids=["away", "500", "model crashed", "refuses every row"],
)
def test_an_endpoint_that_dies_stops_the_run_and_rejects_no_row(failure: Failure) -> None:
    rejected: list[int] = []

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        return failure if anyio.current_time() > 2.0 else None

    with pytest.raises(ExceptionGroup) as caught:
        run_flow(behaviour, blocks=[1_000] * 20, max_outage_s=60)
    assert caught.group_contains(StoppedError)
    assert not rejected


def test_an_unknown_endpoint_stops_the_run_at_once() -> None:
    failure = Failure(status=400, error_name="ValidationError", message="Endpoint x of account 1 not found.")
    with pytest.raises(ExceptionGroup) as caught:
        run_flow(lambda endpoint, rows: failure)
    assert caught.group_contains(EndpointError)


def test_bodies_that_are_too_large_are_split_and_the_cap_is_remembered() -> None:
    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        return Failure(status=413) if len(rows) > 7 else None

    ran = run_flow(behaviour, blocks=[100])
    _all_right(ran, 100, set())


def test_an_endpoint_that_cannot_answer_one_row_rejects_none_and_gets_pairs() -> None:
    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        return Failure(status=424, error_name="ModelError", original_status=500) if len(rows) < 2 else None

    ran = run_flow(behaviour, blocks=[21, 1, 10], chunk_rows=4, one_row_works=False)
    _all_right(ran, 32, set())


def test_poison_beside_an_endpoint_that_cannot_answer_one_row_is_still_exact() -> None:
    poison = {5, 17}

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        if len(rows) < 2:
            return Failure(status=424, error_name="ModelError", original_status=500)
        return BAD_ROW if poison & set(rows) else None

    ran = run_flow(behaviour, blocks=[21, 1, 10], chunk_rows=4, one_row_works=False)
    _all_right(ran, 32, poison)


def test_the_request_rate_is_never_exceeded() -> None:
    ran = run_flow(lambda endpoint, rows: None, blocks=[1_000], chunk_rows=10, concurrency=50, rate=10.0)
    assert ran.elapsed_s >= (100 - 1) / 10.0
    assert ran.elapsed_s < 12


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    chunk_rows=st.integers(1, 40),
    concurrency=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    poison_share=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    fault_share=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_whatever_fails_every_row_is_answered_once_and_the_rejects_are_exactly_the_poison(
    blocks: list[int], chunk_rows: int, concurrency: int, seed: int, poison_share: float, fault_share: float
) -> None:
    rng = random.Random(seed)
    total = sum(blocks)
    poison = {row for row in range(total) if rng.random() < poison_share}
    faults = [
        Failure(status=400, error_name="ThrottlingException"),
        Failure(status=429, retry_after_s=1.0),
        Failure(status=503),
        Failure(transport=Transport.CONNECT),
        Failure(transport=Transport.RESET),
    ]

    def behaviour(endpoint: ScriptedEndpoint, rows: list[int]) -> Failure | None:
        if rng.random() < fault_share:
            return rng.choice(faults[:4])
        return BAD_ROW if poison & set(rows) else None

    ran = run_flow(behaviour, blocks=blocks, chunk_rows=chunk_rows, concurrency=concurrency, seed=seed)
    _all_right(ran, total, poison)
    assert sorted(ran.finished) == list(range(len(blocks)))
