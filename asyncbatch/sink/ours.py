"""Whether what lies at an output's place is asyncbatch's own: nothing of others is ever written over."""

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import read_part_footer
from asyncbatch.sink.layout import MANIFEST, SinkLocation, parse_part_name
from asyncbatch.sink.parts import is_invisible, list_parts
from asyncbatch.sink.plan import load_plan
from asyncbatch.sink.publish import may_replace
from asyncbatch.store.base import Store


def check_ours(location: SinkLocation, state: Store, parts: Store, target: Store) -> None:
    """Refuse a place that holds what this job cannot go on with.

    Raises:
        OutputError: files of others, parts whose state is gone, or a single file that is there already.
    """
    planned = load_plan(state) is not None
    if location.kind == "folder":
        check_no_foreign(location, parts, has_plan=planned)
        found = list_parts(parts)
        if found and not planned:
            raise OutputError(
                f"{location.spec} holds parts of an earlier run, but its state {state.root} is gone",
                hint="choose another output, or --overwrite to start anew",
            )
        return
    there = target.stat(location.target.name)
    if there is None or may_replace(state, there) or state.stat(MANIFEST) is not None:
        return  # after the manifest it is our own, or publishing tells
    raise OutputError(
        f"{location.spec} exists" + (" and was not written by this job" if planned else ""),
        hint="choose another output, or --overwrite to replace it when the new one is complete",
    )


def check_no_foreign(location: SinkLocation, parts: Store, *, has_plan: bool) -> None:
    """Refuse a folder that holds what asyncbatch did not write; with `--overwrite` too."""
    for entry in parts.list():
        if is_invisible(entry.name):
            continue
        named = parse_part_name(entry.name) is not None
        if named and not has_plan:
            try:
                read_part_footer(parts, entry.name)
            except (OutputError, FileNotFoundError):
                named = False
        if not named:
            raise OutputError(
                f"{location.spec} holds {entry.name}, which asyncbatch did not write",
                hint="choose another output, or move that file; --overwrite removes only what is ours",
            )
