"""Log lines on the error stream, for people or as JSON objects. Never row contents, headers or credentials.

Levels: `error` always; `warning` and `info` unless quiet; `debug` when verbose. A failure of one kind is a
warning the first time and `debug` from then on, so that an outage does not fill the log; the report holds the
counts.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

from asyncbatch.model import Block
from asyncbatch.observe import text
from asyncbatch.observe.chart import chart
from asyncbatch.observe.events import (
    Explained,
    PartCommitted,
    Progressed,
    RequestFailed,
    RowsRejected,
    RunFinished,
    RunPlanned,
    ShardDone,
    Stopping,
    Waiting,
    Warned,
)
from asyncbatch.observe.progress import FIRST_LINE_S, LINE_EVERY_S
from asyncbatch.observe.terminal import Terminal

Level = Literal["debug", "info", "warning", "error"]
_LONG = ("timeline", "decisions")
"""Parts of a report that are too long for a log line."""
_AGAIN = ", once more to leave at once"
_RANK: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class LogLines:
    """A `RunHook` that writes what happens, and at the end the summary of the report."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        as_json: bool,
        level: Level,
        explain: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            level: the lowest level written.
            explain: write `Explained` events although they are `debug`.
        """
        self._terminal = terminal
        self._as_json = as_json
        self._level = level
        self._explain = explain
        self._now = now
        self._seen: set[tuple[str, str]] = set()
        self._next_progress_s = FIRST_LINE_S
        self._planned = False
        self._waiting = False

    def __call__(self, event: object, /) -> None:
        self._planned |= isinstance(event, RunPlanned)
        level = self._level_of(event)
        if level is None or _RANK[level] < _RANK[self._level]:
            return
        if self._as_json:
            self._terminal.line(json_line(event, level=level, at=self._now()))
        elif isinstance(event, RunFinished) and not self._planned and event.report.exit_code in (1, 2, 75):
            pass  # a run that never began has no figures; the error that follows says all
        elif line := text_line(event):
            self._terminal.line(line)
            if self._explain and isinstance(event, RunFinished) and (drawn := chart(event.report.timeline)):
                self._terminal.line(f"explain: {drawn}")

    def _level_of(self, event: object) -> Level | None:
        match event:
            case RunPlanned() | RunFinished() | ShardDone():
                return "info"
            case Waiting():
                waiting, self._waiting = self._waiting, True
                return None if waiting else "info"
            case Stopping() | Warned():
                return "warning"
            case Explained():
                return "warning" if self._explain else "debug"
            case PartCommitted():
                return "debug"
            case RequestFailed(outcome=outcome):
                return self._first("request", outcome.value)
            case RowsRejected(code=code):
                return self._first("rows", code)
            case Progressed(snapshot=snapshot) if (
                self._as_json and snapshot.elapsed_s >= self._next_progress_s
            ):
                self._next_progress_s = (snapshot.elapsed_s // LINE_EVERY_S + 1) * LINE_EVERY_S
                return "info"
        return None

    def _first(self, what: str, which: str) -> Level:
        if (what, which) in self._seen:
            return "debug"
        self._seen.add((what, which))
        return "warning"


def text_line(event: object) -> str:
    """The event for people, possibly of several lines; empty where there is nothing to say."""
    match event:
        case RunPlanned():
            return _planned(event)
        case Warned(message=message, hint=hint):
            return f"warning: {message}" + (f"\n  hint: {hint}" if hint else "")
        case Explained(message=message):
            return f"explain: {message}"
        case Stopping(reason=reason):
            return f"stopping: {reason}; open blocks are being finished" + _AGAIN * reason.startswith("SIG")
        case Waiting(holder=holder):
            return f"waiting for {holder}, which is at work on the output"
        case ShardDone(shard=shard, missing_rows=rows):
            left = text.plural(rows, "row")
            return f"shard {shard} is done; the others have {left} left, and the last finishes the output"
        case PartCommitted(block=block, rows_rejected=rejected):
            rejects = f", {text.plural(rejected, 'reject')}" if rejected else ""
            return f"committed: file {block.file}, rows {block.start:,} to {block.stop:,}{rejects}"
        case RowsRejected(count=count, code=code, message=message):
            return f"rejected: {text.plural(count, 'row')} ({code})" + (f": {message}" if message else "")
        case RequestFailed(summary=summary, outcome=outcome, rows=rows, attempt=attempt):
            return f"request {outcome.value}: {summary} ({text.plural(rows, 'row')}, attempt {attempt})"
        case RunFinished(report=report):
            return report.summary()
    return ""


def json_line(event: object, *, level: Level, at: datetime) -> str:
    """The event as a JSON object on one line: `ts`, `level`, `event`, then its fields."""
    fields: dict[str, Any]
    match event:
        case Progressed(snapshot=snapshot):
            fields = dataclasses.asdict(snapshot)
        case RunFinished(report=report):
            fields = {name: value for name, value in report.to_dict().items() if name not in _LONG}
        case _:
            fields = {each.name: getattr(event, each.name) for each in _fields(event)}
    return log_object(level=level, event=_name(event), at=at, fields=fields)


def log_object(*, level: Level, event: str, at: datetime, fields: dict[str, Any]) -> str:
    """One line of a JSON log."""
    stamp = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"ts": stamp, "level": level, "event": event, **fields}, default=_jsonable)


def _planned(event: RunPlanned) -> str:
    rows = "rows unknown until read" if event.rows is None else text.plural(event.rows, "row")
    blocks = "blocks" if event.blocks is None else text.plural(event.blocks, "block")
    sent = text.plural(len(event.columns_sent), "column")
    line = f"shard {event.shard}: " if event.shard else "plan: "
    line += f"{rows} in {text.plural(event.files, 'file')}, {sent} sent to {event.endpoint}"
    line += f", {blocks} of up to {event.block_rows:,} rows"
    if event.shared:
        line += f"\nothers may be using {event.endpoint} ({event.shared}): --background takes only what they leave"
    if event.resumed_rows:
        line += f"\nresuming: {text.plural(event.resumed_rows, 'row')} were done before"
    return line


def _name(event: object) -> str:
    """`PartCommitted` -> `part_committed`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _fields(event: object) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(event) if dataclasses.is_dataclass(event) else ()


def _jsonable(value: object) -> object:
    if isinstance(value, Block):
        return {"file": value.file, "start": value.start, "stop": value.stop}
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is no value of an event")
