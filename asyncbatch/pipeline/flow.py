"""The middle of a run: workers take work through the gate, invoke, and settle what comes back.

Everything is decided synchronously between two awaits on one event loop, so no lock is needed: `WorkQueue` says what is
next, `Gate` whether it may go, `next_step` what follows a failure.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncbatch.control.backoff import RetryBudget, full_jitter
from asyncbatch.control.binding import Wait
from asyncbatch.control.body_cap import BodyCap
from asyncbatch.control.breaker import Breaker
from asyncbatch.control.failures import Action
from asyncbatch.control.recovery import LONE_TRIES, Attempts, Step, next_step
from asyncbatch.errors import EndpointError, StoppedError
from asyncbatch.model import FIRST, SUCCESS, ChunkTarget, Kind, Outcome, Sample
from asyncbatch.observe.events import Event, Explained, RequestFailed, Warned
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.pipeline.binding import WaitClock
from asyncbatch.pipeline.blocks import OpenBlock, Work
from asyncbatch.pipeline.gate import Gate, Signal
from asyncbatch.pipeline.invoking import Answer, Invoker, Refusal
from asyncbatch.pipeline.work import WorkQueue
from asyncbatch.protocols import Controller

_LONGEST_WAIT_S = 20.0
_BASE_S = 0.1
_THROTTLE_BASE_S = 0.5
"""First waits: an endpoint that says "too many" is not helped by coming back soon."""
_NOT_READY_CAP_S = 10.0
_LONGEST_BISECT = 2
"""Doublings of the wait before a part of a bisected chunk is sent again: at most a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """What the user decided about sending."""

    max_payload_bytes: int
    max_retries: int
    max_outage_s: float
    min_rows: int = 1
    """Fewest rows that the endpoint can answer in one request."""
    one_row_works: bool = True
    """A request of one row has been answered; False: not known."""


class Flow:
    """Sends every row of the blocks in `queue`; calls `finish` once a block has all its answers.

    `rejected(rows, code, message)` is called for each row given up, and may raise to end the run.
    `input_waits` says why there is no further block.
    """

    def __init__(
        self,
        *,
        invoker: Invoker,
        controller: Controller,
        gate: Gate,
        breaker: Breaker,
        options: FlowOptions,
        metrics: MetricsCollector,
        emit: Callable[[Event], None],
        rejected: Callable[[int, str, str], None],
        finish: Callable[[OpenBlock], Awaitable[None]],
        clock: Callable[[], float],
        rng: random.Random,
        input_waits: Callable[[], Wait] = lambda: Wait.INPUT,
    ) -> None:
        self._invoker = invoker
        self._controller = controller
        self._gate = gate
        self._breaker = breaker
        self._options = options
        self._metrics = metrics
        self._emit = emit
        self._rejected = rejected
        self._finish = finish
        self._input_waits = input_waits
        self.waits = WaitClock(now_s=clock())
        self._clock = clock
        self._rng = rng
        self._work = WorkQueue()
        self._signal = Signal()
        self._retry_budget = RetryBudget()
        self._lone_tries = LONE_TRIES
        self._min_rows = options.min_rows
        self._one_row_works = options.one_row_works
        self._body_cap = BodyCap(max_bytes=options.max_payload_bytes)
        self._suspects: list[tuple[Work, Refusal]] = []
        self._control_sent = False
        self._told: set[Outcome] = set()
        self._input_ended = False
        self._open_blocks = 0
        self._unread_rows: int | None = None
        self.chunk_rows = 0
        self.chunks = 0
        """New chunks cut."""
        self.capped = 0
        """Of them, made smaller by the largest body."""
        self._workers = 0
        self._tasks: TaskGroup | None = None
        self._queue: MemoryObjectReceiveStream[OpenBlock] | None = None

    # -- what others may ask and tell ------------------------------------------------------------------------------

    @property
    def open_blocks(self) -> int:
        """Blocks taken from the queue and not finished."""
        return self._open_blocks

    @property
    def in_flight(self) -> int:
        return self._gate.in_flight

    def note_unread_rows(self, rows: int | None) -> None:
        """Rows of the input that are not read yet; None: not known."""
        self._unread_rows = rows

    def wake(self) -> None:
        """A block was queued, or the queue was closed."""
        self._signal.wake()

    async def run(self, queue: MemoryObjectReceiveStream[OpenBlock]) -> None:
        """Until `queue` is closed and every block is finished.

        Raises:
            EndpointError: the endpoint refuses for good.
            StoppedError: it stayed away longer than allowed, or wants a login.
        """
        self._queue = queue
        async with queue, anyio.create_task_group() as self._tasks:
            self._add_workers(self._controller.concurrency())

    # -- workers ---------------------------------------------------------------------------------------------------

    def _add_workers(self, limit: int) -> None:
        assert self._tasks is not None
        while self._workers < limit:
            self._workers += 1
            self._tasks.start_soon(self._worker)

    async def _worker(self) -> None:
        """Sends one piece of work after the other. It never waits while it could send: so whoever gave back a place in flight
        takes the next one, and others are woken only where there are more."""
        gate, metrics, clock, invoke = self._gate, self._metrics, self._clock, self._invoker.invoke
        while (work := await self._next()) is not None:
            metrics.started()
            started_s = clock()
            try:
                result = await invoke(work)
            except BaseException:
                gate.in_flight -= 1
                self._cancelled(work, started_s)
                raise
            gate.in_flight -= 1
            metrics.finished(result.sample)
            if isinstance(result, Answer):
                self._answered(work, result)
            else:
                self._refused(work, result)
            if result.steers:
                self._controller.record(result.sample)

    async def _next(self) -> Work | None:
        """The next piece of work, with a place in flight; None when there will be no more."""
        gate, queue = self._gate, self._work
        while True:
            now_s = self._clock()
            has_work = queue.has_work(now_s)
            if not has_work and not self._input_ended:
                self._admit(now_s)
                has_work = queue.has_work(now_s)
            if self._input_ended and self._open_blocks == 0:
                self._signal.wake_all()
                return None
            if not has_work:
                wait_s = self._until(queue.next_due_s(), now_s)
                self.waits.turn(self._starved_by(), now_s)
            elif (wait_s := gate.closed_for(now_s)) != 0.0:
                self.waits.turn(gate.waits, now_s)
            else:
                gate.in_flight += 1
                work = None
                try:
                    if self._workers < gate.limit:
                        self._add_workers(gate.limit)
                    if gate.has_rate:
                        self.waits.turn(Wait.RATE, now_s)
                        await gate.pass_rate()
                        now_s = self._clock()
                    if gate.in_flight < gate.limit:
                        self._signal.wake()  # who in turn wakes the next, while there is room and work
                    work = self._take(now_s)
                    if work is not None:
                        if gate.rows_at_once is not None:
                            self.waits.turn(Wait.ROW_RATE, now_s)
                            await gate.pass_row_rate(work.rows)
                            now_s = self._clock()
                        if gate.in_flight >= gate.limit:
                            self.waits.turn(gate.full, now_s)
                        return work
                finally:
                    if work is None:
                        gate.in_flight -= 1
                continue
            await self._signal.wait(wait_s)

    def _starved_by(self) -> Wait:
        """Why there is nothing to send."""
        if not self._input_ended:
            return self._input_waits()
        if self._work.next_due_s() is not None:
            return Wait.RETRIES
        return Wait.END if self._gate.in_flight else Wait.OUTPUT

    def _target(self) -> ChunkTarget:
        wanted = self._controller.next_chunk()
        most = self._gate.rows_at_once
        if most is not None and wanted.rows > most:
            wanted = ChunkTarget(rows=most, bytes=wanted.bytes)
        self.chunk_rows = wanted.rows
        return wanted

    def _take(self, now_s: float) -> Work | None:
        if self._breaker.is_open and self._invoker.has_good_rows:
            # Rows known to be good tell a dead endpoint from a long stretch of bad rows; more of that stretch would not.
            self._control_sent = True
            return Work(block=None, start=0, stop=1, kind=Kind.PROBE, chunk=-1)
        work = self._work.take(
            now_s, target=self._target, max_bytes=self._body_cap.max_bytes, min_rows=self._min_rows
        )
        if work is None:
            return None
        if work.block is not None and work.stop - work.start < self._min_rows:
            work.padded = True
        if work.kind is FIRST:
            self.chunks += 1
            self.capped += work.capped
            self._retry_budget.note_first_try()
            if self._unread_rows is not None:
                self._controller.note_remaining(self._unread_rows + self._work.unsent_rows())
        return work

    def _admit(self, now_s: float) -> None:
        """Take the next block from the reader's queue: nothing else is to be sent."""
        assert self._queue is not None
        try:
            block = self._queue.receive_nowait()
        except anyio.WouldBlock:
            return
        except anyio.EndOfStream:
            self._input_ended = True
            return
        if self._unread_rows is not None:
            self._unread_rows = max(0, self._unread_rows - block.block.rows)
        self._open_blocks += 1
        if block.encoded.rows:
            self._work.add_block(block)
            self._signal.wake(self._controller.concurrency())
        else:
            self._complete(block)

    @staticmethod
    def _until(due_s: float | None, now_s: float) -> float | None:
        return None if due_s is None else max(0.0, due_s - now_s)

    def _cancelled(self, work: Work, started_s: float) -> None:
        self._metrics.finished(
            Sample(
                rows=max(1, work.rows),
                body_bytes=0,
                started_s=started_s,
                finished_s=self._clock(),
                outcome=Outcome.CANCELLED,
                kind=work.kind,
            )
        )

    # -- what comes back -------------------------------------------------------------------------------------------

    def _answered(self, work: Work, answer: Answer) -> None:
        sample, block = answer.sample, work.block
        self._breaker.record(SUCCESS, chunk=work.chunk, rows=sample.rows, now_s=sample.finished_s)
        self._control_sent = False
        self._body_cap.answered(sample.body_bytes)
        if work.refused or work.half_of is not None:
            self._note_groundless_refusal(work)
        if block is not None:
            if not work.padded:
                self._one_row_works = self._one_row_works or sample.rows == 1
            elif self._min_rows == 1:
                self._min_rows = 2
                self._emit(
                    Explained(
                        message="the endpoint cannot answer a request of one row: such requests are padded"
                    )
                )
            block.answer(work, answer.columns, answer.variant)
            if block.unanswered == 0:
                self._complete(block)
        if self._suspects:
            self._settle_suspects(sample.started_s)

    def _note_groundless_refusal(self, work: Work) -> None:
        """Rows that were refused are answered: refusals strike at random here, so one of a lone row proves little."""
        if work.half_of is not None:
            work.half_of.answered += 1
        if work.refused or (work.half_of is not None and work.half_of.answered == 2):
            self._lone_tries = max(LONE_TRIES, self._options.max_retries + 1)

    def _complete(self, block: OpenBlock) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._finish_block, block)

    async def _finish_block(self, block: OpenBlock) -> None:
        await self._finish(block)
        self._open_blocks -= 1
        self._signal.wake()

    def _refused(self, work: Work, refusal: Refusal) -> None:
        now_s = refusal.sample.finished_s
        verdict = refusal.verdict
        work.refused = work.refused or verdict.outcome is Outcome.REJECTED
        if refusal.steers:
            self._breaker.record(verdict.outcome, chunk=work.chunk, rows=work.rows, now_s=now_s)
        self._emit(
            RequestFailed(
                summary=self._said(refusal),
                outcome=verdict.outcome,
                rows=work.rows,
                attempt=work.tries + work.waits + 1,
            )
        )
        if refusal.note is not None:
            self._emit(Warned(message=refusal.note))
        if self._breaker.gave_up(now_s):
            raise StoppedError(
                f"the endpoint has answered nothing for {self._breaker.outage_s(now_s):.0f} s:"
                f" {self._invoker.said(refusal)}",
                hint="the same command goes on from here; --max-outage sets how long to wait",
            )
        login = verdict.action is Action.REFRESH_CREDENTIALS
        work.logins = work.logins + 1 if login else 0
        if verdict.counts_against_chunk:
            work.tries += 1
        else:
            work.waits += 1
        work.failed_s = now_s
        if work.block is None:
            self._control_sent = False
            if verdict.action is Action.FATAL:
                raise self._fatal(refusal)
            if self._suspects:
                for suspect, _ in self._suspects:
                    suspect.in_doubt = True
                self._send_control(now_s + self._delay(work, refusal))
            return
        alone_in_vain = work.rows == 1 and self._pads(work)
        stray = verdict.outcome is Outcome.TOO_LARGE and self._body_cap.was_taken(refusal.sample.body_bytes)
        most_tries = max(LONE_TRIES, self._options.max_retries + 1)
        step = next_step(
            verdict,
            rows=work.rows,
            bisecting=work.kind is Kind.BISECT,
            attempts=Attempts(tries=work.tries, waits=work.waits, logins=work.logins),
            max_retries=1 if alone_in_vain else self._options.max_retries,
            lone_tries=1 if alone_in_vain else most_tries if stray else self._lone_tries,
        )
        self._take_step(step, work, refusal, now_s)

    def _take_step(self, step: Step, work: Work, refusal: Refusal, now_s: float) -> None:
        if step is Step.STOP:
            raise self._fatal(refusal)
        if step is Step.LOGIN:
            raise StoppedError(
                f"credentials were refused: {self._invoker.said(refusal)}",
                hint=refusal.verdict.hint or "log in again, then give the same command",
            )
        if step is Step.AGAIN:
            if work.kind is Kind.FIRST:
                work.kind = Kind.RETRY
            self._work.put_later(work, now_s + self._delay(work, refusal))
        elif step is Step.ALONE:
            self._alone(work, refusal)
        else:
            # What is left of a bisected chunk was not too large when it was more.
            if refusal.verdict.outcome is Outcome.TOO_LARGE and work.kind is not Kind.BISECT:
                self._body_cap.refused(refusal.sample.body_bytes)
            self._work.put_halves(work, Kind.BISECT if step is Step.BISECT else Kind.RETRY)

    def _delay(self, work: Work, refusal: Refusal) -> float:
        """Seconds until the next try: what the endpoint asked for, and full jitter; longest when the budget is spent.

        The budget is for chunks that fail. How fast a throttled chunk returns is up to the controller; and what is left
        of a bisected one is small, returns soon, and while nothing at all succeeds the breaker holds it back.
        """
        outcome, attempt = refusal.verdict.outcome, work.tries + work.waits
        cap_s = _NOT_READY_CAP_S if outcome is Outcome.NOT_READY else _LONGEST_WAIT_S
        asked_s = refusal.failure.retry_after_s or 0.0
        if work.kind is Kind.BISECT:
            counts = refusal.verdict.counts_against_chunk
            attempt = min(work.tries, _LONGEST_BISECT) if counts else work.waits
        elif outcome is not Outcome.THROTTLED and not self._retry_budget.take():
            return asked_s + self._rng.uniform(cap_s / 4, cap_s / 2)
        base_s = _THROTTLE_BASE_S if outcome is Outcome.THROTTLED else _BASE_S
        return asked_s + full_jitter(attempt, rng=self._rng, base_s=base_s, cap_s=cap_s)

    # -- one row alone ---------------------------------------------------------------------------------------------

    def _alone(self, work: Work, refusal: Refusal) -> None:
        """One row failed alone: the row, an endpoint that cannot answer one row, or an endpoint that answers nobody."""
        assert work.block is not None
        if self._pads(work):
            work.padded = True
            work.tries = 0
            self._work.put(work)
            return
        self._suspects.append((work, refusal))
        about_rows = refusal.verdict.outcome is Outcome.REJECTED
        if not work.doubted and not about_rows and self._breaker.others_fail(work.chunk):
            work.in_doubt = work.doubted = True  # once: among many bad rows the doubt would never end
        if not self._control_sent:
            self._send_control(self._clock() + 0.1)

    def _pads(self, work: Work) -> bool:
        """Whether a row that failed alone is tried beside a known-good one next."""
        return (
            not work.padded
            and not self._one_row_works
            and work.block is not None
            and work.block.sent is not None
            and self._invoker.has_good_rows
        )

    def _send_control(self, due_s: float) -> None:
        """Ask with known-good rows, unless other work gives the evidence first."""
        if not self._invoker.has_good_rows:
            self._settle_suspects(float("inf"))
            return
        self._control_sent = True
        self._work.put_later(Work(block=None, start=0, stop=1, kind=Kind.PROBE, chunk=-1), due_s)

    def _settle_suspects(self, success_started_s: float) -> None:
        """A success that was sent after a row failed shows that the endpoint is alive: the row is at fault.

        Unless it failed while known-good rows or other chunks did too: then it is sent once more instead.
        """
        if not self._suspects:
            return
        waiting = []
        for work, refusal in self._suspects:
            if work.failed_s > success_started_s:
                waiting.append((work, refusal))
                continue
            assert work.block is not None
            if work.in_doubt:
                work.in_doubt = False
                self._work.put(work)
                continue
            code = refusal.verdict.outcome.value
            message = refusal.failure.summary()
            work.block.reject(work, code=code, message=message)
            self._rejected(1, code, self._invoker.said(refusal))
            if work.block.unanswered == 0:
                self._complete(work.block)
        self._suspects = waiting
        if waiting and not self._control_sent:
            self._send_control(self._clock() + 0.1)

    # -- what is said ----------------------------------------------------------------------------------------------

    def _said(self, refusal: Refusal) -> str:
        """The endpoint's words the first time an outcome comes, its status from then on."""
        outcome = refusal.verdict.outcome
        if outcome in self._told:
            return refusal.failure.head
        self._told.add(outcome)
        return self._invoker.said(refusal, whole=False)

    def _fatal(self, refusal: Refusal) -> EndpointError:
        message = f"the endpoint refuses: {self._invoker.said(refusal)}"
        if refusal.failure.log_stream_arn:
            message += f" (log: {refusal.failure.log_stream_arn})"
        return EndpointError(message, hint=refusal.verdict.hint or None)
