"""How much a guest may have in flight: a Bayesian search with yes-or-no observations.

QUEST (Watson and Pelli, Perception & Psychophysics 33, 1983): the level at which the share of requests that wait is the one
allowed has a probability at each place of a grid; each observation, at whatever level it was made, multiplies it by its
likelihood; the next level is read from what came out. Nothing is thrown away when the level changes, as sequential tests of one
level do, and the level moves a little with each observation instead of by steps.

How the share depends on the level: in proportion while the level is small, for each chunk adds the same; and by 35 % with each
further one in flight, for a request waits when live users take all that the guest left, and numbers of live users have a tail
like that of Poisson's distribution (simulation, 15 cases of 4 to 64 slots at 30 to 70 % load: 27 to 110 %).

The endpoint changes while it is watched: between two observations the level drifts a little, and with a small probability
anything may have happened (hidden Markov filter; the jump is that of Shiryaev's change point).
"""

import math
from bisect import bisect_left
from itertools import accumulate

_STEP = 0.08
"""Of the grid, in the level's logarithm."""
_PER_CHUNK = 0.3
_MOST = 0.95
_DRIFT = 0.004
"""Probability of a step of the grid, to each side, between two observations."""
_JUMP = 1e-5
_WEIGHT = 0.5
"""Requests that come soon after each other meet the same queue: two tell no more than one would alone."""


class Quest:
    """The level at which `allowed` of the observations are positive.

    Args:
        low, high: bounds of the level, above 0.
        normal: share of positive observations at level 0.
        allowed: share of positive observations looked for, above `normal`.
    """

    def __init__(self, *, low: float, high: float, normal: float, allowed: float) -> None:
        if not 0 < normal < allowed < 1:
            raise ValueError(f"allowed must be between {normal} and 1, got {allowed}")
        self._low = low
        self._levels = [
            low * math.exp(_STEP * k) for k in range(max(1, math.ceil(math.log(high / low) / _STEP)) + 1)
        ]
        self._normal, self._allowed = normal, allowed
        self._prior = 1.0 / len(self._levels)
        self._chance = [self._prior] * len(self._levels)
        self._likelihoods: dict[tuple[int, bool], list[float]] = {}  # by the level's place on the grid

    def observe(self, level: float, positive: bool) -> None:
        """What was seen while the guest was at `level`."""
        at = min(len(self._levels) - 1, max(0, round(math.log(max(level, self._low) / self._low) / _STEP)))
        likelihood = self._likelihoods.get((at, positive))
        if likelihood is None:
            shares = [self._share(self._levels[at], each) for each in self._levels]
            likelihood = [(share if positive else 1 - share) ** _WEIGHT for share in shares]
            self._likelihoods[at, positive] = likelihood
        found = [chance * each for chance, each in zip(self._chance, likelihood, strict=True)]
        scale = (1 - _JUMP) / sum(found)
        stay, move, jump = scale * (1 - 2 * _DRIFT), scale * _DRIFT, _JUMP * self._prior
        below, above = [found[0], *found[:-1]], [*found[1:], found[-1]]
        self._chance = [
            stay * here + move * (left + right) + jump
            for left, here, right in zip(below, found, above, strict=True)
        ]

    def _share(self, level: float, sought: float) -> float:
        """Share of positive observations at `level`, were `sought` the level looked for."""
        excess = (self._allowed - self._normal) * level / sought
        return min(_MOST, self._normal + excess * math.exp(min(20.0, _PER_CHUNK * (level - sought))))

    def quantile(self, probability: float) -> float:
        """The level that is too high with this probability."""
        sums = list(accumulate(self._chance))
        sought = probability * sums[-1]
        at = min(len(sums) - 1, bisect_left(sums, sought))
        before = sums[at - 1] if at else 0.0
        part = (sought - before) / (sums[at] - before) if sums[at] > before else 0.5
        return self._levels[at] * math.exp(_STEP * (part - 0.5))

    def lower(self, factor: float) -> None:
        """Less is allowed than was thought: `factor` of it, below 1."""
        by = min(len(self._chance) - 1, round(-math.log(factor) / _STEP))
        if by > 0:
            self._chance = [sum(self._chance[: by + 1]), *self._chance[by + 1 :], *[self._prior * _JUMP] * by]

    def doubt(self, part: float) -> None:
        """With probability `part` nothing of what was learned holds any more."""
        kept = (1 - part) / sum(self._chance)
        self._chance = [kept * chance + part * self._prior for chance in self._chance]
