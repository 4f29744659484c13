"""What a command is compared with before it goes on with a job, and how much there is to do."""

from dataclasses import replace

from asyncbatch.config import RunConfig
from asyncbatch.errors import OutputError
from asyncbatch.pipeline.accepting import Accepted, check_names, refused, values_of
from asyncbatch.protocols import Endpoint, Source
from asyncbatch.sink import Plan, plan_differences
from asyncbatch.sink.history import History


def check_resumable(
    planned: Plan,
    config: RunConfig,
    source: Source,
    endpoint: Endpoint,
    sink: str,
    *,
    history: History | None = None,
    reprocess: bool = False,
) -> Accepted:
    """Compare the command with the plan, and with what was accepted to differ from it since.

    Args:
        reprocess: files that changed are no difference; one that is gone is.

    Returns:
        The differences that `--accept-changes` accepts now, each with its new value.

    Raises:
        OutputError: it differs in what a part holds, and that is not accepted.
    """
    accepted = config.failure.accept_changes
    check_names(accepted)
    history = history or History()
    if not source.resumable:
        raise OutputError(
            f"{sink} was begun before, and an in-memory input cannot be told to be the same",
            hint="choose another output, or --overwrite to start anew",
        )
    before = replace(
        planned,
        options=history.now("options.", planned.options),
        endpoint=history.now("endpoint.", planned.endpoint),
    )
    known = {file.path: file for file in planned.current} if reprocess else {}
    now = Plan(
        files=tuple(known.get(file.path, file) for file in source.files),
        block_rows=planned.block_rows,
        schema=planned.schema,
        reply=planned.reply,
        options=config.semantic(),
        endpoint=dict(endpoint.identity),
        source=planned.source,
        min_rows=planned.min_rows,
    )
    differences = plan_differences(before, now)
    if (error := refused(differences, accepted, sink)) is not None:
        raise error
    return values_of(differences, now.options, now.endpoint)


def total_rows(source: Source, limit: int | None) -> int | None:
    """Rows of the input within `limit`; None where only reading tells."""
    rows = [file.rows for file in source.files]
    if any(count is None for count in rows):
        return None
    total = sum(count for count in rows if count is not None)
    return total if limit is None else min(total, limit)


def total_blocks(source: Source, block_rows: int, limit: int | None) -> int | None:
    """Blocks of the input within `limit`; None where only reading tells."""
    left = total_rows(source, limit)
    if left is None:
        return None
    blocks = 0
    for file in source.files:
        rows = min(left, file.rows or 0)
        blocks += -(-rows // block_rows)
        left -= rows
    return blocks
