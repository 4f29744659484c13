"""Rules of the adaptive controller that keep one bad measurement from ruining a run."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from asyncbatch.control import AdaptiveController
from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.explore import Explorer, Move, Surroundings
from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.outage import Outage
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import Prover
from asyncbatch.control.slow_start import SlowStart
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.units import IntRange

ROOT = Path(__file__).parents[2]


def sample(
    started_s: float, finished_s: float, *, rows: int = 100, outcome: Outcome = Outcome.SUCCESS
) -> Sample:
    return Sample(
        rows=rows, body_bytes=rows * 10, started_s=started_s, finished_s=finished_s, outcome=outcome, kind=Kind.FIRST
    )  # fmt: skip


def made_point(**changes: object) -> OperatingPoint:
    values: dict[str, object] = {
        "rows_range": IntRange(1, 65_536), "flight_range": IntRange(1, 512), "max_bytes": 10**8, "timeout_s": 60.0,
        "target_latency_s": None, "now_s": 0.0,
    }  # fmt: skip
    return OperatingPoint(**(values | changes))  # type: ignore[arg-type]


def measured(rate: float, error: float = 0.02) -> Measure:
    return Measure(rate=rate, error=error, spread=0.1, latency_s=1.0, rows=100)


class TestCohort:
    def test_is_closed_when_enough_were_sent(self) -> None:
        flight = InFlight(expire_s=100, now_s=0)
        flight.restart(0.0, from_s=1.0, cohort=2)
        for now in (0.5, 1.5):
            flight.send(now)
        assert flight.cohort_until_s == math.inf
        flight.send(2.0)
        assert flight.cohort_until_s == 2.0

    def test_those_sent_later_do_not_count_however_quick_they_are(self) -> None:
        point = made_point()
        point.limit = 8.0
        epoch = point.epoch(0.0)
        for k in range(30):
            point.flight.send(0.01 * k)
        late = point.flight.cohort_until_s + 0.005
        for _ in range(epoch.need):
            assert not point.measured(epoch, sample(late, late + 0.001), 0.001)
        assert epoch.count == 0

    def test_nearer_the_truth_than_the_first_answers_where_latencies_differ_widely(self) -> None:
        """The answers that come first are the short ones."""

        def bias(*, cohort: bool) -> float:
            rng = random.Random(5)
            found = []
            for _ in range(60):
                point, now = made_point(), 0.0
                flying: list[tuple[float, float]] = []
                point.limit, point.spread = 20.0, 0.8
                epoch, done = point.epoch(0.0), False
                while not done:
                    while len(flying) < 20:
                        point.flight.send(now)
                        flying.append((now + rng.lognormvariate(-0.32, 0.8), now))
                    flying.sort()
                    now, started = flying.pop(0)
                    point.flight.finish(started, now)
                    if cohort:
                        done = point.measured(epoch, sample(started, now), now - started)
                    else:
                        done = epoch.add(100, now - started)
                found.append(math.log(point.measure(epoch, now).rate / (20 * 100 / 1.0)))
            return abs(sum(found) / len(found))

        assert bias(cohort=True) < 0.8 * bias(cohort=False)

    def test_an_epoch_ends_though_a_request_never_comes_back(self) -> None:
        epoch = Epoch(from_s=0, need=20)
        assert [epoch.add(100, 1.0) for _ in range(18)][-1]


class TestGrowth:
    def test_one_more_an_answer(self) -> None:
        """The limit may jump; requests follow one by one, so that a refusal meets one of them and not half."""
        now = [0.0]
        controller = AdaptiveController(clock=lambda: now[0], rng=random.Random(1))
        before = controller.concurrency()
        controller._point.limit = 100.0
        assert controller.concurrency() == before
        controller.record(sample(0.0, 0.1))
        assert controller.concurrency() <= before + 1

    def test_a_limit_that_is_not_used_does_not_grow_and_ends_it(self) -> None:
        slow, limit, answers = SlowStart(), 20.0, 0
        while not slow.done and answers < 200:
            limit = slow.answered(seconds=1.0, idle_s=1.0, in_flight=4, limit=limit)
            answers += 1
        assert limit <= 20.0 + 5  # the first answers tell the idle latency
        assert 40 <= answers < 80
        assert not slow.bounds

    def test_no_more_than_twice_what_is_worked_on(self) -> None:
        """Answers come a latency late: those that began with 8 in flight say nothing about 30."""
        slow, limit = SlowStart(), 8.0
        for _ in range(60):
            limit = slow.answered(seconds=1.0, idle_s=1.0, in_flight=8, limit=limit)
        assert 12 <= limit <= 18

    def test_a_queue_at_the_start_is_not_taken_for_the_idle_latency(self) -> None:
        slow, limit = SlowStart(), 8.0
        for _ in range(20):
            limit = slow.answered(seconds=4.0, idle_s=1.0, in_flight=int(limit), limit=limit)
        assert slow.done


class TestServiceFitScale:
    def test_all_sizes_become_faster_together(self) -> None:
        fit = ServiceFit()
        for rows in (16, 128, 1024):
            fit.add(rows, 1.0 + 0.004 * rows)
        fit.scale(0.25)
        assert fit.line == pytest.approx((0.25, 0.001))


class TestProver:
    def test_an_ordinary_chunk_is_not_the_trial(self) -> None:
        prover = Prover()
        prover.rows(800, good=500, now_s=0, patience_s=5)
        assert not prover.settled(500, good=500, now_s=1)
        assert prover.settled(740, good=500, now_s=1)

    def test_where_a_block_ends_patience_settles_it(self) -> None:
        prover = Prover()
        prover.rows(800, good=500, now_s=0, patience_s=5)
        assert prover.settled(500, good=500, now_s=6)


class TestBestKnown:
    def test_a_much_slower_setting_is_given_up(self) -> None:
        point = made_point()
        point.rows, point.limit = 256.0, 8.0
        point.remember(measured(1000))
        point.rows = 4096.0
        assert point.return_to_best(measured(500))
        assert (point.rows, point.limit) == (256.0, 8.0)
        assert point.rows_ceiling < 4096

    def test_a_slightly_slower_one_is_not(self) -> None:
        point = made_point()
        point.rows, point.limit = 256.0, 8.0
        point.remember(measured(1000))
        point.rows = 4096.0
        assert not point.return_to_best(measured(900))

    def test_an_endpoint_that_became_slower_is_not_chased(self) -> None:
        point = made_point()
        point.rows, point.limit = 256.0, 8.0
        point.remember(measured(1000))
        point.remember(measured(300))  # the same setting, measured again
        point.rows = 4096.0
        assert not point.return_to_best(measured(290))


class TestOutage:
    def test_many_in_a_row(self) -> None:
        outage = Outage()
        for _ in range(20):
            outage.lost(100, 0.0, setting=(100.0, 8.0))
        assert outage.setting == (100.0, 8.0)
        assert outage.answered(100, 0.1, latency_s=0.1)
        assert not outage.answered(100, 0.2, latency_s=0.1)

    def test_few_but_long_where_requests_are_paced(self) -> None:
        outage = Outage()
        for now in range(6):
            outage.lost(100, float(now), setting=(100.0, 8.0))
        assert outage.answered(100, 6.0, latency_s=0.1)

    def test_success_of_smaller_chunks_only_is_a_matter_of_size(self) -> None:
        outage = Outage()
        for now in range(40):
            outage.lost(1000, float(now), setting=(1000.0, 8.0))
        assert not outage.answered(500, 41.0, latency_s=0.1)

    def test_a_handful_is_none(self) -> None:
        outage = Outage()
        for _ in range(4):
            outage.lost(100, 0.0, setting=(100.0, 8.0))
        assert not outage.answered(100, 100.0, latency_s=0.1)


class TestThrottleCause:
    def test_small_numbers_are_alike_by_chance(self) -> None:
        cause = ThrottleCause()
        assert cause.judge(4, tested=0) is Cause.UNKNOWN
        assert cause.judge(4, tested=0) is Cause.UNKNOWN
        assert cause.judge(4, tested=0) is Cause.IN_FLIGHT

    def test_more_at_once_than_were_refused_contradicts_a_limit_of_them(self) -> None:
        cause = ThrottleCause()
        cause.judge(20, tested=10)
        assert cause.judge(20, tested=10) is Cause.IN_FLIGHT
        assert cause.judge(19, tested=40) is Cause.RATE


class TestMoves:
    def _around(self, **changes: object) -> Surroundings:
        values: dict[str, object] = {
            "rows": 1024.0, "in_flight": 8.0, "goal_rows": 1024.0, "gain": lambda rows: 0.0, "max_rows": 65_536.0,
            "max_in_flight": 512.0, "latency_s": 1.0, "queue_factor": 1.0, "overhead": 0.1, "longest_s": 20.0,
            "paced": False, "wished": False, "rounds_left": 100.0,
        }  # fmt: skip
        return Surroundings(**(values | changes))  # type: ignore[arg-type]

    def test_rows_move_by_powers_of_two(self) -> None:
        explorer = Explorer()
        explorer.changed(measured(100))
        sizes = set()
        for _ in range(40):
            trial = explorer.propose(self._around(gain=lambda rows: 0.1 if rows > 1024 else 0.0))
            if trial is not None:
                sizes.add(trial.rows)
                explorer.judge(measured(50), headroom=False)
        assert sizes == {512.0, 1024.0, 2048.0}

    def test_the_fit_leads_back_down_where_that_costs_nothing(self) -> None:
        for loss, moves in ((0.01, True), (0.2, False)):
            explorer = Explorer()
            explorer.changed(measured(100))
            trial = explorer.propose(
                self._around(goal_rows=128.0, max_in_flight=8.0, gain=lambda rows, loss=loss: -loss)
            )
            assert (trial is not None and trial.move is Move.ROWS_MODEL) is moves

    def test_a_long_queue_is_shortened_if_that_does_no_harm(self) -> None:
        for queueing in (True, False):
            explorer = Explorer()
            explorer.changed(measured(100))
            trial = None
            while trial is None or trial.move is not Move.FLIGHT_DOWN:
                if trial is not None:
                    explorer.rejected(trial.move)
                trial = explorer.propose(self._around(queue_factor=3.0))
            assert explorer.judge(measured(99.5), headroom=False, queueing=queueing) is queueing


class TestBenchmark:
    def test_the_table_is_one_command(self, tmp_path: Path) -> None:
        out = tmp_path / "control.json"
        made = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/control/run.py"), "--table", "--quick", "--json", str(out)],
            check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert "kinds: geomean / worst" in made.stdout
        assert "warm start: geomean" in made.stdout
        written = json.loads(out.read_text())
        assert {"command", "commit", "machine", "seeds", "table", "scores"} <= set(written)
        mine = written["scores"]["kinds"]["asyncbatch"]
        assert all(score > 0.6 for scores in mine.values() for score in scores)
