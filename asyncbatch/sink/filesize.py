"""`--file-size`: neighbouring parts of a folder, joined into larger ones when every row is there.

A joined part carries in its footer what its members said. A wider part goes before the members that it took the
place of, wherever both are seen: after a crash, or when a process that was taken for dead commits once more.
"""

import json
from collections.abc import Sequence
from typing import BinaryIO

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PartFooter, join_footers
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.layout import JOINED, SinkLocation, part_name
from asyncbatch.sink.parts import PartInfo, PartsSink, list_parts
from asyncbatch.store.base import Store, Swap


def require_folder(location: SinkLocation) -> None:
    """Raises OutputError if `location` is one file, which has no parts to join."""
    if location.kind == "file":
        raise OutputError(
            f"--file-size joins the parts of a folder, and {location.spec} is one file",
            hint="leave --file-size out, or name a folder",
        )


def join_neighbours(parts: Sequence[PartInfo], *, file_size: int) -> list[list[PartInfo]]:
    """Which parts become one: consecutive rows of one input file, as many as fit into `file_size` bytes. Pure."""
    groups: list[list[PartInfo]] = []
    size = 0
    for part in parts:
        last = groups[-1][-1].block if groups else None
        follows = last is not None and last.file == part.block.file and last.stop == part.block.start
        if follows and size + part.size_bytes <= file_size:
            groups[-1].append(part)
            size += part.size_bytes
        else:
            groups.append([part])
            size = part.size_bytes
    return [group for group in groups if len(group) > 1]


def join_parts(sink: PartsSink, *, parts_store: Store, state: Store, file_size: int) -> None:
    """Join the parts of a folder; the parts must tile the input. Can be repeated after a crash.

    Raises:
        OutputError: a part is damaged.
        StorageError: the store failed; every row is there, in old parts or new ones.
    """
    groups = join_neighbours(sink.committed(), file_size=file_size)
    if not groups:
        return
    content = json.dumps({"file_size": file_size}).encode() + b"\n"
    # Before the first member goes: from here on a late commit of a member looks for a joined part first.
    state.create_if_absent(JOINED, lambda file: file.write(content))
    parts_store.swap([_swap(sink, group, parts_store) for group in groups])


def remove_replaced(parts_store: Store) -> None:
    """Remove parts whose rows are in a joined part as well: what a crash between the two left."""
    kept = {part.name for part in list_parts(parts_store)}
    parts_store.delete(*(name for name in replaced_names(parts_store, kept)))


def replaced_names(parts_store: Store, kept: set[str]) -> list[str]:
    """The parts that are there and not among `kept`."""
    return [entry.name for entry in parts_store.list("part-") if entry.name not in kept]


def _swap(sink: PartsSink, group: Sequence[PartInfo], store: Store) -> Swap:
    footer: PartFooter = join_footers([sink.footer(part) for part in group])
    pieces = [Piece(store=store, name=part.name, check=not sink.wrote(part)) for part in group]
    schema, values = sink.plan.schema, footer.key_values()

    def write(file: BinaryIO) -> None:
        join_parquet(file, pieces, schema=schema, key_values=values)

    return Swap(added=part_name(footer.block), write=write, removed=tuple(part.name for part in group))
