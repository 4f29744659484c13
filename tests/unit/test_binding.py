"""What binds: the decision for each cause, and how its evidence is gathered."""

from typing import Any

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control.binding import Bound, Evidence, Wait, binding
from asyncbatch.model import ChunkTarget, Sample
from asyncbatch.observe.metrics import Counts
from asyncbatch.pipeline.binding import BindingWatch, Look, WaitClock, _Cpu

FULL = {Wait.FULL: 1.0}


@pytest.mark.parametrize(
    ("evidence", "bound"),
    [
        ({}, None),
        ({"waits": FULL}, Bound.ENDPOINT),
        ({"waits": FULL, "settled": False}, Bound.SEARCH),
        ({"waits": FULL, "at_concurrency": True}, Bound.CONCURRENCY),
        ({"waits": FULL, "at_concurrency": True, "settled": False}, Bound.SEARCH),
        ({"waits": FULL, "at_chunk_rows": True}, Bound.CHUNK_ROWS),
        ({"waits": FULL, "at_block_rows": True}, Bound.BLOCK_ROWS),
        ({"waits": FULL, "at_payload_cap": True}, Bound.PAYLOAD),
        ({"waits": FULL, "chunks": 10, "capped": 6}, Bound.PAYLOAD),
        ({"waits": FULL, "chunks": 10, "capped": 5}, Bound.ENDPOINT),
        ({"waits": FULL, "at_memory": True}, Bound.MEMORY),
        ({"waits": FULL, "near_target": True}, Bound.TARGET_LATENCY),
        ({"waits": FULL, "background": True}, Bound.LIVE_USERS),
        ({"waits": FULL, "background": True, "at_concurrency": True}, Bound.CONCURRENCY),
        ({"waits": FULL, "requests": 100, "refused": 6}, Bound.THROTTLE),
        ({"waits": FULL, "requests": 100, "refused": 5}, Bound.ENDPOINT),
        ({"waits": FULL, "loop_cpu": 0.95}, Bound.CPU),
        ({"waits": FULL, "process_cpu": 0.95}, Bound.CPU),
        ({"waits": {Wait.RATE: 1.0}, "loop_cpu": 1.0}, Bound.RATE),
        ({"waits": {Wait.ROW_RATE: 1.0}}, Bound.ROW_RATE),
        ({"waits": {Wait.PACED: 1.0}}, Bound.THROTTLE),
        ({"waits": {Wait.PACED: 1.0}, "settled": False}, Bound.SEARCH),
        ({"waits": {Wait.PACED: 1.0}, "background": True}, Bound.LIVE_USERS),
        ({"waits": {Wait.OUTAGE: 1.0}, "requests": 9, "refused": 9}, Bound.OUTAGE),
        ({"waits": {Wait.RETRIES: 1.0}}, Bound.ENDPOINT),
        ({"waits": {Wait.INPUT: 0.6, Wait.FULL: 0.4}}, Bound.INPUT),
        ({"waits": {Wait.INPUT: 0.4, Wait.FULL: 0.6}}, Bound.ENDPOINT),
        ({"waits": {Wait.INPUT: 1.0}, "process_cpu": 0.95}, Bound.CPU),
        ({"waits": {Wait.OUTPUT: 1.0}}, Bound.OUTPUT),
        ({"waits": {Wait.MEMORY: 1.0}}, Bound.MEMORY),
        ({"waits": {Wait.CONSUMER: 1.0}}, Bound.CONSUMER),
        ({"waits": {Wait.END: 1.0}}, Bound.TAIL),
    ],
    ids=str,
)
def test_the_decision(evidence: dict[str, Any], bound: Bound | None) -> None:
    assert binding(Evidence(**evidence)) is bound


def test_every_cause_has_words() -> None:
    for bound in Bound:
        assert 0 < len(bound.label) <= 17
        assert bound.meaning


def test_waits_are_counted_in_seconds() -> None:
    waits = WaitClock(now_s=10.0)
    waits.turn(Wait.FULL, 11.0)
    waits.turn(Wait.FULL, 12.0)
    waits.turn(Wait.RATE, 14.0)
    assert waits.take(15.0) == {Wait.INPUT: 1.0, Wait.FULL: 3.0, Wait.RATE: 1.0}
    assert waits.take(15.5) == {Wait.RATE: 0.5}


class Steady:
    settled = True
    at_size_cap = False
    limit = 4

    def next_chunk(self) -> ChunkTarget:
        return ChunkTarget(rows=1, bytes=1)

    def concurrency(self) -> int:
        return self.limit

    def send_delay(self) -> float:
        return 0.0

    def record(self, sample: Sample) -> None: ...

    def note_remaining(self, rows: int) -> None: ...


def look(
    now_s: float, wait: Wait = Wait.FULL, *, requests: int = 0, bytes_sent: int = 0, in_flight: int = 4
) -> Look:
    return Look(
        now_s=now_s,
        waits={wait: 0.2},
        counts=Counts(
            requests=requests, refused=0, answered=requests, answered_s=0.1 * requests, bytes_sent=bytes_sent
        ),
        chunks=requests,
        capped=0,
        in_flight=in_flight,
        chunk_rows=10,
    )


def watch(
    controller: Steady | None = None, *, cpu: float = 0.0, most_bytes: int = 10**9, **options: Any
) -> BindingWatch:
    now = [0.0]

    def used() -> _Cpu:
        now[0] += 0.2
        return _Cpu(cpu * now[0], cpu * now[0])

    return BindingWatch(
        config=RunConfig.from_options(options),
        controller=controller or Steady(),
        most_bytes=most_bytes,
        cpu=used,
    )


def test_it_takes_two_looks_and_says_what_has_bound_for_two_seconds() -> None:
    found = watch()
    assert found.look(look(0.0)) is None
    assert found.bound is None
    said = [found.look(look(0.2 * number)) for number in range(1, 30)]
    assert found.bound is Bound.ENDPOINT
    assert [each for each in said if each] == [f"what binds now is {Bound.ENDPOINT.meaning}"]
    assert said.index(next(each for each in said if each)) >= 9
    said = [found.look(look(6 + 0.2 * number, Wait.RATE)) for number in range(30)]
    assert [each for each in said if each] == [f"what binds now is {Bound.RATE.meaning}"]


def test_the_user_s_ceiling_the_target_and_memory_are_seen() -> None:
    looks = [look(0.2 * number, requests=10 * number, bytes_sent=10_000 * number) for number in range(6)]
    for options, bound in (
        ({"concurrency": "1:4"}, Bound.CONCURRENCY),
        ({"chunk_rows": "1:10"}, Bound.CHUNK_ROWS),
        ({"target_latency": "120ms"}, Bound.TARGET_LATENCY),
        ({"target_latency": "200ms"}, Bound.ENDPOINT),
        ({"background": True}, Bound.LIVE_USERS),
        ({"most_bytes": 4_900}, Bound.MEMORY),
        ({"cpu": 0.97}, Bound.CPU),
    ):
        found = watch(**options)
        for each in looks:
            found.look(each)
        assert found.bound is bound, options


def test_a_controller_that_tells_its_state_is_asked() -> None:
    searching, capped = Steady(), Steady()
    searching.settled = False
    capped.at_size_cap = True
    for controller, bound in ((searching, Bound.SEARCH), (capped, Bound.PAYLOAD)):
        found = watch(controller)
        for number in range(3):
            found.look(look(0.2 * number))
        assert found.bound is bound
