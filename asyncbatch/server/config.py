"""What is served, where, and how a simulated endpoint behaves. Frozen; checked when built; standard library
only."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from asyncbatch.errors import ConfigError

Shape = Literal["affine", "step", "pow2", "knee", "saturating"]
SHAPES: tuple[Shape, ...] = ("affine", "step", "pow2", "knee", "saturating")
NOISE_KINDS = ("lognormal", "exponential", "spikes")
ROUTINGS = ("shortest", "random")
CHANGEABLE = ("instances", "slots", "slowness", "rate")
"""What a `Change` may name."""

ERROR_KINDS = (
    "400", "413", "424", "424-400", "429", "500", "502", "503", "530", "capacity", "reset", "reset-inside", "truncated",
    "hang", "trickle", "short", "long", "nan", "empty", "garbage", "mistyped",
)  # fmt: skip
"""What `SimulationConfig.errors` may name.

Refusals: ThrottlingException (400), a body too large (413), ModelError of a container that answered 500 (424) or
400 (424-400), ModelNotReadyException (429), InternalFailure (500), a gateway's page of HTML (502),
ServiceUnavailable (503), InternalDependencyException (530), ValidationError of an inference component without
capacity. Connections: closed without a reply (reset), reset inside it (reset-inside) or closed inside it (truncated),
no reply for 60 s (hang), a reply that takes 60 s to arrive (trickle). The others are replies with status 200 that are
wrong: see `asyncbatch.server.flaws`.
"""

BUILT_IN_MODELS = ("flights", "echo", "simulated")

DIALECTS = ("plain", "xgboost", "sklearn", "huggingface", "v2", "mlflow", "tgi")
"""Whose wire habits can be served: see `asyncbatch.server.dialects`."""

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A key pair that requests may be signed with."""

    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    session_token: str | None = dataclasses.field(default=None, repr=False)
    """Set for temporary credentials: the request must carry the same token."""
    expires_at: float | None = None
    """Unix time from which on the answer is `ExpiredTokenException`; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`at_s` seconds after the first request `what` becomes `value`."""

    at_s: float
    what: str
    """instances, slots (of each instance), slowness (factor on every service time), rate (requests a second)."""
    value: float

    def __post_init__(self) -> None:
        if self.what not in CHANGEABLE:
            raise ConfigError(
                f"simulated endpoint: {self.what!r} cannot change", hint=f"one of {', '.join(CHANGEABLE)}"
            )
        least = 1.0 if self.what in ("instances", "slots") else 0.0
        if self.at_s < 0 or self.value < least:
            raise ConfigError(
                f"simulated endpoint: {self.what} cannot become {self.value:g} at {self.at_s:g} s",
                hint=f"give {least:g} or more",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """A simulated endpoint. Times in seconds, sizes in bytes; 0 switches a limit off unless said otherwise.

    A request of n rows holds one slot for `(a + b * n) * lognormal(noise)`, whose mean is `a + b * n`. The
    event loop's timers have a grain of 1 ms.
    """

    a: float = 0.0
    """Fixed cost of one request inside a slot."""
    b: float = 0.0
    """Cost of one row."""
    shape: Shape = "affine"
    """How rows are charged: as they are (affine), rounded up to a multiple of `m` (step), padded to the next
    of m, 2m, 4m … (pow2), with a quadratic term beyond `knee` rows (knee), or as `knee` rows at least (saturating:
    rows are free until then)."""
    m: int = 32
    knee: int = 0
    knee_c: float = 0.0
    noise: float = 0.0
    """Sigma of the lognormal factor; the memoryless share of the time with `exponential`."""
    noise_kind: str = "lognormal"
    """lognormal, exponential, or spikes (one request of 33 takes ten times as long)."""
    slots: int = 4
    """Requests that an instance serves at once; at least 1."""
    queue: int = 1000
    """Places of an instance to wait for a slot; beyond them 503. 0 means none."""
    instances: int = 1
    """Copies of the container, each with slots, a queue and a cold start of its own."""
    routing: str = "shortest"
    """Which instance a request goes to: that with the fewest requests (shortest), or any (random)."""
    uneven: float = 0.0
    """Spread of the instances' speeds: sigma of a lognormal factor."""
    cores: int = 0
    """Slots that are busy beyond so many share them, so that all are slower."""
    thrash: float = 0.0
    """Further slowdown for each slot that is busy beyond `cores`."""
    round_trip_s: float = 0.0
    """Time on the way, half of it there and half of it back; refusals take it too."""
    bandwidth: float = 0.0
    """Bytes a second of a request's body on the way, for each request; 0: no limit."""
    changes: tuple[Change, ...] = ()
    """What changes while it runs."""
    rate: float = 0.0
    """Token bucket, requests a second; beyond it `throttle`."""
    burst: float = 0.0
    """Size of the bucket; 0 means one second of `rate`, at least 1."""
    throttle: Literal[400, 429] = 400
    """Status of a throttled request: `ThrottlingException` with a null message (400), or 429 as a gateway
    sends it."""
    max_conc: int = 0
    """Requests inside the endpoint, waiting or served, beyond which more are throttled."""
    cap_bytes: int = 0
    """Largest body; beyond it 413."""
    cap_rows: int = 0
    """Most rows of a request; beyond them 413."""
    oom_rows: int = 0
    """Rows above which the container dies of memory: ModelError with the original status 500."""
    oom_delay_s: float = 0.0
    """How long it takes to die; 0: as long as the answer would have taken."""
    oom_restart_s: float = 0.0
    """How long its slot is gone, from the begin of the request that killed it."""
    min_rows: int = 1
    """A request of fewer rows fails as stock scikit-learn containers do with one: ModelError, original status
    500."""
    cold_s: float = 0.0
    """For so long after the start everything takes `cold_x` times as long."""
    cold_x: float = 1.0
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Share of requests for each kind of `ERROR_KINDS`; drawn from `seed`."""
    poison_share: float = 0.0
    """Share of rows that the container refuses, decided by a hash of the row's first value and `seed`
    (`asyncbatch.server.simulation.poison_mask`): a request with one of them is a ModelError, original status
    400."""
    poison_value: str | None = None
    """Rows whose first value is written like this are refused too."""
    outputs: int = 1
    """Numbers answered for a row: v, v + 1, v + 2 … with v the row's first value; 1 answers v itself. Where
    several numbers are asked of a text, v is between 0 and 1 and depends on the text alone."""
    labels: tuple[str, ...] = ()
    """Not empty: one of these texts is answered for a row, depending on its first value alone."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "a",
            "b",
            "knee",
            "knee_c",
            "noise",
            "queue",
            "rate",
            "burst",
            "max_conc",
            "cap_bytes",
            "cap_rows",
            "oom_rows",
            "cold_s",
            "cold_x",
            "uneven",
            "cores",
            "thrash",
            "round_trip_s",
            "bandwidth",
            "oom_delay_s",
            "oom_restart_s",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"simulated endpoint: {name} is {getattr(self, name)}", hint="give 0 or more"
                )
        for name in ("m", "slots", "min_rows", "outputs", "instances"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"simulated endpoint: {name} is {getattr(self, name)}", hint="give 1 or more"
                )
        if self.shape not in SHAPES:
            raise ConfigError(
                f"simulated endpoint: shape {self.shape!r} is unknown", hint=f"one of {', '.join(SHAPES)}"
            )
        for name, known in (("noise_kind", NOISE_KINDS), ("routing", ROUTINGS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"simulated endpoint: {name} {getattr(self, name)!r} is unknown",
                    hint=f"one of {', '.join(known)}",
                )
        if self.throttle not in (400, 429):
            raise ConfigError(f"simulated endpoint: throttle is {self.throttle}", hint="400 or 429")
        for kind in self.errors:
            if kind not in ERROR_KINDS:
                raise ConfigError(
                    f"simulated endpoint: no error kind {kind!r}", hint=f"one of {', '.join(ERROR_KINDS)}"
                )
        shares = [self.poison_share, sum(self.errors.values()), *self.errors.values()]
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                "simulated endpoint: a share is outside 0 to 1", hint="0.01 is one in a hundred"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """An embedded endpoint."""

    model: str = "flights"
    """`flights` (shipped), `echo` (answers each row's first value), `simulated`, an ONNX file, or
    `python:package.module:function` (a NumPy array in, predictions out)."""
    names: tuple[str, ...] = ()
    """Endpoint names answered to; empty: the model's own name (`default_name`). Any other gets
    `ValidationError`."""
    host: str = "127.0.0.1"
    """Loopback unless told otherwise. There is no access control without `credentials`."""
    port: int = 0
    """0 takes a free one."""
    dialect: str = "plain"
    """How bytes become rows and predictions become bytes: one of `DIALECTS`."""
    features: int | None = None
    """Columns that the model takes; others are refused as the dialect's containers do. None: what an ONNX
    model says of itself, any number for other models."""
    credentials: tuple[Credential, ...] = ()
    """Not empty: `/endpoints/…` requires a SigV4 signature by one of them. `/invocations` never does."""
    region: str = "us-east-1"
    """Region that signatures must be scoped to, and that messages name."""
    account: str = "123456789012"
    variants: tuple[str, ...] = ("AllTraffic",)
    """Production variants, answering in turn."""
    config_name: str = "in-service"
    """Name of the endpoint configuration that is in service at the start."""
    deployments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Endpoint configurations that UpdateEndpoint can put in service, and their models, named like `model`; they speak
    the same dialect."""
    autoscaled: bool = False
    """Whether DescribeScalableTargets lists the variants."""
    clock_skew_s: float = 0.0
    """How far the server's clock is ahead of this machine's: signatures are checked and `Date` is sent by it."""
    max_body_bytes: int = 25 * 2**20
    """A larger body is answered 413 and not kept. SageMaker real-time endpoints document 25 MB."""
    threads: int = 0
    """Threads that run a model; 0: one for each CPU."""
    simulation: SimulationConfig | None = None
    """Behaviour of the endpoint around the model; None: as fast as it goes. `simulated` is `echo` with a
    simulation."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not between 0 and 65535", hint="0 takes a free port")
        if self.dialect not in DIALECTS:
            raise ConfigError(f"unknown dialect {self.dialect!r}", hint=f"one of {', '.join(DIALECTS)}")
        if not self.variants:
            raise ConfigError(
                "an endpoint needs at least one variant", hint="leave variants out for AllTraffic"
            )
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is no endpoint name", hint="letters, digits and inner hyphens, at most 63"
                )
        for name in (self.config_name, *self.deployments):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is no name of an endpoint configuration",
                    hint="letters, digits and inner hyphens, at most 63",
                )
        if self.features is not None and self.features < 1:
            raise ConfigError(f"features is {self.features}", hint="give 1 or more")
        if self.max_body_bytes < 1 or self.threads < 0:
            raise ConfigError(
                "max_body_bytes and threads must be positive", hint="leave them out for the defaults"
            )

    @property
    def endpoint_names(self) -> tuple[str, ...]:
        """The names answered to."""
        return self.names or (default_name(self.model),)

    def to_json(self) -> dict[str, Any]:
        """JSON values, secrets included: for handing the config to another process over a pipe."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ServeConfig":
        """What `to_json` gave."""
        given = dict(values)
        given["names"] = tuple(given["names"])
        given["variants"] = tuple(given["variants"])
        given["credentials"] = tuple(Credential(**each) for each in given["credentials"])
        if given["simulation"] is not None:
            simulation = dict(given["simulation"])
            simulation["labels"] = tuple(simulation["labels"])
            simulation["changes"] = tuple(Change(**each) for each in simulation["changes"])
            given["simulation"] = SimulationConfig(**simulation)
        return cls(**given)


def default_name(model: str) -> str:
    """`models/churn v2.onnx` -> `churn-v2`, `python:pkg.mod:score` -> `score`, `flights` -> `flights`."""
    stem = (
        model.rpartition(":")[2]
        if model.startswith("python:")
        else PurePath(model).name.removesuffix(".onnx")
    )
    return re.sub(r"[^a-zA-Z0-9]+", "-", stem).strip("-")[:63].strip("-") or "model"
