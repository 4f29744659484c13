"""The HTML reports' frame: what is in the file, escaped, and how it is refused."""

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest

from asyncbatch.errors import ConfigError, StorageError
from asyncbatch.observe.page import (
    Figure,
    Page,
    Section,
    Table,
    page_html,
    read_document,
)
from asyncbatch.observe.report_file import check_report_can_be_made, write_whole

FIGURE = Figure(
    name="rate", traces=[{"type": "scatter", "x": [0, 1], "y": [3.5, None]}], layout={"xaxis": {}}
)
NASTY = "</script><script>alert('&')</script>"


def page(**more: Any) -> Page:
    return Page(title="a run", answer="done", **more)


def test_text_from_outside_is_escaped_everywhere() -> None:
    content = page_html(
        Page(
            title=NASTY,
            answer=NASTY,
            notes=[NASTY],
            sections=[Section(title=NASTY, text=NASTY, shows=[Table(head=[NASTY], rows=[[NASTY]])])],
            facts=[(NASTY, NASTY)],
            document={"name": NASTY},
        ),
        script="",
    )
    assert "alert('&')" not in content
    assert content.count("<script") == 4


def test_the_document_is_read_back_as_it_was() -> None:
    document = {"name": NASTY, "rows_per_s": 12.5, "list": [1, None, "ü"]}
    assert read_document(page_html(page(document=document), script="")) == document


def test_another_page_is_no_report() -> None:
    with pytest.raises(ValueError, match="no report"):
        read_document("<html></html>")


def test_figures_are_in_the_page_as_json_beside_a_place_to_draw_them() -> None:
    content = page_html(page(sections=[Section(title="s", shows=[FIGURE])]), script="")
    (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', content)
    assert json.loads(figures) == {"rate": {"traces": FIGURE.traces, "layout": FIGURE.layout}}
    assert 'id="rate" style="height: 380px"' in content


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    table = Table(head=["rows", "name"], rows=[["1,000", "a"], ["-", "2b c"], ["± 3 %", "c"]])
    content = page_html(page(sections=[Section(title="s", shows=[table])]), script="")
    assert '<td class="n">1,000</td><td>a</td>' in content


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_whole(str(path), page_html(page(sections=[Section(title="s", shows=[FIGURE])])))
    content = path.read_text(encoding="utf-8")
    assert not re.findall(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", content[: content.index("plotly.js v")]
    )
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write the report"):
        write_whole(str(tmp_path / "absent" / "report.html"), "new")


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match="plotly") as caught:
        check_report_can_be_made("report.html")
    assert "asyncbatch[report]" in (caught.value.hint or "")
