"""docs/formats.md says what happens: its examples are run, its tables compared with the code."""

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from asyncbatch.codec import infer_layout, make_encoder
from asyncbatch.codec.encoder import CONTENT_TYPES
from asyncbatch.codec.template import PRESETS, Variable
from asyncbatch.config import BODIES, ReplyConfig, RequestConfig
from asyncbatch.model import BytesPayload, Reply

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
LINE_BREAK = "⏎"


def table_under(title: str) -> list[list[str]]:
    """The cells of the table whose first header cell is `title`."""
    lines = PAGE.split(f"| {title} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(("options", "body"), table_under("options"))
def test_bodies_are_as_shown(options: str, body: str) -> None:
    given = shlex.split(options.strip("`"))
    config = RequestConfig(**{name[2:]: value for name, value in zip(given[::2], given[1::2], strict=True)})
    table = pa.table({"a": [1.5, 2.5], "b": ["x", None]})
    payload = make_encoder(config, table.schema).encode(table).payload(0, 2)
    assert isinstance(payload, BytesPayload)
    assert b"".join(map(bytes, payload.pieces)).decode() == body.strip("`").replace(LINE_BREAK, "\n")


@pytest.mark.parametrize(("body", "words"), table_under("two rows answered with"))
def test_replies_are_read_as_shown(body: str, words: str) -> None:
    reply = Reply(body=body.strip("`").replace(LINE_BREAK, "\n").encode())
    layout = infer_layout([(reply, 2)], ReplyConfig())
    if words.startswith("a number a row"):
        assert [field.type for field in layout.fields] == [pa.float64()]
        assert layout.header == ("header" in words)
    elif "list of 2" in words:
        assert layout.fields[0].width == 2
    else:
        assert [field.name for field in layout.fields] == ["label", "score"]


def test_the_tables_name_every_body_preset_and_variable() -> None:
    bodies = table_under("`--body`")
    assert [row[0].strip("`") for row in bodies] == list(BODIES)
    assert {row[0].strip("`"): row[1].strip("`") for row in bodies if row[0] != "`raw`"} == CONTENT_TYPES
    presets = {row[0].strip("`"): re.findall("`(.+?)`", row[1])[0] for row in table_under("preset")}
    assert presets == {name: preset.text for name, preset in PRESETS.items()}
    assert [row[0].strip("`") for row in table_under("variable")] == [each.value for each in Variable]
