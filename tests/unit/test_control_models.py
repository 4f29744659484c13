"""The small models under the adaptive controller, each alone."""

import math
import random
from collections.abc import Callable

import pytest

from asyncbatch.control.epoch import Epoch, Measure
from asyncbatch.control.explore import Explorer, Move, Surroundings
from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.journal import Journal
from asyncbatch.control.learned import LearnedPoint, Trust
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.row_ramp import RowRamp, power_of_two
from asyncbatch.control.service_fit import ServiceFit
from asyncbatch.control.size_caps import Prover, SizeCaps
from asyncbatch.control.slow_start import SlowStart
from asyncbatch.control.tail import tail_rows
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import Outcome


def fitted(a: float, b: float, sizes: tuple[int, ...] = (16, 128, 1024)) -> ServiceFit:
    fit = ServiceFit()
    for size in sizes:
        fit.add(size, a + b * size)
    return fit


class TestServiceFit:
    def test_finds_the_line(self) -> None:
        a, b = fitted(0.05, 0.001).line
        assert a == pytest.approx(0.05)
        assert b == pytest.approx(0.001)

    def test_overhead_is_the_fixed_share(self) -> None:
        assert fitted(0.1, 0.001).overhead(100) == pytest.approx(0.5)

    def test_one_size_says_nothing_about_overhead(self) -> None:
        assert fitted(0.1, 0.001, (16,)).overhead(1000) == 1.0

    def test_never_negative(self) -> None:
        fit = ServiceFit()
        for size, seconds in ((10, 0.1), (100, 5.0)):
            fit.add(size, seconds)
        a, b = fit.line
        assert a >= 0
        assert b > 0

    def test_gain_of_doubling_at_half_overhead_is_a_third(self) -> None:
        assert math.exp(fitted(0.1, 0.001).gain(100, 200)) == pytest.approx(4 / 3)

    def test_sees_a_knee_between_the_best_size_and_a_slower_one(self) -> None:
        fit = fitted(0.05, 0.001)
        assert fit.knee() == math.inf
        for _ in range(3):
            fit.add(4096, 20.0)
        assert 1024 < fit.knee() < 4096

    def test_old_samples_fade(self) -> None:
        fit = fitted(0.05, 0.001)
        for _ in range(200):
            for size in (16, 128, 1024):
                fit.add(size, 2 * (0.05 + 0.001 * size))
        assert fit.seconds(1000) == pytest.approx(2.1, rel=0.05)


class TestInFlight:
    def test_counts_and_averages(self) -> None:
        flight = InFlight(expire_s=100, now_s=0)
        flight.send(0.0)
        flight.send(0.0)
        assert flight.finish(0.0, 1.0) == 2
        assert len(flight) == 1
        assert flight.mean(2.0) == pytest.approx(1.5)

    def test_a_new_average_can_begin_later(self) -> None:
        flight = InFlight(expire_s=100, now_s=0)
        flight.send(0.0)
        flight.restart(1.0, from_s=2.0)
        flight.send(3.0)
        assert flight.mean(4.0) == pytest.approx(1.5)

    @pytest.mark.parametrize("from_s", [0.0, 4.0])
    def test_the_average_is_that_of_the_times_in_flight(self, from_s: float) -> None:
        rng = random.Random(1)
        begun = [rng.uniform(0, 10) for _ in range(50)]
        spans = [(start, start + rng.uniform(0, 3)) for start in begun]
        flight = InFlight(expire_s=100, now_s=0)
        flight.restart(0.0, from_s=from_s)
        events = [(start, True, start) for start, _ in spans]
        events += [(stop, False, start) for start, stop in spans if stop < 9]
        for at_s, sent, started_s in sorted(event for event in events if event[0] < 9):
            if sent:
                flight.send(at_s)
            else:
                flight.finish(started_s, at_s)
        spent_s = sum(max(0.0, min(stop, 9) - max(start, from_s)) for start, stop in spans)
        assert flight.mean(9.0) == pytest.approx(spent_s / (9 - from_s))

    def test_a_permit_without_sample_expires(self) -> None:
        flight = InFlight(expire_s=10, now_s=0)
        flight.send(0.0)
        flight.send(20.0)
        assert len(flight) == 1

    def test_a_sample_without_permit_is_harmless(self) -> None:
        assert InFlight(expire_s=10, now_s=0).finish(0.0, 1.0) == 1


class TestEpoch:
    def test_littles_law(self) -> None:
        epoch = Epoch(from_s=0, need=4)
        done = [epoch.add(100, 2.0) for _ in range(4)]
        assert done == [False, False, False, True]
        assert epoch.measure(mean_in_flight=8, spread=0.1).rate == pytest.approx(8 * 100 / 2.0)

    def test_one_spike_in_twenty_changes_little(self) -> None:
        def rate(last: float) -> float:
            epoch = Epoch(from_s=0, need=20)
            for _ in range(19):
                epoch.add(100, 1.0)
            epoch.add(100, last)
            return epoch.measure(mean_in_flight=8, spread=0.1).rate

        assert rate(30.0) > 0.9 * rate(1.0)

    def test_error_shrinks_with_samples(self) -> None:
        def error(count: int) -> float:
            epoch = Epoch(from_s=0, need=count)
            for k in range(count):
                epoch.add(100, 1.0 + 0.2 * (k % 2))
            return epoch.measure(mean_in_flight=8, spread=0.1).error

        assert error(64) == pytest.approx(error(16) / 2, rel=0.05)

    def test_a_cohort_that_tells_nothing_is_not_waited_for(self) -> None:
        """All of it were retries of another size, say: whoever comes after is as good."""
        epoch = Epoch(from_s=0, need=10)
        answers = [epoch.add(100, 2.0, of_cohort=False) for _ in range(50)]
        assert answers.index(True) == 20 + 9 - 1  # twice the cohort, and nine of ten of one more
        assert epoch.measure(mean_in_flight=8, spread=0.1).rate == pytest.approx(8 * 100 / 2.0)


class TestSizeCaps:
    def test_halves_the_interval_after_a_413(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        caps.answered(100, 1000)
        assert caps.refused(1600, 16_000, Outcome.TOO_LARGE, now_s=0)
        assert caps.max_rows == 400
        caps.answered(400, 4000)
        assert caps.max_rows == 800

    def test_stops_near_the_cap(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        refused = 0
        for _ in range(50):
            rows = caps.max_rows
            if rows > 1000:
                refused += 1
                caps.refused(rows, rows * 10, Outcome.TOO_LARGE, now_s=0)
            else:
                caps.answered(rows, rows * 10)
        assert 900 < caps.max_rows <= 1000
        assert refused <= 8

    def test_bytes_that_vary_by_row_leave_a_margin_where_chunks_are_cut_by_rows_alone(self) -> None:
        by_bytes, by_rows = (SizeCaps(max_rows=10**6, max_bytes=10**6) for _ in range(2))
        rng = random.Random(1)
        for _ in range(300):
            body = int(sum(rng.lognormvariate(6.4, 1.0) for _ in range(100)) * 1000 / 992)
            by_bytes.answered(100, body)
            by_rows.answered(100, body)
        by_rows.refused(1100, 1_100_000, Outcome.TOO_LARGE, now_s=0)  # larger than was asked for
        assert by_bytes.max_rows == pytest.approx(1000, rel=0.03)
        assert by_rows.max_rows < 960

    def test_a_second_memory_error_is_the_last(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        caps.answered(100, 1000)
        caps.refused(1600, 16_000, Outcome.FAILED, now_s=0)
        assert caps.max_rows == 400
        caps.refused(400, 4000, Outcome.FAILED, now_s=0)
        assert caps.max_rows == 100

    def test_an_error_that_was_not_of_size_is_forgiven(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        caps.answered(100, 1000)
        caps.refused(1600, 16_000, Outcome.FAILED, now_s=0)
        assert not caps.doubt(10.0)
        assert caps.doubt(21.0)
        assert not caps.doubt(22.0)
        caps.answered(1600, 16_000)
        assert caps.max_rows == 10_000


class TestProver:
    def test_one_request_tries_a_new_size(self) -> None:
        prover = Prover()
        assert [prover.rows(1000, good=100, now_s=0, patience_s=5) for _ in range(3)] == [1000, 100, 100]
        assert not prover.settled(100, good=100, now_s=0.5)
        assert prover.settled(990, good=100, now_s=0.5)
        assert prover.rows(1000, good=100, now_s=1, patience_s=5) == 1000

    def test_small_steps_need_no_proof(self) -> None:
        prover = Prover()
        assert [prover.rows(105, good=100, now_s=0, patience_s=5) for _ in range(2)] == [105, 105]

    def test_a_trial_that_never_comes_back_is_sent_again(self) -> None:
        prover = Prover()
        prover.rows(1000, good=100, now_s=0, patience_s=5)
        assert prover.rows(1000, good=100, now_s=6, patience_s=5) == 1000


class TestPacer:
    def test_free_until_refused(self) -> None:
        pacer = RequestPacer()
        assert all(pacer.delay(k * 0.001) == 0 for k in range(100))

    def test_spaces_requests_after_a_cut(self) -> None:
        pacer = RequestPacer()
        for k in range(40):
            pacer.delay(k * 0.1)
        rate = pacer.cut(4.0)
        assert 3 < rate < 6
        sent, now = 0, 4.0
        while now < 14.0:
            wait = pacer.delay(now)
            sent += wait == 0
            now += max(wait, 1e-3)
        assert sent < 10.5 * 10

    def test_holds_everything_back_for_a_moment(self) -> None:
        pacer = RequestPacer()
        pacer.hold(2.0)
        pacer.hold(1.0)
        assert pacer.delay(0.5) == 1.5
        pacer.forget()
        assert pacer.delay(1.9) > 0
        assert pacer.delay(2.0) == 0.0

    def test_what_was_admitted_is_what_was_tried(self) -> None:
        pacer, now = RequestPacer(), 0.0
        assert pacer.admitted_rate == math.inf
        for _ in range(40):  # ten a second
            assert pacer.delay(now) == 0.0
            now += 0.1
        pacer.cut(now)
        assert pacer.admitted_rate == pacer.rate < 10
        while now < 400.0:  # far fewer than allowed, refused none
            pacer.delay(now)
            now += 2.0
        assert pacer.rate > 20
        assert pacer.admitted_rate == pytest.approx(10, rel=0.1)

    def test_recovers(self) -> None:
        pacer = RequestPacer()
        for k in range(40):
            pacer.delay(k * 0.1)
        first = pacer.cut(4.0)
        for k in range(4000):
            pacer.delay(5.0 + k * 0.1)
        assert pacer.rate > 5 * first


class TestThrottleCause:
    def test_the_same_number_in_flight_twice_is_a_limit_of_it(self) -> None:
        cause = ThrottleCause()
        assert cause.judge(21, tested=0) is Cause.UNKNOWN
        assert cause.judge(21, tested=10) is Cause.IN_FLIGHT

    def test_another_number_is_a_limit_of_the_rate(self) -> None:
        cause = ThrottleCause()
        cause.judge(10, tested=0)
        assert cause.judge(30, tested=10) is Cause.RATE

    def test_fewer_than_long_worked_is_a_limit_of_the_rate(self) -> None:
        assert ThrottleCause().judge(10, tested=40) is Cause.RATE

    def test_with_none_beside_it_it_is_the_rate(self) -> None:
        assert ThrottleCause().judge(1, tested=0) is Cause.RATE
        cause = ThrottleCause()
        assert [cause.judge(in_flight, tested=0) for in_flight in (2, 2, 1)][-1] is Cause.RATE


class TestRamp:
    def _sizes(self, a: float, b: float, *, limit: int = 65_536) -> list[int]:
        ramp = RowRamp(fit=ServiceFit(), start_rows=16, enough_s=0.4, slow_s=2.0)
        sizes, now = [], 0.0
        while not ramp.done:
            rows = ramp.next_rows(now)
            sizes.append(rows)
            if rows > limit:
                ramp.refused(rows)
                continue
            now += a + b * rows
            ramp.answered(rows, a + b * rows, max_rows=65_536)
        sizes.append(ramp.best_rows)
        return sizes

    def test_few_requests_where_calls_are_dear(self) -> None:
        sizes = self._sizes(0.5, 0.0005)
        assert sizes[-1] >= 512
        assert len(sizes) <= 6

    def test_small_where_rows_are_dear(self) -> None:
        assert self._sizes(1.0, 0.5)[-1] <= 64

    def test_a_cap_costs_one_refusal(self) -> None:
        sizes = self._sizes(0.05, 0.0001, limit=200)
        assert sum(size > 200 for size in sizes) == 1
        assert sizes[-1] <= 200

    def _beside(self, seconds: Callable[[int], float], *, cut: float = 1.0, spread: float = 0.2) -> RowRamp:
        """A ramp that goes on beside other requests, from 64 rows; chunks are `cut` times as large as asked for."""
        ramp = RowRamp(fit=ServiceFit(), start_rows=64, enough_s=0.4, slow_s=2.0)
        for rows in (16, 64):
            ramp.answered(rows, 0.2 + 0.001 * rows, max_rows=65_536)
        ramp.best_rows = 64
        ramp.extend(4096, max_rows=65_536)
        for _ in range(40):
            if (wanted := ramp.take(0.0, patience_s=1.0)) is None:
                break
            rows = round(cut * wanted)
            ramp.answered(rows, seconds(rows), max_rows=65_536, spread=spread)
        return ramp

    def test_the_end_of_a_block_does_not_end_the_climb(self) -> None:
        assert self._beside(lambda rows: 0.2 + 0.001 * rows, cut=0.9).best_rows == 4096

    def test_one_slow_answer_of_many_uneven_ones_does_not_end_the_climb(self) -> None:
        for times, reached in ((2, 4096), (20, 256)):
            slow = [times]

            def seconds(rows: int, slow: list[int] = slow) -> float:
                spike = 2.5 if rows > 256 and slow[0] > 0 else 1.0
                slow[0] -= rows > 256
                return spike * (0.2 + 0.001 * rows)

            assert self._beside(seconds, spread=0.6).best_rows == reached

    def test_powers_of_two(self) -> None:
        assert [power_of_two(rows) for rows in (0.3, 1, 7.9, 8, 1000)] == [1, 1, 4, 8, 512]


class TestSlowStart:
    def _run(self, slots: int, noise: float = 0.0, seed: int = 1) -> float:
        rng, slow, limit = random.Random(seed), SlowStart(), 2.0
        while not slow.done and limit < 500:
            in_flight = int(limit)
            queued = max(1.0, in_flight / slots)
            limit = slow.answered(
                seconds=queued * math.exp(rng.gauss(0, noise)), idle_s=1.0, in_flight=in_flight, limit=limit
            )
        return slow.slots()

    def test_finds_the_slots(self) -> None:
        for slots in (4, 16, 64):
            assert 0.7 * slots < self._run(slots) < 1.4 * slots

    def test_one_spike_does_not_end_it(self) -> None:
        slow, limit = SlowStart(), 2.0
        for k in range(30):
            limit = slow.answered(
                seconds=10.0 if k == 15 else 1.0, idle_s=1.0, in_flight=int(limit), limit=limit
            )
        assert not slow.done
        assert limit > 30


class TestTail:
    def test_untouched_far_from_the_end(self) -> None:
        assert tail_rows(1000, remaining=10**6, in_flight=10, least=50) == 1000

    def test_shares_what_is_left(self) -> None:
        assert tail_rows(1000, remaining=6000, in_flight=10, least=50) == 600

    def test_never_below_what_overhead_allows(self) -> None:
        assert tail_rows(1000, remaining=100, in_flight=10, least=300) == 300
        assert tail_rows(4, remaining=1, in_flight=10, least=0) == 1


class TestExplorer:
    def _measure(self, rate: float, error: float = 0.02, refused: float = 0.0) -> Measure:
        return Measure(rate=rate, error=error, spread=0.1, latency_s=1.0, rows=100, refused=refused)

    def _around(self, **changes: object) -> Surroundings:
        values: dict[str, object] = {
            "rows": 100.0, "in_flight": 8.0, "goal_rows": 100.0, "gain": lambda rows: 0.0, "max_rows": 10_000.0,
            "max_in_flight": 512.0, "latency_s": 1.0, "queue_factor": 1.0, "overhead": 0.1, "longest_s": 20.0,
            "paced": False, "wished": False, "rounds_left": 100.0,
        }  # fmt: skip
        return Surroundings(**(values | changes))  # type: ignore[arg-type]

    def test_keeps_what_is_faster_and_drops_what_is_not(self) -> None:
        for rate, kept in ((120.0, True), (101.0, False), (80.0, False)):
            explorer = Explorer()
            explorer.changed(self._measure(100))
            assert explorer.propose(self._around()) is not None
            assert explorer.judge(self._measure(rate), headroom=False) is kept

    def test_refusals_count_against_a_trial(self) -> None:
        explorer = Explorer()
        explorer.changed(self._measure(100))
        explorer.propose(self._around())
        assert not explorer.judge(self._measure(110, refused=0.05), headroom=False)

    def test_tries_less_and_less_often_what_brings_nothing(self) -> None:
        explorer = Explorer()
        explorer.changed(self._measure(100))
        waits, quiet = [], 0
        for _ in range(60):
            trial = explorer.propose(self._around(queue_factor=1.2))
            if trial is not None and trial.move is Move.ROWS_DOWN:
                waits.append(quiet)
                quiet = 0
            if trial is not None:
                explorer.judge(self._measure(50), headroom=False)
            quiet += 1
        assert waits[1:] == sorted(waits[1:])
        assert waits[-1] > waits[1]

    def test_notices_a_change_and_not_noise(self) -> None:
        rng = random.Random(3)
        explorer = Explorer()
        assert not any(
            explorer.changed(self._measure(100 * math.exp(rng.gauss(0, 0.02)))) for _ in range(100)
        )
        assert any(explorer.changed(self._measure(50)) for _ in range(3))

    def test_a_slow_loss_is_a_change_too(self) -> None:
        explorer = Explorer()
        assert any(explorer.changed(self._measure(100 * 0.95**k)) for k in range(12))

    def test_fewer_in_flight_is_not_tried_where_nothing_queues(self) -> None:
        explorer = Explorer()
        explorer.changed(self._measure(100))
        moves = set()
        for _ in range(40):
            trial = explorer.propose(self._around(queue_factor=1.0))
            if trial is not None:
                moves.add(trial.move)
                explorer.judge(self._measure(50), headroom=False)
        assert Move.FLIGHT_DOWN not in moves

    def test_larger_chunks_come_first_when_paced(self) -> None:
        explorer = Explorer()
        explorer.changed(self._measure(100))
        trial = explorer.propose(self._around(paced=True, goal_rows=400.0, gain=lambda rows: 0.05))
        assert trial is not None
        assert trial.move is Move.ROWS_MODEL


class TestLearnedPoint:
    POINT = LearnedPoint(
        chunk_rows=500, concurrency=16, latency_s=1.0, call_s=0.1, row_s=0.001, spread=0.1, slots=8.0
    )

    def test_survives_json(self) -> None:
        assert LearnedPoint.from_dict(self.POINT.as_dict() | {"from the future": 1}) == self.POINT

    @pytest.mark.parametrize(
        "bad", [{"chunk_rows": 0}, {"latency_s": -1}, {"row_s": math.nan}, {"slots": "many"}]
    )
    def test_refuses_nonsense(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="not a learned point"):
            LearnedPoint.from_dict(self.POINT.as_dict() | bad)

    def test_refuses_an_empty_file(self) -> None:
        with pytest.raises(ValueError, match="not a learned point"):
            LearnedPoint.from_dict({})


class TestTrust:
    def trust(self, *, in_flight: int = 16, idle_s: float = 1.0, expected_s: float = 1.0) -> Trust:
        """Four requests count; the tolerance is 2."""
        return Trust(idle_s=idle_s, expected_s=expected_s, spread=0.1, in_flight=in_flight)

    def all_sent(self, trust: Trust) -> Trust:
        for _ in range(4):
            trust.sent(0.0)
        return trust

    @pytest.mark.parametrize(
        ("seconds", "verdict"),
        [(1.1, True), (0.9, True), (0.6, True), (0.2, False), (5.0, True), (7.0, False)],
    )
    def test_needs_like_latencies(self, seconds: float, verdict: bool) -> None:
        trust = self.all_sent(self.trust())
        assert [trust.answered(seconds, started_s=0.0) for _ in range(4)] == [None, None, None, verdict]

    def test_the_first_requests_meet_no_queue(self) -> None:
        """10 s in a queue of a minute ago, 2 s of them work: 2 s at the start of a run are what is to be expected."""
        trust = self.all_sent(self.trust(idle_s=2.0, expected_s=10.0))
        assert [trust.answered(2.0, started_s=0.0) for _ in range(4)][-1] is True

    def test_only_those_sent_first_count(self) -> None:
        """Of 100 requests the first answers are the quick ones."""
        trust = self.all_sent(self.trust())
        assert [trust.answered(0.1, started_s=0.5) for _ in range(50)] == [None] * 50
        assert [trust.answered(1.0, started_s=0.0) for _ in range(4)][-1] is True

    @pytest.mark.parametrize(("seconds", "factor"), [(1.0, 1.0), (1.9, 1.0), (4.0, 4.0)])
    def test_says_how_much_slower_the_endpoint_is(self, seconds: float, factor: float) -> None:
        trust = self.all_sent(self.trust())
        for _ in range(4):
            trust.answered(seconds, started_s=0.0)
        assert trust.slower == factor

    def test_two_that_are_far_off_are_enough(self) -> None:
        trust = self.all_sent(self.trust())
        assert [trust.answered(20.0, started_s=0.0) for _ in range(2)] == [None, False]

    def test_three_failures_are_too_many(self) -> None:
        trust = self.trust()
        assert [trust.failed() for _ in range(3)] == [None, None, False]

    def test_a_burst_that_is_refused_says_little(self) -> None:
        trust = self.all_sent(self.trust())
        assert trust.refused(started_s=0.0, now_s=0.1)
        assert trust.refused(started_s=0.0, now_s=0.2)
        assert not trust.refused(started_s=0.3, now_s=0.4)  # that was sent knowing it

    def test_others_count_in_place_of_those_refused(self) -> None:
        trust = self.all_sent(self.trust())
        trust.refused(started_s=0.0, now_s=0.1)
        trust.sent(0.2)
        assert [trust.answered(1.0, started_s=each) for each in (0.0, 0.0, 0.0, 0.2)][-1] is True


def test_the_journal_is_bounded() -> None:
    journal = Journal(head=2, tail=3)
    for k in range(10):
        journal.note(float(k), "what", "why")
    assert [each.time_s for each in journal.decisions()] == [0, 1, 7, 8, 9]
