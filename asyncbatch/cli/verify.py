"""`asyncbatch verify`."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from asyncbatch.cli.access import access_options, given_access
from asyncbatch.cli.options import VerboseOption, with_options
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.cli.status import JsonOption, OutArgument
from asyncbatch.config import OutputConfig
from asyncbatch.observe import text

if TYPE_CHECKING:
    from asyncbatch.sink.verify import Verification

EXAMPLES = """
asyncbatch verify scored/
asyncbatch verify scored.parquet --json
"""


@with_options(*access_options())
def verify(
    out: OutArgument, as_json: JsonOption = False, verbose: VerboseOption = False, **options: Any
) -> int:
    """Read an output from end to end and check it.

    Reads every page and compares its checksum, counts rows and rejects, and checks that the parts tile the
    input and are those of the manifest. Names each file that is damaged, missing or foreign. Changes nothing.

    Exit codes: 0 whole and undamaged, 1 damaged or incomplete, 2 wrong usage.
    """
    screen = Screen(sys.stderr, OutputConfig(verbose=verbose))
    return screen.guard(lambda: execute(out, as_json=as_json, options=options))


def execute(out: str, *, as_json: bool, options: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Verify and print what was found; returns the exit code.

    Raises:
        AsyncBatchError: nothing was planned there.
    """
    from asyncbatch.sink.verify import verify_output

    found = verify_output(out, access=given_access(options))
    print_out((json.dumps(to_dict(found), indent=2) if as_json else summary(found)) + "\n")
    return 0 if found.sound else 1


def to_dict(found: "Verification") -> dict[str, Any]:
    """JSON values only."""
    return {"schema_version": 1, "sound": found.sound, **dataclasses.asdict(found)}


def summary(found: "Verification") -> str:
    """Lines for people, without a final line end."""
    read = (
        f"{text.plural(found.rows, 'row')} in {text.plural(found.files, 'file')}, {text.size(found.bytes)},"
        f" {text.plural(found.rejects, 'row')} rejected"
    )
    if found.sound:
        return f"{found.sink}: whole and undamaged: {read}"
    lines = [f"{found.sink}: {text.plural(len(found.problems), 'problem')}: {read}"]
    lines += [f"  {problem.file}: {problem.message}" for problem in found.problems]
    lines.append(
        "a damaged part: remove it, and the run's command scores its rows again"
        if found.finished
        else "not finished: the run's command goes on"
    )
    return "\n".join(lines)
