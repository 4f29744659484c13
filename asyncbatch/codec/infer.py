"""From the probes' replies to one layout. Two readings that fit are an error naming the option, no guess."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from asyncbatch.codec import bodies
from asyncbatch.codec.convert import text_number
from asyncbatch.codec.decoder import make_decoder
from asyncbatch.codec.kinds import (
    NULL,
    NUMBER,
    TEXT,
    Kind,
    KindConflictError,
    arrow_type,
    common_kind,
    describe,
    kind_of_array,
    merge,
    parse_type,
)
from asyncbatch.codec.layout import LayoutField, ReplyLayout
from asyncbatch.codec.paths import compile_path
from asyncbatch.codec.readings import Reading, TextRows, candidates, fits, read
from asyncbatch.config import ReplyConfig
from asyncbatch.errors import ReplyError, ReplyMismatchError
from asyncbatch.model import Reply

Probe = tuple[Reply, int]
_TYPE_HINT = "name the type, such as --prediction-type string; plan --show 1 prints the reply"
_PATH_HINT = "name the place with --reply, such as --reply predictions; plan --show 1 prints the reply"


def check_reply(config: ReplyConfig) -> None:
    """What can be said of `--reply` and `--prediction-type` before anything is asked.

    Raises:
        ConfigError: one of them cannot be parsed.
    """
    if config.reply is not None:
        compile_path(config.reply)
    if config.prediction_type is not None:
        parse_type(config.prediction_type)


def infer_layout(probes: Sequence[Probe], config: ReplyConfig) -> ReplyLayout:
    """The one layout that reads every probe's reply.

    Args:
        probes: replies with the number of rows each answers; 1, 2, 7 and some hundred tell line from row.
        config: `reply`, `prediction_type` and `prediction_name` are used.

    Raises:
        ReplyError: no reading fits, several do, or the values have no common type; the hint names the option.
        ConfigError: `--reply` or `--prediction-type` cannot be parsed.
    """
    if not probes:
        raise ReplyError(
            "no probe was answered, so the layout of replies is unknown",
            hint="see the errors before this one",
        )
    explicit = parse_type(config.prediction_type) if config.prediction_type is not None else None
    reading = _chosen(probes, config, explicit)
    path = compile_path(reading.path)
    parts = [read(reading, reply, rows, path) for reply, rows in probes]
    texts = [part for part in parts if isinstance(part, TextRows)]
    if not texts:
        layout = _column_layout(reading, parts, config, explicit)
    elif len(texts) == len(parts):
        layout = _text_layout(reading, texts, config, explicit, one_row=all(rows == 1 for _, rows in probes))
    else:
        raise ReplyError("some replies hold bracketed lists and others do not", hint=_PATH_HINT)
    _check_decodes(layout, probes)
    return layout


def _check_decodes(layout: ReplyLayout, probes: Sequence[Probe]) -> None:
    """What is learned must read what it was learned from; `--prediction-type` may not."""
    decoder = make_decoder(layout)
    for reply, rows in probes:
        try:
            decoder.decode(reply, rows)
        except ReplyMismatchError as error:
            raise ReplyError(error.message, hint=_TYPE_HINT) from error


def _chosen(probes: Sequence[Probe], config: ReplyConfig, explicit: pa.DataType | None) -> Reading:
    found: dict[Reading, None] = {}
    for reply, rows in probes:
        for reading in _readings(reply, rows, config):
            found[reading] = None
    if _is_list(explicit) and config.reply is None and all(rows == 1 for _, rows in probes):
        found[Reading("json", "[@]")] = None  # a list that is one row's vector, as the user says
    fitting = _fitting(found, probes)
    if not fitting:
        raise _nothing_fits(probes, config)
    best = fitting[0]
    if len(fitting) > 1 and best.form == "json" and config.reply is None:
        places = [reading.path or "@" for reading in fitting if reading.form == "json"]
        if len(places) > 1:
            raise ReplyError(
                f"replies hold {len(places)} lists with one item a row: {', '.join(places)}",
                hint=f"choose with --reply {places[0]}, or --reply @ for all lists of an object as columns",
            )
    if best == Reading("csv-lines", header=True):
        return best
    if all(rows == 1 for _, rows in probes) and best.form == "csv-lines" and not _is_list(explicit):
        _refuse_one_line_vector(probes)
    return best


def _fitting(readings: Iterable[Reading], probes: Sequence[Probe]) -> list[Reading]:
    return [reading for reading in readings if all(fits(reading, reply, rows) for reply, rows in probes)]


def _refuse_one_line_vector(probes: Sequence[Probe]) -> None:
    """`0.1,0.2,0.3` for one row may be a vector, or a flat line that would be longer for more rows."""
    for reply, _ in probes:
        cells = bodies.csv_rows(reply.body)
        if any(len(line) > 1 for line in cells):
            count = max(len(line) for line in cells)
            raise ReplyError(
                f"one row was answered with {count} values on one line, and no larger request was answered",
                hint="if they are one row's vector, say so: --prediction-type 'list<float64>'",
            )


def _readings(reply: Reply, rows: int, config: ReplyConfig) -> list[Reading]:
    readings = candidates(reply, rows)
    if config.reply is None:
        return readings
    if any(reading.form == "python" for reading in readings):
        return [Reading("python", config.reply)]
    forms = []
    if not (bodies.is_npy(reply.body) or bodies.is_arrow(reply.body)):
        forms = [
            Reading("json", config.reply),
            Reading("json-columns", config.reply),
            Reading("jsonl", config.reply),
        ]
        if bodies.media_type(reply) in bodies.JSON_LINES:
            forms.insert(0, forms.pop())
    return forms


def _nothing_fits(probes: Sequence[Probe], config: ReplyConfig) -> ReplyError:
    sizes = ", ".join(str(rows) for _, rows in probes)
    media = ", ".join(sorted({bodies.media_type(reply) or "no content type" for reply, _ in probes}))
    if config.reply is not None:
        return ReplyError(
            f"--reply {config.reply!r} does not give one value a row for requests of {sizes} rows",
            hint="such as --reply predictions or --reply '[*].score'; without it the place is looked for",
        )
    if all(rows == 1 for _, rows in probes):
        return ReplyError(
            "one row was answered with a list of several values, and no larger request was answered",
            hint="if the list is one row's vector, say so: --prediction-type 'list<float64>'",
        )
    off_by_one = _off_by_one(probes)
    if off_by_one is not None:
        return off_by_one
    if not any(reply.body or reply.result is not None for reply, _ in probes):
        return ReplyError(
            "every reply is empty", hint="check the address: a model server answers with predictions"
        )
    if "text/html" in media:
        return ReplyError(
            f"replies are web pages ({media}), not predictions",
            hint="check the address: this may be a login page or a proxy; most model servers answer on /invocations",
        )
    return ReplyError(
        f"no reading gives one prediction a row in replies ({media}) to requests of {sizes} rows",
        hint="name the place of the predictions in JSON with --reply, such as --reply outputs[0].data; "
        "plan --show 1 prints the reply",
    )


def _off_by_one(probes: Sequence[Probe]) -> ReplyError | None:
    """The two usual mistakes with the header line of a CSV body."""
    for extra, more, remedy in (
        (1, "one prediction more", "a header line is counted as a row: use --body csv, which sends none"),
        (-1, "one prediction less", "the first row is taken for a header line: use --body csv-header"),
    ):
        shifted = [(reply, rows + extra) for reply, rows in probes if rows + extra > 0]
        readings = {reading: None for reply, rows in shifted for reading in candidates(reply, rows)}
        if max((rows for _, rows in shifted), default=0) > 1 and _fitting(readings, shifted):
            return ReplyError(f"replies hold {more} than rows were sent", hint=f"perhaps {remedy}")
    return None


def _text_layout(
    reading: Reading,
    parts: list[TextRows],
    config: ReplyConfig,
    explicit: pa.DataType | None,
    *,
    one_row: bool,
) -> ReplyLayout:
    lines = [line for part in parts for line in part.cells]
    widths = {len(line) for line in lines}
    names = parts[0].names
    if any(part.names != names for part in parts):
        raise ReplyError("the header lines of replies differ", hint=_PATH_HINT)
    if names is not None and len(names) > 1:
        _refuse_type_for_fields(names, explicit)
        fields = tuple(
            LayoutField(name=name, key=name, type=_arrow_type(_column_kind(lines, index), name))
            for index, name in enumerate(names)
        )
        return ReplyLayout(form=reading.form, header=True, named=True, fields=fields)
    kind = _cells_kind([cell for line in lines for cell in line])
    if widths != {1} or (_is_list(explicit) and one_row):
        blank_free = widths - {1} if any(line == [""] for line in lines) else widths
        width = blank_free.pop() if len(blank_free) == 1 else None
        kind = Kind(name="list", item=kind, width=width)
    layout = _typed(ReplyLayout(form=reading.form, header=reading.header, fields=()), kind, config, explicit)
    return replace(layout, fields=(replace(layout.fields[0], key=names[0]),)) if names is not None else layout


def _column_kind(lines: list[list[str]], index: int) -> Kind:
    return _cells_kind([line[index] if line != [""] else "" for line in lines])


def _cells_kind(cells: list[str]) -> Kind:
    kind = NULL
    for cell in cells:
        try:
            kind = merge(kind, NUMBER) if text_number(cell) is not None else kind
        except ValueError:
            if cell.strip().lstrip("+-").isdigit():
                kind = Kind(name="big")
                continue
            return TEXT
    return kind


def _column_layout(
    reading: Reading, parts: list[Any], config: ReplyConfig, explicit: pa.DataType | None
) -> ReplyLayout:
    named = isinstance(parts[0], dict)
    if any(isinstance(part, dict) != named for part in parts):
        raise ReplyError("some replies have named columns and others do not", hint=_PATH_HINT)
    layout = ReplyLayout(form=reading.form, path=reading.path, fields=())
    try:
        if named:
            return _named(layout, {key: _kind(_members(parts, key)) for key in parts[0]}, config, explicit)
        kind = _kind(parts)
    except KindConflictError as error:
        if explicit is None or named:
            raise ReplyError(f"replies mix {error} in one place", hint=_TYPE_HINT) from error
        kind = NULL  # whether the type holds them all is seen when they are decoded
    if kind.name == "object":
        return _named(layout, kind.members, config, explicit)
    if kind.name == "arrow" and kind.arrow is not None and pt.is_struct(kind.arrow):
        members = {each.name: Kind(name="arrow", arrow=each.type) for each in kind.arrow}
        return _named(layout, members, config, explicit)
    return _typed(layout, kind, config, explicit)


def _members(parts: list[dict[str, Any]], key: str) -> list[Any]:
    if any(part.keys() != parts[0].keys() for part in parts):
        raise KindConflictError("different columns")
    return [part[key] for part in parts]


def _kind(columns: list[Any]) -> Kind:
    """The kind of one row's value over all probes' columns."""
    kind = NULL
    for column in columns:
        if isinstance(column, (pa.Array, pa.ChunkedArray)):
            found = Kind(name="arrow", arrow=column.type) if not pt.is_null(column.type) else NULL
        elif isinstance(column, np.ndarray):
            item = kind_of_array(column).item
            found = item if item is not None else NULL
        else:
            found = common_kind(column)
        kind = merge(kind, found)
    return kind


def _named(
    layout: ReplyLayout, members: dict[str, Kind], config: ReplyConfig, explicit: pa.DataType | None
) -> ReplyLayout:
    _refuse_type_for_fields(list(members), explicit)
    fields = tuple(
        LayoutField(name=name, key=name, type=_arrow_type(kind, name), width=_width(kind))
        for name, kind in members.items()
    )
    if not fields:
        raise ReplyError("replies are empty objects", hint=_PATH_HINT)
    return replace(layout, named=True, fields=fields)


def _refuse_type_for_fields(names: Sequence[str], explicit: pa.DataType | None) -> None:
    if explicit is not None:
        raise ReplyError(
            f"--prediction-type is for one value a row, and replies have the fields {', '.join(names)}",
            hint=f"choose one of them with --reply, such as --reply '[*].{names[0]}'",
        )


def _typed(layout: ReplyLayout, kind: Kind, config: ReplyConfig, explicit: pa.DataType | None) -> ReplyLayout:
    """A layout of one field, of the learned type or the one asked for."""
    name = config.prediction_name
    if explicit is None:
        field = LayoutField(name=name, type=_arrow_type(kind, name), width=_width(kind))
        return replace(layout, fields=(field,))
    unwrap = kind.name == "list" and not _is_list(explicit)
    depth, wanted = _depth(kind), _type_depth(explicit)
    if unwrap and kind.width == 1:
        depth -= 1
    if depth != wanted and kind != NULL and kind.name != "arrow":
        listed = f"'{'list<' * depth}{explicit}{'>' * depth}'" if not wanted else "float64"
        raise ReplyError(
            f"--prediction-type {explicit} does not fit replies with {describe(kind)} a row",
            hint=f"such as --prediction-type {listed}, or choose a part of it with --reply",
        )
    field = LayoutField(name=name, type=explicit)
    return replace(layout, fields=(field,), unwrap=unwrap and kind.width == 1, explicit_type=True)


def _arrow_type(kind: Kind, name: str) -> pa.DataType:
    try:
        return arrow_type(kind)
    except KindConflictError as error:
        big = str(error) == describe(Kind(name="big"))
        raise ReplyError(
            f"replies hold {error} for {name!r}" + (", which float64 would round" if big else ""),
            hint="add --prediction-type int64" if big else _TYPE_HINT,
        ) from error


def _width(kind: Kind) -> int | None:
    return kind.width if kind.name == "list" else None


def _is_list(type_: pa.DataType | None) -> bool:
    return type_ is not None and pt.is_list(type_)


def _depth(kind: Kind) -> int:
    return 1 + _depth(kind.item) if kind.name == "list" and kind.item is not None else 0


def _type_depth(type_: pa.DataType) -> int:
    return 1 + _type_depth(type_.value_type) if pt.is_list(type_) else 0
