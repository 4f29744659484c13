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
                understand.
        """
        ...

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """The reply's body and content type, for the request's `accept` and `content_type` headers ("" if not
        sent).

        Raises:
            ContainerError: the predictions cannot be written so.
        """
        ...


def dialect(name: str) -> Dialect:
    """The dialect called `name`, one of `asyncbatch.server.config.DIALECTS`."""
    from asyncbatch.server.dialects.plain import PlainDialect

    return {"plain": PlainDialect}[name]()
