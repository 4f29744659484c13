"""A request and its reply for people to look at: `plan --show N`. Secrets are left out, long bodies cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from asyncbatch.codec import make_encoder
from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError, ReplyError
from asyncbatch.model import BytesPayload, Payload
from asyncbatch.observe import text
from asyncbatch.pipeline.probing import Exchange
from asyncbatch.protocols import Decoder, Endpoint, ShowsRequests

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_SHOWN = 300
_SHOWN_CHARACTERS = 4_000
_SHOWN_BYTES = 96
_SECRET_HEADERS = frozenset(("set-cookie", "authorization", "www-authenticate", "proxy-authenticate"))
_INDENT = "    "


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownExchange:
    """One request and its reply, as text."""

    rows: int
    request_line: str
    request_headers: tuple[tuple[str, str], ...]
    request_bytes: int
    request_body: str
    seconds: float
    status: str
    """`200`, or what the failure says of itself."""
    reply_headers: tuple[tuple[str, str], ...]
    reply_bytes: int | None
    """None where only the start of it was kept."""
    reply_body: str
    read_as: tuple[str, ...] = ()
    """Each output field of the reply with its first values."""

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"request   {text.plural(self.rows, 'row')}, {self.request_bytes:,} bytes",
            *_indented([self.request_line, *_header_lines(self.request_headers), "", self.request_body]),
        ]
        size = "" if self.reply_bytes is None else f", {self.reply_bytes:,} bytes"
        found += [
            f"reply     {self.status} in {text.latency(self.seconds)}{size}",
            *_indented([*_header_lines(self.reply_headers), "", self.reply_body]),
        ]
        if self.read_as:
            found += ["read as", *_indented(self.read_as)]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownColumn:
    """What becomes of one input column, and what it costs."""

    name: str
    type: str
    sent_bytes_per_row: float | None
    """None: not sent. Of the value as written in the body, without what stands between values."""
    kept_bytes_per_row: float | None
    """None: not kept. In memory; Parquet is smaller."""


def chosen(exchanges: Sequence[Exchange], rows: int) -> Exchange | None:
    """The exchange of `rows` rows, or the nearest below; the last try of several."""
    best: Exchange | None = None
    for exchange in exchanges:
        if best is None or abs(exchange.rows - rows) <= abs(best.rows - rows):
            best = exchange
    return best


def shown_exchange(exchange: Exchange, endpoint: Endpoint, decoder: Decoder | None) -> ShownExchange:
    """As text; `decoder` says how the reply was read, None where nothing has been settled."""
    line, headers = "", list[tuple[str, str]]()
    if isinstance(endpoint, ShowsRequests) and isinstance(exchange.payload, BytesPayload):
        line, found = endpoint.request_head(exchange.payload)
        headers = list(found)
    elif isinstance(exchange.payload, BytesPayload):
        headers = [("Content-Type", exchange.payload.content_type)]
    reply, failure = exchange.reply, exchange.failure
    status = "200" if reply is not None and reply.result is None else "returned"
    if failure is not None:
        status = failure.summary().partition(":")[0]
    return ShownExchange(
        rows=exchange.rows,
        request_line=line or f"call of {endpoint.name}",
        request_headers=tuple(headers),
        request_bytes=exchange.payload.nbytes,
        request_body=_payload_text(exchange.payload),
        seconds=exchange.seconds,
        status=status,
        reply_headers=tuple(_masked(name, value) for name, value in reply.headers.items()) if reply else (),
        reply_bytes=len(reply.body) if reply is not None and reply.result is None else None,
        reply_body=_reply_text(exchange),
        read_as=_readings(exchange, decoder),
    )


def shown_columns(
    sample: "pa.Table", *, sent: Sequence[str], kept: Sequence[str], body: str
) -> tuple[ShownColumn, ...]:
    """In file order, those neither sent nor kept left out."""
    rows = max(1, sample.num_rows)
    return tuple(
        ShownColumn(
            name=name,
            type=str(sample.schema.field(name).type),
            sent_bytes_per_row=_sent_bytes(sample.select([name]), body) / rows if name in sent else None,
            kept_bytes_per_row=sample.column(name).nbytes / rows if name in kept else None,
        )
        for name in sample.column_names
        if name in sent or name in kept
    )


def column_lines(columns: Sequence[ShownColumn]) -> list[str]:
    """A small table."""
    width = max([len(column.name) for column in columns], default=0)
    kinds = max([len(column.type) for column in columns], default=0)
    lines = ["columns   bytes a row"]
    for column in columns:
        sent = "not sent" if column.sent_bytes_per_row is None else f"{column.sent_bytes_per_row:.1f} sent"
        kept = "not kept" if column.kept_bytes_per_row is None else f"{column.kept_bytes_per_row:.1f} kept"
        lines.append(f"{_INDENT}{column.name:<{width}}  {column.type:<{kinds}}  {sent:>12}  {kept:>12}")
    return lines


def _sent_bytes(column: "pa.Table", body: str) -> int:
    """Bytes of one column's values in a body, roughly: it is encoded by itself, in the same way where that goes."""
    request = (
        RequestConfig(body="csv") if body.startswith("csv") else RequestConfig(body="jsonl", row="value")
    )
    if body in ("npy", "arrow", "parquet") or not column.num_rows:
        return int(column.nbytes)
    if body == "raw":
        request = RequestConfig(body="raw")
    try:
        block = make_encoder(request, column.schema).encode(column)
    except ConfigError:
        return int(column.nbytes)
    if body == "raw":
        return sum(block.payload(row, row + 1).nbytes for row in range(column.num_rows))
    return block.payload(0, column.num_rows).nbytes - (column.num_rows - 1)


def _payload_text(payload: Payload) -> str:
    if isinstance(payload, BytesPayload):
        return _shown_bytes(b"".join(payload.pieces))
    return _cut("\n".join(map(str, payload.batch.slice(0, 50).to_pylist())))


def _reply_text(exchange: Exchange) -> str:
    if exchange.reply is None:
        assert exchange.failure is not None
        return _cut(exchange.failure.original_message or exchange.failure.message)
    if exchange.reply.result is not None:
        return _cut(str(exchange.reply.result))
    return _shown_bytes(exchange.reply.body)


def _shown_bytes(body: bytes) -> str:
    """Text as it is; anything else as its first bytes in hex."""
    try:
        shown = body.decode("utf-8")
    except UnicodeDecodeError:
        shown = ""
    if not body or (
        shown and not any(ord(character) < 32 and character not in "\t\r\n" for character in shown)
    ):
        return _cut(shown)
    more = f" … {len(body) - _SHOWN_BYTES:,} more bytes" if len(body) > _SHOWN_BYTES else ""
    return f"{body[:_SHOWN_BYTES].hex(' ')}{more}"


def _cut(shown: str) -> str:
    if len(shown) <= _SHOWN_CHARACTERS:
        return shown
    return f"{shown[:_SHOWN_CHARACTERS]} … {len(shown) - _SHOWN_CHARACTERS:,} more characters"


def _readings(exchange: Exchange, decoder: Decoder | None) -> tuple[str, ...]:
    if exchange.reply is None or decoder is None:
        return ()
    try:
        columns = decoder.decode(exchange.reply, exchange.rows)
    except ReplyError as error:
        return (error.message,)
    return tuple(
        f"{field.name} {field.type}: {_first_values(values)}"
        for field, values in zip(decoder.fields, columns, strict=True)
    )


def _first_values(values: Any, most: int = 10) -> str:
    first = values[:most]
    listed = first.tolist() if isinstance(first, np.ndarray) else list(first)
    shown = [_value(each.as_py() if hasattr(each, "as_py") else each) for each in listed]
    return ", ".join(shown) + (f", … {len(values) - most:,} more" if len(values) > most else "")


def _value(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)) and len(value) > 6:
        return f"[{', '.join(map(str, value[:6]))}, … {len(value) - 6:,} more]"
    return "null" if value is None else str(value)


def _masked(name: str, value: str) -> tuple[str, str]:
    return name, "…" if name.lower() in _SECRET_HEADERS else value


def _header_lines(headers: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers]


def _indented(lines: Sequence[str]) -> list[str]:
    return [(_INDENT + part).rstrip() for line in lines for part in line.splitlines() or [""]]
