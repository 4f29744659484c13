"""`--types` as people write it."""

from typing import Any

import pytest

from asyncbatch.units import parse_types


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        ("a=int64,b=string", (("a", "int64"), ("b", "string"))),
        ("a=decimal128(12, 2), b=int64", (("a", "decimal128(12, 2)"), ("b", "int64"))),
        ("at=timestamp[us, UTC]", (("at", "timestamp[us, UTC]"),)),
        ("x=y=int64,", (("x=y", "int64"),)),
        ({"a,b": "int64"}, (("a,b", "int64"),)),
    ],
)
def test_types_with_commas_in_them_are_one_type(given: Any, pairs: tuple[tuple[str, str], ...]) -> None:
    assert parse_types(given) == pairs


@pytest.mark.parametrize("given", ["", ",", "a", "a=", "=int64"])
def test_what_is_no_pair_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"expected COLUMN=TYPE|names nothing"):
        parse_types(given)
