"""Task groups raise groups; callers want the one error that ended the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from asyncbatch.errors import AsyncBatchError


@contextmanager
def flattened() -> Iterator[None]:
    """Raise the first error of ours out of an exception group, or else its first error."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        ours = [leaf for leaf in leaves if isinstance(leaf, AsyncBatchError)]
        first = (ours or leaves)[0]
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
