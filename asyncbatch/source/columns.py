"""Which columns are sent, which are kept, which are read. Pure."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The columns of a run."""

    send: tuple[str, ...]
    """What a request holds, in wire order."""
    keep: tuple[str, ...]
    """What is written beside the prediction, in the order given; file order for `--keep all`."""
    read: tuple[str, ...]
    """Everything that must be read, in file order."""


def select_columns(names: Sequence[str], partition_columns: Sequence[str], config: InputConfig) -> Selection:
    """Apply `--send`, `--no-send` and `--keep` to the columns of an input.

    A name that exists is taken as it is; otherwise `*` stands for any text, and matches add to the wire in
    file order. Partition columns are sent only when named exactly, and kept like any other. An input without
    columns (an empty one, where that is allowed) selects nothing.

    Args:
        names: every column in file order, partition columns included.
        partition_columns: those of `names` that come from folder names.
        config: the options of the run.

    Raises:
        InputError: an unknown column, a pattern without a match, a name given twice, or nothing left to send.
    """
    if not names:
        return Selection(send=(), keep=(), read=())
    own = [name for name in names if name not in partition_columns]
    send = list(own) if config.send is None else _expand(config.send, names, own, option="--send")
    if config.no_send is not None:
        removed = set(_expand(config.no_send, names, own, option="--no-send"))
        send = [name for name in send if name not in removed]
    if not send:
        raise InputError("no column is left to send", hint="name some with --send, or fewer with --no-send")
    if config.keep == ("all",):
        keep = list(names)
    elif config.keep == ("none",):
        keep = []
    else:
        keep = _expand(config.keep, names, names, option="--keep")
    wanted = {*send, *keep}
    return Selection(send=tuple(send), keep=tuple(keep), read=tuple(name for name in names if name in wanted))


def nearest(name: str, names: Sequence[str]) -> str:
    """The hint for an unknown column: the nearest names, or the first few there are."""
    folded = {each.casefold(): each for each in reversed(names)}
    near = [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=2, cutoff=0.6)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}? asyncbatch plan FILE lists the columns"
    shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
    return f"the columns are {shown}"


def _expand(
    patterns: Sequence[str], names: Sequence[str], matchable: Sequence[str], *, option: str
) -> list[str]:
    found: dict[str, None] = {}
    given: set[str] = set()
    for pattern in patterns:
        if pattern in given:
            raise InputError(f"{pattern!r} is given twice in {option}", hint="name each column once")
        given.add(pattern)
        if pattern in names:
            matches = [pattern]
        elif "*" in pattern:
            regex = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
            matches = [name for name in matchable if regex.fullmatch(name)]
            if not matches:
                raise InputError(f"{pattern!r} in {option} matches no column", hint=nearest(pattern, names))
        else:
            raise InputError(
                f"column {pattern!r} in {option} is not in the input", hint=nearest(pattern, names)
            )
        found.update(dict.fromkeys(matches))
    return list(found)
