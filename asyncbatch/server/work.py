"""One request to a model, opened but not yet answered: how many rows, their first values, and then the
reply."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from asyncbatch.server import content
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.dialects import Dialect
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

    def answer(self, *, short: bool = False) -> tuple[bytes, str]:
        """Predict and encode: body and content type. `short` leaves the last prediction out, as a faulty
        server might.

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

    def answer(self, *, short: bool = False) -> tuple[bytes, str]:
        predictions: Predictions = self.model.predict(self.decoded)
        found = 0 if isinstance(predictions, np.ndarray) and predictions.ndim == 0 else len(predictions)
        if found != self.rows:
            raise ContainerError(500, f"the model answered {found} predictions for {self.rows} rows")
        if short:
            predictions = predictions[:-1]
        return self.dialect.encode(
            predictions, accept=self.request.accept, content_type=self.request.content_type
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

    def answer(self, *, short: bool = False) -> tuple[bytes, str]:
        fields = self.fields[:-1] if short else self.fields
        return b"\n".join(fields) + b"\n", content.CSV


def open_work(request: Request, *, model: Model, dialect: Dialect) -> Work:
    """Read the rows of `request`.

    Raises:
        ContainerError: the dialect does not understand the body.
    """
    if (
        request.content_type == content.CSV
        and request.accept in ("", "*/*", content.CSV)
        and isinstance(model, EchoModel)
        and model.outputs == 1
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
