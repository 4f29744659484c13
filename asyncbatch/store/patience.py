"""Calls to a store that are tried again for a while: throttling, timeouts and lost connections pass."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from asyncbatch.errors import StorageError
from asyncbatch.store.client import UnavailableError

T = TypeVar("T")

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, and with which pauses: they double, with full jitter, from 0.1 to 8 s."""

    seconds: float = 90.0
    """From the first failure of a call on; then the run stops, and the same command goes on."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    rng: random.Random = field(default_factory=random.Random)

    def persist(self, call: Callable[[], T], doing: str) -> T:
        """What `call` returns, as soon as it does; it is repeated while it raises UnavailableError.

        Args:
            doing: for the message, like `writing s3://bucket/out/part-0`.

        Raises:
            StorageError: it was unavailable for all of `seconds`.
        """
        until: float | None = None
        delay = _FIRST_DELAY_S
        while True:
            try:
                return call()
            except UnavailableError as error:
                now = self.clock()
                until = now + self.seconds if until is None else until
                if now >= until:
                    raise StorageError(
                        f"{error.message} while {doing}, for {self.seconds:.0f} s",
                        hint="run the same command again: what is committed is kept",
                    ) from error
            self.sleep(self.rng.uniform(0, delay))
            delay = min(_LONGEST_DELAY_S, 2 * delay)
