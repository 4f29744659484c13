"""`--reply`: where the predictions are in a JSON reply.

A plain path (`a.b`, `a[0].b`, `a[*].c`) is compiled to direct access; any other JMESPath expression is run by
jmespath, which is slow. They agree but for one thing: a plain path keeps nulls in `[*]`, so that rows never
shift; JMESPath drops them.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jmespath

from asyncbatch.errors import ConfigError

_STEP = re.compile(
    r'\.?(?P<name>[A-Za-z_]\w*)|\.?(?P<quoted>"(?:[^"\\]|\\.)*")|\[(?P<index>-?\d+)\]|(?P<all>\[\*\])'
)
_ALL = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A compiled path; `find` returns None where there is nothing."""

    find: Callable[[Any], Any]
    plain: bool
    """False: `find` runs jmespath and is slow for large replies."""


def compile_path(expression: str) -> Path:
    """Compile a JMESPath expression; empty or `@` is the whole reply.

    Raises:
        ConfigError: not JMESPath.
    """
    steps = _plain_steps(expression)
    if steps is not None:
        return Path(find=lambda value: _walk(value, steps, 0), plain=True)
    try:
        compiled = jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as error:
        raise ConfigError(
            f"--reply {expression!r} is not JMESPath",
            hint="such as predictions, outputs[0].data or predictions[*].score",
        ) from error

    def find(value: Any) -> Any:
        try:
            return compiled.search(value)
        except jmespath.exceptions.JMESPathError:  # its message would quote the reply
            return None

    return Path(find=find, plain=False)


def key_step(key: str) -> str:
    """One object key as JMESPath text."""
    return key if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) else json.dumps(key)


def _plain_steps(expression: str) -> tuple[Any, ...] | None:
    text = expression.strip()
    if text in ("", "@"):
        return ()
    text = text.removeprefix("@")
    steps: list[Any] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or (
            position == 0 and match[0].startswith(".") and not expression.strip().startswith("@")
        ):
            return None
        if position and (match["name"] or match["quoted"]) and not match[0].startswith("."):
            return None
        if match["name"]:
            steps.append(match["name"])
        elif match["quoted"]:
            steps.append(json.loads(match["quoted"]))
        else:
            steps.append(_ALL if match["all"] else int(match["index"]))
        position = match.end()
    return tuple(steps)


def _walk(value: Any, steps: tuple[Any, ...], position: int) -> Any:
    for index in range(position, len(steps)):
        step = steps[index]
        if step is _ALL:
            if not isinstance(value, list):
                return None
            rest = index + 1
            if rest == len(steps):
                return value
            if rest == len(steps) - 1 and isinstance(steps[rest], str):
                key = steps[rest]
                return [each.get(key) if isinstance(each, dict) else None for each in value]
            return [_walk(each, steps, rest) for each in value]
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
        if value is None:
            return None
    return value
