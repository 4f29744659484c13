"""What a failed request may be called in messages, logs and reports: without what the endpoint quotes of it."""

from collections.abc import Collection

from asyncbatch.control.quotes import MOST_SEARCHED_BYTES, without_quotes
from asyncbatch.model import BatchPayload, Failure, Payload

_MOST_VALUES = 20_000


def said(failure: Failure, payload: Payload, names: Collection[str], *, whole: bool = True) -> str:
    """The summary of `failure` without row contents.

    Args:
        payload: the request that it answers.
        names: the columns sent: their names stay.
        whole: search requests of any size; takes up to a second, so only when the run ends. Else the words are left
            out where the request is large.
    """
    if failure.status is None and not failure.exception:
        return failure.summary()  # our own words
    sent = _sent(payload) if whole or payload.nbytes <= MOST_SEARCHED_BYTES else None
    shown = "" if sent is None else without_quotes(failure.words, sent, names).rstrip(". ")
    return f"{failure.head}: {shown}" if shown else failure.head


def _sent(payload: Payload) -> bytes | None:
    """What was sent, as text where it was values; None where that is too much."""
    if not isinstance(payload, BatchPayload):
        return b"".join(payload.pieces)
    if payload.batch.num_rows * payload.batch.num_columns > _MOST_VALUES:
        return None
    return "\n".join(str(value) for column in payload.batch.columns for value in column.to_pylist()).encode()
