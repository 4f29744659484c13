"""From the request options to an encoder."""

from typing import cast

import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec.cells import check_column, is_text
from asyncbatch.codec.encoders import (
    StreamEncoder,
    csv_encoder,
    json_encoder,
    jsonl_encoder,
    npy_encoder,
    only_column,
    raw_encoder,
)
from asyncbatch.codec.rows import RowForm
from asyncbatch.codec.tables import TableEncoder, arrow_encoder, batch_encoder, parquet_encoder
from asyncbatch.codec.template import Template, Variable, parse_template
from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError

CONTENT_TYPES = {
    "csv": "text/csv",
    "csv-header": "text/csv",
    "jsonl": "application/jsonlines",
    "json": "application/json",
    "npy": "application/x-npy",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/x-parquet",
}
"""Sent unless `--content-type` says otherwise. A raw body's is text/plain or application/octet-stream."""


def make_encoder(
    request: RequestConfig, schema: pa.Schema, *, takes_batches: bool = False
) -> StreamEncoder | TableEncoder:
    """The encoder of a run.

    Args:
        request: `body`, `template`, `row` and `content_type` are used.
        schema: the columns sent, in wire order.
        takes_batches: the endpoint is a Python callable, which gets Arrow slices; `request` is not used then.

    Raises:
        ConfigError: no columns, a column that the body cannot carry (named), or a wrong template.
    """
    if takes_batches:
        return batch_encoder(schema)
    if not len(schema):
        raise ConfigError("no columns are to be sent", hint="check --send and --no-send")
    body = request.body
    if body == "raw":
        return _raw(request, schema)
    content_type = request.content_type or CONTENT_TYPES[body]
    if body == "npy":
        return npy_encoder(schema, content_type=content_type)
    if body == "arrow":
        return arrow_encoder(schema, content_type=content_type)
    if body == "parquet":
        return parquet_encoder(schema, content_type=content_type)
    for field in schema:
        check_column(field, "csv" if body.startswith("csv") else "json")
    if body.startswith("csv"):
        return csv_encoder(schema, header=body == "csv-header", content_type=content_type)
    template = parse_template(request.template) if request.template else None
    if body == "jsonl":
        form = _row_form(request, template, schema)
        return jsonl_encoder(schema, template, form=form, content_type=content_type)
    template = template or parse_template("instances")
    return json_encoder(
        schema, template, form=_row_form(request, template, schema), content_type=content_type
    )


def _raw(request: RequestConfig, schema: pa.Schema) -> StreamEncoder:
    """The value itself, or a template with it: then JSON, one row a request."""
    if request.template is None:
        return raw_encoder(schema, content_type=request.content_type)
    field = only_column(schema, "--body raw")
    type_ = field.type.value_type if pt.is_dictionary(field.type) else field.type
    if not is_text(type_):
        raise ConfigError(
            f"column {field.name!r} of type {field.type} cannot stand in a template with --body raw",
            hint="--body raw takes a string column into a template; for others use --body json",
        )
    template = parse_template(request.template)
    if not template.has(Variable.ROW):
        raise ConfigError(
            "--body raw sends one row a request, so its --template needs $row",
            hint="""such as --template '{"inputs": $row}'; for many rows a request use --body json""",
        )
    content_type = request.content_type or CONTENT_TYPES["json"]
    return json_encoder(schema, template, form="value", content_type=content_type)


def _row_form(request: RequestConfig, template: Template | None, schema: pa.Schema) -> RowForm:
    form = request.row
    if template is not None and template.row is not None:
        if form not in ("array", template.row):
            raise ConfigError(
                f"--row {form} does not go with --template {request.template}: its rows are {template.row}s",
                hint="leave --row out",
            )
        form = template.row
    if form == "value" and len(schema) != 1:
        raise ConfigError(
            f"--row value sends one column, and {len(schema)} are to be sent",
            hint="choose it with --send, or use --row array",
        )
    return cast(RowForm, form)
