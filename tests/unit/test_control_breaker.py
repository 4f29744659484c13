"""The breaker and the backoff."""

import random

from asyncbatch.control.backoff import RetryBudget, full_jitter
from asyncbatch.control.breaker import Breaker
from asyncbatch.model import Outcome


def _fail(
    breaker: Breaker, outcome: Outcome, *, times: int, rows: int = 1, first_chunk: int = 0, now_s: float = 1.0
) -> None:
    for index in range(times):
        breaker.record(outcome, chunk=first_chunk + index, rows=rows, now_s=now_s)


def test_it_opens_when_many_chunks_fail_down_to_one_row_and_nothing_succeeds() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    _fail(breaker, Outcome.FAILED, times=19)
    assert not breaker.is_open
    _fail(breaker, Outcome.FAILED, times=1, first_chunk=19)
    assert breaker.is_open


def test_five_percent_bad_rows_do_not_open_it() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    rng = random.Random(7)
    for chunk in range(5_000):
        outcome = Outcome.REJECTED if rng.random() < 0.05 else Outcome.SUCCESS
        breaker.record(outcome, chunk=chunk, rows=1, now_s=float(chunk))
        assert not breaker.is_open


def test_the_bisection_of_one_chunk_does_not_open_it() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    for _ in range(40):
        breaker.record(Outcome.REJECTED, chunk=5, rows=1, now_s=1.0)
    assert not breaker.is_open


def test_throttling_neither_opens_it_nor_counts_as_an_outage() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    _fail(breaker, Outcome.THROTTLED, times=100, now_s=500.0)
    assert not breaker.is_open
    assert not breaker.gave_up(559.0)


def test_an_endpoint_that_is_away_opens_it_whatever_the_chunk_size() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    _fail(breaker, Outcome.UNAVAILABLE, times=20, rows=5_000)
    assert breaker.is_open


def test_open_it_lets_one_through_after_growing_pauses_and_closes_with_a_success() -> None:
    breaker = Breaker(max_outage_s=600, started_s=0)
    _fail(breaker, Outcome.UNAVAILABLE, times=20, now_s=10.0)
    assert breaker.pause(now_s=10.0, in_flight=1) is None
    pauses = []
    now_s = 10.0
    for _ in range(6):
        pause = breaker.pause(now_s=now_s, in_flight=0)
        assert pause is not None
        pauses.append(pause)
        now_s += pause
        assert breaker.pause(now_s=now_s, in_flight=0) == 0.0
        breaker.record(Outcome.UNAVAILABLE, chunk=1, rows=1, now_s=now_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0
    breaker.record(Outcome.SUCCESS, chunk=1, rows=1, now_s=now_s)
    assert not breaker.is_open
    assert breaker.pause(now_s=now_s, in_flight=99) == 0.0


def test_what_was_under_way_when_it_opened_does_not_lengthen_the_pause() -> None:
    breaker = Breaker(max_outage_s=600, started_s=0)
    _fail(breaker, Outcome.UNAVAILABLE, times=20, now_s=10.0)
    _fail(breaker, Outcome.UNAVAILABLE, times=255, now_s=10.1)
    assert breaker.pause(now_s=10.5, in_flight=0) == 0.0


def test_it_gives_up_only_after_the_longest_outage() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    _fail(breaker, Outcome.UNAVAILABLE, times=1, now_s=30.0)
    assert not breaker.gave_up(60.0)
    assert breaker.gave_up(60.1)
    breaker.record(Outcome.SUCCESS, chunk=1, rows=1, now_s=61.0)
    assert not breaker.gave_up(1_000.0)


def test_full_jitter_spreads_over_the_whole_range_and_stays_under_the_cap() -> None:
    rng = random.Random(1)
    waits = [full_jitter(attempt, rng=rng, base_s=0.5) for attempt in range(1, 100) for _ in range(50)]
    assert 0 <= min(waits) < 0.05
    assert 19 < max(waits) <= 20.0
    assert max(full_jitter(1, rng=rng, base_s=0.5) for _ in range(1_000)) <= 0.5


def test_the_retry_budget_allows_a_fifth_of_the_traffic() -> None:
    budget = RetryBudget(ratio=0.2, reserve=20)
    assert sum(budget.take() for _ in range(100)) == 20
    allowed = 0
    for _ in range(1_000):
        budget.note_first_try()
        allowed += budget.take()
    assert 195 <= allowed <= 201


def test_others_fail_until_something_is_answered() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0.0)
    breaker.record(Outcome.FAILED, chunk=1, rows=1, now_s=1.0)
    assert not breaker.others_fail(1)
    assert breaker.others_fail(2)
    breaker.record(Outcome.SUCCESS, chunk=3, rows=1, now_s=2.0)
    assert not breaker.others_fail(2)


def test_replies_too_large_for_one_row_are_an_outage_for_more_rows_they_are_not() -> None:
    breaker = Breaker(max_outage_s=60, started_s=0)
    _fail(breaker, Outcome.TOO_LARGE, times=40, rows=2)
    assert not breaker.is_open
    assert not breaker.gave_up(61.0)
    _fail(breaker, Outcome.TOO_LARGE, times=20, rows=1)
    assert breaker.is_open
    assert breaker.gave_up(61.0)
