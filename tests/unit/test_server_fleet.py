"""Instances, routing, the way, crowding, memory errors and schedules of the simulated endpoint."""

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.cli.serve_options import SERVE_OPTIONS
from asyncbatch.errors import ConfigError
from asyncbatch.server.answers import ContainerError, ServiceError
from asyncbatch.server.config import Change, ServeConfig, SimulationConfig
from asyncbatch.server.fleet import Fleet
from asyncbatch.server.simulated import SimulatedEndpoint
from asyncbatch.server.simulation import Admission, Station, crowding, service_time_s
from asyncbatch.server.work import LineWork
from asyncbatch.testing.clock import run_with_virtual_clock


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def fleet(clock: Clock | None = None, **given: Any) -> Fleet:
    return Fleet(SimulationConfig(**given), clock=clock or Clock(), rng=Random(1))


def work(rows: int) -> LineWork:
    return LineWork(fields=[b"1"] * rows)


async def ask(endpoint: SimulatedEndpoint, rows: int = 1) -> tuple[str, float]:
    """Status, and seconds of the loop's clock."""
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        await endpoint.serve(work(rows), body_bytes=10 * rows)
    except (ServiceError, ContainerError) as error:
        return str(error.status), clock() - began
    return "200", clock() - began


async def ask_all(config: SimulationConfig, rows: list[int]) -> list[tuple[str, float]]:
    endpoint = SimulatedEndpoint(config, clock=asyncio.get_running_loop().time)
    return await asyncio.gather(*(ask(endpoint, each) for each in rows))


def test_a_request_goes_where_the_fewest_are() -> None:
    found = fleet(instances=3, slots=2)
    for _ in range(6):
        assert found.arrive(found.route()) is Admission.RUN
    assert [each.station.busy for each in found._instances] == [2, 2, 2]
    assert found.arrive(found.route()) is Admission.WAIT
    assert (found.statistics().slots, found.statistics().most_busy, found.statistics().most_waiting) == (
        6,
        6,
        1,
    )


def test_random_routing_lets_some_wait_while_slots_are_free() -> None:
    found = fleet(instances=8, slots=1, routing="random")
    admissions = [found.arrive(found.route()) for _ in range(8)]
    assert Admission.WAIT in admissions


def test_instances_may_differ_in_speed() -> None:
    found = fleet(instances=20, uneven=0.5, a=1.0)
    times = {round(found.service_s(each, 1), 6) for each in found._instances}
    assert len(times) == 20
    assert fleet(a=1.0).service_s(fleet(a=1.0).route(), 1) == pytest.approx(1.0)


def test_slots_beyond_the_cores_share_them() -> None:
    config = SimulationConfig(cores=2, thrash=0.1)
    assert [crowding(config, busy) for busy in (1, 2, 3, 4)] == pytest.approx([1, 1, 1.6, 2.2])
    assert crowding(SimulationConfig(), 100) == 1.0


def test_rows_are_free_until_a_saturating_endpoint_is_full() -> None:
    config = SimulationConfig(a=0.1, b=0.01, shape="saturating", knee=32)
    times = [service_time_s(config, rows=rows, age_s=1, rng=Random(1)) for rows in (1, 32, 64)]
    assert times == pytest.approx([0.42, 0.42, 0.74])


@pytest.mark.parametrize(("kind", "highest"), [("exponential", 3.0), ("spikes", 9.0)])
def test_the_other_kinds_of_noise_have_tails(kind: str, highest: float) -> None:
    config = SimulationConfig(a=1.0, noise=0.5 if kind == "exponential" else 0.1, noise_kind=kind)
    rng = Random(1)
    times = [service_time_s(config, rows=1, age_s=0, rng=rng) for _ in range(5000)]
    assert max(times) > highest
    if kind == "exponential":
        assert min(times) >= 0.5
        assert sum(times) / len(times) == pytest.approx(1.0, abs=0.03)


def test_more_slots_take_in_those_that_wait() -> None:
    station = Station(slots=1, queue=5, clock=Clock())
    for _ in range(4):
        station.arrive()
    assert station.resize(3) == 2
    assert (station.busy, station.inside) == (3, 4)
    assert station.resize(1) == 0
    assert station.leave() is False  # one slot too many is busy: it passes to nobody
    assert station.leave() is False
    assert station.leave() is True


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from(["arrive", "leave", 1, 2, 5]), max_size=200),
)
def test_resizing_never_leaves_a_slot_idle_while_one_waits(steps: list[str | int]) -> None:
    slots = 2
    station = Station(slots=slots, queue=50, clock=Clock())
    for step in steps:
        if step == "arrive":
            station.arrive()
        elif step == "leave":
            if station.busy:
                station.leave()
        else:
            slots = int(step)
            station.resize(slots)
        now = station.statistics()
        assert not now.waiting or now.busy >= slots
        assert now.waiting >= 0


def test_the_way_takes_its_time_and_so_does_a_refusal() -> None:
    async def scenario() -> None:
        slow_way = SimulationConfig(round_trip_s=0.1, bandwidth=1000, cap_rows=10)
        (status, seconds), (refused, refused_s) = await ask_all(slow_way, [5, 11])
        assert (status, refused) == ("200", "413")
        assert seconds == pytest.approx(0.1 + 50 / 1000)
        assert refused_s == pytest.approx(0.1 + 110 / 1000)

    run_with_virtual_clock(scenario)


def test_memory_kills_a_slot_until_it_has_restarted() -> None:
    async def scenario() -> None:
        config = SimulationConfig(slots=1, oom_rows=5, oom_delay_s=0.05, oom_restart_s=0.3)
        (died, after_s), (status, seconds) = await ask_all(config, [6, 1])
        assert (died, status) == ("500", "200")
        assert (after_s, seconds) == pytest.approx((0.05, 0.3))

    run_with_virtual_clock(scenario)


def test_what_is_scheduled_changes_from_the_first_request_on() -> None:
    async def scenario() -> None:
        changes = (
            Change(at_s=0.1, what="slowness", value=5),
            Change(at_s=0.1, what="instances", value=3),
            Change(at_s=0.1, what="rate", value=1),
        )
        endpoint = SimulatedEndpoint(
            SimulationConfig(a=0.02, slots=1, changes=changes), clock=asyncio.get_running_loop().time
        )
        await asyncio.sleep(0.2)
        assert (await ask(endpoint))[0] == "200"
        assert endpoint.statistics().slots == 1
        await asyncio.sleep(0.12)
        status, seconds = await ask(endpoint)
        assert status == "200"
        assert seconds == pytest.approx(5 * 0.02)
        assert endpoint.statistics().slots == 3
        assert (await ask(endpoint))[0] == "400"

    run_with_virtual_clock(scenario)


def test_more_slots_wake_those_that_wait_and_a_removed_instance_refuses_them() -> None:
    async def scenario() -> None:
        grows = SimulatedEndpoint(
            SimulationConfig(a=0.3, slots=1, changes=(Change(at_s=0.05, what="slots", value=4),)),
            clock=asyncio.get_running_loop().time,
        )
        asked = [asyncio.create_task(ask(grows)) for _ in range(3)]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(ask(grows)))
        ended = [await each for each in asked]
        assert [status for status, _ in ended] == ["200"] * 4
        assert grows.statistics().most_busy == 4

        shrinks = SimulatedEndpoint(
            SimulationConfig(
                a=0.6, slots=1, instances=2, changes=(Change(at_s=0.05, what="instances", value=1),)
            ),
            clock=asyncio.get_running_loop().time,
        )
        asked = [asyncio.create_task(ask(shrinks)) for _ in range(4)]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(ask(shrinks)))
        statuses = sorted([(await each)[0] for each in asked])
        assert statuses == ["200", "200", "200", "200", "503"]
        assert shrinks.statistics().busy == 0

    run_with_virtual_clock(scenario)


@pytest.mark.parametrize(
    "bad",
    [
        {"instances": 0},
        {"routing": "sticky"},
        {"noise_kind": "pink"},
        {"bandwidth": -1},
        {"round_trip_s": -0.1},
    ],
)
def test_impossible_values_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SimulationConfig(**bad)
    with pytest.raises(ConfigError, match="cannot change"):
        Change(at_s=1, what="colour", value=1)
    with pytest.raises(ConfigError, match="cannot become"):
        Change(at_s=1, what="slots", value=0)


def test_the_configuration_survives_its_way_to_another_process() -> None:
    config = ServeConfig(
        model="simulated",
        simulation=SimulationConfig(instances=2, changes=(Change(at_s=1.0, what="slots", value=2),)),
    )
    assert ServeConfig.from_json(config.to_json()) == config


def test_changes_can_be_typed() -> None:
    parse = SERVE_OPTIONS["changes"].parse
    assert parse("30s:slots=2,1m:instances=4") == (
        Change(at_s=30, what="slots", value=2),
        Change(at_s=60, what="instances", value=4),
    )
    for bad in ("slots=2", "30s:slots", "30s:colour=2", "30s:slots=0"):
        with pytest.raises(ValueError, match=r"expected|cannot"):
            parse(bad)
