"""The options of a run: one table, from which command-line help, job.toml, environment and resume checks come.

Each part of `RunConfig` is a frozen dataclass whose fields carry their `Option`. The long option name is the field name
with `-` for `_`; Python keyword arguments and job.toml keys are the field names.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncbatch.config_checks import check_together
from asyncbatch.errors import ConfigError
from asyncbatch.option import Option, bad_value, choice, option
from asyncbatch.units import (
    Headers,
    IntRange,
    MaxErrors,
    Shard,
    parse_bool,
    parse_character,
    parse_count,
    parse_duration,
    parse_headers,
    parse_max_errors,
    parse_names,
    parse_number,
    parse_positive,
    parse_positive_number,
    parse_range,
    parse_renames,
    parse_shard,
    parse_size,
    parse_text,
    parse_types,
)

BODIES = ("csv", "csv-header", "jsonl", "json", "npy", "arrow", "parquet", "raw")
ROW_FORMS = ("array", "object", "value")
ON_ERROR = ("null", "drop", "fail")
MODES = ("append", "replace", "fail")
FORMATS = ("parquet", "csv", "jsonl", "delta", "iceberg")
LOG_FORMATS = ("text", "json")
TRANSPORTS = ("direct", "aioboto3")
META = ("variant", "inference-id", "scored-at")
CHANGES = ("model",)


def parse_meta(value: Any) -> tuple[str, ...]:
    """Names out of `META`."""
    names = parse_names(value)
    for name in names:
        choice(*META)(name)
    return names


def parse_option_names(value: Any) -> tuple[str, ...]:
    """Option names, with `-` or `_`."""
    return tuple(name.removeprefix("--").replace("-", "_") for name in parse_names(value))


def parse_changes(value: Any) -> tuple[str, ...]:
    """Names out of `CHANGES`."""
    return tuple(choice(*CHANGES)(name) for name in parse_names(value))


_IN, _REQ, _REP, _SPEED, _FAIL, _OUT, _EP, _STORE = (
    "Input",
    "Request",
    "Reply",
    "Speed",
    "Failures",
    "Output",
    "Endpoint",
    "Storage",
)


# A table reads better with a line a thing.
# fmt: off


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """Where the model is."""

    endpoint: str = option("", panel=_EP, short="-e", metavar="NAME|URL|python:MOD:FUNC", parse=parse_text,
        help="SageMaker endpoint name, http(s)://host/path, or python:package.module:function")
    region: str | None = option(None, panel=_EP, metavar="REGION", parse=parse_text, help="AWS region",
        default_text="AWS_REGION or the profile's")
    profile: str | None = option(
        None, panel=_EP, metavar="NAME", parse=parse_text, help="AWS profile", default_text="AWS_PROFILE")
    endpoint_url: str | None = option(None, panel=_EP, metavar="URL", parse=parse_text,
        help="another SageMaker Runtime service, such as `asyncbatch serve`",
        default_text="AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME")
    ca_bundle: str | None = option(None, panel=_EP, metavar="FILE", parse=parse_text, help="certificates to trust, PEM",
        default_text="AWS_CA_BUNDLE or the system's")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig:
    """What is read, sent and kept."""

    send: tuple[str, ...] | None = option(None, panel=_IN, metavar="A,B,f*", parse=parse_names, semantic=True,
        help="columns to send, in this order; * stands for any text", default_text="every column, in file order")
    no_send: tuple[str, ...] | None = option(None, panel=_IN, metavar="A,B", parse=parse_names, semantic=True,
        help="columns not to send, such as id and label", default_text="none")
    keep: tuple[str, ...] = option(("all",), panel=_IN, metavar="all|none|A,B", parse=parse_names, semantic=True,
        help="input columns to write beside the prediction", default_text="all")
    types: tuple[tuple[str, str], ...] = option((), panel=_IN, metavar="A=int64,B=string", parse=parse_types, semantic=True,
        help="types of CSV or JSON Lines columns, instead of those inferred", default_text="inferred")
    limit: int | None = option(None, panel=_IN, metavar="N", parse=parse_positive, semantic=True,
        help="only the first N rows", default_text="all rows")
    block_rows: int | None = option(None, panel=_IN, metavar="N", parse=parse_positive, semantic=True,
        help="rows of one output part, written and resumed as a whole", default_text="by the first replies, 256 to 131,072")
    input_format: str | None = option(None, panel=_IN, metavar="parquet|csv|jsonl|arrow",
        parse=choice("parquet", "csv", "jsonl", "arrow"), choices=("parquet", "csv", "jsonl", "arrow"), semantic=True,
        help="format of the source", default_text="by the file name")
    delimiter: str = option(",", panel=_IN, metavar="C", parse=parse_character, semantic=True,
        help="delimiter of CSV input; \\t for a tab")
    quote: str = option('"', panel=_IN, metavar="C", parse=parse_character, semantic=True,
        help="quoting character of CSV input")
    no_header: bool = option(False, panel=_IN, kind="flag", parse=parse_bool, semantic=True,
        help="CSV input has no header line; columns are then c0, c1, …")
    settle: float | None = option(None, panel=_IN, metavar="TIME", parse=parse_duration,
        help="of a folder, prefix or glob: leave files changed less than this long ago for a later run",
        default_text="every file is taken")
    reprocess: bool = option(False, panel=_IN, kind="flag", parse=parse_bool,
        help="score files again that changed since the job was planned; their new rows take the place of the old at the end")
    allow_empty: bool = option(False, panel=_IN, kind="flag", parse=parse_bool,
        help="a source without files, or with empty ones, is no error; the output is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestConfig:
    """How rows become requests."""

    body: str = option("csv", panel=_REQ, metavar="|".join(BODIES), parse=choice(*BODIES), choices=BODIES, semantic=True,
        help="format of the request body")
    template: str | None = option(None, panel=_REQ, metavar="JSON|NAME", parse=parse_text, semantic=True,
        help="JSON envelope with $rows $row $n $columns, or a preset: instances, records, split, inputs, v2",
        default_text="instances with --body json")
    row: str = option("array", panel=_REQ, metavar="|".join(ROW_FORMS), parse=choice(*ROW_FORMS), choices=ROW_FORMS,
        semantic=True, help="what a row is in JSON: its values, an object by column name, or its only value")
    content_type: str | None = option(None, panel=_REQ, metavar="TYPE", parse=parse_text, semantic=True,
        help="Content-Type header, byte for byte", default_text="by --body")
    accept: str | None = option(None, panel=_REQ, metavar="TYPE", parse=parse_text, semantic=True, help="Accept header",
        default_text="none is sent")
    header: Headers = option((), panel=_REQ, short="-H", metavar="'NAME: VALUE'", kind="list", parse=parse_headers,
        secret=True, help="HTTP header; VALUE may be @env:VAR or @file:PATH; repeat for more", default_text="none")
    target_model: str | None = option(None, panel=_REQ, metavar="NAME", parse=parse_text, semantic=True,
        help="SageMaker TargetModel (multi-model endpoint)", default_text="none")
    target_variant: str | None = option(None, panel=_REQ, metavar="NAME", parse=parse_text, semantic=True,
        help="SageMaker TargetVariant", default_text="by traffic weights")
    target_container_hostname: str | None = option(None, panel=_REQ, metavar="NAME", parse=parse_text, semantic=True,
        help="SageMaker TargetContainerHostname", default_text="none")
    inference_component_name: str | None = option(None, panel=_REQ, metavar="NAME", parse=parse_text, semantic=True,
        help="SageMaker InferenceComponentName", default_text="none")
    custom_attributes: str | None = option(None, panel=_REQ, metavar="TEXT", parse=parse_text, semantic=True,
        help="SageMaker CustomAttributes", default_text="none")
    enable_explanations: str | None = option(None, panel=_REQ, metavar="JMESPATH", parse=parse_text, semantic=True,
        help="SageMaker EnableExplanations", default_text="none")
    inference_id: str | None = option(
        None, panel=_REQ, metavar="ID", parse=parse_text, help="SageMaker InferenceId", default_text="none")
    session_id: str | None = option(
        None, panel=_REQ, metavar="ID", parse=parse_text, help="SageMaker SessionId", default_text="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyConfig:
    """How replies become columns."""

    reply: str | None = option(None, panel=_REP, metavar="JMESPATH", parse=parse_text, semantic=True,
        help="where the predictions are in a JSON reply", default_text="learned from the first replies")
    prediction_type: str | None = option(None, panel=_REP, metavar="TYPE", parse=parse_text, semantic=True,
        help="Arrow type of the prediction, such as float32 or string", default_text="learned from the first replies")
    prediction_name: str = option("prediction", panel=_REP, metavar="NAME", parse=parse_text, semantic=True,
        help="name of the prediction column")
    error_name: str = option(
        "error", panel=_REP, metavar="NAME", parse=parse_text, semantic=True, help="name of the error column")
    threshold: float | None = option(None, panel=_REP, metavar="X", parse=parse_number, semantic=True,
        help="add a label column: 1 where prediction > X, else 0", default_text="no label")
    argmax: bool = option(False, panel=_REP, kind="flag", parse=parse_bool, semantic=True,
        help="add a label: the position of the largest number of each vector, from 0")
    labels: tuple[str, ...] = option((), panel=_REP, metavar="A,B", parse=parse_names, semantic=True,
        help="texts as labels: one per number of a vector, or two with --threshold, the one below first",
        default_text="none")
    round: int | None = option(None, panel=_REP, metavar="N", parse=parse_count, semantic=True,
        help="decimals of predictions as written; labels are made before", default_text="every digit")
    rename: tuple[tuple[str, str], ...] = option((), panel=_REP, metavar="OLD=NEW,...", parse=parse_renames, semantic=True,
        help="other names for output columns; a reply's field goes before an input column of that name",
        default_text="none")
    predicted_label_name: str = option("predicted_label", panel=_REP, metavar="NAME", parse=parse_text, semantic=True,
        help="name of the label column")
    meta: tuple[str, ...] = option((), panel=_REP, metavar=",".join(META), parse=parse_meta, semantic=True,
        help="more columns about each row's invocation", default_text="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedConfig:
    """How fast, how many, how much memory."""

    concurrency: IntRange | None = option(None, panel=_SPEED, metavar="N|MIN:MAX", parse=parse_range,
        help="requests in flight at once", default_text="found while running")
    chunk_rows: IntRange | None = option(None, panel=_SPEED, metavar="N|MIN:MAX", parse=parse_range, help="rows of a request",
        default_text="found while running")
    rate: float | None = option(None, panel=_SPEED, metavar="X", parse=parse_positive_number,
        help="requests per second, at most", default_text="no limit")
    row_rate: float | None = option(None, panel=_SPEED, metavar="X", parse=parse_positive_number,
        help="rows per second, at most", default_text="no limit")
    target_latency: float | None = option(None, panel=_SPEED, metavar="TIME", parse=parse_duration,
        help="mean latency of a request to stay under", default_text="no target")
    background: bool = option(False, panel=_SPEED, kind="flag", parse=parse_bool,
        help="be a guest on an endpoint with live users: take what they leave, and yield at once")
    max_slowdown: float = option(1.2, panel=_SPEED, metavar="X", parse=parse_positive_number,
        help="with --background: latency allowed, as a multiple of that with one request in flight")
    max_chunk_time: float | None = option(None, panel=_SPEED, metavar="TIME", parse=parse_duration,
        help="with --background: longest time the endpoint may work on one request", default_text="twice that of one row")
    tuning: str | None = option(None, panel=_SPEED, metavar="FILE", parse=parse_text,
        help="what runs have learned of endpoints: read at the start, written at the end", default_text="in the user's cache")
    no_tuning: bool = option(False, panel=_SPEED, kind="flag", parse=parse_bool,
        help="neither use nor keep what runs have learned of the endpoint")
    max_payload: int = option(6 * 2**20, panel=_SPEED, metavar="SIZE", parse=parse_size,
        help="largest request body; a smaller limit of the endpoint is learned", default_text="6MiB")
    max_reply: int = option(64 * 2**20, panel=_SPEED, metavar="SIZE", parse=parse_size,
        help="largest reply; one that is larger counts as failed", default_text="64MiB")
    max_memory: int = option(256 * 10**6, panel=_SPEED, metavar="SIZE", parse=parse_size,
        help="memory to use, beside what the program itself takes", default_text="256MB")
    shard: Shard | None = option(None, panel=_SPEED, metavar="I/N", parse=parse_shard,
        help="only part I of N, counted from 0; a process on any machine for each, rates and limit divided by N",
        default_text="all of it")
    processes: int | None = option(None, panel=_SPEED, metavar="N", parse=parse_positive,
        help="N processes on this machine, a shard each, and each with its --max-memory", default_text="one")
    transport: str = option("direct", panel=_SPEED, metavar="|".join(TRANSPORTS), parse=choice(*TRANSPORTS),
        choices=TRANSPORTS, help="who signs and sends SageMaker requests; aioboto3 where a proxy or an event hook needs it")

    @property
    def block_memory(self) -> int:
        """Bytes that open blocks may reserve: half of `max_memory`. The other half is for read and write buffers,
        replies being parsed, and what allocators hold back (measured: 0.9 of `max_memory` in all)."""
        return self.max_memory // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureConfig:
    """What happens when something goes wrong."""

    request_timeout: float = option(70.0, panel=_FAIL, metavar="TIME", parse=parse_duration,
        help="how long one request may take", default_text="70s")
    connect_timeout: float = option(10.0, panel=_FAIL, metavar="TIME", parse=parse_duration,
        help="how long connecting may take", default_text="10s")
    max_retries: int = option(6, panel=_FAIL, metavar="N", parse=parse_count,
        help="retries of one chunk after failures; throttling does not count")
    max_errors: MaxErrors | None = option(None, panel=_FAIL, metavar="N|P%", parse=parse_max_errors,
        help="stop when more rows than this are rejected; within it the exit code is 0", default_text="no limit")
    on_error: str = option("null", panel=_FAIL, metavar="|".join(ON_ERROR), parse=choice(*ON_ERROR), choices=ON_ERROR,
        semantic=True, help="a rejected row: keep it with a null prediction, drop it, or fail")
    max_outage: float = option(300.0, panel=_FAIL, metavar="TIME", parse=parse_duration,
        help="how long the endpoint may be away before the run stops, resumable", default_text="5m")
    deadline: float | None = option(None, panel=_FAIL, metavar="TIME", parse=parse_duration,
        help="stop after this long, resumable", default_text="none")
    grace: float = option(25.0, panel=_FAIL, metavar="TIME", parse=parse_duration,
        help="after Ctrl-C or SIGTERM, how long to finish what was begun", default_text="25s")
    accept_changes: tuple[str, ...] = option((), panel=_FAIL, metavar="A,B", parse=parse_option_names,
        help="resuming: options that may differ from before, for the rows that are left", default_text="none")
    allow_change: tuple[str, ...] = option((), panel=_FAIL, metavar="model", parse=parse_changes,
        help="go on when another model stands behind the endpoint's name; the manifest names both", default_text="stop then")
    overwrite: bool = option(False, panel=_FAIL, kind="flag", parse=parse_bool,
        help="start anew: an earlier output goes once the new run can begin")
    if_idle: bool = option(False, panel=_FAIL, kind="flag", parse=parse_bool,
        help="exit 0 if another process is at work on the output, instead of 75")
    wait: bool = option(False, panel=_FAIL, kind="flag", parse=parse_bool,
        help="if another process is at work on the output, wait for its end, then go on")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """With whose rights buckets are read and written."""

    source_profile: str | None = option(None, panel=_STORE, metavar="NAME", parse=parse_text,
        help="AWS profile that reads the source", default_text="as --profile")
    sink_profile: str | None = option(None, panel=_STORE, metavar="NAME", parse=parse_text,
        help="AWS profile that writes the sink", default_text="as --profile")
    anonymous: bool = option(False, panel=_STORE, kind="flag", parse=parse_bool,
        help="read the source without credentials: a public bucket")
    requester_pays: bool = option(False, panel=_STORE, kind="flag", parse=parse_bool,
        help="pay for requests to buckets whose owner does not")
    source_bucket_owner: str | None = option(None, panel=_STORE, metavar="ACCOUNT", parse=parse_text,
        help="AWS account that must own the source's bucket", default_text="any")
    sink_bucket_owner: str | None = option(None, panel=_STORE, metavar="ACCOUNT", parse=parse_text,
        help="AWS account that must own the sink's bucket", default_text="any")
    kms_key: str | None = option(None, panel=_STORE, metavar="KEY", parse=parse_text,
        help="encrypt what is written with this key: KMS key of S3 and GCS, encryption scope of Azure",
        default_text="as the bucket does")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """What is written and said."""

    format: str | None = option(None, panel=_OUT, metavar="|".join(FORMATS), parse=choice(*FORMATS), choices=FORMATS,
        semantic=True, help="format of a single-file or stdout sink; delta, iceberg: a table",
        default_text="by the name; jsonl for -")
    mode: str = option("fail", panel=_OUT, metavar="|".join(MODES), parse=choice(*MODES), choices=MODES, semantic=True,
        help="a table that exists: add rows to it, replace it in one step at the end, or fail")
    partition_by: tuple[str, ...] | None = option(None, panel=_OUT, metavar="same|A,B", parse=parse_names, semantic=True,
        help="write into folders named after values: same, those that the input files are in; or columns, such as day,label",
        default_text="one folder")
    file_size: int | None = option(None, panel=_OUT, metavar="SIZE", parse=parse_size,
        help="join neighbouring parts of a folder at the end into files of about this size", default_text="a file for each block")
    report: str | None = option(None, panel=_OUT, metavar="FILE", parse=parse_text,
        help="write the run report there, .json or .html", default_text="only in the state folder")
    json: bool = option(False, panel=_OUT, kind="flag", parse=parse_bool,
        help="print the run report to stdout, JSON with a versioned schema")
    explain: bool = option(False, panel=_OUT, kind="flag", parse=parse_bool, help="say what was decided and why")
    log_format: str = option("text", panel=_OUT, metavar="text|json", parse=choice(*LOG_FORMATS), choices=LOG_FORMATS,
        help="format of log lines on stderr")
    quiet: bool = option(False, panel=_OUT, short="-q", kind="flag", parse=parse_bool, help="only errors")
    verbose: bool = option(False, panel=_OUT, short="-v", kind="flag", parse=parse_bool, help="more log lines")
    no_progress: bool = option(False, panel=_OUT, kind="flag", parse=parse_bool, help="no progress line")

    @property
    def mirrors_folders(self) -> bool:
        """Whether parts lie in the partition folders of their input files."""
        return self.partition_by == ("same",)

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """Output columns whose values are folder names; empty without any."""
        return () if self.partition_by is None or self.mirrors_folders else self.partition_by

# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Every option of a run, checked. Build it with `RunConfig.from_options`."""

    endpoint: EndpointConfig = EndpointConfig()
    input: InputConfig = InputConfig()
    request: RequestConfig = RequestConfig()
    reply: ReplyConfig = ReplyConfig()
    speed: SpeedConfig = SpeedConfig()
    failure: FailureConfig = FailureConfig()
    output: OutputConfig = OutputConfig()
    storage: StorageConfig = StorageConfig()

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, where: str = "") -> "RunConfig":
        """From option names (with `_` or `-`) and text, TOML or Python values. None means the default.

        Raises:
            ConfigError: an unknown name (with the nearest), a bad value, or a combination that makes no sense.
        """
        values: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for raw_name, raw in options.items():
            name = raw_name.replace("-", "_")
            if name not in OPTIONS:
                near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.5)
                raise ConfigError(
                    f"unknown option {raw_name!r}" + (f" in {where}" if where else ""),
                    hint=f"did you mean {near[0]!r}?" if near else "asyncbatch run --help lists the options",
                )
            if raw is None:
                continue
            part, opt = OPTIONS[name]
            try:
                values[part][name] = opt.parse(raw)
            except (TypeError, ValueError) as error:
                raise bad_value(name, raw, opt, error) from error
        config = cls(**{part: PARTS[part](**given) for part, given in values.items()})
        check_together(config)
        return config

    def semantic(self) -> dict[str, Any]:
        """The options that may not differ on resume, as JSON values."""
        return {
            name: _jsonable(getattr(getattr(self, part), name))
            for name, (part, opt) in OPTIONS.items()
            if opt.semantic
        }

    def effective(self) -> dict[str, Any]:
        """Every option that differs from its default, secrets left out: what `plan --print-config` writes."""
        found = {}
        for name, (part, opt) in OPTIONS.items():
            value = getattr(getattr(self, part), name)
            if not opt.secret and value != getattr(PARTS[part](), name):
                found[name] = _jsonable(value)
        return found


PARTS: dict[str, type[Any]] = {
    "endpoint": EndpointConfig,
    "input": InputConfig,
    "request": RequestConfig,
    "reply": ReplyConfig,
    "speed": SpeedConfig,
    "failure": FailureConfig,
    "output": OutputConfig,
    "storage": StorageConfig,
}


def _table() -> Iterator[tuple[str, tuple[str, Option]]]:
    for part, cls in PARTS.items():
        for each in dataclasses.fields(cls):
            yield each.name, (part, each.metadata["option"])


OPTIONS: dict[str, tuple[str, Option]] = dict(_table())
"""Option name (with `_`) to the part of `RunConfig` that holds it and its line of the table, in help order."""


def environment_options(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Options set by `ASYNCBATCH_*` variables: `ASYNCBATCH_CHUNK_ROWS=500`.

    Raises:
        ConfigError: a variable names no option.
    """
    found = {}
    for variable, value in environ.items():
        if not variable.startswith("ASYNCBATCH_"):
            continue
        name = variable.removeprefix("ASYNCBATCH_").lower()
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.5)
            raise ConfigError(
                f"environment variable {variable} names no option",
                hint=f"did you mean ASYNCBATCH_{near[0].upper()}?" if near else "unset it",
            )
        found[name] = value
    return found


def _jsonable(value: Any) -> Any:
    if isinstance(value, (IntRange, MaxErrors, Shard)):
        return str(value)
    if isinstance(value, tuple):
        return [_jsonable(each) for each in value]
    return value
