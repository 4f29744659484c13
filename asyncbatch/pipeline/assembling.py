"""The last stage before the sink: the answers of a block, in row order, beside its kept columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncbatch.codec import assemble_values, null_values
from asyncbatch.config import ReplyConfig, RequestConfig
from asyncbatch.errors import ConfigError
from asyncbatch.model import Reject
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.protocols import Decoder

if TYPE_CHECKING:
    import pyarrow as pa

ROW_NAME = "_row"
"""With `--on-error drop`: the row's number in its input file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputShape:
    """The columns of every part, frozen in the plan."""

    schema: "pa.Schema"
    keep: tuple[str, ...]
    predictions: tuple[str, ...]
    """Columns that come from the reply."""
    label_name: str | None
    threshold: float | None
    meta: tuple[str, ...]
    inference_id: str | None
    error_name: str
    drops: bool
    """Rejected rows are left out, and each part carries `_row`."""


def output_shape(
    kept: "pa.Schema",
    decoder: Decoder,
    *,
    named: bool,
    reply: ReplyConfig,
    request: RequestConfig,
    on_error: str,
) -> OutputShape:
    """Settle the output's columns: kept inputs, predictions, label, meta, error.

    `named`: the reply has field names of its own, so `--prediction-name` names none of them.

    Raises:
        ConfigError: two columns would have one name; names the option that renames one.
    """
    import pyarrow as pa

    drops = on_error == "drop"
    fields: list[pa.Field[Any]] = [pa.field(ROW_NAME, pa.int64())] if drops else []
    owners: dict[str, str] = {ROW_NAME: "--keep"} if drops else {}
    for field in kept:
        _add(fields, owners, field.with_nullable(True), "--keep")
    names = []
    for field in decoder.fields:
        name = field.name if named else reply.prediction_name
        _add(fields, owners, pa.field(name, field.type), "--reply" if named else "--prediction-name")
        names.append(name)
    label = None
    if reply.threshold is not None:
        if len(names) != 1 or not _is_number(decoder.fields[0].type):
            raise ConfigError(
                f"--threshold needs one number a row, but the reply gives {_described(decoder)}",
                hint="leave --threshold out, or pick a number with --reply",
            )
        label = reply.predicted_label_name
        _add(fields, owners, pa.field(label, pa.int8()), "--predicted-label-name")
    types = {"variant": pa.string(), "inference-id": pa.string(), "scored-at": pa.timestamp("us", tz="UTC")}
    for meta in reply.meta:
        _add(fields, owners, pa.field(meta.replace("-", "_"), types[meta]), "--meta")
    _add(fields, owners, pa.field(reply.error_name, pa.string()), "--error-name")
    return OutputShape(
        schema=pa.schema(fields),
        keep=tuple(kept.names),
        predictions=tuple(names),
        label_name=label,
        threshold=reply.threshold,
        meta=reply.meta,
        inference_id=request.inference_id,
        error_name=reply.error_name,
        drops=drops,
    )


def _add(fields: "list[pa.Field[Any]]", owners: dict[str, str], field: "pa.Field[Any]", option: str) -> None:
    if field.name in owners:
        rename = option if option not in ("--keep", "--reply", "--meta") else "--keep"
        raise ConfigError(
            f"two output columns would be called {field.name!r}",
            hint=f"give {rename} another value"
            + ("" if rename == "--keep" else ", or leave the input column out with --keep"),
        )
    owners[field.name] = option
    fields.append(field)


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _described(decoder: Decoder) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in decoder.fields)


def assemble(block: OpenBlock, decoder: Decoder, shape: OutputShape) -> "tuple[pa.Table, tuple[Reject, ...]]":
    """The output rows of a finished block and its rejects, ascending. Blocking: runs in a thread."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = block.block.rows
    results = sorted(block.results, key=lambda result: result.chunk.start)
    rejects = tuple(sorted(block.rejects, key=lambda reject: reject.row))
    columns: list[Any] = list(block.source.table.itercolumns())
    for index, field in enumerate(decoder.fields):
        parts: list[Any] = []
        reached = 0
        for result in results:
            if result.chunk.start > reached:
                parts.append(null_values(result.chunk.start - reached, field))
            parts.append(result.columns[index])
            reached = result.chunk.stop
        if reached < block.encoded.rows:
            parts.append(null_values(block.encoded.rows - reached, field))
        columns.append(_spread(assemble_values(parts, field), block, rows))
    if shape.label_name is not None:
        assert shape.threshold is not None
        columns.append(pc.cast(pc.greater(columns[-1], pa.scalar(shape.threshold)), pa.int8()))
    columns.extend(_meta(block, results, shape, rows))
    columns.append(_errors(block, rejects, rows))
    if shape.drops:
        columns.insert(0, pa.array(range(block.block.start, block.block.stop), pa.int64()))
    table = pa.table(columns, schema=shape.schema)
    if shape.drops and rejects:
        keep = [True] * rows
        for reject in rejects:
            keep[reject.row - block.block.start] = False
        table = table.filter(pa.array(keep))
    return table, rejects


def _spread(values: Any, block: OpenBlock, rows: int) -> Any:
    """From sendable rows to all rows of the block: rows that could not be read are null."""
    if block.positions is None:
        return values
    import numpy as np
    import pyarrow as pa

    index = np.zeros(rows, dtype=np.int64)
    index[block.positions] = np.arange(len(block.positions))
    missing = np.ones(rows, dtype=bool)
    missing[block.positions] = False
    return values.take(pa.array(index, mask=missing))


def _meta(block: OpenBlock, results: Sequence[Any], shape: OutputShape, rows: int) -> list[Any]:
    import pyarrow as pa

    found = []
    for meta in shape.meta:
        if meta == "variant":
            by_row: list[str | None] = [None] * block.encoded.rows
            for result in results:
                by_row[result.chunk.start : result.chunk.stop] = [result.variant or None] * result.chunk.rows
            found.append(_spread(pa.array(by_row, pa.string()), block, rows))
        elif meta == "inference-id":
            found.append(pa.array([shape.inference_id] * rows, pa.string()))
        else:
            found.append(pa.array([datetime.now(UTC)] * rows, pa.timestamp("us", tz="UTC")))
    return found


def _errors(block: OpenBlock, rejects: Sequence[Reject], rows: int) -> Any:
    import pyarrow as pa

    if not rejects:
        return pa.nulls(rows, pa.string())
    errors: list[str | None] = [None] * rows
    for reject in rejects:
        errors[reject.row - block.block.start] = f"{reject.code}: {reject.message}"
    return pa.array(errors, pa.string())
