"""What a run will do, settled before the first block: columns, bodies, reply layout, block size, output columns."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from asyncbatch.codec import LayoutField, ReplyLayout, infer_layout, make_decoder, make_encoder
from asyncbatch.codec.kinds import parse_type
from asyncbatch.config import RunConfig
from asyncbatch.control.cutting import RowFootprint, block_rows
from asyncbatch.errors import EndpointError
from asyncbatch.model import Sample
from asyncbatch.pipeline.assembling import OutputShape, output_shape
from asyncbatch.pipeline.controllers import make_controller
from asyncbatch.pipeline.probing import SAMPLE_ROWS, Prober, ProbeResult
from asyncbatch.protocols import Controller, Decoder, Encoder, Endpoint, Source
from asyncbatch.sink.plan import Plan
from asyncbatch.source import Selection, select_columns

if TYPE_CHECKING:
    import pyarrow as pa

_RESUME_SIZES = (1, 2)
_REPLY_COPIES = 4
"""A reply's bytes exist as body, as parsed and as decoded values, and once more while the part is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that the path of a run needs to begin."""

    source: Source
    endpoint: Endpoint
    selection: Selection
    encoder: Encoder
    decoder: Decoder
    layout: ReplyLayout
    shape: OutputShape
    controller: Controller
    block_rows: int
    row: RowFootprint
    min_rows: int
    one_row_works: bool
    good_rows: "pa.Table | None"
    """Sent columns of rows that the endpoint has answered; None if it answered none of the probes of a resume."""
    probes: ProbeResult

    def as_plan(self, config: RunConfig, source_spec: str) -> Plan:
        """What goes into the state folder."""
        return Plan(
            files=tuple(self.source.files),
            block_rows=self.block_rows,
            schema=self.shape.schema,
            reply=self.layout.to_json(),
            options=config.semantic(),
            endpoint=dict(self.endpoint.identity),
            source=source_spec,
            min_rows=self.min_rows,
        )

    def explained(self) -> list[str]:
        """What was settled and by what, for `--explain`."""
        lines = [f"replies are read as {self.layout.describe()}"]
        if self.probes.answers:
            asked = ", ".join(
                f"{answer.rows} rows in {answer.seconds * 1e3:.0f} ms" for answer in self.probes.answers
            )
            lines.append(f"probes: {asked}; {self.probes.seconds_per_row * 1e6:.1f} µs for one more row")
        lines.append(
            f"blocks of {self.block_rows:,} rows: a row takes {self.row.sent:.0f} bytes sent,"
            f" {self.row.kept:.0f} kept, {self.row.answered:.0f} answered"
        )
        if self.min_rows > 1:
            lines.append(
                f"requests of fewer than {self.min_rows} rows are padded: the endpoint refused one row alone"
            )
        return lines


async def prepare(
    config: RunConfig,
    source: Source,
    endpoint: Endpoint,
    *,
    planned: Plan | None,
    clock: Callable[[], float],
    rng: random.Random,
    record: Callable[[Sample], None],
) -> Prepared:
    """Probe the endpoint with a sample of the source and settle the rest; `planned` fixes what an earlier run settled.

    Raises:
        InputError: the columns asked for do not exist.
        ConfigError: a column cannot be sent in this body, or two output columns would have one name.
        EndpointError: the endpoint cannot be reached, refuses, or answers none of the probes.
        ReplyError: its replies cannot be read, or in two ways.
    """
    selection = select_columns(source.schema.names, source.partition_columns, config.input)
    sent_schema = _part_of(source, selection.send)
    encoder = make_encoder(config.request, sent_schema, takes_batches=endpoint.takes_batches)
    rows = min(SAMPLE_ROWS, config.input.limit or SAMPLE_ROWS)
    sample = await anyio.to_thread.run_sync(lambda: source.sample(columns=selection.read, rows=rows))
    sent = sample.select(list(selection.send))
    probes = await _probe(config, endpoint, encoder, sent, planned, clock, rng, record)
    if planned is not None:
        layout = ReplyLayout.from_json(planned.reply)
    elif not probes.answers:
        layout = _layout_without_rows(config)
    else:
        layout = infer_layout([(answer.reply, answer.rows) for answer in probes.answers], config.reply)
    decoder = make_decoder(layout)
    shape = output_shape(
        _part_of(source, selection.keep),
        decoder,
        named=layout.named,
        reply=config.reply,
        request=config.request,
        on_error=config.failure.on_error,
    )
    row = _footprint(sample, selection, probes)
    return Prepared(
        source=source,
        endpoint=endpoint,
        selection=selection,
        encoder=encoder,
        decoder=decoder,
        layout=layout,
        shape=shape,
        controller=make_controller(config, clock=clock, rng=rng),
        block_rows=_block_rows(config, planned, probes, row),
        row=row,
        min_rows=max(probes.min_rows, planned.min_rows if planned is not None else 1),
        one_row_works=probes.one_row_works or not probes.answers,
        good_rows=sent.slice(probes.answers[0].start, probes.answers[0].rows) if probes.answers else None,
        probes=probes,
    )


async def _probe(
    config: RunConfig,
    endpoint: Endpoint,
    encoder: Encoder,
    sent: "pa.Table",
    planned: Plan | None,
    clock: Callable[[], float],
    rng: random.Random,
    record: Callable[[Sample], None],
) -> ProbeResult:
    if not sent.num_rows:
        return ProbeResult(answers=(), refusals=())
    prober = Prober(
        endpoint=endpoint,
        timeout_s=config.failure.request_timeout,
        max_outage_s=config.failure.max_outage,
        clock=clock,
        rng=rng,
        record=record,
    )
    encoded = await anyio.to_thread.run_sync(encoder.encode, sent)
    max_bytes = min(config.speed.max_payload, endpoint.max_body_bytes)
    if planned is not None:
        return await prober.probe(encoded, max_bytes=max_bytes, sizes=_RESUME_SIZES)
    result = await prober.probe(encoded, max_bytes=max_bytes)
    if not result.answers:
        raise _all_refused(endpoint, result)
    return result


def _layout_without_rows(config: RunConfig) -> ReplyLayout:
    """An input without rows gets no reply: a number a row, unless `--prediction-type` says what there would be."""
    import pyarrow as pa

    asked = config.reply.prediction_type
    kind = parse_type(asked) if asked is not None else pa.float64()
    return ReplyLayout(form="csv-lines", fields=(LayoutField(name=config.reply.prediction_name, type=kind),))


def _part_of(source: Source, names: tuple[str, ...]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([source.schema.field(name) for name in names])


def _footprint(sample: "pa.Table", selection: Selection, probes: ProbeResult) -> RowFootprint:
    rows = max(1, sample.num_rows)
    kept: Any = sample.select(list(selection.keep))
    return RowFootprint(
        sent=probes.body_bytes_per_row,
        kept=kept.nbytes / rows,
        answered=16 + _REPLY_COPIES * probes.reply_bytes_per_row,
    )


def _block_rows(config: RunConfig, planned: Plan | None, probes: ProbeResult, row: RowFootprint) -> int:
    if planned is not None:
        return planned.block_rows
    if config.input.block_rows is not None:
        return config.input.block_rows
    return block_rows(
        seconds_per_row=probes.seconds_per_row, row=row, max_memory_bytes=config.speed.block_memory
    )


def _all_refused(endpoint: Endpoint, result: ProbeResult) -> EndpointError:
    last = result.refusals[-1]
    sizes = ", ".join(str(refusal.rows) for refusal in result.refusals)
    log = f" (log: {last.failure.log_stream_arn})" if last.failure.log_stream_arn else ""
    return EndpointError(
        f"{endpoint.name} answered none of the probes of {sizes} rows"
        f" (the largest: {last.body_bytes:,} bytes of {last.content_type}): {last.failure.summary()}{log}",
        hint=last.hint or "check --body, --content-type and which columns are sent (--send, --no-send)",
    )
