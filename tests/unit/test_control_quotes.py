"""Messages of endpoints without what they quote of the request."""

import pytest

from asyncbatch.control.quotes import without_quotes

CSV = b"10.0,Anna,secret-note-17\n11.5,Bert,secret-note-18\n"
JSON = b'{"instances": [{"age": 41, "name": "Anna"}]}'


@pytest.mark.parametrize(
    ("text", "sent", "shown"),
    [
        ("bad row: " + CSV.decode(), CSV, "bad row: …"),
        ("could not convert string to float: 'Anna'", CSV, "could not convert string to float: '…'"),
        ("row 0 is 10.0,Anna", CSV, "row 0 is …"),
        ("value 11.5 is out of range", CSV, "value … is out of range"),
        ("Expected 2D array, got 1D array instead", CSV, "Expected 2D array, got 1D array instead"),
        ("X has 3 features, but 20 are expected", CSV, "X has 3 features, but 20 are expected"),
        ("column 'age' of instances must be > 50, is 41 for \"Anna\"", JSON, "column 'age' of instances must be > 50, is 41 for \"…\""),  # noqa: E501
        ('{"detail": "no field \\"name\\""}', JSON, '{"detail": "no field \\"name\\""}'),
        ("got " + JSON.decode(), JSON, 'got {"…'),
        ("feature_income is missing", b"feature_income\n1\n", "feature_income is missing"),
        ("two\nlines  and\tblanks", b"", "two lines and blanks"),
        ("row [1.5 2.5 3.5] is refused", b"\x93NUMPY\0\0", "row […] is refused"),
        ("row [1.5 2.5 3.5] is refused", b"x,y", "row [1.5 2.5 3.5] is refused"),
        ("abcd " * 61, b"", "abcd " * 60 + "…"),
        ("x " * 149 + "secret-note-17", CSV, "x " * 149 + "…"),
        ("", CSV, ""),
    ],
)  # fmt: skip
def test_what_the_request_held_is_taken_out(text: str, sent: bytes, shown: str) -> None:
    assert without_quotes(text, sent, ("age", "name", "feature_income")) == shown
