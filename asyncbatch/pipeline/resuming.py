"""What a command is compared with before it goes on with a job, and how much there is to do."""

from asyncbatch.config import RunConfig
from asyncbatch.errors import OutputError
from asyncbatch.option import flag
from asyncbatch.protocols import Endpoint, Source
from asyncbatch.sink import Plan, plan_differences


def check_resumable(planned: Plan, config: RunConfig, source: Source, endpoint: Endpoint, sink: str) -> None:
    """Raises OutputError if the command differs from the plan in what a part holds."""
    if not source.resumable:
        raise OutputError(
            f"{sink} was begun before, and an in-memory input cannot be told to be the same",
            hint="choose another output, or --overwrite to start anew",
        )
    now = Plan(
        files=tuple(source.files),
        block_rows=planned.block_rows,
        schema=planned.schema,
        reply=planned.reply,
        options=config.semantic(),
        endpoint=dict(endpoint.identity),
        source=planned.source,
        min_rows=planned.min_rows,
    )
    differences = plan_differences(planned, now)
    if differences:
        listed = "; ".join(str(difference) for difference in differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise OutputError(
            f"{sink} belongs to a job that differs from this command: {listed}{more}",
            hint=f"give the same command to go on, choose another output, or {flag('overwrite')} to start anew",
        )


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
