"""Reports as one HTML file that needs no network: text, tables and plots, in light and dark.

The plots are drawn by plotly.js, which the `report` extra brings and which is written into the file. What they show is
in the file as JSON, and so is the document that the report was made from: `read_document` gives it back.
"""

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from asyncbatch.errors import ConfigError, StorageError

_DOCUMENT = re.compile(r'<script type="application/json" id="document">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot: traces and layout of plotly.js, as JSON values. The page adds colours and fonts."""

    name: str
    """Its id in the page: a word."""
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 380
    """Pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells are text; a column whose cells all begin with a digit, a sign or `-` is set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, what to know about it, and what it shows."""

    title: str
    text: str = ""
    shows: Sequence[Figure | Table] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report."""

    title: str
    answer: str
    """The sentence that people came for."""
    notes: Sequence[str] = ()
    """Warnings and caveats; they stand before the figures."""
    sections: Sequence[Section] = ()
    facts: Sequence[tuple[str, str]] = ()
    """Command, versions, machine, seed: what repeating it takes."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """The JSON document that the report shows."""


def check_page_can_be_made() -> None:
    """Before hours of work that end in a report.

    Raises:
        ConfigError: plotly is not installed.
    """
    _plotly_js()


def write_page(page: Page, path: str) -> None:
    """Write the page to a local file, whole or not at all.

    Raises:
        ConfigError: plotly is not installed.
        StorageError: the folder does not exist or cannot be written.
    """
    content = page_html(page, plotly_js=_plotly_js())
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the report {path}: {error.strerror or error}",
            hint="give --report a path in a folder that exists",
        ) from error


def read_document(content: str) -> dict[str, Any]:
    """The document of a page that `write_page` wrote.

    Raises:
        ValueError: it is no such page.
    """
    found = _DOCUMENT.search(content)
    if found is None:
        raise ValueError("no report of asyncbatch")
    document: dict[str, Any] = json.loads(found.group(1))
    return document


def page_html(page: Page, *, plotly_js: str) -> str:
    """The whole page as text."""
    here = files("asyncbatch.observe.page")
    figures = {
        figure.name: {"traces": figure.traces, "layout": figure.layout}
        for section in page.sections
        for figure in section.shows
        if isinstance(figure, Figure)
    }
    body = [f"<h1>{_text(page.title)}</h1>", f'<p class="answer">{_text(page.answer)}</p>']
    if page.notes:
        body.append(
            '<ul class="notes">' + "".join(f"<li>{_text(note)}</li>" for note in page.notes) + "</ul>"
        )
    body += [_section(section) for section in page.sections]
    if page.facts:
        facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in page.facts)
        body.append(f'<section><h2>To repeat it</h2><dl class="facts">{facts}</dl></section>')
    values = {
        "title": _text(page.title),
        "style": (here / "page.css").read_text(encoding="utf-8"),
        "body": "\n".join(body),
        "document": _json(page.document),
        "figures": _json(figures),
        "plotly": plotly_js.replace("</script", "<\\/script"),
        "script": (here / "page.js").read_text(encoding="utf-8"),
    }
    frame = (here / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found.group(1)], frame)


def _section(section: Section) -> str:
    parts = [f"<h2>{_text(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{_text(section.text)}</p>")
    for shown in section.shows:
        if isinstance(shown, Table):
            parts.append(_table(shown))
        else:
            parts.append(f'<div class="figure" id="{shown.name}" style="height: {shown.height}px"></div>')
    return "<section>" + "\n".join(parts) + "</section>"


def _table(table: Table) -> str:
    right = [
        all(not row[at] or row[at][0] in "0123456789+-±<≥$" for row in table.rows)
        for at in range(len(table.head))
    ]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{_text(cell)}</{tag}>' if aligned else f"<{tag}>{_text(cell)}</{tag}>"
            for cell, aligned in zip(row, right, strict=True)
        )

    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = cells("th", table.head)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _json(value: object) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "an HTML report needs plotly, which is not installed",
            hint="pip install 'asyncbatch[report]', or give the report a name that ends in .json",
        ) from error
    script: str = get_plotlyjs()
    return script
