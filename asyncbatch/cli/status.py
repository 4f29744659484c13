"""`asyncbatch status`."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncbatch.cli.access import access_options, given_access
from asyncbatch.cli.options import VerboseOption, with_options
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import OutputConfig
from asyncbatch.observe import text

if TYPE_CHECKING:
    from asyncbatch.sink.manifest import MissingRange
    from asyncbatch.sink.status import LeaseHolder, OutputStatus

EXAMPLES = """
asyncbatch status scored/
asyncbatch status scored.parquet --json
"""
_GAPS_SHOWN = 5

OutArgument = Annotated[
    str, typer.Argument(metavar="OUT", help="the output of a run, named as it was there: a folder or a file")
]
JsonOption = Annotated[
    bool, typer.Option("--json", show_default=False, help="print what was found to stdout as JSON")
]


@with_options(*access_options())
def status(
    out: OutArgument, as_json: JsonOption = False, verbose: VerboseOption = False, **options: Any
) -> int:
    """Say how far an output is.

    Takes it from listings and the small files of the state: no part is read, no lease is taken, and nothing is
    changed, so it may be asked at any time. While a run is going, rate and time left come from when its last
    parts were written.
    """
    screen = Screen(sys.stderr, OutputConfig(verbose=verbose))
    return screen.guard(lambda: execute(out, as_json=as_json, options=options))


def execute(out: str, *, as_json: bool, options: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Print the status; returns the exit code.

    Raises:
        AsyncBatchError: nothing was planned there.
    """
    from asyncbatch.sink.status import output_status

    found = output_status(out, access=given_access(options))
    print_out((json.dumps(to_dict(found), indent=2) if as_json else summary(found)) + "\n")
    return 0


def to_dict(found: "OutputStatus") -> dict[str, Any]:
    """JSON values only."""
    values = dataclasses.asdict(found)
    values["missing"] = [dataclasses.asdict(gap) for gap in found.missing]
    return {"schema_version": 1, "state": found.state, **values}


def summary(found: "OutputStatus") -> str:
    """Lines for people, without a final line end."""
    of = "" if found.rows_total is None else f" of {found.rows_total:,}"
    lines = [
        f"{found.sink}: {found.state}",
        f"  {found.rows_done:,}{of} rows in {text.plural(found.parts, 'part')}, {text.size(found.bytes)}",
    ]
    lines += [f"  missing: {_gap(gap)}" for gap in found.missing[:_GAPS_SHOWN]]
    if len(found.missing) > _GAPS_SHOWN:
        lines.append(f"  missing: {text.plural(len(found.missing) - _GAPS_SHOWN, 'more range')}")
    if found.rejects is not None:
        lines.append(f"  {text.plural(found.rejects, 'row')} rejected")
    elif found.blocks_with_rejects:
        lines.append(f"  {text.plural(found.blocks_with_rejects, 'block')} with rejected rows")
    if found.rows_per_s_now is not None:
        left = "" if found.eta_s is None else f", {text.duration(found.eta_s)} left"
        lines.append(f"  now: {text.number(found.rows_per_s_now)} rows/s{left}")
    if found.rows_per_s is not None:
        ended = found.last_run.replace("_", " ")
        lines.append(f"  last run: {ended}, {text.number(found.rows_per_s)} rows/s")
    for holder in found.holders:
        said = f"heartbeat {text.duration(holder.heartbeat_age_s)} ago" if holder.alive else "gone"
        lines.append(f"  process {holder.pid} on {holder.host}{_shard(holder)}: {said}{_rows(holder)}")
    if found.retry_unfinished:
        lines.append(f"  a retry did not end: asyncbatch retry {found.sink} goes on with it")
    source = text.without_credentials(found.source)
    lines.append(f"  {source} through {found.endpoint}, planned {found.created}, job {found.job_id}")
    return "\n".join(lines)


def _shard(holder: "LeaseHolder") -> str:
    if holder.shard == "all":
        return ""
    return ", finishing" if holder.shard == "finish" else f", shard {holder.shard.replace('-of-', '/')}"


def _rows(holder: "LeaseHolder") -> str:
    if holder.rows_done is None or holder.rows_total is None:
        return ""
    return f", {holder.rows_done:,} of {holder.rows_total:,} rows"


def _gap(gap: "MissingRange") -> str:
    stop = "the end" if gap.stop is None else f"{gap.stop:,}"
    return f"rows {gap.start:,} to {stop} of file {gap.file}"
