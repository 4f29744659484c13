"""When to try again.

Full jitter (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015): the wait is uniform in
`[0, min(cap, base * 2**attempt)]`, so that clients that failed together do not return together.
"""

import random


def full_jitter(attempt: int, *, rng: random.Random, base_s: float, cap_s: float = 20.0) -> float:
    """Seconds to wait before try number `attempt + 1`; `attempt` counts from 1."""
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 30))
    return rng.uniform(0.0, ceiling)


class RetryBudget:
    """Keeps retries a share of the traffic, so that they cannot keep a struggling endpoint down.

    A token bucket as in Finagle's `RetryBudget` and gRPC's retry throttling (gRFC A6): each first try puts in
    `ratio` tokens, a retry takes one. An empty bucket does not drop the retry (rows may not be lost): it waits longest.
    """

    def __init__(self, *, ratio: float = 0.2, reserve: float = 20.0) -> None:
        self._ratio = ratio
        self._cap = reserve
        self._tokens = reserve

    def note_first_try(self) -> None:
        if self._tokens < self._cap:
            self._tokens = min(self._cap, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take a token for a retry; False if the budget is spent."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
