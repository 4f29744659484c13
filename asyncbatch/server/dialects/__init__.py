"""How a container speaks: a dialect turns bytes into rows and predictions into bytes, its failures
included."""

from typing import Protocol

from asyncbatch.server.rows import Predictions, Rows


class Dialect(Protocol):
    """The wire habits of one family of containers. Blocking and safe to call from several threads."""

    def decode(self, body: bytes, content_type: str) -> Rows:
        """The rows of a request; at least one.

        Raises:
            ContainerError: what such a container answers to a body or content type that it does not
                understand, or to rows of another width than the model takes.
        """
        ...

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """The reply's body and content type, for the request's `accept` and `content_type` headers ("" if not
        sent).

        Raises:
            ContainerError: the predictions cannot be written so.
        """
        ...


def dialect(name: str, *, features: int | None = None) -> Dialect:
    """The dialect called `name`, one of `asyncbatch.server.config.DIALECTS`.

    Args:
        name: which.
        features: how many columns the model takes, where that is known: containers refuse others each in
            their way. `plain` leaves it to the model.
    """
    from asyncbatch.server.dialects.huggingface import HuggingFaceDialect
    from asyncbatch.server.dialects.mlflow import MlflowDialect
    from asyncbatch.server.dialects.plain import PlainDialect
    from asyncbatch.server.dialects.sklearn import SklearnDialect
    from asyncbatch.server.dialects.tgi import TgiDialect
    from asyncbatch.server.dialects.v2 import V2Dialect
    from asyncbatch.server.dialects.xgboost import XgboostDialect

    match name:
        case "xgboost":
            return XgboostDialect(features=features)
        case "sklearn":
            return SklearnDialect(features=features)
        case "huggingface":
            return HuggingFaceDialect()
        case "v2":
            return V2Dialect(features=features)
        case "mlflow":
            return MlflowDialect(features=features)
        case "tgi":
            return TgiDialect()
        case _:
            return PlainDialect()
