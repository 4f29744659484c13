"""Command signatures made from option tables, so that a table is the only place where an option is written.

Every value is taken as text and parsed by the table, so that command line, environment and job.toml cannot
differ. An option that was not given is None.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from asyncbatch.config import OPTIONS, PARTS
from asyncbatch.option import Option, bad_value, flag

VerboseOption = Annotated[
    bool,
    typer.Option("-v", "--verbose", show_default=False, help="show where it failed, should there be a bug"),
]
"""For commands without the option table of a run."""

Command = TypeVar("Command", bound=Callable[..., Any])


def run_options() -> dict[str, Option]:
    """The option table of `run` and `plan`."""
    return {name: option for name, (_, option) in OPTIONS.items()}


def run_defaults() -> dict[str, object]:
    """The default of each option of a run."""
    return {name: getattr(PARTS[part](), name) for name, (part, _) in OPTIONS.items()}


def with_options(
    table: Mapping[str, Option], defaults: Mapping[str, object], *, hidden: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Replace `**options` in a command's signature by the options of `table`, in its order.

    Help shows `Option.default_text`, or where that is empty the value in `defaults`; options in `hidden` are taken
    and not shown.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        kept = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        added = [
            _parameter(name, option, defaults[name], hidden=name in hidden) for name, option in table.items()
        ]
        parameters = [*kept, *added]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def parsed(table: Mapping[str, Option], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the options that were given.

    Raises:
        ConfigError: a bad value.
    """
    found = {}
    for name, raw in options.items():
        if raw is None:
            continue
        try:
            found[name] = table[name].parse(raw)
        except (TypeError, ValueError) as error:
            raise bad_value(name, raw, table[name], error) from error
    return found


def default_text(option: Option, default: object) -> str:
    """How help and documentation write an option's default; empty where there is nothing to tell."""
    if option.default_text:
        return "" if option.default_text == "none" else option.default_text
    return "" if default in (None, "", ()) or isinstance(default, bool) else str(default)


def _parameter(name: str, option: Option, default: object, *, hidden: bool) -> inspect.Parameter:
    kind: Any = {"value": str, "flag": bool, "list": list[str]}[option.kind] | None
    said = default_text(option, default)
    information = typer.Option(
        *([option.short] if option.short else []),
        flag(name),
        help=option.help + (f" [default: {said}]" if said else ""),
        metavar=option.metavar or None,
        rich_help_panel=option.panel,
        show_default=False,
        hidden=hidden,
        autocompletion=_completion(option.choices) if option.choices else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, information]
    )


def _completion(choices: Iterable[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [each for each in choices if each.startswith(incomplete)]

    return complete
