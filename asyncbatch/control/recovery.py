"""What follows a failed invocation: the table of failures turned into one next step. Pure."""

from dataclasses import dataclass
from enum import Enum

from asyncbatch.control.failures import Action, Verdict
from asyncbatch.model import Outcome


class Step(Enum):
    """What to do with the rows of a failed invocation."""

    AGAIN = "again"
    """The same rows again after a jittered wait."""
    SPLIT = "split"
    """Two halves, because of size or time."""
    BISECT = "bisect"
    """Two halves, to find the rows at fault."""
    ALONE = "alone"
    """One row failed alone: settle whether it is the row or the endpoint."""
    LOGIN = "login"
    """Credentials were refused again after a refresh: stop, resumable."""
    STOP = "stop"
    """Fatal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often these rows were tried."""

    tries: int
    """Failures that count against the rows, this one included."""
    waits: int
    """Refusals that do not count, this one included when it is one."""
    logins: int = 0
    """Refusals of the credentials one after the other, this one included when it is one."""


_TRANSIENT = frozenset({Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.NOT_READY})
_LOGIN_TRIES = 5
"""Renewals that bring nothing new stop the run by themselves; this is for new credentials that are refused as well."""
LONE_TRIES = 2
"""How often a row that is refused alone is sent, unless refusals turn out to strike at random."""


def next_step(
    verdict: Verdict,
    *,
    rows: int,
    bisecting: bool,
    attempts: Attempts,
    max_retries: int,
    lone_tries: int = LONE_TRIES,
) -> Step:
    """Decide about `rows` rows that came back with `verdict`.

    Args:
        verdict: what `classify` said.
        rows: how many rows the request held.
        bisecting: the rows are a part of a chunk that failed before; then one retry is enough.
        attempts: how often these rows were tried.
        max_retries: how often a plain failure is retried before the rows are suspected.
        lone_tries: how often a row that is refused alone is sent before it is suspected.
    """
    action = verdict.action
    if action is Action.FATAL:
        return Step.STOP
    if action is Action.REFRESH_CREDENTIALS:
        return Step.AGAIN if attempts.logins <= _LOGIN_TRIES else Step.LOGIN
    if action is Action.RESEND or verdict.outcome in _TRANSIENT:
        return Step.AGAIN
    if action is Action.SPLIT:
        tried = attempts.tries + attempts.waits
        return Step.SPLIT if rows > 1 else Step.AGAIN if tried < lone_tries else Step.ALONE
    if action is Action.BISECT:
        return Step.BISECT if rows > 1 else Step.AGAIN if attempts.tries < lone_tries else Step.ALONE
    if action is Action.RETRY_SMALLER and attempts.tries > 1 and rows > 1:
        return Step.SPLIT
    # A good row may be alone because of its neighbour: what strikes at random may not strike it down.
    once = rows > 1 and (bisecting or action is Action.RETRY_THEN_SPLIT)
    if attempts.tries <= (1 if once else max_retries):
        return Step.AGAIN
    return Step.BISECT if rows > 1 else Step.ALONE
