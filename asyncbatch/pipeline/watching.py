"""The model behind the endpoint's name: looked at when a run begins, every minute, and at its end.

What cannot be looked at is done without, and said once. Another model than the one that earlier rows were sent to stops the
run, unless `--allow-change model`; either way both are in the state and in the manifest.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from asyncbatch.endpoint.description import (
    describe_in_short,
    from_json,
    is_shared,
    model_changes,
    to_json,
)
from asyncbatch.errors import StoppedError
from asyncbatch.model import ModelDescription, Undescribed
from asyncbatch.observe.events import Event, Explained, Warned
from asyncbatch.pipeline.groups import flattened
from asyncbatch.protocols import DescribesModel, Endpoint
from asyncbatch.sink.history import load_history, note_model
from asyncbatch.store.base import Store

EVERY_S = 60.0
T = TypeVar("T")


class ModelWatch:
    """Looks at the model of one run."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        emit: Callable[[Event], None],
        allowed: bool,
        every_s: float | None = None,
    ) -> None:
        """`allowed`: a change is written down and said, and the run goes on; `every_s`: `EVERY_S` unless given."""
        self._name = endpoint.name
        self._endpoint = endpoint if isinstance(endpoint, DescribesModel) else None
        self._emit = emit
        self._allowed = allowed
        self._every_s = EVERY_S if every_s is None else every_s
        self._state: Store | None = None
        self._told = False
        self.last: ModelDescription | None = None
        """What was seen last."""
        self.changed = False
        """It was another model, and the run ended for it."""

    @property
    def shared(self) -> str:
        """Why others may well be using the endpoint; empty if nothing speaks for it."""
        return is_shared(self.last) if self.last is not None else ""

    async def beside(self, work: Awaitable[T]) -> T:
        """Look while `work` is done; what it gives."""
        results: list[T] = []

        async def wait() -> None:
            results.append(await work)

        with flattened():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(self.look)
        return results[0]

    async def look(self) -> ModelDescription | None:
        """Ask once, and say once why there is no answer. Compares nothing."""
        if self._endpoint is None:
            return None
        found = await self._endpoint.describe_model()
        if isinstance(found, ModelDescription):
            if self.last is None:
                self._emit(Explained(message=f"the model is {describe_in_short(found)}"))
            self.last = found
            return found
        if found.lasting:
            self._endpoint = None
        self._say(found)
        return None

    async def keep(self, state: Store) -> None:
        """Compare what was seen with what the job has met before, and write it down; from now on `state` is kept up.

        Raises:
            StoppedError: it is another model, and that is not allowed.
        """
        self._state = state
        if self.last is not None:
            await self._judge(self.last)

    async def run(self) -> None:
        """Look every minute, until cancelled.

        Raises:
            StoppedError: as `keep`.
        """
        while self._endpoint is not None:
            await anyio.sleep(self._every_s)
            await self.look_again()

    async def look_again(self) -> None:
        """Once more: rows sent since the last look are of the model seen then only if this one sees the same.

        Raises:
            StoppedError: as `keep`.
        """
        if (now := await self.look()) is not None:
            await self._judge(now)

    async def _judge(self, now: ModelDescription) -> None:
        with anyio.CancelScope(shield=True):
            changes = await anyio.to_thread.run_sync(self._note, now)
        if not changes:
            return
        what = f"the model behind {self._name} has changed ({'; '.join(changes)})"
        if not self._allowed:
            self.changed = True
            raise StoppedError(
                what,
                hint="--allow-change model scores the rest with it; the manifest names both. Or put the old one back, "
                "and give the same command",
            )
        self._emit(Warned(message=f"{what}; --allow-change model goes on, and the manifest names both"))

    def _note(self, now: ModelDescription) -> list[str]:
        """Write down that `now` was seen; what makes it another model than those accepted before."""
        assert self._state is not None
        seen = load_history(self._state).models
        known = [from_json(each.latest) for each in seen]
        accepted = [index for index, each in enumerate(seen) if each.accepted]
        index, changes = judged(known, accepted, now)
        note_model(self._state, to_json(now), known=index, accepted=not changes or self._allowed)
        return changes

    def _say(self, found: Undescribed) -> None:
        if self._told:
            return
        self._told = True
        message = f"a change of the model during the run will not be noticed: {found.reason}"
        self._emit(Explained(message=message) if found.expected else Warned(message=message))


def judged(
    known: Sequence[ModelDescription], accepted: Sequence[int], now: ModelDescription
) -> tuple[int | None, list[str]]:
    """Which of the models `known` `now` is, None for a new one; and what makes it none of those `accepted`. Pure."""
    same = [index for index, each in enumerate(known) if not model_changes(each, now)]
    for index in reversed(same):
        if index in accepted:
            return index, []
    changes = model_changes(known[accepted[-1]], now) if accepted else []
    return (same[-1] if same else None), changes
