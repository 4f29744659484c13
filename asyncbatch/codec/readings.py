"""The ways to read a reply as n rows. Learning picks the one that fits all probes; decoding uses it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asyncbatch.codec import bodies
from asyncbatch.codec.bodies import Column, UnreadableError
from asyncbatch.codec.convert import text_number
from asyncbatch.codec.layout import Form
from asyncbatch.codec.paths import Path, compile_path, key_step
from asyncbatch.model import Reply

MAX_DEPTH = 6
"""How deep in a JSON reply the list of rows is looked for."""


class RowCountError(Exception):
    """The reply holds another number of rows than asked."""

    def __init__(self, found: int) -> None:
        super().__init__(found)
        self.found = found


@dataclass(frozen=True, slots=True)
class Reading:
    """One way of reading: a form, and for some forms where or how."""

    form: Form
    path: str = ""
    header: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRows:
    """CSV rows as text cells: whether they are numbers is decided over all rows."""

    cells: list[list[str]]
    names: list[str] | None = None


def read(reading: Reading, reply: Reply, rows: int, path: Path) -> Column | dict[str, Column] | TextRows:
    """The rows of a reply: one column, several by name, or text cells. Each is `rows` long.

    Args:
        path: `reading.path`, compiled.

    Raises:
        UnreadableError: not of this form.
        RowCountError: another number of rows.
    """
    found: Column | dict[str, Column] | TextRows
    body = reply.body
    match reading.form:
        case "csv-lines":
            found = _csv_lines(body, rows, header=reading.header)
        case "csv-line":
            found = _csv_line(body, rows)
        case "json":
            found = _rows_at(bodies.load_json(body), rows, path)
        case "json-columns":
            found = _columns_at(bodies.load_json(body), path)
        case "jsonl":
            found = _rows_at(bodies.json_lines(body), rows, path)
        case "v2":
            tensors = bodies.v2_tensors(bodies.load_json(body))
            if tensors is None:
                raise UnreadableError("it holds no V2 tensors")
            columns = {name: bodies.tensor_rows(tensor, rows) for name, tensor in tensors.items()}
            found = next(iter(columns.values())) if len(columns) == 1 else columns
        case "npy":
            found = bodies.tensor_rows(bodies.load_npy(body), rows)
        case "arrow":
            found = bodies.table_columns(bodies.load_arrow(body))
        case "python":
            found = bodies.native_columns(reply.result, rows)
            if reading.path:
                found = _rows_at(found, rows, path)
    _check_rows(found, rows)
    return found


def _check_rows(found: Column | dict[str, Column] | TextRows, rows: int) -> None:
    columns = (
        list(found.values())
        if isinstance(found, dict)
        else [found.cells if isinstance(found, TextRows) else found]
    )
    if not columns:
        raise UnreadableError("it holds no columns")
    for column in columns:
        if getattr(column, "ndim", 1) == 0:
            raise RowCountError(1)
        if len(column) != rows:
            raise RowCountError(len(column))


def _csv_lines(body: bytes, rows: int, *, header: bool) -> TextRows:
    lines = bodies.csv_rows(body)
    names = None
    if header:
        if not lines:
            raise UnreadableError("its header line is missing")
        names, lines = lines[0], lines[1:]
        if any(line and len(line) != len(names) for line in lines):
            raise UnreadableError("its lines and its header line differ in length")
        if not _is_header(names, lines):
            raise UnreadableError("its first line is no header line")
    return TextRows(cells=bodies.aligned_rows(lines, rows), names=names)


def _is_header(names: list[str], lines: list[list[str]]) -> bool:
    """No number in the first line, and numbers below. A row too many must never pass for a header."""
    if any(is_number(name) for name in names):
        return False
    return any(all(not line or is_number(line[index]) for line in lines) for index in range(len(names)))


def is_number(cell: str) -> bool:
    """Also nan, inf, and what stands for null."""
    try:
        text_number(cell)
    except ValueError:
        return False
    return True


def _csv_line(body: bytes, rows: int) -> Column | TextRows:
    text = body.strip()
    if b"\n" in text:
        raise UnreadableError("it has more than one line")
    if not text:
        raise UnreadableError("it is empty")
    if b"[" in text:
        return bodies.load_items(text)
    return TextRows(cells=[[cell] for line in bodies.csv_rows(text) for cell in line])


def _rows_at(tree: Any, rows: int, path: Path) -> list[Any]:
    """For one row a server may leave the list out."""
    found = path.find(tree)
    if isinstance(found, list):
        return found
    if found is None:
        raise UnreadableError("nothing is where the predictions should be")
    if rows == 1:
        return [found]
    raise UnreadableError("what should be the list of predictions is none")


def _columns_at(tree: Any, path: Path) -> dict[str, Column]:
    found = path.find(tree)
    if not isinstance(found, dict) or not all(isinstance(each, list) for each in found.values()):
        raise UnreadableError("it holds no object of lists where the predictions should be")
    return {str(key): each for key, each in found.items()}


def candidates(reply: Reply, rows: int) -> list[Reading]:
    """Every reading that could give `rows` rows, the likelier first; `read` decides."""
    if reply.result is not None:
        return [Reading("python")]
    body = reply.body
    if bodies.is_npy(body):
        return [Reading("npy")]
    if bodies.is_arrow(body):
        return [Reading("arrow")]
    media = bodies.media_type(reply)
    if media == "text/html" or body[:256].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return []  # an error page
    bracketed = body.lstrip()[:1] in (b"{", b"[")
    as_json = list(_json_readings(body, rows))
    if media in bodies.JSON_LINES:
        return [Reading("jsonl"), *as_json]
    if media == "text/csv":
        # XGBoost's `[0.1,0.9],[0.3,0.7]`: for one row it looks like JSON, and is none.
        return [Reading("csv-line"), Reading("jsonl"), *as_json] if bracketed else [*_CSV, *as_json]
    if bracketed:
        whole = _is_json(body)
        return as_json if whole else [Reading("jsonl"), Reading("csv-line")]
    return [*as_json, *_CSV] if bodies.is_json_type(media) else [*_CSV, *as_json]


_CSV = (Reading("csv-lines"), Reading("csv-line"), Reading("csv-lines", header=True))


def _is_json(body: bytes) -> bool:
    try:
        bodies.load_json(body)
    except UnreadableError:
        return False
    return True


def _json_readings(body: bytes, rows: int) -> Iterator[Reading]:
    try:
        tree = bodies.load_json(body)
    except UnreadableError:
        return
    try:
        if bodies.v2_tensors(tree) is not None:
            yield Reading("v2")
    except UnreadableError:
        pass  # looks like V2, but its shapes are wrong: read as plain JSON
    paths = list(_list_paths(tree, rows, "", 0))
    for path in paths:
        yield Reading("json", path)
    if not paths and rows == 1 and not isinstance(tree, list):
        yield Reading("json")  # one row, answered without a list around it


def _list_paths(tree: Any, rows: int, path: str, depth: int) -> Iterator[str]:
    if isinstance(tree, list):
        if len(tree) == rows:
            yield path
    elif isinstance(tree, dict) and depth < MAX_DEPTH:
        for key, value in tree.items():
            yield from _list_paths(
                value, rows, f"{path}.{key_step(key)}" if path else key_step(key), depth + 1
            )


def fits(reading: Reading, reply: Reply, rows: int) -> bool:
    """Whether the reply can be read so."""
    try:
        read(reading, reply, rows, compile_path(reading.path))
    except (UnreadableError, RowCountError):
        return False
    return True
