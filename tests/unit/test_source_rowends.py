"""Where rows of text begin and end."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncbatch.source.rowends import CsvRows, RowSpans, line_spans

ROWS = CsvRows(delimiter=",", quote='"')


def texts(data: bytes, spans: RowSpans) -> list[bytes]:
    return [data[start:stop] for start, stop in zip(spans.starts, spans.stops, strict=True)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\n\n\r\nb", [b"a", b"b"]),
        (b'"a\nb",c\nd\n', [b'"a\nb",c', b"d"]),
        (b'"a""\n""b"\nc\n', [b'"a""\n""b"', b"c"]),
        (b'5" disk,x\n6" disk,y\n', [b'5" disk,x', b'6" disk,y']),
        (b'5" disk,x\ny\n', [b'5" disk,x', b"y"]),
        (b'"a"b\nc\n', [b'"a"b', b"c"]),
        (b'""\n""\n', [b'""', b'""']),
        (b"a\rb\nc\n", [b"a\rb", b"c"]),
    ],
)
def test_csv_rows(data, expected):
    spans = ROWS.find(data, final=True)
    assert texts(data, spans) == expected
    assert spans.consumed == len(data)


@pytest.mark.parametrize("data", [b"a,b", b'a\n"b\nc', b'a\n"b\nc\n', b'a\n5" x\n"b\n'])
def test_an_open_row_is_left_for_later(data):
    spans = ROWS.find(data, final=False)
    assert texts(data, spans) == ([] if data == b"a,b" else data[: spans.consumed].splitlines())
    assert spans.consumed < len(data)


def test_an_open_quote_is_no_row_even_at_the_end():
    assert ROWS.find(b'"abc\ndef\n', final=True).consumed == 0


@pytest.mark.parametrize(
    ("data", "regular"),
    [(b"a\r\nb\r\n", True), (b"a\rb\n", False), (b'"a"b\n', False), (b'5"\n', False), (b'"a","b"\n', True)],
)
def test_only_regular_text_may_go_the_fast_way(data, regular):
    assert ROWS.find(data, final=True).regular is regular


def test_a_return_whose_line_feed_is_not_read_yet_is_regular():
    assert ROWS.find(b"a\r\nb\r", final=False).regular


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (b"a,b", [(b"a", False), (b"b", False)]),
        (b"", [(b"", False)]),
        (b",", [(b"", False), (b"", False)]),
        (b'"",', [(b"", True), (b"", False)]),
        (b'"a""b",5" c', [(b'a"b', True), (b'5" c', False)]),
        (b'"a\nb"', [(b"a\nb", True)]),
        (b' "a"', [(b' "a"', False)]),
        (b'"a"b', None),
        (b'"a', None),
        (b'x,"a""', None),
    ],
)
def test_a_row_is_split_losslessly_or_not_at_all(row, values):
    assert ROWS.split(row) == values


def test_lines_of_json():
    data = b'{"a": "\\n"}\r\n\n{"b": 1}'
    spans = line_spans(data, final=True)
    assert texts(data, spans) == [b'{"a": "\\n"}', b'{"b": 1}']
    assert line_spans(data, final=False).consumed == len(b'{"a": "\\n"}\r\n\n')


@given(
    st.lists(st.lists(st.text('ab",\n\r é', max_size=4), min_size=1, max_size=3), max_size=5), st.booleans()
)
@example([["a\nb"], ["c"]], True)
def test_what_the_standard_library_writes_is_found_and_split(table, quote_all):
    out = io.StringIO()
    # A value that ends in a carriage return is left unquoted by `csv`, and then reads as a line end.
    quote_all = quote_all or any("\r" in value for row in table for value in row)
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows(table)
    data = out.getvalue().encode()
    found = [ROWS.split(row) for row in texts(data, ROWS.find(data, final=True))]
    assert [[value.decode() for value, _ in row] for row in found] == table


@given(st.text('a",\n\r', max_size=24).map(str.encode), st.integers(0, 24))
def test_rows_do_not_depend_on_where_the_text_was_cut(data, cut):
    whole = ROWS.find(data, final=True)
    first = ROWS.find(data[:cut], final=False)
    rest = data[first.consumed :]
    second = ROWS.find(rest, final=True)
    assert texts(data[:cut], first) + texts(rest, second) == texts(data, whole)
    assert first.consumed + second.consumed == whole.consumed
