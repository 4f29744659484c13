"""The simulated endpoint's decisions, with a clock and randomness of our own."""

import asyncio
import math
import statistics
import time
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.errors import ConfigError
from asyncbatch.server.answers import Ending
from asyncbatch.server.config import SimulationConfig
from asyncbatch.server.simulated import SimulatedEndpoint
from asyncbatch.server.simulation import (
    Admission,
    Station,
    TokenBucket,
    draw_error,
    poison_mask,
    service_time_s,
)
from asyncbatch.server.work import LineWork


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def seconds(rows: int, *, age_s: float = 1000.0, **given: object) -> float:
    config = SimulationConfig(**given)  # type: ignore[arg-type]
    return service_time_s(config, rows=rows, age_s=age_s, rng=Random(1))


def test_service_time_is_affine_in_the_rows() -> None:
    assert seconds(100, a=0.5, b=0.01) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("shape", "rows", "charged"),
    [
        ("step", 1, 32),
        ("step", 32, 32),
        ("step", 33, 64),
        ("pow2", 1, 32),
        ("pow2", 33, 64),
        ("pow2", 65, 128),
    ],
)
def test_rows_are_charged_by_the_shape(shape: str, rows: int, charged: int) -> None:
    assert seconds(rows, b=1.0, shape=shape, m=32) == pytest.approx(charged)


def test_a_knee_adds_a_quadratic_term_beyond_it() -> None:
    assert seconds(50, b=1.0, shape="knee", knee=50, knee_c=0.1) == pytest.approx(50)
    assert seconds(60, b=1.0, shape="knee", knee=50, knee_c=0.1) == pytest.approx(70)


def test_a_cold_start_slows_only_its_time() -> None:
    assert seconds(1, a=1.0, cold_s=10, cold_x=3, age_s=9.9) == pytest.approx(3)
    assert seconds(1, a=1.0, cold_s=10, cold_x=3, age_s=10) == pytest.approx(1)


def test_noise_keeps_the_mean_and_is_seeded() -> None:
    config = SimulationConfig(a=1.0, noise=0.4)
    times = [service_time_s(config, rows=1, age_s=0, rng=rng) for rng in [Random(3)] for _ in range(20_000)]
    again = [service_time_s(config, rows=1, age_s=0, rng=rng) for rng in [Random(3)] for _ in range(20_000)]
    assert times == again
    assert statistics.mean(times) == pytest.approx(1.0, rel=0.02)
    assert statistics.stdev([math.log(each) for each in times]) == pytest.approx(0.4, rel=0.03)


def test_errors_are_drawn_by_their_shares() -> None:
    config = SimulationConfig(errors={"500": 0.2, "reset": 0.1})
    rng = Random(5)
    drawn = [draw_error(config, rng) for _ in range(20_000)]
    assert drawn.count("500") / len(drawn) == pytest.approx(0.2, abs=0.01)
    assert drawn.count("reset") / len(drawn) == pytest.approx(0.1, abs=0.01)
    assert set(drawn) == {"500", "reset", None}
    assert draw_error(SimulationConfig(), rng) is None


def test_a_bucket_lets_its_burst_through_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(rate=2.0, burst=5.0, clock=clock)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    clock.now_s += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now_s += 1000
    assert sum(bucket.take() for _ in range(20)) == 5


def test_a_bucket_slower_than_one_a_second_still_lets_one_through() -> None:
    assert TokenBucket(rate=0.1, burst=0.0, clock=Clock()).take()


def test_slots_fill_before_the_queue_and_the_queue_before_refusal() -> None:
    station = Station(slots=2, queue=1, clock=Clock())
    assert [station.arrive() for _ in range(4)] == [
        Admission.RUN,
        Admission.RUN,
        Admission.WAIT,
        Admission.FULL,
    ]
    assert station.inside == 3
    assert station.leave() is True
    assert station.leave() is False
    assert station.inside == 1


def test_busy_share_is_slot_time_over_all_slots() -> None:
    clock = Clock()
    station = Station(slots=2, queue=0, clock=clock)
    station.arrive()
    clock.now_s += 3
    station.arrive()
    clock.now_s += 1
    station.leave()
    station.leave()
    clock.now_s += 1
    found = station.statistics()
    assert found.busy_share == pytest.approx((4 + 1) / (5 * 2))
    assert (found.busy, found.most_busy, found.most_waiting) == (0, 2, 0)


def test_a_cancelled_request_gives_its_place_or_its_slot_back() -> None:
    async def scenario() -> None:
        endpoint = SimulatedEndpoint(SimulationConfig(a=0.02, slots=1), clock=time.monotonic)
        work = LineWork(fields=[b"1"])
        tasks = [asyncio.create_task(endpoint.serve(work, body_bytes=1)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in tasks[:3]:  # the one that is served, and two that wait
            task.cancel()
        await asyncio.wait(tasks, timeout=2)
        assert [task.cancelled() for task in tasks] == [True, True, True, False]
        assert tasks[3].result() == (Ending.COMPLETE, None)
        assert (endpoint.statistics().busy, endpoint.statistics().waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_waiting_request_that_is_cancelled_frees_its_place_at_once() -> None:
    async def scenario() -> None:
        endpoint = SimulatedEndpoint(SimulationConfig(a=30, slots=1, queue=1), clock=time.monotonic)
        work = LineWork(fields=[b"1"])
        tasks = [asyncio.create_task(endpoint.serve(work, body_bytes=1)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks[1:], timeout=2)
        assert (endpoint.statistics().busy, endpoint.statistics().waiting) == (1, 0)
        tasks[0].cancel()
        await asyncio.wait(tasks, timeout=2)
        assert endpoint.statistics().busy == 0

    asyncio.run(scenario())


def test_a_request_cancelled_just_as_its_turn_comes_passes_the_slot_on() -> None:
    async def scenario() -> None:
        endpoint = SimulatedEndpoint(SimulationConfig(slots=1), clock=time.monotonic)
        work = LineWork(fields=[b"1"])
        instance = endpoint._fleet.route()
        assert instance.station.arrive() is Admission.RUN
        waiting = [asyncio.create_task(endpoint.serve(work, body_bytes=1)) for _ in range(2)]
        await asyncio.sleep(0)
        endpoint._leave(instance)
        waiting[0].cancel()
        await asyncio.wait(waiting, timeout=2)
        assert waiting[1].result() == (Ending.COMPLETE, None)
        assert endpoint.statistics().busy == 0

    asyncio.run(scenario())


@given(
    steps=st.lists(st.sampled_from(["arrive", "leave", "abandon"]), max_size=200),
    slots=st.integers(1, 4),
    queue=st.integers(0, 4),
)
def test_a_slot_is_never_idle_while_a_request_waits(steps: list[str], slots: int, queue: int) -> None:
    station = Station(slots=slots, queue=queue, clock=Clock())
    for step in steps:
        now = station.statistics()
        if step == "arrive":
            station.arrive()
        elif step == "leave" and now.busy:
            station.leave()
        elif step == "abandon" and now.waiting:
            station.abandon()
        now = station.statistics()
        assert 0 <= now.busy <= slots
        assert 0 <= now.waiting <= queue
        assert not now.waiting or now.busy == slots


def test_poison_hits_its_share_and_depends_on_the_seed() -> None:
    values = np.arange(100_000, dtype=np.float64)
    mask = poison_mask(values, share=0.01, seed=1)
    assert mask.mean() == pytest.approx(0.01, rel=0.15)
    assert not np.array_equal(mask, poison_mask(values, share=0.01, seed=2))
    assert not poison_mask(values, share=0.0, seed=1).any()
    assert poison_mask(values, share=1.0, seed=1).all()


@given(values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=20), seed=st.integers(0, 2**31))
def test_poison_is_the_same_however_a_number_is_written(values: list[float], seed: int) -> None:
    as_array = poison_mask(np.array(values), share=0.5, seed=seed)
    as_text = poison_mask([repr(each).encode() for each in values], share=0.5, seed=seed)
    one_by_one = [bool(poison_mask(np.array([each]), share=0.5, seed=seed)[0]) for each in values]
    assert as_array.tolist() == as_text.tolist() == one_by_one


def test_poison_takes_text_and_null() -> None:
    texts = [f"N{number}" for number in range(1000)]
    mask = poison_mask(np.array(texts, dtype=object), share=0.5, seed=0)
    assert 350 < mask.sum() < 650
    assert mask.tolist() == poison_mask([each.encode() for each in texts], share=0.5, seed=0).tolist()
    assert (
        poison_mask([None], share=0.5, seed=0).tolist()
        == poison_mask(np.array([np.nan]), share=0.5, seed=0).tolist()
    )


@pytest.mark.parametrize(
    "given_",
    [
        {"a": -1},
        {"slots": 0},
        {"errors": {"418": 0.1}},
        {"errors": {"500": 0.9, "503": 0.2}},
        {"poison_share": 2},
        {"throttle": 418},
        {"shape": "round"},
        {"noise": float("nan")},
    ],
)
def test_nonsense_is_refused(given_: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        SimulationConfig(**given_)  # type: ignore[arg-type]
    assert caught.value.hint
