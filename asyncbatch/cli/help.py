"""Help pages: panels of options in two columns, whole option names at any width, examples last.

Typer's own panels give each part of an option a column, which cuts long names at 80 columns. This one needs
no further library, so that help comes at once.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

_WIDEST = 100
_NO_BREAK = "\xa0"
_TERM_WIDTH, _NAME_WIDTH, _NARROW_WIDTH = 28, 10, 8
_NARROW = 72
"""Below so many columns descriptions stand under their terms."""
_BOLD, _CYAN, _DIM = "1", "36", "2"


class HelpCommand(TyperCommand):
    """A command whose help is written here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


class HelpGroup(TyperGroup):
    """A group whose help is written here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


def page(command: Any, ctx: Any) -> str:
    """The help page of a command or group, for the width of the terminal."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [
        _style("Usage: ", _BOLD) + usage,
        *_paragraphs(command.help or "", width),
        *_commands(command, ctx, width),
        *_options(command, ctx, width),
    ]
    if command.epilog:
        parts.append(_heading("Examples") + "\n" + textwrap.indent(command.epilog.strip("\n"), "  "))
    return "\n\n".join(parts) + "\n"


def two_columns(rows: Sequence[tuple[str, str]], width: int, term_width: int = _TERM_WIDTH) -> str:
    """Terms and their descriptions; a term that is too long stands on a line of its own."""
    indent = " " * (2 + term_width)
    found = []
    for term, description in rows:
        lines = textwrap.wrap(
            _glued(description), max(20, width - len(indent)), break_on_hyphens=False, break_long_words=False
        )
        if len(term) + 2 > term_width:
            found.append("  " + _term(term))
        else:
            first = lines.pop(0) if lines else ""
            found.append(("  " + _term(term) + " " * (term_width - len(term)) + first).rstrip())
        found += [indent + line for line in lines]
    return "\n".join(found).replace(_NO_BREAK, " ")


def _glued(description: str) -> str:
    """A short `[default: x]` stays on one line."""
    head, bracket, rest = description.rpartition(" [default: ")
    if not bracket or len(rest) > _TERM_WIDTH:
        return description
    return f"{head} {(bracket + rest).strip().replace(' ', _NO_BREAK)}"


def _paragraphs(text: str, width: int) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        if paragraph:
            yield textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False)


def _commands(command: Any, ctx: Any, width: int) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        rows = []
        for name in command.list_commands(ctx):
            each: Any = command.get_command(ctx, name)
            if not each.hidden:
                rows.append(
                    (name, (each.short_help or each.help or "").strip().partition("\n")[0].rstrip("."))
                )
        yield _heading("Commands") + "\n" + two_columns(rows, width, _NAME_WIDTH)


def _options(command: Any, ctx: Any, width: int) -> Iterator[str]:
    panels: dict[str, list[tuple[str, str]]] = {}
    last: dict[str, list[tuple[str, str]]] = {}
    for each in command.get_params(ctx):
        if getattr(each, "hidden", False):
            continue
        if each.param_type_name == "argument":
            panels.setdefault("Arguments", []).append((each.metavar or each.name.upper(), _description(each)))
        else:
            panel = getattr(each, "rich_help_panel", None)
            (panels if panel else last).setdefault(panel or "Other", []).append(
                (_option(each), _description(each))
            )
    for title, rows in {**panels, **last}.items():
        term_width = (
            _NAME_WIDTH if title == "Arguments" else _TERM_WIDTH if width >= _NARROW else _NARROW_WIDTH
        )
        yield _heading(title) + "\n" + two_columns(rows, width, term_width)


def _option(parameter: Any) -> str:
    """`-e, --endpoint NAME`, `    --region NAME`: long names in one column."""
    shorts = [each for each in parameter.opts if not each.startswith("--")]
    longs = [each for each in parameter.opts if each.startswith("--")]
    term = (", ".join([*shorts, ""]) if shorts else "    ") + ", ".join(longs)
    return term if parameter.is_flag or not parameter.metavar else f"{term} {parameter.metavar}"


def _description(parameter: Any) -> str:
    text = parameter.help or ""
    shown = parameter.show_default and parameter.default not in (None, False, ())
    return f"{text} [default: {parameter.default}]" if shown else text


def _heading(title: str) -> str:
    return _style(title, _BOLD)


def _term(term: str) -> str:
    """The names of an option, or a command's, stand out; what follows them does not."""
    blank = len(term) - len(term.lstrip())
    names = 0
    for word in term.split():
        if names and not word.startswith("-"):
            break
        names += 1
    head = " ".join(term.split()[:names])
    return " " * blank + _style(head, _CYAN) + term[blank + len(head) :]


def _style(text: str, code: str) -> str:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if coloured else text
