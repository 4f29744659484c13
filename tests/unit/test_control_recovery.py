"""What follows a failure."""

import pytest

from asyncbatch.control.failures import Action, Verdict, classify
from asyncbatch.control.recovery import Attempts, Step, next_step
from asyncbatch.model import Failure, Transport


def _verdict(**failure: object) -> Verdict:
    return classify(Failure(**failure))  # type: ignore[arg-type]  # keyword arguments of one frozen value


def _step(
    verdict: Verdict,
    *,
    rows: int = 100,
    tries: int = 1,
    waits: int = 0,
    logins: int = 0,
    bisecting: bool = False,
) -> Step:
    return next_step(
        verdict,
        rows=rows,
        bisecting=bisecting,
        attempts=Attempts(tries=tries, waits=waits, logins=logins),
        max_retries=3,
    )


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_for_load_are_tried_again_for_ever(status: int) -> None:
    verdict = _verdict(status=status)
    assert not verdict.counts_against_chunk
    assert all(_step(verdict, tries=0, waits=waits) is Step.AGAIN for waits in range(1, 500))


def test_plain_failures_are_retried_then_bisected_then_settled_alone() -> None:
    verdict = _verdict(status=500)
    assert [_step(verdict, tries=n) for n in (1, 2, 3, 4)] == [Step.AGAIN] * 3 + [Step.BISECT]
    assert [_step(verdict, tries=n, rows=1) for n in (3, 4)] == [Step.AGAIN, Step.ALONE]


def test_parts_of_a_suspected_chunk_are_retried_once_only() -> None:
    verdict = _verdict(status=500)
    assert [_step(verdict, tries=n, bisecting=True) for n in (1, 2)] == [Step.AGAIN, Step.BISECT]


def test_a_good_row_beside_a_bad_one_is_not_struck_down_by_chance() -> None:
    verdict = _verdict(status=500)
    found = [_step(verdict, tries=n, rows=1, bisecting=True) for n in (1, 2, 3, 4)]
    assert found == [Step.AGAIN] * 3 + [Step.ALONE]


def test_refused_rows_are_bisected_at_once() -> None:
    verdict = _verdict(status=424, error_name="ModelError", original_status=400)
    assert _step(verdict) is Step.BISECT
    assert [_step(verdict, tries=n, rows=1) for n in (1, 2)] == [Step.AGAIN, Step.ALONE]


def test_a_model_that_crashes_is_retried_once_then_halved() -> None:
    verdict = _verdict(status=424, error_name="ModelError", original_status=500)
    assert [_step(verdict, tries=n) for n in (1, 2)] == [Step.AGAIN, Step.BISECT]


def test_too_large_is_split_at_once_and_retried_only_where_nothing_is_left_to_split() -> None:
    assert _step(_verdict(status=413)) is Step.SPLIT
    found = [_step(_verdict(status=413), rows=1, tries=0, waits=waits) for waits in (1, 2)]
    assert found == [Step.AGAIN, Step.ALONE]


def test_a_timeout_is_retried_once_then_split() -> None:
    verdict = _verdict(transport=Transport.TIMEOUT)
    assert [_step(verdict, tries=n) for n in (1, 2)] == [Step.AGAIN, Step.SPLIT]
    assert [_step(verdict, tries=n, rows=1) for n in (2, 3, 4)] == [Step.AGAIN, Step.AGAIN, Step.ALONE]


def test_expired_credentials_are_refreshed_a_few_times_then_the_run_stops_resumably() -> None:
    verdict = _verdict(status=403, error_name="ExpiredTokenException")
    assert verdict.action is Action.REFRESH_CREDENTIALS
    steps = [_step(verdict, tries=9, logins=n) for n in (1, 5, 6)]  # whatever else these rows met
    assert steps == [Step.AGAIN, Step.AGAIN, Step.LOGIN]


def test_an_unknown_endpoint_stops_the_run() -> None:
    verdict = _verdict(
        status=400, error_name="ValidationError", message="Endpoint churn of account 123456789012 not found."
    )
    assert _step(verdict) is Step.STOP
