"""What a job that is gone on with has settled about its input."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What a job has settled about its input before, by path."""

    listed: frozenset[str]
    """Files of the job; `--settle` leaves none of them out."""
    first: frozenset[str]
    """Those of its first plan: types of text columns are inferred from them alone."""
