"""`asyncbatch serve`."""

import ipaddress
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncbatch.cli.options import VerboseOption, parsed, with_options
from asyncbatch.cli.screen import Screen
from asyncbatch.cli.serve_options import DEFAULTS, SERVE_OPTIONS, SIMULATION_FIELDS
from asyncbatch.config import OutputConfig
from asyncbatch.errors import ConfigError

if TYPE_CHECKING:
    from asyncbatch.server import Credential, ServeConfig

EXAMPLES = """
asyncbatch serve flights
asyncbatch serve model.onnx --port 9000 --name churn-prod
asyncbatch serve simulated --latency 20ms --row-latency 0.05ms --slots 8 --errors 503=0.01
"""

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="an ONNX file, python:package.module:function, or one of flights (late departures, shipped),"
        " echo (each row's first value), simulated (an echo that behaves like a loaded endpoint)",
    ),
]


@with_options(SERVE_OPTIONS, DEFAULTS)
def serve(model: ModelArgument = "flights", verbose: VerboseOption = False, **options: Any) -> int:
    """Serve a model like a SageMaker endpoint, on this machine.

    Answers POST /endpoints/NAME/invocations as SageMaker Runtime does (boto3 works with endpoint_url), and
    /ping and /invocations as containers do. Any simulation option slows the model down to that behaviour.
    Ctrl-C ends it.
    """
    screen = Screen(sys.stderr, OutputConfig(verbose=verbose))
    return screen.guard(lambda: execute(serve_config(model, options), screen, run_forever=_run_forever))


def serve_config(
    model: str, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> "ServeConfig":
    """What the command line asks for.

    Raises:
        ConfigError: a bad value, or `--verify-sigv4` without keys in the environment.
    """
    from asyncbatch.server import ServeConfig, SimulationConfig

    given = parsed(SERVE_OPTIONS, options)
    simulated = {field: given.pop(name) for name, field in SIMULATION_FIELDS.items() if name in given}
    given.setdefault("port", DEFAULTS["port"])
    if "name" in given:
        given["names"] = given.pop("name")
    if given.pop("verify_sigv4", False):
        given["credentials"] = (_credential(environ),)
    return ServeConfig(model=model, simulation=SimulationConfig(**simulated) if simulated else None, **given)


def execute(config: "ServeConfig", screen: Screen, *, run_forever: "Callable[[ServeConfig], None]") -> int:
    """Serve until a signal; returns the exit code."""
    if not _is_loopback(config.host) and not config.credentials:
        screen.warn(
            f"{config.host} can be reached by others, and anyone may send requests",
            hint="--verify-sigv4 asks for signed requests on /endpoints",
        )
    run_forever(config)
    return 0


def _run_forever(config: "ServeConfig") -> None:
    from asyncbatch.server import run_forever

    run_forever(config)


def _credential(environ: Mapping[str, str]) -> "Credential":
    from asyncbatch.server import Credential

    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise ConfigError(
            "--verify-sigv4 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            hint="set both here and for the client; any values do",
        )
    return Credential(access_key=key, secret_key=secret, session_token=environ.get("AWS_SESSION_TOKEN"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
