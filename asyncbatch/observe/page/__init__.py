"""Reports as one HTML file that needs no network: text, tables and plots, in light and dark.

The plots are drawn by plotly.js, which the `report` extra brings and which is written into the file. What they show is
in the file as JSON, and so is the document that the report was made from: `read_document` gives it back.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from asyncbatch.errors import ConfigError

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
    """Cells are text; a column whose cells all begin with a digit or a sign is set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = ()
    """Heads of columns that begin with digits and are set to the left all the same."""


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


def read_document(content: str) -> dict[str, Any]:
    """The document of a page that `page_html` made.

    Raises:
        ValueError: it is no such page.
    """
    found = _DOCUMENT.search(content)
    if found is None:
        raise ValueError("no report of asyncbatch")
    document: dict[str, Any] = json.loads(found.group(1))
    return document


def page_html(page: Page, *, script: str | None = None) -> str:
    """The whole page as text.

    Args:
        script: plotly.js; None: that of the installed package.

    Raises:
        ConfigError: plotly is not installed.
    """
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
        "plotly": (plotly_js() if script is None else script).replace("</script", "<\\/script"),
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
        name not in table.left and all(not row[at] or row[at][0] in "0123456789+-±<≥$" for row in table.rows)
        for at, name in enumerate(table.head)
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


def plotly_js() -> str:
    """The script that draws the plots.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "an HTML report needs plotly, which is not installed",
            hint="pip install 'asyncbatch[report]', or give the report a name that ends in .json",
        ) from error
    return str(get_plotlyjs())
