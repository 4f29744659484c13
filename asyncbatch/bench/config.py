"""The options of `asyncbatch bench` beside those that it shares with `run`: one table, as `asyncbatch.config` has."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asyncbatch.bench.prices import Price, stated_price
from asyncbatch.bench.schedule import Stage, geometric
from asyncbatch.bench.slo import METRICS, Condition, parse_conditions
from asyncbatch.errors import ConfigError
from asyncbatch.option import Option, bad_value, choice, option
from asyncbatch.units import (
    IntRange,
    parse_bool,
    parse_count,
    parse_duration,
    parse_number,
    parse_positive,
    parse_positive_number,
    parse_range,
    parse_text,
)

ARRIVALS = ("constant", "poisson")
LEAST_STAGE_S = 0.5
_LOAD, _FIGURES, _PRICE, _OUT = "Load", "Figures", "Price", "Output"
_LIST = re.compile(r"\s*,\s*")

SHARED = (
    "endpoint", "region", "profile", "endpoint_url", "ca_bundle",
    "send", "no_send", "types", "limit", "input_format", "delimiter", "quote", "no_header",
    "body", "template", "row", "content_type", "accept", "header", "target_model", "target_variant",
    "target_container_hostname", "inference_component_name", "custom_attributes", "enable_explanations", "inference_id",
    "session_id", "reply", "prediction_type", "max_payload", "max_reply", "max_memory", "transport", "tuning",
    "request_timeout", "connect_timeout", "quiet", "verbose", "no_progress",
)  # fmt: skip
"""Options of `run` that `bench` takes too, as far as they exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a load option spans: one value, a list, or a range whose steps double."""

    values: tuple[float, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def counts(self) -> tuple[int, ...]:
        """The values of an option that counts."""
        return tuple(int(each) for each in self.values)

    @property
    def bounds(self) -> IntRange:
        """From the lowest to the highest."""
        return IntRange(int(min(self.values)), int(max(self.values)))


def parse_spread(value: Any) -> Spread:
    """`16`, `1:64` or `1,8,64`: whole numbers, 1 or more."""
    if isinstance(value, Spread):
        return value
    if isinstance(value, IntRange):
        return Spread(values=geometric(value.low, value.high), text=str(value))
    text = _joined(value)
    if "," in text:
        counts = tuple(sorted({parse_positive(each) for each in _LIST.split(text) if each.strip()}))
        return Spread(values=counts, text=",".join(map(str, counts)))
    bounds = parse_range(text)
    return Spread(values=geometric(bounds.low, bounds.high), text=str(bounds))


def parse_rates(value: Any) -> Spread:
    """`50` or `10,20,50`: numbers above 0."""
    if isinstance(value, Spread):
        return value
    rates = tuple(
        sorted({parse_positive_number(each) for each in _LIST.split(_joined(value)) if each.strip()})
    )
    return Spread(values=rates, text=",".join(f"{each:g}" for each in rates))


def parse_stages(value: Any) -> tuple[Stage, ...]:
    """`5m@50,5m@200`: so long, so many requests a second."""
    stages = []
    for term in _LIST.split(_joined(value)):
        seconds, at, rate = term.partition("@")
        if not at:
            raise ValueError("expected TIME@RATE,…, such as 5m@50,5m@200")
        stages.append(Stage(seconds=parse_duration(seconds), rate=parse_positive_number(rate)))
    if any(stage.seconds < LEAST_STAGE_S for stage in stages):
        raise ValueError(f"a stage lasts {LEAST_STAGE_S:g} s or longer")
    return tuple(stages)


def parse_share(value: Any) -> float:
    """`3%` or `0.03`: above 0, below 1."""
    text = str(value).strip()
    share = parse_number(text[:-1]) / 100 if text.endswith("%") else parse_number(text)
    if not 0 < share < 1:
        raise ValueError("expected a share between 0% and 100%")
    return share


def parse_pause(value: Any) -> float:
    """A duration; 0 too."""
    return 0.0 if str(value).strip() in ("0", "0s", "0.0") else parse_duration(value)


def _joined(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(each) for each in value)
    return parse_text(str(value))


# fmt: off


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """What load, how long, and what is done with the figures."""

    chunk_rows: Spread | None = option(None, panel=_LOAD, metavar="N|MIN:MAX|A,B,...", parse=parse_spread,
        help="rows of a request", default_text="1,64,1024; with --find-knee 1:8192; 1 in open loop")
    concurrency: Spread | None = option(None, panel=_LOAD, metavar="N|MIN:MAX|A,B,...", parse=parse_spread,
        help="requests in flight, as many all the time (closed loop)", default_text="1,8,32; with --find-knee 1:128")
    rate: Spread | None = option(None, panel=_LOAD, metavar="X|A,B,...", parse=parse_rates,
        help="requests started a second, however slow replies are (open loop)", default_text="closed loop")
    arrivals: str = option("constant", panel=_LOAD, metavar="|".join(ARRIVALS), parse=choice(*ARRIVALS), choices=ARRIVALS,
        help="with --rate or --stages: evenly apart, or at random as independent users come")
    stages: tuple[Stage, ...] = option((), panel=_LOAD, metavar="TIME@RATE,...", parse=parse_stages,
        help="open loop in stages one after the other, such as 5m@50,5m@200", default_text="none")
    find_knee: bool = option(False, panel=_LOAD, kind="flag", parse=parse_bool,
        help="search chunk rows x concurrency for the most rows/s within --slo, and measure the best again")
    slo: tuple[Condition, ...] = option((), panel=_LOAD, metavar="TERM,...", parse=parse_conditions,
        help=f"objective, such as p95<800ms,errors<1%; of {', '.join(METRICS)}",
        default_text="errors<1% with --find-knee")
    replicates: int = option(3, panel=_LOAD, metavar="N", parse=parse_positive,
        help="with --find-knee: how often the best is measured again")
    duration: float = option(10.0, panel=_LOAD, metavar="TIME", parse=parse_duration,
        help="what is measured of each point", default_text="10s")
    requests: int | None = option(None, panel=_LOAD, metavar="N", parse=parse_positive,
        help="measure so many requests of each point, however long they take", default_text="by --duration")
    warmup: float = option(2.0, panel=_LOAD, metavar="TIME", parse=parse_pause,
        help="load before each point's measurement, in no figure", default_text="2s")
    cooldown: float = option(1.0, panel=_LOAD, metavar="TIME", parse=parse_pause,
        help="load after it, in no figure, so that the last requests run under load too", default_text="1s")
    precision: float | None = option(None, panel=_LOAD, metavar="P%", parse=parse_share,
        help="end a point as soon as rows/s are known to this, such as 2%", default_text="the whole duration")
    max_requests: int = option(1_000_000, panel=_LOAD, metavar="N", parse=parse_positive,
        help="requests of all points together, at most", default_text="1,000,000")
    yes: bool = option(False, panel=_LOAD, short="-y", kind="flag", parse=parse_bool,
        help="do not ask before loading an endpoint beyond this machine")
    confidence: float = option(0.95, panel=_FIGURES, metavar="P%", parse=parse_share,
        help="confidence of every interval", default_text="95%")
    seed: int = option(0, panel=_FIGURES, metavar="N", parse=parse_count,
        help="of arrival times and of the order of points")
    label: str | None = option(None, panel=_FIGURES, metavar="TEXT", parse=parse_text,
        help="how compare and reports call this result", default_text="the endpoint")
    assert_: tuple[Condition, ...] = option((), panel=_FIGURES, metavar="TERM,...", parse=parse_conditions,
        help="exit 4 unless the best point satisfies this, in the words of --slo", default_text="none")
    price_per_hour: float | None = option(None, panel=_PRICE, metavar="X", parse=parse_positive_number,
        help="dollars an hour of one instance", default_text="none")
    instances: int | None = option(None, panel=_PRICE, metavar="N", parse=parse_positive,
        help="instances behind the endpoint; with it an autoscaling target is told", default_text="1 for prices")
    price_gb_second: float | None = option(None, panel=_PRICE, metavar="X", parse=parse_positive_number,
        help="dollars a GB-second of a serverless endpoint", default_text="none")
    memory_gb: float | None = option(None, panel=_PRICE, metavar="X", parse=parse_positive_number,
        help="memory of a serverless endpoint", default_text="2 with --price-gb-second")
    output: tuple[str, ...] = option((), panel=_OUT, metavar="FILE", kind="list", parse=lambda value: tuple(
        [value] if isinstance(value, str) else value),
        help="write the result there: .json, .csv (a line a point), .md, or .parquet (a row a request); repeat for more",
        default_text="none")
    report: str | None = option(None, panel=_OUT, metavar="FILE", parse=parse_text,
        help="write the report there, .html or .json", default_text="none")
    json: bool = option(False, panel=_OUT, kind="flag", parse=parse_bool,
        help="print the result to stdout, JSON with a versioned schema")
    save_tuning: bool = option(False, panel=_OUT, kind="flag", parse=parse_bool,
        help="keep the best point, so that the next run on this endpoint starts with it")

    @property
    def is_open(self) -> bool:
        """Requests start at times of their own."""
        return bool(self.rate or self.stages)

    @property
    def price(self) -> Price | None:
        """The price as stated; None without one."""
        return stated_price(
            per_hour=self.price_per_hour, instances=self.instances, per_gb_second=self.price_gb_second,
            memory_gb=self.memory_gb)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "LoadConfig":
        """From option names (with `_`) and text or Python values. None means the default.

        Raises:
            ConfigError: a bad value, or a combination that makes no sense.
        """
        given: dict[str, Any] = {}
        for name, raw in options.items():
            if raw in (None, [], ()):
                continue
            try:
                given[name] = LOAD_OPTIONS[name].parse(raw)
            except (TypeError, ValueError) as error:
                raise bad_value(name, raw, LOAD_OPTIONS[name], error) from error
        return _checked(cls(**given))

    def effective(self) -> dict[str, Any]:
        """Every option that differs from its default, as JSON values."""
        found: dict[str, Any] = {}
        for name in LOAD_OPTIONS:
            value = getattr(self, name)
            if value != getattr(_DEFAULTS, name):
                found[name] = _jsonable(value)
        return found


# fmt: on


def _table() -> Iterable[tuple[str, Option]]:
    for each in dataclasses.fields(LoadConfig):
        yield each.name, each.metadata["option"]


LOAD_OPTIONS: dict[str, Option] = dict(_table())
"""Option name (with `_`) to its line of the table, in help order."""
_DEFAULTS = LoadConfig()


def load_defaults() -> dict[str, object]:
    """The default of each option."""
    return {name: getattr(_DEFAULTS, name) for name in LOAD_OPTIONS}


def _checked(load: LoadConfig) -> LoadConfig:
    """Cross-field checks."""
    if load.rate and load.stages:
        raise ConfigError("--rate and --stages exclude each other", hint="a stage names its own rate: 5m@50")
    if load.is_open and load.concurrency is not None:
        raise ConfigError(
            "--concurrency is for a closed loop, and --rate or --stages make it open",
            hint="leave one of them out: in open loop no reply slows the next request",
        )
    if load.find_knee and load.is_open:
        raise ConfigError(
            "--find-knee searches in a closed loop",
            hint="leave --rate and --stages out; --concurrency MIN:MAX bounds it",
        )
    if load.find_knee and all(
        each is not None and each.bounds.low == each.bounds.high
        for each in (load.chunk_rows, load.concurrency)
    ):
        raise ConfigError(
            "--find-knee has nothing to search: --chunk-rows and --concurrency are both fixed",
            hint="give one of them as MIN:MAX",
        )
    if load.stages and load.requests is not None:
        raise ConfigError(
            "--requests and --stages exclude each other", hint="a stage names its own length: 5m@50"
        )
    if load.stages and load.chunk_rows is not None and len(load.chunk_rows.values) > 1:
        raise ConfigError("--stages takes one --chunk-rows", hint="run one command for each")
    _ = load.price  # raises where it is stated in two ways
    if load.arrivals == "poisson" and not load.is_open:
        raise ConfigError("--arrivals is for an open loop", hint="add --rate or --stages")
    return load


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_jsonable(each) for each in value]
    if isinstance(value, (Spread, Stage, Condition)):
        return str(value)
    return value
