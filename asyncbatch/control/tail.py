"""Smaller chunks near the end, so that the last requests end together.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers 36, 1987): each request takes an equal
share of what is left. Chunks do not shrink below where their fixed cost would outweigh the shorter wait.
"""

_LEAST_SHARE = 5
"""Chunks of the tail are at least this part of the others."""


def tail_rows(wanted: int, *, remaining: int, in_flight: float, least: float) -> int:
    """Rows of the next chunk when `remaining` rows are not yet sent.

    Args:
        wanted: rows of a chunk away from the tail.
        remaining: rows not yet sent.
        in_flight: requests in flight that share the rest.
        least: rows below which a chunk is mostly overhead.
    """
    share = remaining / max(1.0, in_flight)
    if share >= wanted:
        return wanted
    return max(1, min(wanted, int(max(share, least, wanted / _LEAST_SHARE))))
