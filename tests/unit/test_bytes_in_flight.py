"""Chunk times requests in flight stays within the bytes that memory allows, whatever the endpoint could take."""

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control import AdaptiveController, GuestController
from asyncbatch.control.cutting import RowFootprint
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.pipeline.controllers import bytes_in_flight, make_controller
from asyncbatch.protocols import BoundByMemory, Controller
from asyncbatch.units import IntRange

_ROW_BYTES = 1_000


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def most_bytes_seen(controller: Controller, clock: Clock, *, seconds: float) -> int:
    """Drive it against an endpoint that answers any number at once in 0.2 s and a little a row."""
    flying: list[tuple[float, float, int]] = []
    most = 0
    while clock.now_s < seconds:
        wait_s = 1e9
        while len(flying) < controller.concurrency():
            wait_s = controller.send_delay()
            if wait_s > 0:
                break
            rows = controller.next_chunk().rows
            heapq.heappush(flying, (clock.now_s + 0.2 + 1e-5 * rows, clock.now_s, rows))
        if len(flying) > 1:
            most = max(most, sum(rows for _, _, rows in flying) * _ROW_BYTES)
        if not flying or flying[0][0] > clock.now_s + wait_s:
            clock.now_s += wait_s
            continue
        clock.now_s, started_s, rows = heapq.heappop(flying)
        controller.record(
            Sample(
                rows=rows, body_bytes=rows * _ROW_BYTES, started_s=started_s, finished_s=clock.now_s, outcome=Outcome.SUCCESS,
                kind=Kind.FIRST,
            )
        )  # fmt: skip
    return most


@pytest.mark.parametrize(("make", "allowed"), [(AdaptiveController, 4_000_000), (GuestController, 1_000_000)])
def test_chunk_times_concurrency_never_exceeds_memory(make: Callable[..., Controller], allowed: int) -> None:
    options: dict[str, Any] = {"chunk_rows": IntRange(1, 500)}  # a block is 1/16 of the memory at most
    if make is GuestController:
        options["max_chunk_s"] = 0.3
    free, bound = Clock(), Clock()
    unbounded = make(clock=free, rng=random.Random(1), **options)
    assert most_bytes_seen(unbounded, free, seconds=60) > 2 * allowed
    controller = make(clock=bound, rng=random.Random(1), **options)
    assert isinstance(controller, BoundByMemory)
    controller.note_bytes_in_flight(allowed)
    assert most_bytes_seen(controller, bound, seconds=60) <= allowed


def test_what_bodies_may_take_is_their_share_of_the_blocks_memory() -> None:
    row = RowFootprint(sent=100, kept=50, answered=200)
    assert bytes_in_flight(8_000_000, row) == 2_000_000
    assert bytes_in_flight(8_000_000, RowFootprint(sent=0, kept=0, answered=16)) == 1


def test_no_chunk_is_wanted_that_is_larger_than_a_block() -> None:
    for options in ({}, {"background": True}, {"chunk_rows": "1000:2000"}):
        controller = make_controller(
            RunConfig.from_options(options), clock=lambda: 0.0, rng=random.Random(1), block_rows=300
        )
        assert controller.next_chunk().rows <= 300
