"""Whether a run can send the lines of its input as they stand. The bytes sent are the same either way."""

from dataclasses import replace
from typing import TYPE_CHECKING

from asyncbatch.pipeline.reading import ReadPlan
from asyncbatch.protocols import Encoder

if TYPE_CHECKING:
    from asyncbatch.config import RequestConfig


def pass_lines(plan: ReadPlan, encoder: Encoder, request: "RequestConfig") -> tuple[ReadPlan, Encoder]:
    """The plan and encoder that take lines, where every column of CSV files goes into CSV bodies in file order.

    Otherwise both as they are: also where sent values are needed later, beside those of other rows.
    """
    if not request.body.startswith("csv") or plan.keep_sent:
        return plan, encoder
    import pyarrow as pa

    from asyncbatch.codec.encoders import StreamEncoder
    from asyncbatch.codec.lines import csv_lines, lines_encoder
    from asyncbatch.source.opened import OpenedSource
    from asyncbatch.source.passing import LINE

    if not isinstance(plan.source, OpenedSource) or not isinstance(encoder, StreamEncoder):
        return plan, encoder
    lines = csv_lines(pa.schema([plan.source.schema.field(name) for name in plan.send]))
    source = plan.source.passing(plan.send, lines) if lines is not None else None
    if source is None:
        return plan, encoder
    read = (*plan.keep, LINE)
    return replace(plan, source=source, send=(LINE,), read=read), lines_encoder(encoder)
