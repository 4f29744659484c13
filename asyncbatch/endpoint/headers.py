"""The `-H` headers of a run: which may be given, and their values read from environment and files."""

from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError

_OPTIONS = {"content-type": "give --content-type", "accept": "give --accept"}
_FRAMING = frozenset(("content-length", "transfer-encoding", "connection", "expect"))


def extra_headers(
    request: RequestConfig, *, also_ours: frozenset[str] = frozenset()
) -> tuple[tuple[str, str], ...]:
    """Name and value of each `-H`, with `@env:` and `@file:` read now.

    Args:
        also_ours: more names, in lower case, that this kind of endpoint writes itself.

    Raises:
        ConfigError: a value cannot be read, or the header is one that asyncbatch writes itself.
    """
    found = []
    for source in request.header:
        lower = source.name.lower()
        if lower in _OPTIONS:
            raise ConfigError(f"-H {source.name} has an option of its own", hint=_OPTIONS[lower])
        if lower in _FRAMING or lower in also_ours:
            raise ConfigError(f"-H {source.name} is written by asyncbatch itself", hint="leave it out")
        try:
            value = source.resolve()
        except ValueError as error:
            raise ConfigError(
                f"-H {source.name}: {error}", hint="the value is text, @env:VARIABLE or @file:PATH"
            ) from error
        if any(ord(character) < 32 and character != "\t" for character in value):
            raise ConfigError(f"-H {source.name}: the value has a control character", hint="check its source")
        found.append((source.name, value))
    return tuple(found)
