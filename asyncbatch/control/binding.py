"""What keeps a run from being faster just now: a decision from shares of time and counts, for people to act on.

Liebig's law of the minimum, or the bottleneck of the theory of constraints (Goldratt, "The Goal", 1984): at any moment one
resource binds, and only more of that one helps. Which one is read off what the next request waits for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Wait(Enum):
    """Why no further request is sent at a moment."""

    FULL = "full"
    """As many are in flight as may be."""
    PACED = "paced"
    """The controller spaces requests: it was throttled, or is a guest."""
    RATE = "rate"
    ROW_RATE = "row_rate"
    OUTAGE = "outage"
    """The breaker holds requests back: nothing succeeds."""
    RETRIES = "retries"
    """All that is left to send waits for its next try."""
    INPUT = "input"
    """The next block is being read or encoded."""
    MEMORY = "memory"
    """The next block waits for bytes that open blocks hold."""
    OUTPUT = "output"
    """The next block waits for bytes of blocks that are being written."""
    CONSUMER = "consumer"
    """The next block waits until whoever takes the tables has taken one."""
    END = "end"
    """Everything is sent."""


class Bound(Enum):
    """What binds; the value is what reports hold."""

    SEARCH = "search"
    ENDPOINT = "endpoint"
    THROTTLE = "throttle"
    OUTAGE = "outage"
    PAYLOAD = "payload"
    CONCURRENCY = "concurrency"
    CHUNK_ROWS = "chunk-rows"
    BLOCK_ROWS = "block-rows"
    RATE = "rate"
    ROW_RATE = "row-rate"
    TARGET_LATENCY = "target-latency"
    LIVE_USERS = "live-users"
    CPU = "cpu"
    INPUT = "input"
    OUTPUT = "output"
    MEMORY = "memory"
    CONSUMER = "consumer"
    TAIL = "tail"

    @property
    def label(self) -> str:
        """A word or two, for a progress line."""
        return _SAID[self][0]

    @property
    def meaning(self) -> str:
        """A clause: what is waited for, and what would help."""
        return _SAID[self][1]


_SAID: dict[Bound, tuple[str, str]] = {
    Bound.SEARCH: ("finding a setting", "chunk rows and requests in flight are still being found"),
    Bound.ENDPOINT: ("endpoint", "the endpoint's slots: more requests at once would only queue there"),
    Bound.THROTTLE: ("throttled", "the endpoint's request throttle: it refuses more requests"),
    Bound.OUTAGE: ("outage", "the endpoint answers nothing"),
    Bound.PAYLOAD: ("payload cap", "the largest body: --max-payload, or the size that the endpoint refused"),
    Bound.CONCURRENCY: ("--concurrency", "--concurrency: as many requests are in flight as it allows"),
    Bound.CHUNK_ROWS: ("--chunk-rows", "--chunk-rows: requests have as many rows as it allows"),
    Bound.BLOCK_ROWS: ("--block-rows", "the blocks: a request cannot be larger than one; see --block-rows and --max-memory"),
    Bound.RATE: ("--rate", "--rate: requests wait for it"),
    Bound.ROW_RATE: ("--row-rate", "--row-rate: requests wait for it"),
    Bound.TARGET_LATENCY: ("--target-latency", "--target-latency: more at once would exceed it"),
    Bound.LIVE_USERS: ("live users", "--background: what others leave of the endpoint is taken"),
    Bound.CPU: ("client CPU", "this machine's CPU: a binary --body, fewer kept columns or a further process help"),
    Bound.INPUT: ("reading", "reading and encoding the input"),
    Bound.OUTPUT: ("writing", "writing the output: the disk or the store"),
    Bound.MEMORY: ("--max-memory", "--max-memory: no more blocks fit beside the open ones"),
    Bound.CONSUMER: ("consumer", "whoever takes the tables"),
    Bound.TAIL: ("last requests", "the last requests: everything is sent"),
}  # fmt: skip

_BUSY = 0.9
"""From this share of a core on, a thread has no time left for more."""
_MOST = 0.5
_REFUSED = 0.05
"""From this share of refused requests on, the throttle is what shapes the traffic."""
_STARVED: dict[Wait, Bound] = {
    Wait.INPUT: Bound.INPUT,
    Wait.OUTPUT: Bound.OUTPUT,
    Wait.MEMORY: Bound.MEMORY,
    Wait.CONSUMER: Bound.CONSUMER,
    Wait.END: Bound.TAIL,
    Wait.RATE: Bound.RATE,
    Wait.ROW_RATE: Bound.ROW_RATE,
    Wait.OUTAGE: Bound.OUTAGE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured over about a second."""

    waits: Mapping[Wait, float] = field(default_factory=dict)
    """Seconds by what was waited for."""
    loop_cpu: float = 0.0
    """CPU seconds of the thread that sends, a second."""
    process_cpu: float = 0.0
    """CPU seconds of the process, a second, over its cores: 1.0 is all of them."""
    requests: int = 0
    """Invocations that ended."""
    refused: int = 0
    """Of them, throttled or unavailable."""
    chunks: int = 0
    """New chunks cut."""
    capped: int = 0
    """Of them, made smaller by the largest body."""
    at_payload_cap: bool = False
    """The controller wants no more rows because larger chunks were refused for their size."""
    at_concurrency: bool = False
    """The limit is the user's ceiling."""
    at_chunk_rows: bool = False
    """The wanted rows are the user's ceiling."""
    at_block_rows: bool = False
    """The wanted rows are a whole block."""
    at_memory: bool = False
    """The bodies in flight are all that memory allows."""
    near_target: bool = False
    """The latency is near `--target-latency`."""
    settled: bool = True
    """The controller has found a setting."""
    background: bool = False


def binding(evidence: Evidence) -> Bound | None:
    """What binds; None where too little happened to say.

    What the user or the endpoint forbids goes before what is merely busy: a client at full CPU under `--rate` is bound by
    `--rate`. A full gate means that the endpoint works on all that it is given; then the reason for the limit is named.
    """
    total_s = sum(evidence.waits.values())
    if total_s <= 0:
        return None
    longest = max(evidence.waits, key=lambda wait: evidence.waits[wait])
    if longest in (Wait.OUTAGE, Wait.RATE, Wait.ROW_RATE, Wait.CONSUMER, Wait.END):
        return _STARVED[longest]
    if evidence.loop_cpu >= _BUSY or evidence.process_cpu >= _BUSY:
        return Bound.CPU
    if evidence.requests and evidence.refused > _REFUSED * evidence.requests:
        return Bound.THROTTLE
    if longest is Wait.PACED:
        if evidence.background:
            return Bound.LIVE_USERS
        return Bound.THROTTLE if evidence.settled else Bound.SEARCH
    if longest is Wait.RETRIES:
        return Bound.ENDPOINT
    return _STARVED[longest] if longest in _STARVED else _of_a_full_gate(evidence)


def _of_a_full_gate(evidence: Evidence) -> Bound:
    if evidence.at_memory:
        return Bound.MEMORY
    if evidence.background:
        return Bound.CONCURRENCY if evidence.at_concurrency else Bound.LIVE_USERS
    if evidence.near_target:
        return Bound.TARGET_LATENCY
    if not evidence.settled:
        return Bound.SEARCH
    if evidence.at_concurrency:
        return Bound.CONCURRENCY
    if evidence.at_chunk_rows:
        return Bound.CHUNK_ROWS
    if evidence.at_block_rows:
        return Bound.BLOCK_ROWS
    if evidence.at_payload_cap or (evidence.chunks and evidence.capped > _MOST * evidence.chunks):
        return Bound.PAYLOAD
    return Bound.ENDPOINT
