"""The echo's short cut, which copies first fields and reads nothing."""

import pytest

from asyncbatch.server.dialects import dialect
from asyncbatch.server.models.echo import EchoModel
from asyncbatch.server.work import LineWork, Request, open_work


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (b"1,2\n3,4", b"1\n3\n"),
        (b"0.5,2\n,4", b'0.5\n""\n'),
    ],
    ids=["values", "a null in the last row"],
)
def test_an_echoed_row_is_never_an_empty_line(body: bytes, reply: bytes) -> None:
    request = Request(body=body, content_type="text/csv", accept="")
    work = open_work(request, model=EchoModel(), dialect=dialect("plain"))
    assert isinstance(work, LineWork)
    assert work.answer() == (reply, "text/csv")
