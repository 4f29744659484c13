"""One request to a model, opened but not yet answered: how many rows, their first values, and then the
reply."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from asyncbatch.server import content
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.dialects import Dialect
from asyncbatch.server.dialects.plain import PlainDialect
from asyncbatch.server.flaws import Flaw, flawed_predictions
from asyncbatch.server.models import Model
from asyncbatch.server.models.echo import EchoModel
from asyncbatch.server.rows import Predictions, Rows, first_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What came in."""

    body: bytes
    content_type: str
    accept: str


class Work(Protocol):
    """A request whose rows are known."""

    @property
    def rows(self) -> int: ...

    def first_values(self) -> "np.ndarray[Any, Any] | list[bytes]": ...

    def answer(self, *, flaw: Flaw | None = None) -> tuple[bytes, str]:
        """Predict and encode: body and content type, with the predictions that a `flaw` leaves.

        Raises:
            ContainerError: the model or the dialect refuses.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """Rows for a model."""

    decoded: Rows
    request: Request
    model: Model
    dialect: Dialect

    @property
    def rows(self) -> int:
        return len(self.decoded)

    def first_values(self) -> "np.ndarray[Any, Any]":
        return first_values(self.decoded)

    def answer(self, *, flaw: Flaw | None = None) -> tuple[bytes, str]:
        predictions: Predictions = self.model.predict(self.decoded)
        found = 0 if isinstance(predictions, np.ndarray) and predictions.ndim == 0 else len(predictions)
        if found != self.rows:
            raise ContainerError(500, f"the model answered {found} predictions for {self.rows} rows")
        return self.dialect.encode(
            flawed_predictions(predictions, flaw),
            accept=self.request.accept,
            content_type=self.request.content_type,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LineWork:
    """CSV lines whose first fields are echoed byte for byte, without reading the others."""

    fields: list[bytes]

    @property
    def rows(self) -> int:
        return len(self.fields)

    def first_values(self) -> list[bytes]:
        return self.fields

    def answer(self, *, flaw: Flaw | None = None) -> tuple[bytes, str]:
        fields = self.fields
        match flaw:
            case Flaw.SHORT:
                fields = fields[:-1]
            case Flaw.LONG:
                fields = [*fields, fields[-1]]
            case Flaw.NAN:
                fields = [b"nan"] * len(fields)
        # An empty line at the end of a reply could as well be none: null is a quoted nothing.
        return b"\n".join([field or b'""' for field in fields]) + b"\n", content.CSV


def open_work(request: Request, *, model: Model, dialect: Dialect) -> Work:
    """Read the rows of `request`.

    Raises:
        ContainerError: the dialect does not understand the body.
    """
    if (
        isinstance(dialect, PlainDialect)
        and request.content_type == content.CSV
        and request.accept in ("", "*/*", content.CSV)
        and isinstance(model, EchoModel)
        and model.plain
        and request.body
        and b'"' not in request.body
    ):
        lines = request.body.removesuffix(b"\n").split(b"\n")
        return LineWork(fields=[line.partition(b",")[0] for line in lines])
    return ModelWork(
        decoded=dialect.decode(request.body, request.content_type),
        request=request,
        model=model,
        dialect=dialect,
    )
