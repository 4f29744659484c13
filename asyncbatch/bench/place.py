"""Where the endpoint is, and how far away."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from yarl import URL

from asyncbatch.bench.load import Sender
from asyncbatch.bench.result import RoundTrip
from asyncbatch.config import RunConfig
from asyncbatch.endpoint.boto import service_url
from asyncbatch.endpoint.network import is_loopback
from asyncbatch.pipeline.invoking import Answer

_TRIES = 5
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What kind of endpoint, and its address where it is known beforehand."""

    kind: str
    local: bool
    host: str | None = None
    port: int | None = None


def place_of(config: RunConfig) -> Place:
    """By the options and the environment alone: nothing is asked."""
    name = config.endpoint.endpoint
    if name.startswith("python:"):
        return Place(kind="python", local=True)
    kind = "http" if name.lower().startswith(("http://", "https://")) else "sagemaker"
    try:
        url = URL(name if kind == "http" else service_url(config.endpoint.endpoint_url) or "")
        host, port = url.host, url.port
    except ValueError:  # what is wrong with it is said when it is opened
        host = port = None
    return Place(kind=kind, local=is_loopback(host), host=host, port=port)


async def round_trip(place: Place, send: Sender, *, rows: int, clock: Callable[[], float]) -> RoundTrip:
    """A few connections and a few small requests, one after the other."""
    connects = []
    if place.host is not None and place.port is not None:
        for _ in range(_TRIES):
            began_s = clock()
            try:
                with anyio.fail_after(_CONNECT_S):
                    await (await anyio.connect_tcp(place.host, place.port)).aclose()
            except (OSError, TimeoutError):
                break  # behind a proxy, or away: the requests will tell
            connects.append(clock() - began_s)
    took = []
    for _ in range(_TRIES):
        found = await send(rows)
        if isinstance(found, Answer):
            took.append(found.sample.finished_s - found.sample.started_s)
    return RoundTrip(
        connect_s=statistics.median(connects) if connects else None,
        one_row_s=statistics.median(took) if took else None,
    )
