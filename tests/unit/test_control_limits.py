"""What the adaptive controller makes of refusals, timeouts and waiting: the rules, and one short job."""

import math
import random

import pytest

from asyncbatch.control import AdaptiveController
from asyncbatch.control.cruise import Cruise
from asyncbatch.control.epoch import Measure
from asyncbatch.control.in_flight import InFlight
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.oversize import Oversize
from asyncbatch.control.pacing import RequestPacer
from asyncbatch.control.search import Search
from asyncbatch.control.size_caps import Prover, SizeCaps
from asyncbatch.control.throttle import Cause, ThrottleCause
from asyncbatch.model import Kind, Outcome, Sample
from asyncbatch.units import IntRange


def sample(
    started_s: float, finished_s: float, *, rows: int = 100, outcome: Outcome = Outcome.SUCCESS
) -> Sample:
    return Sample(
        rows=rows, body_bytes=rows * 10, started_s=started_s, finished_s=finished_s, outcome=outcome, kind=Kind.FIRST
    )  # fmt: skip


def made_point() -> OperatingPoint:
    return OperatingPoint(
        rows_range=IntRange(1, 65_536), flight_range=IntRange(1, 512), max_bytes=10**8, timeout_s=60.0,
        target_latency_s=None, now_s=0.0,
    )  # fmt: skip


class TestThrottleCause:
    def test_refusals_with_ever_fewer_in_flight_are_of_the_rate(self) -> None:
        cause = ThrottleCause()
        assert cause.judge(15, tested=14) is Cause.UNKNOWN
        assert cause.judge(14, tested=14) is not Cause.RATE  # once may be a race
        assert cause.judge(13, tested=14) is Cause.RATE

    def test_one_race_does_not_hide_a_limit_of_requests_at_once(self) -> None:
        cause = ThrottleCause()
        assert cause.judge(10, tested=9) is Cause.UNKNOWN
        assert cause.judge(9, tested=9) is Cause.IN_FLIGHT
        assert cause.judge(10, tested=9) is Cause.IN_FLIGHT


class TestPacerCut:
    def test_a_client_that_was_slow_for_a_while_does_not_lower_the_estimate(self) -> None:
        """What was admitted on average since the last cut says little; what was admitted lately does."""
        pacer, now = RequestPacer(), 60.0  # nothing was sent for a minute
        pacer.restore(10.0, 0.0)
        while now < 66.0:
            now += max(pacer.delay(now), 0.01)
        assert pacer.cut(now) > 7.0

    def test_a_rate_refused_twice_is_kept_for_longer(self) -> None:
        def seconds_until_refused(*, sent_a_second: float) -> float:
            """From a cut after 8 s in which so much was sent, until the rate is as high as the refused one."""
            pacer = RequestPacer()
            pacer.restore(10.0, 0.0)
            for k in range(int(8 * sent_a_second)):
                pacer.delay(k / sent_a_second)
            before = pacer.rate
            pacer.cut(8.0)
            now, refused = 8.0, min(before, sent_a_second)
            while pacer.rate < refused:
                pacer.delay(now)
                now += 0.05
            return now - 8.0

        assert seconds_until_refused(sent_a_second=9.5) > 1.4 * seconds_until_refused(sent_a_second=4.0)


class TestSizes:
    def test_a_row_too_large_alone_says_nothing_of_others(self) -> None:
        caps = SizeCaps(max_rows=1000, max_bytes=10**6)
        caps.answered(100, 10_000)
        assert not caps.refused(1, 900_000, Outcome.TOO_LARGE, now_s=0)
        assert caps.max_rows == 1000
        assert caps.max_bytes == 10**6

    def test_where_rows_differ_a_large_body_limits_bytes_and_not_rows(self) -> None:
        caps, rng = SizeCaps(max_rows=10_000, max_bytes=10**7), random.Random(2)
        for _ in range(50):
            caps.answered(64, int(64 * 1000 * rng.lognormvariate(0, 0.3)))
        caps.refused(80, 500_000, Outcome.TOO_LARGE, now_s=0)
        assert caps.max_bytes < 500_000
        assert caps.max_rows > 150

    def test_the_byte_cap_is_found_to_a_tenth(self) -> None:
        caps, rng = SizeCaps(max_rows=10_000, max_bytes=10**7), random.Random(3)
        for body in (90_000, 110_000, 100_000):
            caps.answered(50, body)
        refused = 0
        for _ in range(300):
            body = min(caps.max_bytes, int(100_000 * rng.lognormvariate(0, 0.5)) + caps.max_bytes // 2)
            if body > 334_881:
                refused += 1
                caps.refused(50, body, Outcome.TOO_LARGE, now_s=0)
            else:
                caps.answered(50, body)
        assert 0.85 * 334_881 < caps.max_bytes <= 334_881
        assert refused <= 10

    def test_what_failed_twice_is_not_tried_again_but_the_middle_is(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        caps.answered(32, 320)
        for _ in range(2):
            caps.refused(256, 2560, Outcome.FAILED, now_s=0)
        assert 32 < caps.doubtful_rows < 100
        assert caps.doubt(25.0)
        assert 32 < caps.max_rows < 100

    def test_what_failed_once_is(self) -> None:
        caps = SizeCaps(max_rows=10_000, max_bytes=10**9)
        caps.answered(32, 320)
        caps.refused(256, 2560, Outcome.FAILED, now_s=0)
        assert caps.doubtful_rows == 256


class TestInFlight:
    def test_a_permit_that_waits_for_the_users_rate_is_not_in_flight(self) -> None:
        """One request a second, each under way for 0.1 s: a tenth is in flight, whatever waits."""
        flight, now = InFlight(expire_s=100, now_s=0), 0.0
        flight.restart(0.0, from_s=0.0)
        for _ in range(50):
            flight.send(now)  # the permit; the limiter lets it go at the next full second
            started = now + 0.9
            now += 1.0
            flight.finish(started, now)
        assert flight.mean(now) == pytest.approx(0.1, abs=0.02)

    def test_what_waited_before_the_average_began_is_not_taken_off_it(self) -> None:
        flight = InFlight(expire_s=100, now_s=0)
        flight.send(0.0)
        flight.restart(5.0, from_s=5.0)
        flight.finish(6.0, 10.0)  # waited from 0 to 6, of which 1 s is in the average
        assert flight.mean(10.0) == pytest.approx(4 / 5)


class TestTimeouts:
    def test_where_smaller_chunks_do_not_help_fewer_are_kept_in_flight(self) -> None:
        """The workers were overestimated: nothing seems to queue, and yet all requests wait for too long."""
        point = made_point()
        search = Search(point, start_rows=16, now_s=0.0)
        search.skip(0.0)
        point.fit.add(16, 1.0)
        point.fit.add(4096, 30.0)
        point.rows, point.limit, point.slots = 4096.0, 16.0, 14.0
        point.caps.prove(4096)
        oversize = Oversize(point, search, Prover())
        limits = []
        for burst in range(5):
            sent = 61.0 * burst + 1
            for _ in range(16):
                oversize.timed_out(
                    Sample(
                        rows=int(point.rows), body_bytes=1, started_s=sent, finished_s=sent + 60,
                        outcome=Outcome.TIMEOUT, kind=Kind.FIRST,
                    )
                )  # fmt: skip
            limits.append(point.limit)
        assert limits[1] == 16  # smaller chunks come first
        assert limits[-1] < 8
        assert point.rows < 1024


class TestGoal:
    def test_with_one_size_known_larger_ones_are_tried(self) -> None:
        """A line through one point has no fixed cost: it would keep chunks small for ever."""
        point = made_point()
        point.rows = 8.0
        point.fit.add(8, 2.6)
        assert point.goal_rows(100.0, queueing=1.0, paced=False) == 32

    def test_no_size_is_rounded_up_beyond_the_latency_that_may_be_borne(self) -> None:
        """Rounded, 46 rows would be 64, and take half as long again as may be."""
        for call_s in (1.0, 5.0):
            point = made_point()
            point.remaining = 10**7
            for rows in (4, 16, 64):
                point.fit.add(rows, call_s + 0.5 * rows)
            goal = point.goal_rows(10.0, queueing=1.3, paced=False)
            assert 0.8 * point.longest_s < 1.3 * point.fit.seconds(goal) <= 1.001 * point.longest_s

    def test_a_call_that_is_dear_by_itself_is_not_made_for_one_row(self) -> None:
        point = made_point()
        point.remaining = 10**7
        for rows in (4, 16, 64):
            point.fit.add(rows, 24.0 + 0.01 * rows)
        assert point.longest_s < 24.0 * 1.5
        assert point.goal_rows(10.0, queueing=1.5, paced=False) > 100

    def test_the_best_is_chased_once(self) -> None:
        point = made_point()
        point.rows, point.limit = 256.0, 8.0
        point.remember(Measure(rate=1000, error=0.02, spread=0.1, latency_s=1.0, rows=256))
        point.rows = 4096.0
        slow = Measure(rate=200, error=0.02, spread=0.1, latency_s=1.0, rows=4096)
        assert point.return_to_best(slow)
        point.rows = 4096.0
        assert not point.return_to_best(slow)


class TestCruise:
    @staticmethod
    def cruising(*, rows: float, limit: float, slots: float) -> tuple[OperatingPoint, Cruise]:
        point = made_point()
        point.rows, point.limit, point.slots, point.latency_s = rows, limit, slots, 1.0
        for size in (rows / 4, rows):
            point.fit.add(size, 0.1 + 0.009 * size)
        cruise = Cruise(point, now_s=0.0)
        cruise.begin(0.0)
        return point, cruise

    def test_answers_far_beyond_the_longest_latency_need_no_epoch(self) -> None:
        point, cruise = self.cruising(rows=100.0, limit=40.0, slots=40.0)
        for k in range(25):
            cruise.answered(sample(2.0, 50.0 + k), 48.0 + k, proved=False, paced_rate=math.inf)
        assert point.rows < 100

    def test_paced_and_unqueued_rows_double_without_a_trial(self) -> None:
        point, cruise = self.cruising(rows=100.0, limit=8.0, slots=8.0)
        point.remaining = 10**6
        now = 2.0
        for _ in range(200):  # one request a second, each takes as long as when idle
            point.flight.send(now)
            point.flight.finish(now, now + 1.0)
            cruise.answered(sample(now, now + 1.0), 1.0, proved=False, paced_rate=1.0)
            now += 1.0
            if point.rows > 100:
                break
        assert point.rows == 200
        assert cruise.explorer.trial is None


class Endpoint:
    """Slots, a fixed cost and a cost a row; refuses more than `at_once`. On a virtual clock."""

    def __init__(self, *, slots: int, at_once: int, timeout_s: float = 60.0) -> None:
        self.now = 0.0
        self._slots, self._at_once, self._timeout_s = slots, at_once, timeout_s
        self._flying: list[tuple[float, float, int, Outcome]] = []
        self._free = [0.0] * slots
        self.refused = 0

    def clock(self) -> float:
        return self.now

    def run(self, controller: AdaptiveController, rows: int) -> float:
        left = rows
        while left > 0 or self._flying:
            controller.note_remaining(left)
            while left > 0 and len(self._flying) < controller.concurrency():
                wait = controller.send_delay()
                if wait > 0:
                    if not self._flying:
                        self.now += wait
                        continue
                    break
                left -= self._send(min(left, controller.next_chunk().rows))
            self._flying.sort()
            ended, started, chunk, outcome = self._flying.pop(0)
            self.now = max(self.now, ended)
            if outcome is not Outcome.SUCCESS:
                left += chunk
            controller.record(sample(started, self.now, rows=chunk, outcome=outcome))
        return self.now

    def _send(self, chunk: int) -> int:
        self.now += 1e-4  # no two requests are sent at the same moment
        if sum(each[3] is Outcome.SUCCESS for each in self._flying) >= self._at_once:
            self.refused += 1
            self._flying.append((self.now + 0.01, self.now, chunk, Outcome.THROTTLED))
            return chunk
        self._free.sort()
        begun = max(self.now, self._free[0])
        self._free[0] = begun + 0.2 + 0.002 * chunk
        self._flying.append((self._free[0], self.now, chunk, Outcome.SUCCESS))
        return chunk


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_of_requests_at_once_is_used_to_the_full_by_a_short_job(seed: int) -> None:
    """The job is over in 20 s: chunks must not grow until half of the slots have nothing to do."""
    endpoint = Endpoint(slots=6, at_once=6)
    controller = AdaptiveController(clock=endpoint.clock, rng=random.Random(seed))
    least_s = 40_000 * 0.002 / 6
    assert endpoint.run(controller, 40_000) < 1.5 * least_s
    assert endpoint.refused <= 9
