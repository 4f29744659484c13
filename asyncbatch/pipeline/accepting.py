"""`--accept-changes`: which differences between a job's plan and a later command can be accepted, and what follows. Pure.

What decides the output's columns, the rows of the blocks, how the input is read, or how replies are read stays as planned:
parts written before and after must be one table. What decides only what the model is asked may change, for the rows not done
yet.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from asyncbatch.errors import ConfigError, OutputError, ReplyError
from asyncbatch.option import flag
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.sink.plan import Difference, Plan

ACCEPTABLE = frozenset(
    ("send", "no_send", "body", "template", "row", "content_type", "accept", "target_model", "target_variant",
     "target_container_hostname", "inference_component_name", "custom_attributes", "enable_explanations",
     "threshold", "round")
)  # fmt: skip
"""Options that are compared with the plan and may be accepted to differ, if the output's columns stay the same."""
FIXED: Mapping[str, str] = {
    **dict.fromkeys(("keep", "types", "prediction_name", "error_name", "argmax", "labels", "rename",
                     "predicted_label_name", "prediction_type", "meta"), "it decides the output's columns"),
    **dict.fromkeys(("limit", "block_rows", "on_error"), "it decides which rows a part holds"),
    **dict.fromkeys(("input_format", "delimiter", "quote", "no_header"), "it decides how the input is read"),
    "reply": "how replies are read was settled when the job was planned",
    "format": "it decides the format of the output",
    "partition_by": "it decides which folder a part lies in",
    "mode": "it decides what becomes of a table that is there",
}  # fmt: skip
"""Why the other compared options cannot be accepted to differ."""
_ENDPOINT = {
    "kind": "endpoint",
    "name": "endpoint",
    "region": "region",
    "account": "account",
    "variant": "target_variant",
    "target_model": "target_model",
    "component": "inference_component_name",
    "container": "target_container_hostname",
}
"""Part of an endpoint's identity -> what it is called on the command line."""
NAMES = ACCEPTABLE | frozenset(_ENDPOINT.values())
"""What `--accept-changes` takes."""


Accepted: TypeAlias = "list[tuple[Difference, Any]]"
"""Differences that were accepted, each with the value that holds from now on."""


def option_of(difference: Difference) -> str:
    """What a difference is called on the command line; empty if no option names it."""
    kind, _, name = difference.field.partition(".")
    if kind == "options":
        return name
    return _ENDPOINT.get(name, "endpoint") if kind == "endpoint" else ""


def check_names(accepted: Sequence[str]) -> None:
    """Raises ConfigError for a name in `--accept-changes` that cannot be accepted."""
    for name in accepted:
        if name in NAMES:
            continue
        if name in FIXED:
            raise ConfigError(
                f"--accept-changes {_dashed(name)}: {FIXED[name]}",
                hint="choose another output, or --overwrite to start anew",
            )
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise ConfigError(
            f"--accept-changes {_dashed(name)}: nothing of that name is compared with the plan",
            hint=f"did you mean {_dashed(near[0])}?"
            if near
            else f"one of {', '.join(map(_dashed, sorted(NAMES)))}",
        )


def refused(differences: Sequence[Difference], accepted: Sequence[str], sink: str) -> OutputError | None:
    """The error for the differences that are not accepted, with the option that would accept them; None if all are."""
    left = [each for each in differences if option_of(each) not in accepted]
    if not left:
        return None
    listed = "; ".join(str(each) for each in left[:5])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    names = sorted({option_of(each) for each in left})
    ways = f"choose another output, or {flag('overwrite')} to start anew"
    if all(each.field.startswith("input ") and each.now != "missing" for each in left):
        ways = f"or {flag('reprocess')} to score what changed again; {ways}"
    if all(name in NAMES for name in names):
        whole = ",".join(_dashed(name) for name in sorted({*names, *accepted}))
        ways = f"or {flag('accept_changes')} {whole} to score the rest so; or {ways}"
    elif fixed := [name for name in names if name in FIXED]:
        ways = f"{flag(fixed[0])} cannot be accepted to differ: {FIXED[fixed[0]]}; {ways}"
    return OutputError(
        f"{sink} belongs to a job that differs from this command: {listed}{more}",
        hint=f"give the same command to go on, {ways}",
    )


def values_of(
    differences: Sequence[Difference], options: Mapping[str, Any], endpoint: Mapping[str, Any]
) -> Accepted:
    """Each difference with the value that the command gives."""
    found: Accepted = []
    for each in differences:
        kind, _, name = each.field.partition(".")
        found.append((each, options[name] if kind == "options" else endpoint[name]))
    return found


def check_same_table(planned: Plan, prepared: Prepared, accepted: Sequence[str]) -> None:
    """What was accepted must leave the columns as they are, and replies readable as before.

    Raises:
        OutputError: it does not.
    """
    names = ",".join(_dashed(name) for name in accepted)
    hint = (
        f"choose another output for this command, or leave {flag('accept_changes')} out and give the same one"
    )
    now = prepared.shape.schema
    if now != planned.schema:
        changed = [name for name in now.names if name not in planned.schema.names]
        changed += [name for name in planned.schema.names if name not in now.names]
        changed += [each.name for each in now if each.name in planned.schema.names
                    and planned.schema.field(each.name).type != each.type]  # fmt: skip
        raise OutputError(
            f"--accept-changes {names}: the output would have other columns ({', '.join(changed) or 'their order'})",
            hint=hint,
        )
    for answer in prepared.probes.answers:
        try:
            prepared.decoder.decode(answer.reply, answer.rows)
        except ReplyError as error:
            raise OutputError(
                f"--accept-changes {names}: replies can no longer be read as planned: {error.message}",
                hint=hint,
            ) from error


def _dashed(name: str) -> str:
    return name.replace("_", "-")
