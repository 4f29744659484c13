"""What a run will do, settled before the first block: columns, bodies, reply layout, block size, output columns."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from asyncbatch.codec import LayoutField, ReplyLayout, check_reply, infer_layout, make_decoder, make_encoder
from asyncbatch.codec.kinds import parse_type
from asyncbatch.config import RunConfig
from asyncbatch.control.cutting import RowFootprint, block_rows
from asyncbatch.errors import ConfigError, EndpointError, InputError, ReplyError
from asyncbatch.model import Sample
from asyncbatch.option import flag
from asyncbatch.pipeline.advice import (
    Advice,
    Sent,
    column_advice,
    refusal_advice,
    reply_advice,
)
from asyncbatch.pipeline.assembling import OutputShape, output_shape
from asyncbatch.pipeline.controllers import make_controller
from asyncbatch.pipeline.partitioned import check_partition_columns, without_folders
from asyncbatch.pipeline.probing import LEAST_ROWS, PROBE_SIZES, SAMPLE_ROWS, Prober, ProbeResult, Watch
from asyncbatch.pipeline.sent import describe_sent, refused_by
from asyncbatch.pipeline.tuning import Recalled, Tuning, tuning_for
from asyncbatch.protocols import Controller, Decoder, Encoder, Endpoint, Source
from asyncbatch.sink.plan import Plan
from asyncbatch.source import Selection, select_columns

if TYPE_CHECKING:
    import pyarrow as pa

_RESUME_SIZES = (1, 2)
_ASK = "check --body, --content-type and which columns are sent (--send, --no-send); plan --show 1 prints a request"
_FIRST_ROWS, _FEW_ROWS = 1000, 10
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
    advice: tuple[Advice, ...] = ()
    """What to look at although the endpoint answered."""
    tuning: Tuning | None = None
    """Where what the run learns is kept."""
    recalled: Recalled | None = None
    """What an earlier run has learned, and the controller starts with."""

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
            input_schema=self.source.schema,
        )

    def explained(self) -> list[str]:
        """What was settled and by what, for `--explain`."""
        lines = [f"replies are read as {self.layout.describe()}"]
        if self.probes.answers:
            asked = ", ".join(
                f"n = {answer.rows} in {answer.seconds * 1e3:.0f} ms" for answer in self.probes.answers
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
        if self.recalled is not None:
            point = self.recalled.point
            lines.append(
                f"an earlier run ({self.recalled.saved_at[:10]}) ended with {point.chunk_rows:,} rows x"
                f" {point.concurrency} in flight: this one starts there; --no-tuning starts anew"
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
    watch: Watch | None = None,
    head: int = 0,
    warn: Callable[[str], None] = lambda message: None,
) -> Prepared:
    """Probe the endpoint with a sample of the source and settle the rest; `planned` fixes what an earlier run settled.

    `watch` is told of every request of the probes, those that end in an error included; one of them holds the first
    `head` rows of the input. `warn` is told what people should know.

    Raises:
        InputError: the columns asked for do not exist.
        ConfigError: a column cannot be sent in this body, or two output columns would have one name.
        EndpointError: the endpoint cannot be reached, refuses, or answers none of the probes.
        ReplyError: its replies cannot be read, or in two ways.
    """
    import pyarrow as pa

    check_reply(config.reply)
    selection = without_folders(
        select_columns(source.schema.names, source.partition_columns, config.input), source, config
    )
    sent_schema = _part_of(source, selection.send)
    # An input without columns is one without rows: nothing will be sent, whatever the body.
    encoder = make_encoder(
        config.request, sent_schema, takes_batches=endpoint.takes_batches or not selection.send
    )
    rows = min(SAMPLE_ROWS, config.input.limit or SAMPLE_ROWS)
    sample = await anyio.to_thread.run_sync(lambda: source.sample(columns=selection.read, rows=rows))
    if not sample.num_rows:
        await anyio.to_thread.run_sync(_check_readable, source, selection)
    sampled = sample.select(list(selection.send))
    facts = describe_sent(config, source, sampled, content_type=encoder.content_type)
    sent = _repeated(sampled, LEAST_ROWS)
    if head:
        first = await anyio.to_thread.run_sync(_first_rows, source, selection, head)
        if first is not None:
            head = first.num_rows
            sent = pa.concat_tables([first, sent])
    prober = Prober(
        endpoint=endpoint,
        timeout_s=config.failure.request_timeout,
        max_outage_s=config.failure.max_outage,
        clock=clock,
        rng=rng,
        record=record,
        watch=watch,
        names=selection.send,
        warn=warn,
    )
    sizes = _RESUME_SIZES if planned is not None else PROBE_SIZES
    probes = await _probe(prober, config, endpoint, encoder, sent, sizes, head)
    if not probes.answers and sent.num_rows and planned is None:
        raise _all_refused(endpoint, probes, facts)
    if planned is not None:
        layout = ReplyLayout.from_json(planned.reply)
    elif not probes.answers:
        layout = _layout_without_rows(config)
    else:
        layout = await anyio.to_thread.run_sync(_layout, probes, config, facts)
    decoder = make_decoder(layout)
    shape = output_shape(
        _part_of(source, selection.keep),
        decoder,
        named=layout.named,
        width=None if layout.named else layout.fields[0].width,
        reply=config.reply,
        request=config.request,
        on_error=config.failure.on_error,
    )
    check_partition_columns(config, source, shape.schema)
    row = _footprint(sample, selection, probes)
    tuning = tuning_for(config, endpoint, content_type=encoder.content_type, send=selection.send, warn=warn)
    recalled = await anyio.to_thread.run_sync(tuning.recall) if tuning is not None else None
    rows_a_block = _block_rows(config, planned, probes, row)
    return Prepared(
        source=source,
        endpoint=endpoint,
        selection=selection,
        encoder=encoder,
        decoder=decoder,
        layout=layout,
        shape=shape,
        controller=make_controller(
            config,
            clock=clock,
            rng=rng,
            start=recalled.point if recalled is not None else None,
            block_rows=rows_a_block,
        ),
        block_rows=rows_a_block,
        row=row,
        min_rows=max(probes.min_rows, planned.min_rows if planned is not None else 1),
        one_row_works=probes.one_row_works or not probes.answers,
        good_rows=sent.slice(probes.answers[0].start, probes.answers[0].rows) if probes.answers else None,
        probes=probes,
        advice=column_advice(facts),
        tuning=tuning,
        recalled=recalled,
    )


def _check_readable(source: Source, selection: Selection) -> None:
    """Refuse an input of which nothing can be read: it is not many bad rows, it is a wrong option.

    Raises:
        InputError: the first rows are ten or more, and every one is a reject.
    """
    for file in source.files:
        blocks = source.blocks(file, columns=selection.read, block_rows=_FIRST_ROWS)
        first = next(iter(blocks), None)
        if first is not None and len(first.rejects) == first.block.rows >= _FEW_ROWS:
            raise InputError(
                f"none of the first {first.block.rows:,} rows of {file.path} can be read: {first.rejects[0].message}",
                hint="check --types, --delimiter, --quote, --no-header and --input-format",
            )


def _first_rows(source: Source, selection: Selection, rows: int) -> "pa.Table | None":
    """The first readable rows of the input, as they are sent; None where they could be read once only."""
    if not source.resumable or not source.files:
        return None
    blocks = source.blocks(source.files[0], columns=selection.send, block_rows=rows, max_rows=rows)
    first = next(iter(blocks), None)
    if first is None or first.rejects or not first.block.rows:
        return None
    return first.table


def _repeated(rows: "pa.Table", least: int) -> "pa.Table":
    """The rows again and again until they are `least`: one row alone says too little about an endpoint."""
    import pyarrow as pa

    if not 0 < rows.num_rows < least:
        return rows
    return pa.concat_tables([rows] * -(-least // rows.num_rows)).slice(0, least)


def _layout(probes: ProbeResult, config: RunConfig, facts: Sent) -> ReplyLayout:
    try:
        return infer_layout([(answer.reply, answer.rows) for answer in probes.answers], config.reply)
    except ReplyError as error:
        advice = (*_needless_options(probes, config), *reply_advice(facts))
        if advice:
            error.hint = advice[0].sentence()
        raise


def _needless_options(probes: ProbeResult, config: RunConfig) -> Iterator[Advice]:
    """Options about replies without which the same replies can be read."""
    replies = [(answer.reply, answer.rows) for answer in probes.answers]
    for name in ("reply", "prediction_type"):
        if getattr(config.reply, name) is None:
            continue
        try:
            without: dict[str, Any] = {name: None}
            layout = infer_layout(replies, replace(config.reply, **without))
        except (ReplyError, ConfigError):
            continue
        yield Advice(
            mistake=f"without {flag(name)} replies are read as {layout.describe()}",
            fix=f"leave {flag(name)} out",
        )


async def _probe(
    prober: Prober,
    config: RunConfig,
    endpoint: Endpoint,
    encoder: Encoder,
    sent: "pa.Table",
    sizes: Sequence[int],
    head: int,
) -> ProbeResult:
    if not sent.num_rows:
        return ProbeResult(answers=(), refusals=())
    encoded = await anyio.to_thread.run_sync(encoder.encode, sent)
    max_bytes = min(config.speed.max_payload, endpoint.max_body_bytes)
    return await prober.probe(encoded, max_bytes=max_bytes, sizes=sizes, head=head)


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
        seconds_per_row=probes.seconds_per_row,
        row=row,
        max_memory_bytes=config.speed.block_memory,
        row_rate=config.speed.row_rate,
    )


def _all_refused(endpoint: Endpoint, result: ProbeResult, facts: Sent) -> EndpointError:
    last = result.refusals[-1]
    sizes = ", ".join(dict.fromkeys(str(refusal.rows) for refusal in result.refusals))
    log = f" (log: {last.failure.log_stream_arn})" if last.failure.log_stream_arn else ""
    refused = refused_by(last.failure)
    advice = refusal_advice(facts, refused) if refused is not None else ()
    hint = advice[0].sentence() if advice else last.hint or _ASK
    return EndpointError(
        f"{endpoint.name} answered none of the probes of {sizes} rows"
        f" (the largest: {last.body_bytes:,} bytes of {last.content_type}): {last.said}{log}",
        hint=hint,
    )
