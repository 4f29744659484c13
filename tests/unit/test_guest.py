"""The guest's rules, on a virtual clock: what it measures, what it takes, when it yields."""

import heapq
import itertools
import random
import statistics
from typing import Any

import pytest

from asyncbatch.control import GuestController
from asyncbatch.control.guest import _Phase
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.units import IntRange


class Shared:
    """`slots` workers, first come first served; live users (Poisson, one row) and one guest."""

    def __init__(
        self, *, slots: int = 8, load: float = 0.3, call_s: float = 0.05, row_s: float = 0.001
    ) -> None:
        self.now = 0.0
        self.load, self.call_s, self.row_s = load, call_s, row_s
        self.free = [0.0] * slots
        self.rng = random.Random(3)
        self.live_s: list[float] = []
        self.sent: list[tuple[float, int]] = []
        self.flying: list[tuple[float, float, int]] = []
        self.guest_s = 0.0
        self.most_in_flight = 0

    def clock(self) -> float:
        return self.now

    def serve(self, rows: int) -> float:
        """When a request that comes now ends."""
        begin = max(self.now, heapq.heappop(self.free))
        took_s = (self.call_s + self.row_s * rows) * self.rng.lognormvariate(0, 0.1)
        heapq.heappush(self.free, begin + took_s)
        return begin + took_s

    def run(self, guest: GuestController | None, seconds: float) -> None:
        end = self.now + seconds
        gap_s = self.call_s / (self.load * len(self.free)) if self.load else 1e9
        live_at = self.now + self.rng.expovariate(1 / gap_s)
        flying = self.flying
        while self.now < end:
            wait_s = 1e9
            while guest is not None and len(flying) < guest.concurrency():
                wait_s = guest.send_delay()
                if wait_s > 0:
                    break
                rows = guest.next_chunk().rows
                ends = self.serve(rows)
                self.guest_s += self.call_s + self.row_s * rows
                heapq.heappush(flying, (ends, self.now, rows))
                self.sent.append((self.now, rows))
                self.most_in_flight = max(self.most_in_flight, len(flying))
            due = min(live_at, self.now + wait_s, flying[0][0] if flying else 1e9)
            self.now = max(self.now, due)
            if due == live_at:
                self.live_s.append(self.serve(1) - self.now)
                live_at = self.now + self.rng.expovariate(1 / gap_s)
            elif flying and due == flying[0][0]:
                _, started, rows = heapq.heappop(flying)
                assert guest is not None
                guest.record(
                    Sample(
                        rows=rows, body_bytes=100 * rows, started_s=started, finished_s=self.now, outcome=Outcome.SUCCESS,
                        kind=Kind.FIRST,
                    )
                )  # fmt: skip

    def made(self, **options: Any) -> GuestController:
        return GuestController(clock=self.clock, rng=random.Random(1), **options)


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


@pytest.fixture(scope="module")
def worked() -> tuple[Shared, GuestController]:
    """A guest after ten minutes at 30 % load."""
    world = Shared(slots=16)
    guest = world.made()
    world.run(guest, 600)
    return world, guest


def test_live_users_hardly_notice_and_much_of_the_rest_is_taken(
    worked: tuple[Shared, GuestController],
) -> None:
    world, _ = worked
    alone = Shared(slots=16)
    alone.run(None, 600)
    assert p99(world.live_s) < 1.25 * p99(alone.live_s)
    assert world.guest_s > 0.4 * 0.7 * 16 * 600


def test_it_is_a_live_user_itself_now_and_then(worked: tuple[Shared, GuestController]) -> None:
    world, guest = worked
    singles = [at for at, rows in world.sent if rows == 1 and at > 60]
    assert 0.02 < len(singles) / len(world.sent) < 0.5
    gaps = [b - a for a, b in itertools.pairwise(singles)]
    # random times: gaps of a Poisson process spread as much as their mean
    assert 0.7 < statistics.stdev(gaps) / statistics.fmean(gaps) < 2.0
    assert guest.next_chunk().rows > 1 or guest._single_granted


def test_the_service_time_of_a_chunk_is_bounded(worked: tuple[Shared, GuestController]) -> None:
    world, _ = worked
    most = max(rows for _, rows in world.sent[-2000:])
    assert world.call_s + world.row_s * most <= 2.0 * (world.call_s + world.row_s)
    assert most >= 16


def test_max_chunk_time_is_hard() -> None:
    world = Shared(load=0.0)
    guest = world.made(max_chunk_s=0.06)
    world.run(guest, 60)
    assert 2 <= max(rows for at, rows in world.sent if at > 30) <= 10
    heavier = Shared(load=0.0)
    guest = heavier.made(max_chunk_s=0.2)
    heavier.run(guest, 60)
    before = guest._rows
    heavier.row_s *= 3  # rows have become heavier: chunks shrink
    heavier.run(guest, 150)
    assert guest._rows < before
    assert heavier.call_s + heavier.row_s * guest._rows < 1.1 * 0.2


def test_more_live_users_make_it_yield() -> None:
    world = Shared(slots=16, load=0.2)
    guest = world.made()
    world.run(guest, 200)
    before = guest._level
    world.load = 0.8
    world.run(guest, 200)
    assert guest._level < 0.6 * before
    world.load = 0.2
    world.run(guest, 300)
    assert guest._level > 0.7 * before


def test_a_stricter_slowdown_takes_less() -> None:
    shares = []
    for slowdown in (1.05, 1.6):
        world = Shared(load=0.5)
        world.run(world.made(max_slowdown=slowdown), 400)
        shares.append(world.guest_s)
    assert shares[0] < shares[1]


@pytest.mark.parametrize(
    "outcome", [Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.TIMEOUT], ids=lambda each: each.value
)
def test_any_throttle_halves_it_at_once_and_it_comes_back_slowly(outcome: Outcome) -> None:
    world = Shared(slots=16, load=0.0)
    guest = world.made(rest_every_s=1e6)
    world.run(guest, 60)
    before = guest._level
    guest.record(
        Sample(
            rows=1, body_bytes=1, started_s=world.now, finished_s=world.now, outcome=outcome, kind=Kind.FIRST
        )
    )
    assert guest._level == pytest.approx(before / 2)
    assert guest.send_delay() > 0
    world.run(guest, 9)
    assert guest._level <= before / 2
    world.run(guest, 60)
    assert guest._level > 0.8 * before


def test_bounds_are_hard() -> None:
    world = Shared(slots=64, load=0.0)
    world.run(world.made(concurrency=IntRange(1, 3), chunk_rows=IntRange(4, 8)), 60)
    assert world.most_in_flight <= 3
    assert {4, 8} <= {rows for _, rows in world.sent} <= set(range(4, 9))
    few = Shared(slots=2, load=0.9)
    guest = few.made(concurrency=IntRange(2, 4))
    few.run(guest, 120)
    assert guest.concurrency() >= 2
    assert guest._level >= 2


def test_bytes_in_flight_are_bounded_by_memory() -> None:
    world = Shared(slots=64, load=0.0)
    guest = world.made()
    guest.note_bytes_in_flight(10_000)
    world.run(guest, 120)
    assert guest.concurrency() * guest._rows * 100 <= 10_000


def test_it_rests_to_measure_and_says_so() -> None:
    world = Shared(load=0.3)
    guest = world.made(rest_every_s=5.0)
    world.run(guest, 150)
    rests = [each for each in guest.explain() if each.why.startswith("latency of one row alone")]
    assert 3 <= len(rests) <= 15
    assert guest._phase in (_Phase.REST, _Phase.WORK)
    assert any("waited longer than 97.5 % do alone" in each.why for each in guest.explain())


def test_a_slow_endpoint_gets_more_than_single_rows_within_half_a_minute() -> None:
    world = Shared(slots=8, load=0.3, call_s=0.3, row_s=0.02)
    guest = world.made()
    world.run(guest, 60)
    chunks = [at for at, rows in world.sent if rows > 1]
    assert chunks[0] < 10
    assert any(at > 40 for at in chunks)
    assert guest._phase is _Phase.WORK


def test_at_rest_where_little_is_allowed_single_rows_leave_the_endpoint_alone_most_of_the_time() -> None:
    """One row at a time without a pause raised its own latencies where a third of a row in flight was allowed."""
    pauses = {}
    for level in (0.2, 4.0):
        world = Shared(load=0.0)
        guest = world.made(rest_every_s=1e6)
        world.run(guest, 30)
        guest._level = level
        guest._rest(world.now)
        guest._phase_until_s = 1e9
        world.run(guest, 30)
        times = [at for at, _ in world.sent if at > world.now - 25]
        pauses[level] = 25 / len(times) - world.call_s
    assert pauses[0.2] > 5 * world.call_s
    assert pauses[4.0] < world.call_s


def test_nothing_counts_at_rest_until_the_queue_of_the_work_is_gone() -> None:
    world = Shared(load=0.0)
    guest = world.made()
    world.run(guest, 30)
    known, ended_s = len(guest._base), world.now
    guest._rest(ended_s)
    world.run(guest, 5 * world.call_s)
    assert [at for at, _ in world.sent if at > ended_s] == []
    assert len(guest._base) == known
    world.run(guest, 1)
    assert len(guest._base) > known


def test_single_rows_are_sent_while_others_wait() -> None:
    """Held back until a queue is gone they would say that there was none."""
    world = Shared(slots=2, load=0.0)
    guest = world.made(rest_every_s=1e6)
    world.run(guest, 60)
    world.free = [world.now + 3.0] * 2  # nothing is answered for three seconds
    began_s = world.now
    world.run(guest, 2.9)
    waiting = [rows for at, rows in world.sent if at > began_s]
    assert waiting.count(1) >= 3


def test_a_chunk_of_twice_the_rows_that_takes_nearly_twice_as_long_is_not_worth_it() -> None:
    padded = Shared(load=0.0, call_s=0.02, row_s=0.003)
    guest = padded.made(max_chunk_s=10.0)
    padded.run(guest, 60)
    # 8 to 16 rows: 1.55 times as long
    assert 4 <= guest._rows <= 8
