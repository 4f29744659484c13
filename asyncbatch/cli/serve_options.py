"""The options of `asyncbatch serve`: one table, and which field of the simulation each of them sets."""

from collections.abc import Callable
from typing import Any

from asyncbatch.errors import ConfigError
from asyncbatch.option import Option
from asyncbatch.server.config import CHANGEABLE, DIALECTS, ERROR_KINDS, NOISE_KINDS, ROUTINGS, SHAPES, Change
from asyncbatch.units import (
    parse_bool,
    parse_count,
    parse_duration,
    parse_names,
    parse_number,
    parse_positive,
    parse_size,
    parse_text,
)

_SERVER, _SIMULATION = "Server", "Simulation"


def _amount(value: Any) -> float:
    number = parse_number(value)
    if number < 0:
        raise ValueError("must be 0 or more")
    return number


def _shares(value: Any) -> dict[str, float]:
    found = {}
    for each in parse_names(value):
        kind, equals, share = each.partition("=")
        if not equals:
            raise ValueError("expected KIND=SHARE")
        found[kind] = _amount(share)
    return found


def _deployments(value: Any) -> dict[str, str]:
    found = {}
    for each in parse_names(value):
        config, equals, model = each.partition("=")
        if not equals or not model:
            raise ValueError("expected CONFIG=MODEL")
        found[config] = model
    return found


def _changes(value: Any) -> tuple[Change, ...]:
    """`30s:slots=2,1m:instances=4`."""
    found = []
    for each in parse_names(value):
        at, colon, change = each.partition(":")
        what, equals, to = change.partition("=")
        if not (colon and equals):
            raise ValueError("expected TIME:WHAT=VALUE")
        try:
            found.append(Change(at_s=parse_duration(at), what=what, value=_amount(to)))
        except ConfigError as error:
            raise ValueError(f"{error.message.partition(': ')[2]} ({error.hint})") from None
    return tuple(found)


def _server(metavar: str, parse: Callable[[Any], Any], does: str, **more: Any) -> Option:
    return Option(panel=_SERVER, metavar=metavar, parse=parse, help=does, **more)


def _simulated(metavar: str, parse: Callable[[Any], Any], does: str, **more: Any) -> Option:
    return Option(panel=_SIMULATION, metavar=metavar, parse=parse, help=does, **more)


SERVE_OPTIONS: dict[str, Option] = {
    "host": _server("ADDRESS", parse_text, "address to listen at"),
    "port": _server("N", parse_count, "port to listen at; 0 takes a free one"),
    "name": _server("A,B", parse_names, "endpoint names to answer to", default_text="the model's own"),
    "dialect": _server(
        "|".join(DIALECTS),
        parse_text,
        "whose container it speaks like: formats, reply layout and failures",
        choices=DIALECTS,
    ),
    "features": _server(
        "N", parse_positive, "columns that the model takes", default_text="an ONNX model's own, else any"
    ),
    "verify_sigv4": _server(
        "",
        parse_bool,
        "answer /endpoints only to requests signed with this environment's AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY",
        kind="flag",
    ),
    "region": _server("REGION", parse_text, "region that signatures must name"),
    "max_body_bytes": _server("SIZE", parse_size, "a larger body is answered 413", default_text="25MiB"),
    "config_name": _server("NAME", parse_text, "endpoint configuration that DescribeEndpoint names"),
    "deployments": _server(
        "CONFIG=MODEL,...",
        _deployments,
        "endpoint configurations that UpdateEndpoint can switch to, and their models",
    ),
    "threads": _server("N", parse_positive, "threads that run the model", default_text="one per CPU"),
    "latency": _simulated("TIME", parse_duration, "fixed time of one request in a slot"),
    "row_latency": _simulated("TIME", parse_duration, "time of one row, such as 0.05ms"),
    "shape": _simulated(
        "|".join(SHAPES),
        parse_text,
        "how rows are charged: as they are, rounded up to --shape-rows (step), to a power of two times it"
        " (pow2), with a quadratic term beyond --knee, or as --knee at least (saturating)",
        choices=SHAPES,
    ),
    "shape_rows": _simulated("N", parse_positive, "rows of a step"),
    "knee": _simulated("N", parse_count, "rows from which on the quadratic term counts"),
    "knee_cost": _simulated("X", _amount, "the quadratic term, s per row squared"),
    "noise": _simulated("X", _amount, "sigma of the lognormal factor on every time"),
    "noise_kind": _simulated(
        "|".join(NOISE_KINDS),
        parse_text,
        "lognormal, a memoryless share of the time, or one request of 33 ten times as long",
        choices=NOISE_KINDS,
    ),
    "slots": _simulated("N", parse_positive, "requests that an instance serves at once"),
    "queue": _simulated("N", parse_count, "places of an instance to wait for a slot; beyond them 503"),
    "instances": _simulated("N", parse_positive, "copies of the container, each with slots and queue"),
    "routing": _simulated(
        "|".join(ROUTINGS), parse_text, "which instance a request goes to", choices=ROUTINGS
    ),
    "uneven": _simulated("X", _amount, "sigma of the lognormal factor on each instance's speed"),
    "cores": _simulated("N", parse_count, "busy slots of an instance beyond so many share them"),
    "thrash": _simulated("X", _amount, "further slowdown for each busy slot beyond --cores"),
    "round_trip": _simulated("TIME", parse_duration, "time on the way there and back"),
    "bandwidth": _simulated("SIZE", parse_size, "bytes a second of a request's body on the way"),
    "changes": _simulated(
        "TIME:WHAT=X,...",
        _changes,
        f"what becomes X so long after the first request: {', '.join(CHANGEABLE)}",
    ),
    "rate": _simulated("X", _amount, "requests/s; beyond it ThrottlingException"),
    "burst": _simulated("X", _amount, "requests that may come at once under --rate"),
    "throttle_status": _simulated("400|429", parse_count, "status of a throttled request"),
    "max_concurrency": _simulated("N", parse_count, "requests inside, beyond which more are throttled"),
    "cap_bytes": _simulated("SIZE", parse_size, "largest body; beyond it 413"),
    "cap_rows": _simulated("N", parse_positive, "most rows of a request; beyond it 413"),
    "oom_rows": _simulated("N", parse_positive, "rows above which the container dies of memory"),
    "oom_delay": _simulated("TIME", parse_duration, "how long the container takes to die of memory"),
    "oom_restart": _simulated("TIME", parse_duration, "how long its slot is gone then"),
    "min_rows": _simulated("N", parse_positive, "fewest rows that the container can answer"),
    "cold": _simulated("TIME", parse_duration, "for so long after the start times are --cold-factor as long"),
    "cold_factor": _simulated("X", _amount, "how much longer"),
    "errors": _simulated(
        "KIND=SHARE,...",
        _shares,
        f"share of requests that fail, by kind: {', '.join(ERROR_KINDS)}",
    ),
    "poison_share": _simulated("X", _amount, "share of rows that the container refuses"),
    "poison_value": _simulated("TEXT", parse_text, "rows whose first value is written so are refused too"),
    "outputs": _simulated("N", parse_positive, "numbers answered for a row"),
    "labels": _simulated("A,B", parse_names, "texts to answer with instead, one a row"),
    "seed": _simulated("N", parse_count, "of everything random"),
}

SIMULATION_FIELDS = {
    "latency": "a",
    "row_latency": "b",
    "shape": "shape",
    "shape_rows": "m",
    "knee": "knee",
    "knee_cost": "knee_c",
    "noise": "noise",
    "noise_kind": "noise_kind",
    "slots": "slots",
    "queue": "queue",
    "instances": "instances",
    "routing": "routing",
    "uneven": "uneven",
    "cores": "cores",
    "thrash": "thrash",
    "round_trip": "round_trip_s",
    "bandwidth": "bandwidth",
    "changes": "changes",
    "rate": "rate",
    "burst": "burst",
    "throttle_status": "throttle",
    "max_concurrency": "max_conc",
    "cap_bytes": "cap_bytes",
    "cap_rows": "cap_rows",
    "oom_rows": "oom_rows",
    "oom_delay": "oom_delay_s",
    "oom_restart": "oom_restart_s",
    "min_rows": "min_rows",
    "cold": "cold_s",
    "cold_factor": "cold_x",
    "errors": "errors",
    "poison_share": "poison_share",
    "poison_value": "poison_value",
    "outputs": "outputs",
    "labels": "labels",
    "seed": "seed",
}
"""Option name to field of `SimulationConfig`."""

DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(SERVE_OPTIONS),
    "host": "127.0.0.1",
    "port": 8080,
    "dialect": "plain",
    "region": "us-east-1",
    "config_name": "in-service",
    "shape": "affine",
    "shape_rows": 32,
    "noise_kind": "lognormal",
    "slots": 4,
    "queue": 1000,
    "instances": 1,
    "routing": "shortest",
    "throttle_status": 400,
}
"""What help shows: the defaults of `ServeConfig` and `SimulationConfig`, and the port."""
