"""What the checks of an endpoint share: how it is made, opened, and made to fail."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, Payload, Reply
from asyncbatch.protocols import Endpoint

TIMEOUT_S = 20.0
SHORT_S = 0.25
LATE_S = 5.0
"""By so much may it end after its timeout on a busy machine; an endpoint that knows no timeout does not end at all."""
MANY = 24  # more than any client library's default pool


def promise(kept: object, text: str) -> None:
    """`assert`, but not compiled away by -O."""
    if not kept:
        raise AssertionError(text)


async def settled(condition: Callable[[], bool], text: str) -> None:
    """Wait for what happens within a few turns of the loop."""
    until = time.monotonic() + 2.0
    while not condition():
        promise(time.monotonic() < until, text)
        await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    make: Callable[[], Endpoint]
    max_reply_bytes: int

    async def has_the_members(self) -> None:
        endpoint = self.make()
        promise(
            isinstance(endpoint, Endpoint),
            f"{type(endpoint).__name__} lacks members of the Endpoint protocol",
        )
        promise(endpoint.name, "name is empty")
        promise(endpoint.max_body_bytes > 0, "max_body_bytes is not positive")
        identity = endpoint.identity
        promise(identity, "identity is empty")
        for key, value in identity.items():
            promise(value is None or isinstance(value, str), f"identity[{key!r}] is neither text nor None")
        promise(identity == self.make().identity, "two endpoints made alike have different identities")

    async def closes_twice(self) -> None:
        endpoint = self.make()
        await endpoint.aclose()
        endpoint = self.make()
        await endpoint.open(concurrency=2)
        await endpoint.aclose()
        await endpoint.aclose()


class Opened:
    """`async with`: an endpoint opened, and closed in the end."""

    def __init__(self, case: Case, *, concurrency: int = 2) -> None:
        self._endpoint = case.make()
        self._concurrency = concurrency

    async def __aenter__(self) -> Endpoint:
        await self._endpoint.open(concurrency=self._concurrency)
        return self._endpoint

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.aclose()


async def failure_of(
    endpoint: Endpoint, payload: Payload, *, timeout_s: float = TIMEOUT_S, of: str
) -> Failure:
    try:
        await endpoint.invoke(payload, timeout_s=timeout_s)
    except InvocationError as error:
        promise(isinstance(error.failure, Failure), f"{of}: InvocationError carries no Failure")
        return error.failure
    except Exception as error:
        raise AssertionError(f"{of}: {type(error).__name__} instead of InvocationError") from error
    raise AssertionError(f"{of}: taken for a success")


async def cancelled(task: "asyncio.Task[Reply]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise AssertionError(f"cancelled, but raises {type(error).__name__} instead") from error


async def cancelled_after(turns: int, invocation: Awaitable[Reply]) -> bool:
    """Cancel it after so many turns of the loop; False if it had ended by then."""
    task = asyncio.ensure_future(invocation)
    for _ in range(turns):
        await asyncio.sleep(0)
    ended = task.done()
    await cancelled(task)
    return not ended
