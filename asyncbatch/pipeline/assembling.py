"""The last stage before the sink: the answers of a block, in row order, beside its kept columns."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncbatch.codec import assemble_values, null_values
from asyncbatch.config import ReplyConfig, RequestConfig
from asyncbatch.errors import ConfigError
from asyncbatch.model import Reject
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.pipeline.finishing import label_above, label_of_largest, label_type, rounded
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
    """Where the label comes from; None: from the largest of each vector."""
    labels: tuple[str, ...]
    digits: int | None
    """Decimals of predictions; None: all."""
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
    width: int | None = None,
    reply: ReplyConfig,
    request: RequestConfig,
    on_error: str,
) -> OutputShape:
    """Settle the output's columns: kept inputs, predictions, label, meta, error.

    Args:
        named: the reply has field names of its own, so `--prediction-name` names none of them.
        width: numbers of each vector, where the reply is one vector a row and all have the same length.

    Raises:
        ConfigError: two columns would have one name, or there is nothing to label or to rename as asked; the hint
            names the option.
    """
    import pyarrow as pa

    drops = on_error == "drop"
    fields: list[pa.Field[Any]] = [pa.field(ROW_NAME, pa.int64())] if drops else []
    owners: dict[str, str] = {ROW_NAME: "--keep"} if drops else {}
    answered = [field.name if named else reply.prediction_name for field in decoder.fields]
    label = _label_name(decoder, reply, width)
    labelled = [] if label is None else [label]
    renamed = _renames(reply, answered=[*answered, *labelled], kept=kept.names)
    for field in kept:
        name = field.name if field.name in (*answered, *labelled) else renamed.get(field.name, field.name)
        _add(fields, owners, field.with_name(name).with_nullable(True), "--keep")
    names = []
    for field, name in zip(decoder.fields, answered, strict=True):
        name = renamed.get(name, name)
        _add(fields, owners, pa.field(name, field.type), "--rename" if named else "--prediction-name")
        names.append(name)
    if label is not None:
        label = renamed.get(label, label)
        kind = label_type(reply.labels, argmax=reply.threshold is None)
        _add(fields, owners, pa.field(label, kind), "--predicted-label-name")
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
        labels=reply.labels,
        digits=reply.round,
        meta=reply.meta,
        inference_id=request.inference_id,
        error_name=reply.error_name,
        drops=drops,
    )


def _label_name(decoder: Decoder, reply: ReplyConfig, width: int | None) -> str | None:
    """The name of the label column; None if no label is asked for."""
    kinds = [field.type for field in decoder.fields]
    if reply.threshold is not None:
        if len(kinds) != 1 or not _is_number(kinds[0]):
            raise ConfigError(
                f"--threshold needs one number a row, but the reply gives {_described(decoder)}",
                hint="leave --threshold out, pick a number with --reply, or --argmax for a vector",
            )
        return reply.predicted_label_name
    if not (reply.argmax or reply.labels):
        return None
    option = "--argmax" if reply.argmax else "--labels"
    if len(kinds) != 1 or not _is_vector(kinds[0]):
        raise ConfigError(
            f"{option} needs one vector of numbers a row, but the reply gives {_described(decoder)}",
            hint=f"leave {option} out, pick a vector with --reply, or --threshold for one number",
        )
    if reply.labels and width is not None and width != len(reply.labels):
        raise ConfigError(
            f"--labels names {len(reply.labels)}, and each row has {width} numbers",
            hint=f"give --labels {width} names, in the order of the model's classes",
        )
    return reply.predicted_label_name


def _renames(reply: ReplyConfig, *, answered: Sequence[str], kept: Sequence[str]) -> dict[str, str]:
    known = [*answered, *kept]
    for old, _ in reply.rename:
        if old not in known:
            near = difflib.get_close_matches(old, known, n=1)
            raise ConfigError(
                f"--rename {old}=… names no output column",
                hint=f"did you mean {near[0]!r}?"
                if near
                else f"the columns are {', '.join(map(repr, known[:8]))}",
            )
    return dict(reply.rename)


def _add(fields: "list[pa.Field[Any]]", owners: dict[str, str], field: "pa.Field[Any]", option: str) -> None:
    if field.name in owners:
        unkept = "leave the input column out with --keep"
        fixed = option in ("--keep", "--meta") or field.name == ROW_NAME
        other = f"--rename {field.name}=…" if option == "--rename" else f"give {option} another name"
        raise ConfigError(
            f"two output columns would be called {field.name!r}",
            hint=unkept if fixed else f"{other}, or {unkept}",
        )
    owners[field.name] = option
    fields.append(field)


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_vector(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) and _is_number(kind.value_type)


def _described(decoder: Decoder) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in decoder.fields)


def assemble(block: OpenBlock, decoder: Decoder, shape: OutputShape) -> "tuple[pa.Table, tuple[Reject, ...]]":
    """The output rows of a finished block and its rejects, ascending. Blocking: runs in a thread."""
    import pyarrow as pa

    rows = block.block.rows
    results = sorted(block.results, key=lambda result: result.start)
    rejects = tuple(sorted(block.rejects, key=lambda reject: reject.row))
    columns: list[Any] = list(block.source.table.itercolumns())
    for index, field in enumerate(decoder.fields):
        parts: list[Any] = []
        reached = 0
        for result in results:
            if result.start > reached:
                parts.append(null_values(result.start - reached, field))
            parts.append(result.columns[index])
            reached = result.stop
        if reached < block.encoded.rows:
            parts.append(null_values(block.encoded.rows - reached, field))
        columns.append(_spread(assemble_values(parts, field), block, rows))
    label = [] if shape.label_name is None else [_label(columns[-1], shape)]
    if shape.digits is not None:
        answered = len(columns) - len(decoder.fields)
        columns[answered:] = [rounded(column, shape.digits) for column in columns[answered:]]
    columns += label
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


def _label(values: Any, shape: OutputShape) -> Any:
    if shape.threshold is not None:
        return label_above(values, shape.threshold, shape.labels)
    return label_of_largest(values, shape.labels)


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
                by_row[result.start : result.stop] = [result.variant or None] * (result.stop - result.start)
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
