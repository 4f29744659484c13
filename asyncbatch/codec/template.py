"""JSON envelopes with variables. A preset is a line of `PRESETS`, nothing else.

| variable | stands for |
|---|---|
| `$rows` | a JSON list of the request's rows, each in the form of `--row` |
| `$row` | the one row of a request (of a line with `--body jsonl`); such requests hold one row |
| `$n` | the number of rows |
| `$columns` | a JSON list of the names of the columns sent |
| `$columnar` | a JSON list of V2 tensors, one a column: `{"name":…,"shape":[n],"datatype":…,"data":[…]}` |

A template is valid JSON but for its variables, which stand where a value may. A variable in quotes that is a
whole value counts too (`{"inputs": "$rows"}`, for shells and TOML); inside longer text it is that text.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from asyncbatch.errors import ConfigError


class Variable(Enum):
    """What a template can hold."""

    ROWS = "$rows"
    ROW = "$row"
    N = "$n"
    COLUMNS = "$columns"
    COLUMNAR = "$columnar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A parsed template: literal text and variables, in order."""

    segments: tuple[str | Variable, ...]
    row: str | None = None
    """The row form that a preset prescribes; None leaves it to `--row`."""

    def has(self, variable: Variable) -> bool:
        return variable in self.segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One line of the table."""

    text: str
    row: str | None = None


PRESETS: Mapping[str, Preset] = {
    "instances": Preset(text='{"instances":$rows}'),
    "inputs": Preset(text='{"inputs":$rows}'),
    "split": Preset(text='{"dataframe_split":{"columns":$columns,"data":$rows}}', row="array"),
    "records": Preset(text='{"dataframe_records":$rows}', row="object"),
    "v2": Preset(text='{"inputs":$columnar}'),
}
"""Containers' usual envelopes: TensorFlow Serving and Vertex AI, Hugging Face, MLflow (two), KServe V2."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\$[A-Za-z_][A-Za-z_0-9]*', re.DOTALL)
_EXAMPLE = """such as --template '{"inputs": $rows}'"""


def parse_template(text: str) -> Template:
    """A preset's name, or the text of a template.

    Raises:
        ConfigError: no such preset, no JSON, an unknown variable, or none that holds the rows.
    """
    preset = PRESETS.get(text)
    if preset is not None:
        return Template(segments=_segments(preset.text), row=preset.row)
    if not text.lstrip().startswith(("{", "[", "$", '"')):
        near = difflib.get_close_matches(text, PRESETS, n=1)
        raise ConfigError(
            f"--template {text!r} is neither a preset nor JSON",
            hint=f"did you mean {near[0]!r}?"
            if near
            else f"presets: {', '.join(PRESETS)}; or JSON {_EXAMPLE}",
        )
    return Template(segments=_segments(text))


def _segments(text: str) -> tuple[str | Variable, ...]:
    segments: list[str | Variable] = []
    checked: list[str] = []  # the text with every variable replaced by a number: must be JSON
    literal_from = position = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        name = token[1:-1] if token[0] == '"' else token
        if token[0] == '"' and (not _is_variable(name) or text[match.end() :].lstrip().startswith(":")):
            continue  # literal text, or a key
        variable = _variable(name)
        literal = text[literal_from : match.start()]
        checked += [text[position : match.start()], "0"]
        segments += [_one_line(literal), variable]
        literal_from = position = match.end()
    checked.append(text[position:])
    segments.append(_one_line(text[literal_from:]))
    try:
        json.loads("".join(checked), parse_constant=_refuse_constant)
    except ValueError as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ConfigError(f"--template is no JSON{where}: {reason}", hint=f"write it {_EXAMPLE}") from error
    found = {each for each in segments if isinstance(each, Variable)}
    bearers = found & {Variable.ROWS, Variable.ROW, Variable.COLUMNAR}
    if len(bearers) != 1:
        problem = (
            "holds no rows"
            if not bearers
            else "mixes " + " and ".join(sorted(each.value for each in bearers))
        )
        raise ConfigError(f"--template {problem}", hint=f"use one of $rows, $row or $columnar, {_EXAMPLE}")
    return tuple(each for each in segments if each != "")


def _is_variable(name: str) -> bool:
    return any(name == each.value for each in Variable)


def _variable(name: str) -> Variable:
    if _is_variable(name):
        return Variable(name)
    near = difflib.get_close_matches(name, [each.value for each in Variable], n=1)
    raise ConfigError(
        f"--template has an unknown variable {name}",
        hint=f"did you mean {near[0]}?"
        if near
        else "variables: " + " ".join(each.value for each in Variable),
    )


def _one_line(literal: str) -> str:
    """Line breaks can only stand between tokens, where they mean nothing; a JSON line must hold none."""
    return re.sub(r"[\r\n]+[ \t\r\n]*", " ", literal)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
