"""A container without quirks: understands every format of `asyncbatch.server.content`, answers one prediction
a line."""

from asyncbatch.server import content
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.rows import Predictions, Rows


class PlainDialect:
    """Decodes by Content-Type without its parameters; answers by Accept, by default in the family of the
    request.

    CSV has no header line unless the type says `text/csv; header=present`.
    """

    def decode(self, body: bytes, content_type: str) -> Rows:
        return content.decode(body, content_type)

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        family = _family(accept, content_type)
        return content.encode(predictions, family), family


def _family(accept: str, content_type: str) -> str:
    """The first accepted media type that can be written; `*/*` and no header mean the request's own
    family."""
    own = content.FAMILIES[content.media_type(content_type)[0]]
    if not accept:
        return own
    for wish in accept.split(","):
        kind, parameters = content.media_type(wish)
        if parameters.get("q") in ("0", "0.0", "0.00", "0.000"):
            continue
        if kind in ("*/*", own.partition("/")[0] + "/*"):
            return own
        if kind in content.FAMILIES:
            return content.FAMILIES[kind]
    raise ContainerError(
        406, f"Accept {accept!r} is not supported; supported are {', '.join(content.FAMILIES)}"
    )
