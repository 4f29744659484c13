"""One line of the option table: what command-line help, job.toml, environment and resume checks need of an option."""

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from asyncbatch.errors import ConfigError
from asyncbatch.units import parse_text

Kind = Literal["value", "flag", "list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One line of the option table."""

    panel: str
    help: str
    """One sentence; the default is appended by the command line."""
    parse: Callable[[Any], Any]
    """From text (command line, environment) or a TOML/Python value to the field's value; raises ValueError."""
    metavar: str = ""
    kind: Kind = "value"
    semantic: bool = False
    """True: changes a part's rows or columns, so it may not differ on resume."""
    secret: bool = False
    """True: its value never reaches state, reports, logs or echoed commands."""
    choices: tuple[str, ...] = ()
    short: str = ""
    default_text: str = ""
    """How help shows the default, where its value does not say it."""


def option(default: Any, *, panel: str, help: str, parse: Callable[[Any], Any], **more: Any) -> Any:
    """A dataclass field that carries its `Option`."""
    return dataclasses.field(
        default=default, metadata={"option": Option(panel=panel, help=help, parse=parse, **more)}
    )


def choice(*choices: str) -> Callable[[Any], str]:
    """A parser that takes one of `choices`."""

    def parse(value: Any) -> str:
        text = parse_text(value)
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def flag(name: str) -> str:
    """`chunk_rows` -> `--chunk-rows`; `assert_`, a keyword of Python without its underscore, -> `--assert`."""
    return "--" + name.rstrip("_").replace("_", "-")


def bad_value(name: str, raw: Any, option: Option, error: Exception, *, where: str = "") -> ConfigError:
    """What `option.parse` has against `raw`, with the option's own line of help or the nearest choice as hint.

    Args:
        where: the file or variable that the value came from; the command line if empty.
    """
    named = f"{where}: {name}" if where else flag(name)
    shown = "" if option.secret else f" {raw!r}"
    near = difflib.get_close_matches(str(raw), option.choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"{flag(name)} {option.metavar}: {option.help}"
    return ConfigError(f"{named}{shown}: {error}", hint=hint.replace(" :", ":"))
