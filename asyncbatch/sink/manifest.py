"""The end of a job: what is still missing, and the record of what was written.

A manifest is written only when the parts tile the input: every row of every file in exactly one part.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PartFooter, member_values, read_raw_footer
from asyncbatch.sink.history import History, load_history
from asyncbatch.sink.layout import ERRORS, MANIFEST, SUCCESS
from asyncbatch.sink.parts import PartInfo, PartsSink
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.rejects import read_rejects, write_rejects
from asyncbatch.store.base import Store, read_bytes

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRange:
    """Rows `[start, stop)` of a file that no part holds."""

    file: int
    start: int
    stop: int | None
    """None: up to the end of a text file that was not read to its end yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The totals of a finished job."""

    job_id: str
    generation: int
    rows_in: int
    rows_out: int
    rejects: int
    parts: int
    bytes: int
    variants: Mapping[str, int]
    digest: str
    """SHA-256 of `manifest.json`."""


def tiling(plan: Plan, parts: Sequence[PartInfo], file_rows: Mapping[int, int | None]) -> list[MissingRange]:
    """The rows that no part holds, in row order; none when the job can be finished. Pure.

    `--limit` counts rows over all files in order. After a file of unknown length every later file counts as
    missing as far as it is not covered, because how much of the limit is left for it is not known.

    Raises:
        OutputError: a part holds rows that the input does not have.
    """
    covered: dict[int, list[PartInfo]] = {}
    for part in parts:
        covered.setdefault(part.block.file, []).append(part)
    missing: list[MissingRange] = []
    left = plan.limit
    for file in plan.current:
        rows = file_rows[file.number]
        expected = rows if left is None or rows is None else min(rows, left)
        at = 0
        for part in covered.pop(file.number, []):
            if part.block.start > at:
                missing.append(MissingRange(file=file.number, start=at, stop=part.block.start))
            at = part.block.stop
        if expected is None:
            if left is None or at < left:
                missing.append(MissingRange(file=file.number, start=at, stop=None))
        elif at < expected:
            missing.append(MissingRange(file=file.number, start=at, stop=expected))
        elif at > expected:
            raise OutputError(
                f"the parts hold {at:,} rows of {file.path}, which has {expected:,}",
                hint="the input or the output was changed: choose another output, or --overwrite",
            )
        if left is not None:
            left -= expected if expected is not None else min(at, left)
    for number, extra in covered.items():
        if any(part.block.rows for part in extra):
            raise OutputError(
                f"{extra[0].name} is of file {number}, which the plan does not list",
                hint="choose another output, or move that file",
            )
    return missing


def write_manifest(
    sink: PartsSink, *, parts_store: Store, state: Store, parts: Sequence[PartInfo] | None = None
) -> Manifest:
    """Write `errors.parquet` and then `manifest.json`; the parts must tile the input.

    Deterministic and repeatable: a second call over the same parts writes the same bytes.

    Args:
        parts: those that tile it; looked for if not given.

    Raises:
        OutputError: a part is damaged, or of another job or configuration.
    """
    plan = sink.plan
    parts = sink.committed() if parts is None else parts
    footers = [sink.footer(part) for part in parts]
    write_errors(state, footers)
    entries = [
        part_entry(part, footer, digest=read_raw_footer(parts_store, part.name).digest)
        for part, footer in zip(parts, footers, strict=True)
    ]
    values = manifest_values(
        plan, footers, entries=entries, file_rows=sink.file_rows(), history=load_history(state)
    )
    return store_manifest(state, values)


def part_entry(part: PartInfo, footer: PartFooter, *, digest: str) -> dict[str, Any]:
    """A part's line of the manifest; `digest` is of its Parquet footer."""
    return {
        "name": part.name,
        "rows_in": footer.block.rows,
        **member_values(footer),
        "bytes": part.size_bytes,
        "footer_sha256": digest,
    }


def manifest_values(
    plan: Plan,
    footers: Sequence[PartFooter],
    *,
    entries: Sequence[Mapping[str, Any]],
    file_rows: Mapping[int, int | None],
    history: History,
) -> dict[str, Any]:
    """The content of `manifest.json`; `entries` are those of `part_entry`, one a footer. Pure."""
    return {
        "format_version": FORMAT_VERSION,
        "job_id": plan.job_id,
        "generation": plan.generation,
        "config_hash": plan.config_hash,
        "created": plan.created,
        "source": plan.source,
        "rows_in": sum(footer.block.rows for footer in footers),
        "rows_out": sum(footer.rows_out for footer in footers),
        "rejects": sum(footer.rejects for footer in footers),
        "bytes": sum(entry["bytes"] for entry in entries),
        "variants": _sum(footers),
        **history.for_manifest(),
        "files": {str(number): rows for number, rows in file_rows.items()},
        "parts": list(entries),
    }


def manifest_bytes(values: Mapping[str, Any]) -> bytes:
    """What is stored of `manifest_values`."""
    return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def store_manifest(state: Store, values: Mapping[str, Any]) -> Manifest:
    """Write `manifest.json`, or replace it."""
    content = manifest_bytes(values)
    state.replace(MANIFEST, lambda file: file.write(content))
    return parse_manifest(content)


def load_manifest_values(state: Store) -> dict[str, Any] | None:
    """All of `manifest.json`; None if the job did not get that far.

    Raises:
        OutputError: it is damaged.
    """
    if load_manifest(state) is None:
        return None
    values: dict[str, Any] = json.loads(read_bytes(state, MANIFEST))
    return values


def load_manifest(state: Store) -> Manifest | None:
    """None if the job did not get that far.

    Raises:
        OutputError: it is damaged.
    """
    try:
        content = read_bytes(state, MANIFEST)
    except FileNotFoundError:
        return None
    try:
        return parse_manifest(content)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{state.root}/{MANIFEST} is damaged", hint="remove it and run the same command again"
        ) from error


def finished_manifest(state: Store, plan: Plan) -> Manifest | None:
    """The manifest of a finished job; None if `_SUCCESS` is not there, or of an earlier generation than `plan`.

    Raises:
        OutputError: the manifest is damaged.
    """
    if state.stat(SUCCESS) is None:
        return None
    manifest = load_manifest(state)
    return manifest if manifest is not None and manifest.generation >= plan.generation else None


def parse_manifest(content: bytes) -> Manifest:
    """The totals in the bytes of `manifest.json`; raises ValueError, KeyError or TypeError."""
    values = json.loads(content)
    return Manifest(
        job_id=values["job_id"],
        generation=values["generation"],
        rows_in=values["rows_in"],
        rows_out=values["rows_out"],
        rejects=values["rejects"],
        parts=len(values["parts"]),
        bytes=values["bytes"],
        variants=values["variants"],
        digest=hashlib.sha256(content).hexdigest(),
    )


def write_errors(state: Store, footers: Sequence[PartFooter]) -> None:
    """Write `errors.parquet`: the rejects of all parts, or replace it."""
    names = [each.rejects_file for footer in footers for each in footer.blocks if each.rejects_file]
    state.replace(ERRORS, lambda file: write_rejects(file, read_rejects(state, names)))


def _sum(footers: Sequence[PartFooter]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for footer in footers:
        for name, rows in footer.variants.items():
            totals[name] = totals.get(name, 0) + rows
    return dict(sorted(totals.items()))
