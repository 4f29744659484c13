"""Rules of start-up: what requests that wait for each other, limits of the request rate, and larger chunks teach."""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from asyncbatch.control import AdaptiveController
from asyncbatch.control.epoch import Measure
from asyncbatch.control.explore import Explorer, Move, Surroundings, Trial
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.rate_climb import RateClimb
from asyncbatch.control.row_ramp import RowRamp
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import SizeCaps
from asyncbatch.control.startup import Phase, Startup
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.units import IntRange

HOUR = 3600.0


def made_point(*, rows: float = 100.0, limit: float = 8.0, remaining: int = 10**9) -> OperatingPoint:
    point = OperatingPoint(
        rows_range=IntRange(1, 65_536), flight_range=IntRange(1, 512), max_bytes=10**8, timeout_s=60.0,
        target_latency_s=None, now_s=0.0,
    )  # fmt: skip
    point.rows, point.limit, point.remaining = rows, limit, remaining
    return point


def sample(rows: int, started_s: float, finished_s: float) -> Sample:
    return Sample(
        rows=rows, body_bytes=rows, started_s=started_s, finished_s=finished_s, outcome=Outcome.SUCCESS, kind=Kind.FIRST
    )  # fmt: skip


class TestSerial:
    def ramp(self) -> RowRamp:
        return RowRamp(fit=ServiceFit(), start_rows=16, enough_s=0.4, slow_s=2.0)

    def run(self, ramp: RowRamp, answers: list[tuple[int, float, int]]) -> None:
        for rows, seconds, in_flight in answers:
            ramp.answered_first(rows, seconds, max_rows=65_536, in_flight=in_flight)

    def test_what_requests_wait_for_each_other_is_no_service_time(self) -> None:
        """One worker, 2 s a call: those after the first request of the ramp take 3.7, 5.4 and 7.1 s, of whatever size."""
        ramp = self.ramp()
        self.run(ramp, [(16, 2.0, 1), (4, 3.7, 2), (32, 5.4, 3), (16, 7.1, 4)])
        assert ramp.serial
        assert ramp._fit.sizes == 1
        assert ramp._fit.seconds(16) == 2.0
        assert ramp.delay(HOUR) > 0  # while anything is in flight

    def test_alone_it_goes_on_with_the_size_that_waited(self) -> None:
        ramp = self.ramp()
        ramp.next_rows(0.0)
        self.run(ramp, [(16, 2.0, 1)])
        tried = ramp.next_rows(2.0)
        self.run(ramp, [(4, 3.7, 2), (16, 5.4, 3), (tried, 9.0, 3)])
        assert ramp.next_rows(12.0) == tried
        self.run(ramp, [(tried, 2.0 + 0.001 * tried, 1)])
        assert ramp.rows > tried
        assert ramp._fit.overhead(tried) > 0.8

    def test_one_slow_answer_is_no_queue(self) -> None:
        ramp = self.ramp()
        self.run(ramp, [(16, 1.0, 1), (4, 1.7, 2), (16, 1.0, 3), (16, 1.1, 3)])
        assert not ramp.serial

    def test_a_full_queue_in_the_row_ramp_leaves_one_request_at_a_time(self) -> None:
        point = made_point()
        startup = Startup(point, start_rows=16, now_s=0.0)
        startup.stop_growing(1.0)
        assert startup.phase is Phase.ROWS
        point.flight.send(1.0)
        assert startup.delay(HOUR) > 0


def test_a_row_ramp_waits_for_what_was_sent_before_but_not_for_ever() -> None:
    """A request that has not ended when all must have timed out is none any more."""
    point = made_point()
    point.flight.send(1.0)
    startup = Startup(point, start_rows=16, now_s=2.0)
    assert startup.delay(3.0) > 0
    assert startup.delay(2.0 + point.timeout_s) == 0
    point.flight.finish(1.0, 4.0)
    assert startup.delay(4.0) == 0


class TestLargerChunks:
    def startup(self, *, rows: int = 64) -> tuple[OperatingPoint, Startup]:
        """In a row climb from 64 rows, 0.5 s + 0.001 s a row."""
        point = made_point()
        startup = Startup(point, start_rows=16, now_s=0.0)
        for size in (16, 64):
            point.fit.add(size, 0.5 + 0.001 * size, weight=4)
        startup.begin_flight(0.0)
        point.rows, point.latency_s, point.limit = float(rows), 0.564, 8.0
        assert startup.climb_on(10.0)
        return point, startup

    def test_answers_of_a_size_that_was_given_up_are_no_trials(self) -> None:
        for started_s, taken in ((9.0, False), (11.0, True)):
            point, startup = self.startup()
            startup.answered(sample(512, started_s, 12.0), 1.0, 2, since_s=-math.inf, paced_rate=math.inf)
            assert (point.rows > 64) is taken

    def test_a_size_is_taken_up_only_as_far_as_the_fit_sees_it_in_time(self) -> None:
        """It was chosen when rows seemed cheap, and answered just in time: the next might not be."""
        point, startup = self.startup()
        for size in (256, 8192):
            point.fit.add(size, 5.0 + 0.004 * size, weight=20)
        startup._ramp.best_rows = 8192
        startup._adopt()
        assert 64 < point.rows < 8192
        assert point.fit.seconds(point.rows) <= point.longest_s

    def test_fewer_are_kept_in_flight_where_they_would_queue_until_they_time_out(self) -> None:
        """Latencies are still those of an idle endpoint, but of 16 in flight one is worked on: 16 chunks of 8 s take 2 min."""
        for slots, in_flight in ((1.0, 7), (16.0, 16)):
            point, startup = self.startup()
            point.fit.add(8192, 8.7, weight=4)
            point.slots, point.limit = slots, 16.0
            startup._ramp.best_rows = 8192
            startup._adopt()
            assert point.rows == 8192
            assert point.limit <= in_flight
            assert point.limit * point.fit.seconds(8192) / slots < point.timeout_s

    def test_a_first_chunk_that_did_much_less_work_is_the_last(self) -> None:
        for seconds, back in ((4.5, False), (30.0, True)):
            point = made_point(rows=4096)
            point.latency_s = 1.1
            for size in (16, 1024):
                point.fit.add(size, 0.1 + 0.001 * size, weight=4)
            assert point.return_from_dearer(4096, seconds, proven=1024) is back
            assert (point.rows, point.rows_ceiling < 4096) == ((1024, True) if back else (4096, False))

    def test_a_climb_ends_at_its_goal_whatever_was_fast_before(self) -> None:
        fit = ServiceFit()
        ramp = RowRamp(fit=fit, start_rows=64, enough_s=0.4, slow_s=2.0)
        fit.add(64, 0.1, weight=4)
        fit.add(2048, 1.0, weight=4)  # such as before the endpoint became slower
        ramp.best_rows = 64
        ramp.extend(256, max_rows=65_536)
        for _ in range(40):
            if (wanted := ramp.take(0.0, patience_s=0.0)) is None:
                break
            ramp.answered(wanted, 0.4, max_rows=65_536)
        assert ramp.done
        assert ramp.best_rows <= 256

    def test_what_is_left_below_a_cap_is_climbed(self) -> None:
        point, startup = self.startup()
        point.rows = 1024.0
        point.caps.answered(1024, 1024)
        point.caps.refused(1900, 1900, Outcome.TOO_LARGE, now_s=0.0)
        assert point.top_rows < 1.9 * point.rows
        assert startup.climb_on(20.0)


class TestFit:
    def fit(self) -> ServiceFit:
        """Slow first chunks, for another reason than their rows, such as a cold start: a row seems dear, a call cheap."""
        fit = ServiceFit()
        for rows, seconds in ((16, 5.3), (32, 10.0), (64, 19.0)):
            for _ in range(20):
                fit.add(rows, seconds)
        fit.focus(64)
        return fit

    def test_a_comparison_at_one_load_outweighs_many_single_chunks(self) -> None:
        """Half the rows took as long: it is the call that is dear."""
        fit, other = self.fit(), self.fit()
        fit.compared(64, 32, 0.97, weight=8.0)
        other.add(32, 0.97 * 19.0, weight=8.0)
        assert other.overhead(64) < 0.1 < fit.overhead(64)

    def test_an_uncertain_one_weighs_less(self) -> None:
        found = []
        for weight in (0.1, 1.0, 8.0):
            fit = self.fit()
            fit.compared(64, 32, 0.97, weight=weight)
            found.append(fit.overhead(64))
        assert found[0] < found[1] < found[2]


class TestRateClimb:
    def climb(
        self, seconds: Callable[[float], float], *, rate: float = 4.0, answers: int = 40
    ) -> tuple[OperatingPoint, bool]:
        """Answers to requests paced at `rate`; `seconds` that one of so many rows takes. The point, and whether it ended."""
        point, now = made_point(rows=64, limit=2), 0.0
        for size in (16, 64):
            point.fit.add(size, 0.1 + 0.01 * size, weight=4)
        climb = RateClimb(point)
        for _ in range(answers):
            now += 1 / rate
            rows = int(point.rows)
            took = seconds(rows)
            if climb.answered(
                rows,
                took,
                min(int(point.limit), 1 + int(rate * took)),
                started_s=now,
                now=now + took,
                rate=rate,
            ):
                return point, True
            now += took
        return point, False

    def test_rows_grow_while_none_waits_and_with_them_the_requests_in_flight(self) -> None:
        point, over = self.climb(lambda rows: 0.1 + 0.01 * rows, answers=200)
        assert over
        assert point.rows >= 1024
        assert point.fit.seconds(point.rows) < point.longest_s
        assert point.limit > 4.0 * point.fit.seconds(point.rows)

    def test_it_ends_where_requests_wait(self) -> None:
        point, over = self.climb(lambda rows: (0.1 + 0.01 * rows) * (3 if rows > 256 else 1))
        assert over
        assert point.rows < 1024

    def test_in_flight_at_most_twice_as_many_as_were_answered_without_a_wait(self) -> None:
        point = made_point(rows=1000, limit=8)
        for size in (100, 1000):
            point.fit.add(size, 0.01 * size, weight=4)
        RateClimb(point).answered(1000, 10.0, 8, started_s=0.0, now=10.0, rate=50.0)
        assert point.limit == 18

    def test_not_beyond_a_number_that_was_refused(self) -> None:
        point = made_point(rows=1000, limit=8)
        point.flight_cap = 10.0
        for size in (100, 1000):
            point.fit.add(size, 0.01 * size, weight=4)
        RateClimb(point).answered(1000, 10.0, 8, started_s=0.0, now=10.0, rate=50.0)
        assert point.limit == 10


class TestExplorer:
    def around(self, **changes: Any) -> Surroundings:
        found = Surroundings(
            rows=1024.0, in_flight=8.0, goal_rows=1024.0, gain=lambda rows: 0.1 if rows > 1024 else 0.0, max_rows=65_536.0,
            max_in_flight=512.0, latency_s=1.0, queue_factor=1.2, overhead=0.1, longest_s=20.0, paced=False, wished=False,
            rounds_left=100.0,
        )  # fmt: skip
        return dataclasses.replace(found, **changes)

    def trials(self, rate: float) -> int:
        """How often larger chunks are tried in 60 epochs, where each brings `rate` in place of 100, and others gain."""

        def measured(found: float) -> Measure:
            return Measure(rate=found, error=0.02, spread=0.1, latency_s=1.0, rows=100)

        explorer, tried = Explorer(), 0
        explorer.changed(measured(100))
        for _ in range(60):
            trial = explorer.propose(self.around())
            if trial is None:
                continue
            larger = trial.move is Move.ROWS_UP
            tried += larger
            explorer.soon(Move.ROWS_UP)  # such as after a trial of something else was kept
            explorer.judge(measured(rate if larger else 97), headroom=False)
        return tried

    def test_a_setting_that_was_clearly_slower_waits_for_long(self) -> None:
        assert self.trials(50) <= 3 < 10 < self.trials(95)

    def test_sizes_are_remembered_whatever_is_in_flight(self) -> None:
        sizes = [Trial(move=Move.ROWS_DOWN, rows=128, in_flight=each, precision=0.1) for each in (27, 42)]
        limits = [Trial(move=Move.FLIGHT_UP, rows=128, in_flight=each, precision=0.1) for each in (27, 42)]
        assert sizes[0].setting == sizes[1].setting
        assert limits[0].setting != limits[1].setting

    @pytest.mark.parametrize(("gain", "tried"), [(-0.1, True), (-0.4, False)])
    def test_fewer_rows_are_not_tried_where_calls_are_dear(self, gain: float, tried: bool) -> None:
        explorer = Explorer()
        explorer.changed(Measure(rate=100, error=0.02, spread=0.1, latency_s=1.0, rows=100))
        moves = set()
        for _ in range(20):
            trial = explorer.propose(self.around(gain=lambda rows: gain if rows < 1024 else 0.0))
            if trial is not None:
                moves.add(trial.move)
                explorer.rejected(trial.move)
        assert (Move.ROWS_DOWN in moves) is tried

    def test_a_gain_lost_in_noise_is_asked_for_again_with_a_larger_step(self) -> None:
        """Six in flight, few answers: each trial of seven gains 20 % give or take 30 %, and would be refused for ever."""
        for gain, larger in ((1.2, True), (1.02, False)):
            explorer = Explorer()
            explorer.changed(Measure(rate=100, error=0.2, spread=0.5, latency_s=1.0, rows=100))
            around = self.around(in_flight=6.0, queue_factor=4.0)
            steps = []
            for _ in range(12):
                trial = explorer.propose(around)
                if trial is not None and trial.move is Move.FLIGHT_UP:
                    steps.append(trial.in_flight)
                    found = Measure(rate=100 * gain, error=0.2, spread=0.5, latency_s=1.0, rows=100)
                    assert not explorer.judge(found, headroom=False, queueing=True)
                elif trial is not None:
                    explorer.rejected(trial.move)
            assert steps[0] == 7.5
            assert (max(steps) > 9) is larger

    def test_long_requests_are_no_reason_against_more_of_them_where_none_waits(self) -> None:
        for changes, tried in (
            ({"queue_factor": 1.0}, True), ({"queue_factor": 2.0}, False), ({"queue_factor": 1.0, "wished": True}, False),
        ):  # fmt: skip
            moves, explorer = set(), Explorer()
            explorer.changed(Measure(rate=100, error=0.02, spread=0.1, latency_s=18.0, rows=100))
            for _ in range(20):
                if (trial := explorer.propose(self.around(latency_s=18.0, **changes))) is not None:
                    moves.add(trial.move)
                    explorer.rejected(trial.move)
            assert (Move.FLIGHT_UP in moves) is tried

    def test_errors_grow_where_measurements_of_one_setting_differ(self) -> None:
        rng, found = random.Random(2), []
        for spread in (0.02, 0.3):
            explorer = Explorer()
            for _ in range(60):
                rate = 100 * math.exp(rng.gauss(0, spread))
                measure = Measure(rate=rate, error=0.03, spread=0.1, latency_s=1.0, rows=100)
                explorer.changed(explorer.calibrated(measure))
            found.append(explorer.calibrated(measure).error)
        assert found[0] == pytest.approx(0.03, rel=0.2)
        assert found[1] > 0.06


class TestSizeCaps:
    def test_sizes_that_fail_again_and_again_are_doubted_ever_later(self) -> None:
        """Rows of heavy tails: a size that often fails may succeed now and then, which says nothing of the next."""
        caps, now, waits = SizeCaps(max_rows=65_536, max_bytes=10**8), 0.0, []
        caps.answered(200, 200)
        for _ in range(4):
            caps.shrink(200, now)
            begun = now
            while not caps.doubt(now):
                now += 1.0
                assert now < 10_000
            waits.append(now - begun)
            caps.answered(200, 200)  # it was not the size, it seems
        assert waits[0] < waits[1] < waits[2] < waits[3]
        caps.refused(256, 256, Outcome.FAILED, now_s=now)
        assert not caps.doubt(now + 10 * waits[0])


def test_a_timeout_halves_chunks_and_is_remembered() -> None:
    now = [0.0]
    controller = AdaptiveController(clock=lambda: now[0], rng=random.Random(1))
    controller.note_remaining(10**9)
    point = controller._point
    for size in (64, 4096):
        point.fit.add(size, 0.5 + 0.001 * size, weight=4)
    point.rows, point.limit, point.slots = 4096.0, 4.0, 8.0
    point.caps.prove(4096)
    controller._search.skip(0.0)
    assert point.goal_rows(1000.0, queueing=1.0, paced=False) > 4096
    now[0] = 61.0
    controller.record(
        Sample(
            rows=4096, body_bytes=4096, started_s=1.0, finished_s=61.0, outcome=Outcome.TIMEOUT, kind=Kind.FIRST
        )
    )  # fmt: skip
    assert point.rows == 2048
    assert point.goal_rows(1000.0, queueing=1.0, paced=False) < 4096
