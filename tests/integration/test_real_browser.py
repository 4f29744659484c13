"""HTML reports in a real browser: their plots are drawn, without a network and without an error."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncbatch.observe.page import Figure, Page, Section, page_html

pytestmark = pytest.mark.real("chromium")


def test_every_figure_is_drawn(tmp_path: Path, rendered: Callable[[Path], str]) -> None:
    figures = [
        Figure(name=f"figure{n}", traces=[{"type": "scatter", "x": [0, 1, 2], "y": [n, 2, 7]}], layout={})
        for n in range(3)
    ]
    path = tmp_path / "report.html"
    path.write_text(
        page_html(Page(title="a report", answer="done", sections=[Section(title="s", shows=figures)])),
        encoding="utf-8",
    )
    content = rendered(path)
    assert re.findall(r'<div class="figure js-plotly-plot" id="(\w+)"', content) == [
        "figure0",
        "figure1",
        "figure2",
    ]
    assert content.count('class="scatterlayer') == 3
