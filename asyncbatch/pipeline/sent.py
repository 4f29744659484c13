"""What the probes were made of, as `advice` wants it: names, kinds and looks of the columns sent."""

import re
from typing import TYPE_CHECKING, Any

from asyncbatch.config import RunConfig
from asyncbatch.model import Failure
from asyncbatch.pipeline.advice import Column, ColumnKind, Refused, Sent
from asyncbatch.protocols import Source

if TYPE_CHECKING:
    import pyarrow as pa

_MANY_ROWS = 20
"""So many values that differ are no accident."""
_TEXT_NAMES = re.compile(r"\.(?:csv|tsv|txt)(?:\.\w+)?$", re.IGNORECASE)


def describe_sent(config: RunConfig, source: Source, sample: "pa.Table", *, content_type: str) -> Sent:
    """`sample` holds the sent columns of some rows, none twice."""
    request = config.request
    return Sent(
        columns=tuple(_column(name, sample.column(name)) for name in sample.column_names),
        body=request.body,
        template=request.template,
        row=request.row,
        content_type=content_type,
        content_type_given=request.content_type is not None,
        accept=request.accept,
        no_header=config.input.no_header,
        text_source=_is_csv(config, source),
    )


def _is_csv(config: RunConfig, source: Source) -> bool:
    asked = config.input.input_format
    return asked == "csv" or (asked is None and any(_TEXT_NAMES.search(file.path) for file in source.files))


def refused_by(failure: Failure) -> Refused | None:
    """What an endpoint said; None where it said nothing."""
    said_nothing = failure.status is None and not failure.exception
    if said_nothing or failure.transport is not None:
        return None
    return Refused(
        status=failure.original_status or failure.status,
        text=failure.original_message or failure.message,
    )


def _column(name: str, values: Any) -> Column:
    import pyarrow.types as pt

    type_ = values.type.value_type if pt.is_dictionary(values.type) else values.type
    kind: ColumnKind = "other"
    if pt.is_string(type_) or pt.is_large_string(type_) or pt.is_string_view(type_):
        kind = "text"
    elif pt.is_integer(type_) or pt.is_floating(type_) or pt.is_boolean(type_) or pt.is_decimal(type_):
        kind = "number"
    found = [value for value in values.to_pylist() if value is not None] if kind == "text" else []
    return Column(
        name=name,
        kind=kind,
        distinct=len(found) >= _MANY_ROWS and len(set(found)) == len(found),
        name_like=len(found) > 1 and not _is_number(found[0]) and all(map(_is_number, found[1:])),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
