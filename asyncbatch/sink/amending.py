"""A retry's answers in a table: rows that were rejected are given them; all others stay as they are.

A table cannot tell the rows of one block from others, but what was rejected is known, row by row: the columns kept of the
input, and the error. With `--on-error drop` those rows are not there; they are added.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.sink.footer import PartFooter
from asyncbatch.sink.layout import rejects_name
from asyncbatch.sink.parts import PartsSink, null_rows, write_part
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.rejects import read_rejects, rejects_schema, write_rejects
from asyncbatch.store.base import Store
from asyncbatch.store.database.parts import TableParts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """What a block that was scored again changes in a table."""

    before: "pa.Table"
    """Kept columns and error of the rows that change, as they are in the table."""
    after: "pa.Table"
    """The other columns of the same rows."""
    added: "pa.Table"
    """Whole rows that are not there."""
    rejects: "pa.Table"
    """Of the rows that were rejected before, those that are again, as a rejects file has them."""
    footer: PartFooter
    """Of the block from then on, but for the name of its rejects file."""


def amendment(
    plan: Plan,
    kept: Sequence[str],
    *,
    old: PartFooter,
    old_rejects: "pa.Table",
    fresh: "pa.Table",
    fresh_footer: PartFooter,
    fresh_rejects: "pa.Table",
) -> Amendment:
    """Hold a block that was scored again against what the table has of it. Pure.

    A row that was answered before stays as it is, whatever became of it this time.

    Args:
        kept: columns of `plan.schema` that came from the input.
        fresh: the block's rows, without those rejected if rejects are dropped.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rejected: dict[int, str] = {
        row["row"]: f"{row['code']}: {row['message']}" for row in old_rejects.to_pylist()
    }
    again = fresh_rejects.filter(pc.is_in(fresh_rejects["row"], pa.array(rejected, pa.int64())))
    mended = len(rejected) - again.num_rows
    error = plan.schema.names[-1]
    own = [name for name in plan.schema.names if name not in kept]
    empty = fresh.slice(0, 0)
    before, after, added = empty.select([*kept, error]), empty.select(own), empty
    if plan.drops_rejects:
        added = fresh.filter(pc.is_in(fresh[plan.schema.names[0]], pa.array(rejected, pa.int64())))
    else:
        rows = fresh.take([row - old.block.start for row in rejected])
        texts = pa.chunked_array([pa.array(rejected.values(), pa.string())])
        found = zip(rows[error].to_pylist(), rejected.values(), strict=True)
        other = pa.array([now != text for now, text in found], pa.bool_())
        before = rows.select([*kept, error]).set_column(len(kept), error, texts).filter(other)
        after = rows.select(own).filter(other)
    variants = dict(old.variants)
    if len(fresh_footer.variants) == 1:  # of several nobody knows which answered these rows
        (name,) = fresh_footer.variants
        variants[name] = variants.get(name, 0) + mended
    return Amendment(
        before=before,
        after=after,
        added=added,
        rejects=again,
        footer=replace(
            old,
            rows_out=old.rows_out + added.num_rows,
            rejects=again.num_rows,
            rejects_file="",
            variants=variants,
        ),
    )


def kept_columns(plan: Plan, *, answered: int) -> list[str]:
    """The output columns that came from the input; `answered`: how many the reply gives. Pure."""
    options: Any = plan.options
    labelled = options.get("threshold") is not None or options.get("argmax") or options.get("labels")
    behind = answered + bool(labelled) + len(options.get("meta") or ()) + 1
    names = plan.schema.names
    return names[int(plan.drops_rejects) : len(names) - behind]


def amend_table(
    table: TableParts,
    sink: PartsSink,
    state: Store,
    *,
    retried: PartsSink,
    retry: str,
    blocks: Collection[Block],
    kept: Sequence[str],
) -> None:
    """Give the rejected rows of `blocks` their new answers, a block a transaction. Can be repeated after a crash.

    Args:
        sink: the job's.
        retried: where the blocks lie that were scored again.
        retry: the retry's id; names the new rejects files, by which it is known what was done before a crash.

    Raises:
        OutputError: rejected rows are not in the table any more.
        StorageError: the database failed; the same again goes on.
    """
    fresh = {part.block: part for part in retried.committed()}
    for part in sink.committed():
        old = sink.footer(part)
        name = rejects_name(part.block, retry)
        if part.block not in blocks or not old.rejects or old.rejects_file == name:
            continue
        there = table.stat(part.name)
        again = retried.footer(fresh[part.block])
        found = amendment(
            sink.plan,
            kept,
            old=old,
            old_rejects=_rejects(state, old),
            fresh=retried.read(fresh[part.block]),
            fresh_footer=again,
            fresh_rejects=_rejects(state, again),
        )
        footer = replace(found.footer, rejects_file=name if found.rejects.num_rows else "")
        if footer.rejects_file:
            state.replace(name, partial(write_rejects, tables=[found.rejects]))
        if there is None:
            raise OutputError(f"{part.name} of {table.root} is gone", hint="run the same command again")
        # What the ledger keeps is the footer, and that says how many rows there are.
        schema = sink.plan.schema
        rows = null_rows(schema, footer.rows_out)
        table.amend(
            part.name,
            partial(write_part, table=rows, key_values=footer.key_values(), schema=schema),
            expected=there,
            before=found.before,
            after=found.after,
            added=found.added,
            marker=schema.names[-1],
        )


def _rejects(state: Store, footer: PartFooter) -> "pa.Table":
    import pyarrow as pa

    names = [footer.rejects_file] if footer.rejects_file else []
    return pa.concat_tables([rejects_schema().empty_table(), *read_rejects(state, names)])
