"""Replies with status 200 that are wrong all the same."""

from enum import Enum
from typing import Any

import numpy as np

from asyncbatch.server.rows import Predictions


class Flaw(Enum):
    """What is wrong with a reply."""

    SHORT = "short"
    """It lacks the last prediction."""
    LONG = "long"
    """It holds the last prediction twice."""
    NAN = "nan"
    """Every prediction is NaN."""
    EMPTY = "empty"
    """It has no body."""
    GARBAGE = "garbage"
    """Its body is a page of HTML, and says so."""
    MISTYPED = "mistyped"
    """Its body is right, but its Content-Type speaks of a picture."""


_PAGE = b"<html><body><h1>It works!</h1></body></html>\n"


def flawed_predictions(predictions: Predictions, flaw: Flaw | None) -> Predictions:
    """The predictions as a reply with `flaw` holds them; those that concern the body alone change nothing."""
    match flaw:
        case Flaw.SHORT:
            return predictions[:-1]
        case Flaw.LONG:
            found: Any = [*predictions, predictions[-1]]
            return np.array(found) if isinstance(predictions, np.ndarray) else list(found)
        case Flaw.NAN:
            return np.full(len(predictions), np.nan)
        case _:
            return predictions


def flawed_body(body: bytes, content_type: str, flaw: Flaw | None) -> tuple[bytes, str]:
    """Body and content type as a reply with `flaw` has them."""
    match flaw:
        case Flaw.EMPTY:
            return b"", content_type
        case Flaw.GARBAGE:
            return _PAGE, "text/html"
        case Flaw.MISTYPED:
            return body, "image/png"
        case _:
            return body, content_type
