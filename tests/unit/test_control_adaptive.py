"""The adaptive controller against small closed-loop endpoints, on a virtual clock."""

import heapq
import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from asyncbatch.control import AdaptiveController, GuestController, LearnedPoint
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.protocols import Controller
from asyncbatch.units import IntRange


class World:
    """`slots` workers, t(n) = call_s + row_s x n, and limits; `run` drives a controller."""

    def __init__(
        self, *, slots: int = 8, call_s: float = 0.05, row_s: float = 0.001, noise: float = 0.1
    ) -> None:
        self.now = 0.0
        self.slots, self.call_s, self.row_s, self.noise = slots, call_s, row_s, noise
        self.rng = random.Random(7)
        self.refuse: Callable[[int, int], Outcome | None] = lambda rows, in_flight: None
        self.outcomes: Counter[Outcome] = Counter()
        self.sizes: list[int] = []
        self.answered: list[tuple[float, int]] = []

    def clock(self) -> float:
        return self.now

    def run(self, controller: Controller, seconds: float) -> float:
        """Rows a second in the last third."""
        free = [self.now] * self.slots
        heapq.heapify(free)
        flying: list[tuple[float, int, float, int, Outcome]] = []
        begin, order = self.now, 0
        while self.now < begin + seconds:
            wait = 0.0
            while len(flying) < controller.concurrency():
                wait = controller.send_delay()
                if wait > 0:
                    break
                rows = controller.next_chunk().rows
                outcome = self.refuse(rows, len(flying) + 1)
                if outcome is None:
                    start = max(self.now, heapq.heappop(free))
                    end = start + (self.call_s + self.row_s * rows) * self.rng.lognormvariate(0, self.noise)
                    heapq.heappush(free, end)
                else:
                    end = self.now + 0.01
                order += 1
                self.sizes.append(rows)
                heapq.heappush(flying, (end, order, self.now, rows, outcome or Outcome.SUCCESS))
            if wait > 0 and (not flying or flying[0][0] > self.now + wait):
                self.now += wait
                continue
            self.now, _, started, rows, outcome = heapq.heappop(flying)
            self.outcomes[outcome] += 1
            if outcome is Outcome.SUCCESS:
                self.answered.append((self.now, rows))
            controller.record(
                Sample(
                    rows=rows, body_bytes=rows * 100, started_s=started, finished_s=self.now, outcome=outcome,
                    kind=Kind.FIRST,
                )
            )  # fmt: skip
        last = begin + seconds * 2 / 3
        return sum(rows for when, rows in self.answered if when > last) / (self.now - last)

    @property
    def best(self) -> float:
        return self.slots / self.row_s

    def made(self, **options: object) -> AdaptiveController:
        return AdaptiveController(clock=self.clock, rng=random.Random(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("call_s", [0.005, 0.5])
def test_finds_most_of_what_the_endpoint_can_do(slots: int, call_s: float) -> None:
    world = World(slots=slots, call_s=call_s)
    assert world.run(world.made(), 90) > 0.85 * world.best


def test_is_fast_within_seconds() -> None:
    world = World(slots=16)
    world.run(world.made(), 30)
    early = sum(rows for when, rows in world.answered if 5 < when < 15) / 10
    assert early > 0.8 * world.best


def test_a_row_cap_costs_a_handful_of_refusals() -> None:
    world = World()
    world.refuse = lambda rows, in_flight: Outcome.TOO_LARGE if rows > 1000 else None
    world.run(world.made(), 200)
    assert world.outcomes[Outcome.TOO_LARGE] <= 8
    assert 700 < max(world.sizes[-50:]) <= 1000


def test_a_memory_limit_is_met_few_times() -> None:
    world = World(call_s=0.1)
    world.refuse = lambda rows, in_flight: Outcome.FAILED if rows > 700 else None
    world.run(world.made(), 300)
    assert world.outcomes[Outcome.FAILED] <= 6
    assert max(world.sizes[-50:]) >= 256


def test_a_limit_of_requests_at_once_is_found_and_kept() -> None:
    world = World(slots=64)
    world.refuse = lambda rows, in_flight: Outcome.THROTTLED if in_flight > 20 else None
    controller = world.made()
    world.run(controller, 200)
    assert 15 <= controller.concurrency() <= 21
    assert world.outcomes[Outcome.THROTTLED] < 0.02 * len(world.sizes)


def _token_bucket(world: World, *, rate: float, burst: float) -> Callable[[int, int], Outcome | None]:
    """Refuses what comes faster than `rate` requests a second, after the first `burst`."""
    bucket = {"tokens": burst, "at": 0.0}

    def refuse(rows: int, in_flight: int) -> Outcome | None:
        bucket["tokens"] = min(burst, bucket["tokens"] + rate * (world.now - bucket["at"]))
        bucket["at"] = world.now
        if bucket["tokens"] < 1:
            return Outcome.THROTTLED
        bucket["tokens"] -= 1
        return None

    return refuse


def test_larger_chunks_answer_a_limit_of_the_request_rate() -> None:
    world = World(slots=8)
    world.refuse = _token_bucket(world, rate=5.0, burst=10.0)
    rate = world.run(world.made(), 200)
    assert world.outcomes[Outcome.THROTTLED] < 0.03 * len(world.sizes)
    assert rate > 0.8 * world.best


def test_a_limit_of_the_request_rate_is_none_of_requests_at_once() -> None:
    """Dear chunks: a request and a half a second keeps sixteen workers busy, if so many are kept in flight."""
    world = World(slots=16, row_s=0.04)
    world.refuse = _token_bucket(world, rate=1.6, burst=6.0)
    assert world.run(world.made(chunk_rows=IntRange(1, 256)), 80) > 0.9 * world.best


def test_one_request_at_a_time_is_refused_for_its_rate_alone() -> None:
    world = World(slots=1, call_s=0.2)
    world.refuse = _token_bucket(world, rate=2.0, burst=1.0)
    world.run(world.made(chunk_rows=IntRange(1, 64)), 200)
    assert world.outcomes[Outcome.THROTTLED] < 0.05 * len(world.sizes)


def test_a_short_queue_ends_the_growth_with_few_refusals() -> None:
    world = World(slots=8)
    world.refuse = lambda rows, in_flight: Outcome.UNAVAILABLE if in_flight > 10 else None
    rate = world.run(world.made(), 120)
    assert world.outcomes[Outcome.UNAVAILABLE] < 0.05 * len(world.sizes)
    assert rate > 0.85 * world.best


def test_random_errors_do_not_shrink_chunks_for_good() -> None:
    world = World(call_s=0.2)
    world.refuse = lambda rows, in_flight: Outcome.FAILED if world.rng.random() < 0.02 else None
    assert world.run(world.made(), 300) > 0.75 * world.best


def test_follows_an_endpoint_that_doubles() -> None:
    world = World(slots=8)
    controller = world.made()
    world.run(controller, 60)
    world.slots = 16
    assert world.run(controller, 120) > 0.8 * world.best


def test_stays_below_a_target_latency() -> None:
    world = World(slots=8, call_s=0.2)
    controller = world.made(target_latency_s=1.0)
    world.run(controller, 240)
    learned = controller.learned()
    assert learned is not None
    assert learned.latency_s < 1.2


def test_bytes_in_flight_bound_the_requests_in_flight() -> None:
    world = World(slots=32)
    controller = world.made(chunk_rows=IntRange(100, 100))
    controller.note_bytes_in_flight(50_000)  # 100 rows x 100 B: five bodies
    world.run(controller, 30)
    assert controller.concurrency() <= 5


def test_tells_what_it_did() -> None:
    world = World()
    controller = world.made()
    world.run(controller, 60)
    told = controller.explain()
    assert [each.time_s for each in told] == sorted(each.time_s for each in told)
    assert any("slow start" in each.why for each in told)
    assert len(told) <= 200


def test_probes_and_bisections_do_not_steer() -> None:
    world = World()
    controller = world.made()
    world.run(controller, 30)
    before = (controller.next_chunk(), controller.concurrency())
    for kind in (Kind.PROBE, Kind.BISECT):
        for outcome in (Outcome.THROTTLED, Outcome.TOO_LARGE, Outcome.TIMEOUT, Outcome.UNAVAILABLE):
            controller.record(
                Sample(
                    rows=1,
                    body_bytes=1,
                    started_s=world.now,
                    finished_s=world.now + 60,
                    outcome=outcome,
                    kind=kind,
                )
            )
    assert (controller.next_chunk(), controller.concurrency()) == before


def test_the_endpoint_waking_up_is_neither_failure_nor_congestion() -> None:
    world = World()
    controller = world.made()
    world.run(controller, 30)
    before = controller.concurrency()
    for _ in range(50):
        controller.record(
            Sample(
                rows=100, body_bytes=1, started_s=world.now, finished_s=world.now, outcome=Outcome.NOT_READY,
                kind=Kind.FIRST,
            )
        )  # fmt: skip
    assert controller.concurrency() == before


class TestWarmStart:
    def _learned(self, world: World) -> LearnedPoint:
        controller = world.made()
        assert controller.learned() is None
        world.run(controller, 60)
        learned = controller.learned()
        assert learned is not None
        return LearnedPoint.from_dict(learned.as_dict())

    def test_is_at_full_speed_at_once(self) -> None:
        learned = self._learned(World(slots=32))
        world = World(slots=32)
        world.run(world.made(start=learned), 20)
        assert sum(rows for when, rows in world.answered if when < 10) > 0.7 * 10 * world.best

    def test_is_distrusted_when_the_endpoint_is_another(self) -> None:
        learned = self._learned(World(slots=32))
        world = World(slots=2, row_s=0.01)
        controller = world.made(start=learned)
        world.run(controller, 120)
        assert any(each.what == "start anew" for each in controller.explain())
        assert controller.concurrency() < 20

    def test_starts_anew_when_what_was_sent_before_is_done(self) -> None:
        """Else the row ramp would take the queue for the time of its chunks."""
        learned = self._learned(World(slots=32))
        world = World(slots=2, row_s=0.01)
        controller = world.made(start=learned, request_timeout_s=700)
        world.run(controller, 600)
        anew = next(each.time_s for each in controller.explain() if each.what == "start anew")
        ramp = next(
            each for each in controller.explain() if each.why.startswith("row ramp") and each.time_s > anew
        )
        call_s, row_s = (float(each) for each in re.findall(r"([\d.]+) s", ramp.why))
        rows = int(ramp.what.split()[1])
        assert call_s + row_s * rows == pytest.approx(world.call_s + world.row_s * rows, rel=0.5)

    def test_holds_on_to_an_endpoint_that_is_still_cold(self) -> None:
        learned = self._learned(World(slots=32))
        world = World(slots=32, call_s=0.4, row_s=0.008)
        controller = world.made(start=learned)
        world.run(controller, 30)
        assert not any(each.what == "start anew" for each in controller.explain())
        assert controller.concurrency() >= 32

    def test_a_refused_burst_changes_no_setting(self) -> None:
        """A limit of the request rate admits a part of those sent at once; the rest goes when the first are answered."""
        learned = self._learned(World(slots=32))
        world = World(slots=32)
        controller = world.made(start=learned)
        rows, limit = controller.next_chunk().rows, controller.concurrency()
        world.refuse = lambda _rows, in_flight: (
            Outcome.THROTTLED if world.now < 0.05 and in_flight > 20 else None
        )
        world.run(controller, 5)
        assert world.outcomes[Outcome.THROTTLED]
        assert [each.why for each in controller.explain()][:1] == ["learned by an earlier run"]
        assert not any("throttled" in each.why for each in controller.explain())
        assert (controller.next_chunk().rows, controller.concurrency()) == (rows, limit)

    def test_keeps_within_other_bounds(self) -> None:
        learned = self._learned(World(slots=32))
        world = World()
        controller = world.made(start=learned, chunk_rows=IntRange(1, 50), concurrency=IntRange(1, 3))
        assert controller.next_chunk().rows <= 50
        assert controller.concurrency() <= 3


class TestGuest:
    def test_bounds_the_service_time_of_a_chunk(self) -> None:
        world = World(call_s=0.1, row_s=0.01, noise=0.02)
        guest = GuestController(clock=world.clock, rng=random.Random(1))
        world.run(guest, 200)
        rows = max(guest.next_chunk().rows for _ in range(50))  # between them single rows, which measure
        assert world.call_s + world.row_s * rows <= 2.3 * (world.call_s + world.row_s)
        assert rows >= 8

    def test_takes_what_is_spare_and_leaves_no_queue(self) -> None:
        world = World(slots=16, noise=0.05)
        guest = GuestController(clock=world.clock, rng=random.Random(1))
        world.run(guest, 120)
        assert 6 <= guest.concurrency() <= 20

    def test_halves_at_once_when_refused(self) -> None:
        world = World(slots=16)
        guest = GuestController(clock=world.clock, rng=random.Random(1), rest_every_s=1e6)
        world.run(guest, 60)
        before = guest.concurrency()
        guest.record(
            Sample(
                rows=1, body_bytes=1, started_s=world.now, finished_s=world.now + 0.01, outcome=Outcome.THROTTLED,
                kind=Kind.FIRST,
            )
        )  # fmt: skip
        assert guest.concurrency() < 0.7 * before  # room for single rows included
        assert guest.send_delay() > 0

    def test_refuses_a_slowdown_that_allows_nothing(self) -> None:
        with pytest.raises(ValueError, match="max_slowdown"):
            GuestController(clock=lambda: 0.0, rng=random.Random(1), max_slowdown=1.0)
