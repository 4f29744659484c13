"""What an endpoint that calls Python promises."""

import asyncio
import threading
import time

from asyncbatch.model import BatchPayload, Transport
from asyncbatch.testing.endpoint_case import (
    LATE_S,
    MANY,
    SHORT_S,
    TIMEOUT_S,
    Case,
    Opened,
    cancelled,
    cancelled_after,
    failure_of,
    promise,
    settled,
)
from asyncbatch.testing.faults import Fault, FaultFunction, Plan


class FunctionChecks:
    """Promises of endpoints that call Python."""

    def __init__(self, case: Case, function: FaultFunction) -> None:
        self._case = case
        self._function = function

    async def answers(self) -> None:
        async with Opened(self._case) as endpoint:
            promise(endpoint.takes_batches, "takes no batches, though its peer is a function")
            self._function.script()
            reply = await endpoint.invoke(_batch(), timeout_s=TIMEOUT_S)
            promise(list(reply.result) == [1.0, 1.0, 1.0], "the result is not what the function returned")
            promise(self._function.calls == 1, f"the function is called {self._function.calls} times")

    async def uses_its_concurrency(self) -> None:
        self._function.script(then=Plan(delay_s=0.2))
        async with Opened(self._case, concurrency=MANY) as endpoint:
            turns = 0
            everyone = asyncio.gather(*(endpoint.invoke(_batch(), timeout_s=TIMEOUT_S) for _ in range(MANY)))
            while not everyone.done():
                await asyncio.sleep(0.01)
                turns += 1
            await everyone
        most = self._function.most_in_flight
        promise(most == MANY, f"opened for {MANY} invocations at once, but only {most} were under way")
        promise(turns >= 5, "the event loop stands still while the function runs")

    async def names_exceptions(self) -> None:
        async with Opened(self._case) as endpoint:
            for error in (
                ValueError("bad row"),
                KeyError("a"),
                StopIteration(),
                MemoryError(),
                TimeoutError("its own"),
            ):
                self._function.script([Plan(exception=error)])
                name = type(error).__name__
                failure = await failure_of(endpoint, _batch(), of=name)
                promise(failure.exception == name, f"{name} is reported as {failure.exception!r}")
                promise(failure.transport is None, f"{name} is reported as {failure.transport}")
                promise(str(error) in failure.message, f"{name}: its message is lost")
                self._function.script()
                await endpoint.invoke(_batch(), timeout_s=TIMEOUT_S)

    async def keeps_to_the_timeout(self) -> None:
        async with Opened(self._case) as endpoint:
            self._function.script([Plan(fault=Fault.STALL)])
            started = time.monotonic()
            failure = await failure_of(
                endpoint, _batch(), timeout_s=SHORT_S, of="a function that does not return"
            )
            took = time.monotonic() - started
            promise(failure.transport is Transport.TIMEOUT, f"a timeout is reported as {failure.transport}")
            promise(SHORT_S * 0.9 < took < SHORT_S + LATE_S, f"given up after {took:.2f} of {SHORT_S} s")
            self._function.release()

    async def leaves_nothing_when_cancelled(self) -> None:
        threads = threading.active_count()
        async with Opened(self._case) as endpoint:
            self._function.script(then=Plan(fault=Fault.STALL))
            task = asyncio.ensure_future(endpoint.invoke(_batch(), timeout_s=TIMEOUT_S))
            await settled(lambda: self._function.in_flight == 1, "the function is not called")
            await cancelled(task)
            self._function.release()
            self._function.script()
            for turns in range(20):
                await cancelled_after(turns, endpoint.invoke(_batch(), timeout_s=TIMEOUT_S))
            reply = await endpoint.invoke(_batch(), timeout_s=TIMEOUT_S)
            promise(list(reply.result) == [1.0, 1.0, 1.0], "after cancellations the next invocation fails")
        # The loop's own default pool may have grown by the threads that open and close things.
        await settled(lambda: threading.active_count() <= threads + 2, "threads are left after aclose()")


def _batch() -> BatchPayload:
    import pyarrow as pa

    batch = pa.RecordBatch.from_pydict({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
    return BatchPayload(batch=batch, nbytes=batch.nbytes)
