"""One correction for a wrong clock, learned from what a refused signature was answered with."""

import email.utils

import pytest

from asyncbatch.endpoint.clock import ClockOffset, amz_date
from asyncbatch.model import Failure

NOW_S = 1_795_336_830.0


def refused(offset_s: float, name: str = "InvalidSignatureException") -> Failure:
    date = email.utils.formatdate(NOW_S + offset_s, usegmt=True)
    return Failure(status=403, error_name=name, server_date=date)


def test_the_offset_is_learned_once_and_corrects_every_signature() -> None:
    clock = ClockOffset(clock=lambda: NOW_S)
    assert clock.now() == NOW_S
    assert clock.learn(refused(1_200))
    assert clock.now() == NOW_S + 1_200
    assert not clock.learn(refused(1_200)), "signed with the right time now: it is something else"


@pytest.mark.parametrize("offset_s", [-239.0, 0.0, 239.0])
def test_a_clock_within_what_aws_takes_is_not_the_reason(offset_s: float) -> None:
    clock = ClockOffset(clock=lambda: NOW_S)
    assert not clock.learn(refused(offset_s))
    assert clock.seconds == 0.0


@pytest.mark.parametrize("name", ["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"])
def test_a_name_that_says_clock_is_believed_within_the_tolerance_too(name: str) -> None:
    clock = ClockOffset(clock=lambda: NOW_S)
    assert clock.learn(refused(60, name))
    assert clock.seconds == 60.0


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_without_a_readable_date_nothing_is_learned(date: str) -> None:
    failure = Failure(status=403, error_name="RequestTimeTooSkewed", server_date=date)
    assert not ClockOffset(clock=lambda: NOW_S).learn(failure)


@pytest.mark.parametrize(
    ("offset_s", "said"),
    [(1_200, "20 minutes slow"), (-86_400, "1440 minutes fast"), (60, "60 seconds slow")],
)
def test_it_says_by_how_much(offset_s: float, said: str) -> None:
    clock = ClockOffset(clock=lambda: NOW_S)
    clock.learn(refused(offset_s, "RequestTimeTooSkewed"))
    assert clock.describe() == f"the clock of this machine is {said}"


def test_a_clock_that_is_set_right_meanwhile_is_noticed() -> None:
    now_s = [NOW_S]
    clock = ClockOffset(clock=lambda: now_s[0])
    assert clock.learn(refused(1_200))
    now_s[0] += 1_200
    assert clock.learn(refused(1_200))
    assert clock.seconds == 0.0


def test_dates_are_written_as_signatures_want_them() -> None:
    assert amz_date(NOW_S + 0.9) == "20261122T084030Z"
