"""A folder or a table whose rejects were scored again: the new blocks take the places of the old ones."""

from typing import BinaryIO

from asyncbatch.sink.amending import amend_table, kept_columns
from asyncbatch.sink.filesize import join_parts
from asyncbatch.sink.footer import PartFooter, join_footers
from asyncbatch.sink.join import Piece, join_parquet, read_pieces
from asyncbatch.sink.layout import MANIFEST, SUCCESS
from asyncbatch.sink.manifest import Manifest, write_manifest
from asyncbatch.sink.parts import PartInfo, list_parts
from asyncbatch.sink.published import open_publication
from asyncbatch.sink.retry_attempt import Attempt, Fresh
from asyncbatch.store.base import Store
from asyncbatch.store.database.parts import TableParts


def finish_folder(attempt: Attempt, fresh: Fresh, *, answered: int, file_size: int | None) -> Manifest:
    """Replace what holds the fresh blocks; can be repeated.

    Args:
        answered: how many columns the reply gives.
        file_size: as `--file-size`, in bytes.
    """
    existing, parts, state = attempt.existing, attempt.existing.parts, attempt.state
    if isinstance(parts, TableParts):
        amend_table(
            parts,
            existing.parts_sink(),
            state,
            retried=attempt.sink,
            retry=attempt.record["id"],
            blocks=fresh.keys(),
            kept=kept_columns(attempt.plan, answered=answered),
        )
    # In two steps: a manifest is never seen without the parts that it describes, nor _SUCCESS without it.
    state.delete(SUCCESS)
    state.delete(MANIFEST)
    sink = existing.parts_sink()
    for part in sink.committed():
        footer = sink.footer(part)
        in_place = isinstance(parts, TableParts)
        if not in_place and any(each.block in fresh for each in footer.blocks):
            _replace_part(attempt, part, footer, fresh)
    if file_size is not None:
        sink = existing.parts_sink()
        join_parts(sink, parts_store=parts, state=state, file_size=file_size)
    manifest = write_manifest(existing.parts_sink(), parts_store=parts, state=state)
    publication = open_publication(existing.location, target=existing.target, state=state)
    if publication is not None:
        publication.publish(attempt.plan, parts, list_parts(parts))
    attempt.succeed({"manifest": manifest.digest})
    return manifest


def _replace_part(attempt: Attempt, part: PartInfo, footer: PartFooter, fresh: Fresh) -> None:
    parts = attempt.existing.parts
    there = parts.stat(part.name)
    if not footer.members:
        parts.replace(part.name, lambda file: _copy(attempt.retried, part.name, file), expected=there)
        return
    pieces, members = attempt.spliced(parts, part.name, footer.blocks, fresh)
    values = join_footers(members).key_values()
    parts.replace(
        part.name,
        lambda file: join_parquet(file, pieces, schema=attempt.plan.schema, key_values=values),
        expected=there,
    )


def _copy(store: Store, name: str, file: BinaryIO) -> None:
    # Read through once before: what is damaged must not take the place of what is not.
    for _ in read_pieces([Piece(store=store, name=name)]):
        pass
    with store.open(name) as source:
        while chunk := source.read(2**20):
            file.write(chunk)
