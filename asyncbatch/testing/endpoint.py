"""Does an endpoint keep the promises of the `Endpoint` protocol? Public: third parties can prove theirs.

```python
async with FaultServer() as server:
    await check_endpoint(lambda: MyEndpoint(server.url, max_reply=10**6), server, max_reply_bytes=10**6)
```
Works under asyncio and under anyio's asyncio backend, needs no test framework, and raises `AssertionError`
with the promise that was broken. Takes about five seconds.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from asyncbatch.protocols import Endpoint
from asyncbatch.testing.endpoint_case import Case, settled
from asyncbatch.testing.endpoint_function import FunctionChecks
from asyncbatch.testing.endpoint_server import ServerChecks
from asyncbatch.testing.faults import FaultFunction, FaultServer

_PATIENCE_S = 60.0


async def check_endpoint(
    make: Callable[[], Endpoint], peer: FaultServer | FaultFunction, *, max_reply_bytes: int = 1_000_000
) -> None:
    """Prove an endpoint against a peer that fails on purpose.

    Args:
        make: a new endpoint that invokes `peer`; it is opened and closed many times.
        peer: a running `FaultServer` for endpoints that speak HTTP, or a `FaultFunction`.
        max_reply_bytes: the bound that `make` sets on replies; at most a few MB.

    Raises:
        AssertionError: a promise of the protocol is broken; the message says which.
    """
    case = Case(make=make, max_reply_bytes=max_reply_bytes)
    checks: list[Callable[[], Awaitable[None]]]
    if isinstance(peer, FaultServer):
        server = ServerChecks(case, peer)
        checks = [
            server.answers,
            server.request_is_byte_for_byte,
            server.uses_its_concurrency,
            server.reuses_connections,
            server.sends_once,
            server.names_refusals,
            server.names_broken_connections,
            server.keeps_to_the_timeout,
            server.reads_no_further_than_the_bound,
            server.reads_an_early_refusal,
            server.names_an_unreachable_host,
            server.leaves_nothing_when_cancelled,
        ]
    else:
        function = FunctionChecks(case, peer)
        checks = [
            function.answers,
            function.uses_its_concurrency,
            function.names_exceptions,
            function.keeps_to_the_timeout,
            function.leaves_nothing_when_cancelled,
        ]
    for check in [case.has_the_members, case.closes_twice, *checks]:
        tasks = asyncio.all_tasks()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await check()
        except TimeoutError:
            raise AssertionError(f"{check.__name__}: hangs, even after {_PATIENCE_S:g} s") from None
        if isinstance(peer, FaultServer):
            await settled(lambda: peer.open_connections == 0, "connections stay open after aclose()")
        await settled(functools.partial(_no_more_than, tasks), f"{check.__name__}: tasks are left")


def _no_more_than(tasks: "set[asyncio.Task[Any]]") -> bool:
    return asyncio.all_tasks() <= tasks
