"""What binds the run just now: the evidence is gathered here, `control.binding` decides."""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from asyncbatch.config import RunConfig
from asyncbatch.control.binding import Bound, Evidence, Wait, binding
from asyncbatch.observe.metrics import Counts
from asyncbatch.pipeline.controllers import MAX_CHUNK_ROWS, concurrency_ceiling
from asyncbatch.protocols import Controller, TellsState

_LOOKS = 5
"""How many looks make a decision: at five a second, a second."""
_STEADY_LOOKS = 10
"""What has bound for so many looks is worth saying."""
_NEAR_TARGET = 0.8


class WaitClock:
    """Seconds by what the next request waited for. O(1) a turn."""

    def __init__(self, *, now_s: float) -> None:
        self._wait = Wait.INPUT
        self._since_s = now_s
        self._seconds: dict[Wait, float] = {}

    def turn(self, wait: Wait, now_s: float) -> None:
        """From now on the next request waits for `wait`."""
        if wait is not self._wait:
            self._add(now_s)
            self._wait = wait

    def take(self, now_s: float) -> dict[Wait, float]:
        """Seconds since the last time it was asked."""
        self._add(now_s)
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _add(self, now_s: float) -> None:
        self._seconds[self._wait] = self._seconds.get(self._wait, 0.0) + max(0.0, now_s - self._since_s)
        self._since_s = now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The run at a moment; counts since its start."""

    now_s: float
    waits: dict[Wait, float]
    """Seconds since the look before."""
    counts: Counts
    chunks: int
    capped: int
    in_flight: int
    chunk_rows: int


@dataclass(frozen=True, slots=True)
class _Cpu:
    thread_s: float
    process_s: float


def _cpu() -> _Cpu:
    return _Cpu(time.thread_time(), time.process_time())


class BindingWatch:
    """Decides from the looks of about a second; to be used from the thread that sends.

    Args:
        most_bytes: what the bodies in flight may have together.
        block_rows: rows of a block.
        cpu: thread and process CPU seconds so far.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        controller: Controller,
        most_bytes: int,
        block_rows: int = MAX_CHUNK_ROWS,
        cpu: Callable[[], _Cpu] = _cpu,
    ) -> None:
        speed = config.speed
        self._controller = controller
        self._most_bytes = most_bytes
        self._most_in_flight = concurrency_ceiling(config)
        self._most_rows = speed.chunk_rows.high if speed.chunk_rows is not None else MAX_CHUNK_ROWS
        self._block_rows = block_rows
        self._target_s = speed.target_latency
        self._background = speed.background
        self._cpu = cpu
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._looks: deque[tuple[Look, _Cpu]] = deque(maxlen=_LOOKS + 1)
        self._same = 0
        self._said: Bound | None = None
        self.bound: Bound | None = None
        """What binds, as of the last look; None until enough was seen."""

    def look(self, look: Look) -> str | None:
        """Decide anew; a sentence for `--explain` when something else binds and has for two seconds."""
        self._looks.append((look, self._cpu()))
        if len(self._looks) < 2:
            return None
        before, self.bound = self.bound, binding(self._evidence())
        self._same = self._same + 1 if self.bound is before else 0
        if self._same < _STEADY_LOOKS or self.bound in (None, Bound.TAIL, Bound.SEARCH, self._said):
            return None
        assert self.bound is not None
        self._said = self.bound
        return f"what binds now is {self.bound.meaning}"

    def _evidence(self) -> Evidence:
        (first, cpu_before), (last, cpu_now) = self._looks[0], self._looks[-1]
        seconds = max(1e-6, last.now_s - first.now_s)
        waits: dict[Wait, float] = {}
        for look, _ in list(self._looks)[1:]:
            for wait, waited_s in look.waits.items():
                waits[wait] = waits.get(wait, 0.0) + waited_s
        requests = last.counts.requests - first.counts.requests
        answered = last.counts.answered - first.counts.answered
        mean_s = (last.counts.answered_s - first.counts.answered_s) / answered if answered else 0.0
        mean_bytes = (last.counts.bytes_sent - first.counts.bytes_sent) / requests if requests else 0.0
        state = self._controller if isinstance(self._controller, TellsState) else None
        return Evidence(
            waits=waits,
            loop_cpu=(cpu_now.thread_s - cpu_before.thread_s) / seconds,
            process_cpu=(cpu_now.process_s - cpu_before.process_s) / seconds / self._cores,
            requests=requests,
            refused=last.counts.refused - first.counts.refused,
            chunks=last.chunks - first.chunks,
            capped=last.capped - first.capped,
            at_payload_cap=state is not None and state.at_size_cap,
            at_concurrency=self._controller.concurrency() >= self._most_in_flight,
            at_chunk_rows=last.chunk_rows >= self._most_rows,
            at_block_rows=last.chunk_rows >= self._block_rows,
            at_memory=(last.in_flight + 1) * mean_bytes > self._most_bytes,
            near_target=self._target_s is not None and mean_s > _NEAR_TARGET * self._target_s,
            settled=state is None or state.settled,
            background=self._background,
        )
