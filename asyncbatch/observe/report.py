"""The report of a run: a JSON document with a versioned schema, and a few lines for people.

`docs/report-schema.json` is generated from the classes here. `SCHEMA_VERSION` changes when a part is added or removed or
changes its meaning. 2: `timeline` and `decisions`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from asyncbatch.config import RunConfig
from asyncbatch.observe import text
from asyncbatch.observe.machine import Machine, cpu_s, machine, peak_memory_bytes, versions
from asyncbatch.observe.metric import metric
from asyncbatch.observe.metrics import RunTotals
from asyncbatch.observe.timeline import TimelinePoint

SCHEMA_VERSION = 2

Status = Literal["done", "done_with_rejects", "stopped", "failed"]
EXIT_DONE, EXIT_FAILED, EXIT_DONE_WITH_REJECTS, EXIT_STOPPED = 0, 1, 3, 75


def _described(description: str) -> dict[str, str]:
    """Metadata of a field: its description in the schema."""
    return {"description": description}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMade:
    """What the controller set or tried, and why."""

    at_s: float = metric("s", "when, since planning began")
    what: str = metric("-", "what was set or tried")
    why: str = metric("-", "the reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did."""

    schema_version: int = field(
        default=SCHEMA_VERSION, metadata=_described("Version of this document's layout.")
    )
    status: Status = field(
        metadata=_described("How the run ended; `stopped` means that the same command resumes it.")
    )
    exit_code: int = field(metadata=_described("Exit code of the command line."))
    reason: str = field(
        default="", metadata=_described("Why it stopped or failed, one sentence; empty when it is done.")
    )
    job_id: str = field(
        metadata=_described("The job, the same for a run and its resumes; empty when nothing was planned.")
    )
    endpoint: str = field(metadata=_described("Endpoint name, URL or module:function, without credentials."))
    source: str = field(metadata=_described("The input as it was named, without credentials."))
    sink: str | None = field(
        metadata=_described("The output as it was named; null for a run from Python without a sink.")
    )
    options: Mapping[str, Any] = field(
        metadata=_described("Options that differ from their defaults; headers are left out.")
    )
    started_at: str = field(metadata=_described("Begin, ISO 8601, UTC."))
    finished_at: str = field(metadata=_described("End, ISO 8601, UTC."))
    metrics: RunTotals = field(metadata=_described("What was measured."))
    cpu_s: float = field(metadata=_described("CPU seconds of the process, user and system, from its start."))
    peak_memory_bytes: int | None = field(
        metadata=_described("Largest resident size of the process; null where unknown.")
    )
    machine: Machine = field(metadata=_described("Where it ran; no host name."))
    versions: Mapping[str, str] = field(
        metadata=_described("Versions of Python and of the libraries that matter for speed.")
    )
    warnings: Sequence[str] = field(
        default=(), metadata=_described("What was warned of, in order, each once.")
    )
    timeline: Sequence[TimelinePoint] = field(
        default=(),
        metadata=_described("The course of the run, oldest first; at most 600 stretches of equal length."),
    )
    decisions: Sequence[DecisionMade] = field(
        default=(),
        metadata=_described("What the controller decided, oldest first: the first 100 and the last 100."),
    )

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    def to_json(self) -> str:
        """The document of `docs/report-schema.json`, indented, with a final line end."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def summary(self) -> str:
        """A few lines for people, without a final line end."""
        return "\n".join(_summary(self))


def make_report(
    *,
    config: RunConfig,
    totals: RunTotals,
    status: Status,
    exit_code: int,
    job_id: str,
    endpoint: str,
    source: str,
    sink: str | None,
    started_at: datetime,
    reason: str = "",
    warnings: Sequence[str] = (),
    timeline: Sequence[TimelinePoint] = (),
    decisions: Sequence[DecisionMade] = (),
) -> RunReport:
    """A report as of now, with what the process used. Credentials inside URLs are removed."""
    return RunReport(
        status=status,
        exit_code=exit_code,
        reason=reason,
        job_id=job_id,
        endpoint=text.without_credentials(endpoint),
        source=text.without_credentials(source),
        sink=None if sink is None else text.without_credentials(sink),
        options={
            name: text.without_credentials(value) if isinstance(value, str) else value
            for name, value in config.effective().items()
        },
        started_at=_iso(started_at),
        finished_at=_iso(datetime.now(UTC)),
        metrics=totals,
        cpu_s=cpu_s(),
        peak_memory_bytes=peak_memory_bytes(),
        machine=machine(),
        versions=versions(),
        warnings=tuple(dict.fromkeys(warnings)),
        timeline=tuple(timeline),
        decisions=tuple(decisions),
    )


def done_status(config: RunConfig, totals: RunTotals, *, rejected_before: bool = False) -> tuple[Status, int]:
    """Status and exit code of a run that reached its end: rejects within an explicit `--max-errors` are no failure.

    `rejected_before`: parts that earlier runs committed hold rejects.
    """
    if not totals.rows_rejected and not rejected_before:
        return "done", EXIT_DONE
    return "done_with_rejects", EXIT_DONE if config.failure.max_errors is not None else EXIT_DONE_WITH_REJECTS


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(report: RunReport) -> list[str]:
    metrics = report.metrics
    head = {
        "done": "done",
        "done_with_rejects": "done, with rejects",
        "stopped": "stopped, resumable",
        "failed": "failed",
    }[report.status]
    where = {None: "", "-": " -> standard output"}.get(report.sink, f" -> {report.sink}")
    if report.status == "stopped" and not report.exit_code:
        return [f"nothing done: {report.reason}"]
    if report.status == "done" and metrics.rows_resumed and not metrics.rows_in:
        return [f"nothing left to do: {text.plural(metrics.rows_resumed, 'row')} were done before{where}"]
    took = f"{text.duration(metrics.elapsed_s)} ({text.number(metrics.rows_per_s)} rows/s)"
    lines = [f"{head}: {text.plural(metrics.rows_in, 'row')} in {took}{where}"]
    if metrics.rows_resumed:
        lines.append(f"  resumed: {text.plural(metrics.rows_resumed, 'row')} were done before")
    if metrics.requests:
        counts = [text.plural(metrics.requests, "request")]
        if metrics.chunk_rows_mean is not None:
            counts.append(f"{text.number(metrics.chunk_rows_mean)} rows each")
        counts.append(f"{text.number(metrics.in_flight_mean)} in flight")
        if metrics.retries:
            counts.append(text.plural(metrics.retries, "retry"))
        refused = {name: n for name, n in metrics.requests_by_outcome.items() if name != "success"}
        counts += [f"{n:,} {name.replace('_', ' ')}" for name, n in refused.items()]
        lines.append("  " + " · ".join(counts))
    if metrics.latency_p50_s is not None:
        lines.append(
            f"  latency p50 {text.latency(metrics.latency_p50_s)} · p95 {text.latency(metrics.latency_p95_s)}"
            f" · p99 {text.latency(metrics.latency_p99_s)} · max {text.latency(metrics.latency_max_s)}"
        )
    if metrics.rows_rejected:
        codes = ", ".join(f"{count:,} {code}" for code, count in metrics.rejected_by_code.items())
        lines.append(
            f"  {text.plural(metrics.rows_rejected, 'row')} rejected ({codes}): see the error column"
        )
    used = f"  {text.duration(report.cpu_s)} of CPU"
    if report.peak_memory_bytes is not None:
        used += f" · peak memory {text.size(report.peak_memory_bytes)}"
    lines.append(used)
    return lines
