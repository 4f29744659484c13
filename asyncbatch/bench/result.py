"""The result of `asyncbatch bench`: a JSON document with a versioned schema.

`docs/bench-schema.json` is generated from the classes here. Fields are added without notice; `SCHEMA_VERSION` changes
when one is removed or changes its meaning. Intervals are two-sided, of the confidence that the result names; a figure
that the sample cannot bear is null. Times are seconds; those of requests count from the start of their point.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from asyncbatch.errors import InputError
from asyncbatch.observe.machine import Machine
from asyncbatch.observe.metric import metric

SCHEMA_VERSION = 1
KIND = "asyncbatch-bench"

Mode = Literal["closed", "constant", "poisson"]
"""A fixed number of requests in flight; or requests at times of their own, evenly apart or at random."""
KneeVerdict = Literal["knee", "no knee in range", "cliff", "none feasible"]
StoppedBy = Literal[
    "duration", "requests", "precision", "saturation", "errors", "budget", "interrupted", "refused"
]
SPLIT = ("waiting", "send", "server", "receive", "decode")
"""Where the time of a request goes, in order."""


def _described(description: str, **default: Any) -> Any:
    """A field with its description in the schema."""
    return field(metadata={"description": description}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """One percentile of a latency, with its interval; all null where the sample cannot bear it."""

    percent: float = metric("%", "share of the requests that took no longer")
    seconds: float | None = metric("s", "nearest rank of the sample")
    low_s: float | None = metric("s", "lower end of the interval")
    high_s: float | None = metric("s", "upper end of the interval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long the requests answered took; p50 to p99.9."""

    count: int = metric("requests", "requests in these figures")
    effective_count: float = metric(
        "requests", "independent requests that would say as much: neighbours resemble each other"
    )
    mean_s: float | None = metric("s", "arithmetic mean; null when nothing was answered")
    min_s: float | None = metric("s", "shortest")
    max_s: float | None = metric("s", "longest")
    percentiles: Sequence[Percentile] = _described("p50, p90, p95, p99 and p99.9, in this order.")
    spectrum: Sequence[tuple[float, float]] = _described(
        "The whole distribution: pairs of percent (0 to below 100) and seconds, both ascending."
    )
    histogram: str | None = _described(
        "The same in microseconds, as HdrHistogram V2, compressed, base64, for other tools to read and add;"
        " null where the extra `bench` is not installed."
    )

    def percentile(self, percent: float) -> Percentile:
        """The one of `percentiles` for `percent`.

        Raises:
            KeyError: it is none of them.
        """
        for each in self.percentiles:
            if each.percent == percent:
                return each
        raise KeyError(percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the time of a request goes: means over the requests answered. Null where the endpoint cannot tell."""

    waiting_s: float | None = metric("s", "from the intended start to the first byte handed to the system")
    send_s: float | None = metric("s", "to the last byte of the request handed to the system")
    server_s: float | None = metric("s", "to the head of the reply: network and model")
    receive_s: float | None = metric("s", "to the last byte of the reply")
    decode_s: float | None = metric("s", "to the values read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A stretch of a point's figures: how it went over time."""

    start_s: float = metric("s", "begin, from the start of the point")
    stop_s: float = metric("s", "end")
    rows_per_s: float = metric("rows/s", "rows answered in it / its length")
    requests: int = metric("requests", "answered in it")
    errors: int = metric("requests", "failed in it")
    p50_s: float | None = metric("s", "median latency from the intended start, of those answered in it")
    p95_s: float | None = metric("s", "the same, 95th percentile of the slice's sample, without an interval")
    max_s: float | None = metric("s", "the same, longest")
    in_flight: float = metric("requests", "mean requests in flight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Single requests of a point, in order of their intended start; lists of one length."""

    of: int = metric("requests", "requests that these are a sample of: every k-th, warm-up included")
    intended_s: Sequence[float] = metric("s", "when it was to start")
    sent_s: Sequence[float] = metric("s", "when it was started")
    finished_s: Sequence[float] = metric("s", "when it was answered and read, or had failed")
    rows: Sequence[int] = metric("rows", "rows of the request")
    outcome: Sequence[str] = _described("`success`, or how it failed: a name of the point's `errors`.")
    measured: Sequence[bool] = _described("False: of the warm-up or the cool-down, and in no figure.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting of the load, and what it gave. Rates are over `seconds`, warm-up and cool-down left out."""

    number: int = _described("Position in `points`, from 0.")
    mode: Mode = _described("How requests were started.")
    chunk_rows: int = metric("rows", "rows of a request, as set")
    concurrency: int | None = metric("requests", "in flight, as set; null in open loop")
    rate: float | None = metric("requests/s", "started a second, as set; null in closed loop")
    repeats: int | None = _described(
        "Number of the point that this one measures again; null for a first measurement."
    )

    rows_per_s: float = metric("rows/s", "rows answered / seconds")
    rows_per_s_low: float | None = metric("rows/s", "lower end of the interval")
    rows_per_s_high: float | None = metric("rows/s", "upper end of the interval")
    mb_per_s: float = metric("MB/s", "bytes of the bodies of requests answered / seconds / 1,000,000")
    mb_per_s_low: float | None = metric("MB/s", "lower end of the interval")
    mb_per_s_high: float | None = metric("MB/s", "upper end of the interval")
    requests_per_s: float = metric("requests/s", "requests answered / seconds")
    seconds: float = metric("s", "length of what was measured")
    warmup_s: float = metric("s", "load before it, in no figure")
    cooldown_s: float = metric("s", "load after it, in no figure")

    requests: int = metric("requests", "started in `seconds` (intended start)")
    rows: int = metric("rows", "answered, of these")
    errors: Mapping[str, int] = _described(
        "Failed requests of these by kind: an outcome (`throttled`, `timeout` …), with status and name where there was one."
    )
    error_share: float = metric("1", "failed / (answered + failed)")
    throttled: int = metric("requests", "failed because the endpoint refused for load")
    unfinished: int = metric("requests", "neither answered nor failed when the point was ended")

    latency: Latency = _described("From the intended start: what a caller waits, late starts counted.")
    latency_from_send: Latency = _described("From the actual start: what the naive loop would see.")
    split: Split = _described("Where the time of a request goes.")
    late_p99_s: float | None = metric("s", "99th percentile of actual minus intended start")

    in_flight: float = metric("requests", "mean requests in flight, achieved")
    in_flight_max: int = metric("requests", "most at once")
    client_cpu_share: float | None = metric(
        "1", "CPU seconds of this process / seconds: 1 is one core; null when not metered"
    )
    client_cpu_s_per_request: float | None = metric("s", "CPU seconds of this process / requests finished")
    client_bound: bool = _described(
        "True: the client, not the endpoint, was the limit; the endpoint may be faster."
    )
    drift: float | None = metric(
        "1",
        "change of rows/s (closed loop) or median latency (open loop) from the first to the last third / its mean",
    )
    drifts: bool = _described(
        "True: the drift is larger than its noise: figures depend on when they were taken."
    )
    saturated: bool = _described(
        "True: open loop, and requests piled up: the rate is beyond what the endpoint takes."
    )
    stopped_by: StoppedBy = _described("What ended the point; `budget` is `--max-requests`.")
    slo_met: bool | None = _described(
        "Whether `--slo` held; null without one, or when the sample cannot bear it."
    )
    slo_missed: str = _described("The condition that did not hold, in words; empty if all did.")
    on_pareto_front: bool = _described("No other point has both more rows/s and a lower p95.")
    dollars_per_million_rows: float | None = metric("USD", "by the stated price; null without one")
    slices: Sequence[Slice] = _described("The point over time, warm-up and cool-down left out.")
    sample: Requests = _described("Single requests, at most 2,000.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """What the search for the best setting found."""

    verdict: KneeVerdict = _described(
        "`knee`: more load brings no more rows/s within the objective; `no knee in range`: the best lies at the end of"
        " the range and more may do better; `cliff`: one step on, it collapses; `none feasible`: nothing met the objective."
    )
    limited_by: Literal["saturation", "slo", "errors", "range", "nothing"] = _described(
        "What kept the next larger load from being the best."
    )
    point: int | None = _described("Number of the best point as confirmed; null when there is none.")
    replicates: Sequence[int] = _described("Numbers of the points that measured the best setting again.")
    confirmed: bool = _described("True: every replicate met the objective and agreed with the others.")
    rows_per_s: float | None = metric(
        "rows/s", "mean of the replicates: free of the luck of having been chosen"
    )
    rows_per_s_low: float | None = metric("rows/s", "lower end of the interval of that mean")
    rows_per_s_high: float | None = metric("rows/s", "upper end")
    why: str = _described("One sentence.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was announced before the start."""

    requests: int | None = metric("requests", "at most; null when only the endpoint's speed decides")
    seconds: float = metric("s", "about so long")
    points: int = _described("Settings to be measured, replicates included; of a search, at most.")
    dollars: float | None = metric("USD", "by the stated price; null without one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one way of scoring the rows would take."""

    who: str = _described("Which way.")
    seconds: float | None = metric("s", "null where it cannot be known from what was measured")
    dollars: float | None = metric("USD", "null where it cannot be known from what was measured")
    assumption: str = _described("What the figures rest on, in words.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Dollars by the price that was stated."""

    basis: str = _described("The price as stated.")
    rows: int = metric("rows", "of each of the costs")
    costs: Sequence[Cost] = _described("At the best setting, and by the usual alternatives.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """A target to begin with for a policy that counts requests."""

    policy: str = _described("Name of the predefined metric of the scaling policy.")
    target: float = metric("requests/min", "requests/s of the best point * 60 / instances / 2")
    instances: int = _described("Behind the endpoint while it was measured, as stated.")
    chunk_rows: int = metric("rows", "of the requests that were counted")
    note: str = _described("What to be careful with.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """How far away the endpoint is, measured before the load."""

    connect_s: float | None = metric("s", "median of five TCP connections; null where there is no socket")
    one_row_s: float | None = metric(
        "s", "median of requests of the fewest rows that the endpoint answers, one at a time"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFacts:
    """What was measured. Without secrets."""

    name: str = _described("Endpoint name, URL or module:function, without credentials.")
    kind: str = _described("`sagemaker`, `http` or `python`.")
    local: bool = _described("It is on this machine.")
    variant: str = _described("The production variant that answered the first request; empty where unknown.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What was sent."""

    source: str = _described("The input as it was named, without credentials.")
    rows: int = metric("rows", "distinct rows that were cycled")
    rows_total: int | None = metric("rows", "of the input; null when only reading tells")
    bytes_per_row: float = metric("bytes", "of a request body")
    reply_bytes_per_row: float = metric("bytes", "of a reply body")
    body: str = _described("Format of the request bodies.")
    columns: Sequence[str] = _described("Columns sent, in order.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What `asyncbatch bench` measured."""

    schema_version: int = _described("Version of this document's layout.", default=SCHEMA_VERSION)
    kind: Literal["asyncbatch-bench"] = _described("What this document is.", default=KIND)
    command: str = _described("The command, headers and credentials left out.")
    label: str = _described("How `compare` and reports call this result: `--label`, else the endpoint.")
    started_at: str = _described("Begin, ISO 8601, UTC.")
    elapsed_s: float = metric("s", "from the first request to the last")
    versions: Mapping[str, str] = _described("Versions of Python and of the libraries that matter for speed.")
    machine: Machine = _described("Where it ran; no host name.")
    seed: int = _described("Of everything random: arrival times, order of points.")
    confidence: float = metric("1", "confidence of every interval")
    options: Mapping[str, Any] = _described("Options that differ from their defaults; headers are left out.")
    endpoint: EndpointFacts = _described("What was measured.")
    data: DataFacts = _described("What was sent.")
    round_trip: RoundTrip = _described("How far away the endpoint is.")
    budget: Budget = _described("What was announced before the start.")
    slo: str = _described("The objective as given; empty without one.")
    points: Sequence[Point] = _described("In the order of measuring.")
    best: int | None = _described(
        "Number of the point with the most rows/s that met the objective (of those as good, the one with the lowest p95)."
    )
    knee: Knee | None = _described("What `--find-knee` found; null without it.")
    price: Costs | None = _described("What rows cost; null when no price was stated.", default=None)
    autoscaling: Autoscaling | None = _described(
        "A target for autoscaling; null unless the number of instances was stated.", default=None
    )
    answer: str = _described("The result in one sentence.")
    partial: bool = _described("True: ended before everything was measured.")
    partial_reason: str = _described("Why; empty when complete.")
    exit_code: int = _described("Exit code of the command line.")
    warnings: Sequence[str] = _described("What limits the figures, each once.")

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    def to_json(self) -> str:
        """The document of `docs/bench-schema.json`, with a final line end."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str) -> "BenchResult":
        """Read `to_dict` again; fields unknown here are left out.

        Raises:
            InputError: no result of `bench`, or of another version; `where` names the file.
        """
        if document.get("kind") != KIND:
            raise InputError(
                f"{where} is no result of asyncbatch bench",
                hint="asyncbatch bench … --output FILE.json writes one",
            )
        if document.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{where} has version {document.get('schema_version')!r}, and this asyncbatch reads version {SCHEMA_VERSION}",
                hint="read it with the version that wrote it, or measure again",
            )
        try:
            return typing.cast("BenchResult", _read(cls, document))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} is damaged: {type(error).__name__} {error}", hint="measure again"
            ) from error


def _read(hint: Any, value: Any) -> Any:
    """`value`, as JSON holds it, as what `hint` says."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        given = {}
        for each in dataclasses.fields(hint):
            if each.name in value or (each.default is dataclasses.MISSING):
                given[each.name] = _read(hints[each.name], value[each.name])
        return hint(**given)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _read(arguments[0], value)
    if origin is Sequence:
        return tuple(_read(arguments[0], each) for each in value)
    if origin is tuple:
        return tuple(_read(kind, each) for kind, each in zip(arguments, value, strict=True))
    return value
