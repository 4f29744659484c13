"""An output whose rejects are scored again: the record of it, which makes it go on wherever it was, and the new blocks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.sink.existing import Existing
from asyncbatch.sink.footer import PartFooter
from asyncbatch.sink.join import Piece
from asyncbatch.sink.layout import RETRIED, RETRY, SUCCESS
from asyncbatch.sink.parts import PartInfo, PartsSink
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Entry, Store, read_bytes

Fresh = Mapping[Block, PartInfo]
"""The blocks that were scored again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One retry of a finished output.

    Args:
        record: what `retry.json` says: its `id`, the `blocks` that are scored again and the `rejects` files they had;
            for a single file also its `members`, its `offsets` in text, and the `target` as it was.
    """

    existing: Existing
    record: Mapping[str, Any]

    @property
    def plan(self) -> Plan:
        return self.existing.plan

    @property
    def spec(self) -> str:
        return self.existing.location.spec

    @property
    def state(self) -> Store:
        return self.existing.state

    @property
    def blocks(self) -> set[Block]:
        """Those that are scored again."""
        return {Block(**each) for each in self.record["blocks"]}

    @property
    def folder(self) -> str:
        """Where they go, below the state."""
        return f"{RETRIED}{self.record['id']}"

    @property
    def retried(self) -> Store:
        return self.state.below(self.folder)

    @property
    def sink(self) -> PartsSink:
        return PartsSink(plan=self.plan, parts=self.retried, state=self.state)

    def target(self) -> Entry:
        """The single file.

        Raises:
            OutputError: it is gone.
        """
        there = self.existing.target.stat(self.existing.location.target.name)
        if there is None:
            raise OutputError(f"{self.spec} is gone", hint="--overwrite scores every row again")
        return there

    def spliced(
        self, store: Store, name: str, old: Sequence[PartFooter], fresh: Fresh
    ) -> tuple[list[Piece], list[PartFooter]]:
        """The old file's rows with the fresh blocks in between, and the footers of all blocks."""
        retried, sink = self.retried, self.sink
        pieces: list[Piece] = []
        members: list[PartFooter] = []
        start = at = 0
        for footer in old:
            if footer.block in fresh:
                if start < at:
                    pieces.append(Piece(store=store, name=name, start=start, stop=at))
                pieces.append(Piece(store=retried, name=fresh[footer.block].name))
                members.append(sink.footer(fresh[footer.block]))
                start = at + footer.rows_out
            else:
                members.append(footer)
            at += footer.rows_out
        if start < at:
            pieces.append(Piece(store=store, name=name, start=start, stop=at))
        return pieces, members

    def succeed(self, values: Mapping[str, Any]) -> None:
        """Write `_SUCCESS`."""
        content = json.dumps(values).encode() + b"\n"
        self.state.replace(SUCCESS, lambda file: file.write(content))


def is_begun(state: Store) -> bool:
    """Whether a retry has begun and not ended."""
    return state.stat(RETRY) is not None


def load_record(state: Store) -> dict[str, Any] | None:
    """The record of the retry that has begun; None without one.

    Raises:
        OutputError: it is damaged.
    """
    try:
        values = json.loads(read_bytes(state, RETRY))
        if isinstance(values["id"], str) and isinstance(values["blocks"], list):
            return dict(values)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise OutputError(f"{state.root}/{RETRY} is damaged", hint="remove it: the retry then begins again")


def load_success(state: Store) -> dict[str, Any]:
    """What `_SUCCESS` says; empty where it is not there."""
    try:
        values = json.loads(read_bytes(state, SUCCESS))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
