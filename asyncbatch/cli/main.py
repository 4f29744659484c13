"""The `asyncbatch` command: its commands, `--version`, and how errors become messages and exit codes."""

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from asyncbatch.cli.help import HelpCommand, HelpGroup
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import OutputConfig

COMMANDS = ("run", "plan", "status", "verify", "retry", "bench", "compare", "serve", "demo")
EXAMPLES = """
asyncbatch demo
asyncbatch run flights.parquet scored/ -e churn-prod
asyncbatch COMMAND --help
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        from asyncbatch._version import __version__

        print_out(f"asyncbatch {__version__}\n")
        raise typer.Exit(0)


def asyncbatch(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            show_default=False,
            help="show the version and exit",
        ),
    ] = False,
) -> None:
    """Asynchronous, high-throughput batch inference.

    Runs a file too large for memory through a model endpoint (SageMaker, any HTTP server, or a Python
    function), as fast as the endpoint allows, in input order, resumable.
    """


def build_app(command: str | None = None) -> typer.Typer:
    """The application, with all commands or, which starts sooner, with one of them; nothing heavy is imported."""
    app = typer.Typer(
        name="asyncbatch",
        cls=HelpGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EXAMPLES,
    )
    app.callback(epilog=EXAMPLES)(asyncbatch)
    for name in COMMANDS if command is None else (command,):
        module = import_module(f"asyncbatch.cli.{name}")
        app.command(cls=HelpCommand, epilog=module.EXAMPLES)(getattr(module, name))
    return app


def main(arguments: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> int:
    """Run a command line; returns the exit code. Messages go to stderr, products to stdout."""
    output = OutputConfig(
        # What was asked for, as far as it can be told before the options are parsed.
        verbose="-v" in arguments or "--verbose" in arguments,
        log_format="json" if _wants_json_logs(arguments, environ) else "text",
    )
    screen = Screen(sys.stderr, output)
    return screen.guard(lambda: _invoke(arguments, screen))


def _invoke(arguments: Sequence[str], screen: Screen) -> int:
    try:
        app = build_app(arguments[0] if arguments and arguments[0] in COMMANDS else None)
        code = app(list(arguments), prog_name="asyncbatch", standalone_mode=False)
    except typer.Abort:
        return 130
    except SystemExit:
        return 0  # the reader of stdout is gone: Typer's way to end, which needs no words
    except Exception as error:
        # Typer's errors about a command line; their base class has no public name before 0.26.
        if not hasattr(error, "format_message"):
            raise
        return _refused(error, screen, arguments)
    return code if isinstance(code, int) else 0


def _refused(error: Any, screen: Screen, arguments: Sequence[str]) -> int:
    """A command line that was not understood; without arguments, the help."""
    context: Any = getattr(error, "ctx", None)
    command = " ".join(["asyncbatch", *arguments[:1]]) if context is None else context.command_path
    if type(error).__name__ == "NoArgsIsHelpError":
        print_out(error.format_message() + "\n")
        return 2
    hint = f"{command} --help shows how"
    message = error.format_message().rstrip(".")
    wrong, known = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if hasattr(error, "possibilities"):
        message = f"{command} has no option {wrong}"
    elif message.startswith("No such command"):
        wrong, known = message.split("'")[1], context.command.list_commands(context)
        message = f"{command} has no command {wrong}"
    elif "extra argument" in message:
        hint = f"a glob stands in quotes: 'in/*.csv'; {hint}"
    if near := difflib.get_close_matches(wrong or "", known or [], n=1, cutoff=0.6):
        hint = f"did you mean {near[0]}? {hint}"
    message = message[:1].lower() + message[1:]
    screen.refused(message, hint)
    return 2


def _wants_json_logs(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    joined = " ".join(arguments)
    if "--log-format" in joined:
        return "--log-format json" in joined or "--log-format=json" in joined
    return environ.get("ASYNCBATCH_LOG_FORMAT") == "json"
