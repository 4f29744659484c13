"""The body cap: found in a few refusals, wherever it lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.control.body_cap import BodyCap


def search(cap: BodyCap, *, limit: int, requests: int) -> int:
    """Send bodies as large as allowed to a server with a limit; how many it refused."""
    refused = 0
    for _ in range(requests):
        body = cap.max_bytes
        if body > limit:
            cap.refused(body)
            refused += 1
        else:
            cap.answered(body)
    return refused


def test_nothing_is_refused_below_the_limit() -> None:
    cap = BodyCap(max_bytes=6_000)
    assert search(cap, limit=6_000, requests=100) == 0
    assert cap.max_bytes == 6_000


@given(limit=st.integers(2, 25 * 2**20), ceiling=st.integers(2, 25 * 2**20))
def test_a_limit_is_found_within_a_tenth_by_few_refusals(limit: int, ceiling: int) -> None:
    cap = BodyCap(max_bytes=ceiling)
    # At most one a factor of two down to the limit, and a handful around it.
    assert search(cap, limit=limit, requests=1_000) <= 30
    assert cap.max_bytes <= limit or ceiling <= limit
    assert cap.max_bytes >= 0.9 * min(limit, ceiling) - 1


def test_known_answers_shorten_the_search() -> None:
    cap = BodyCap(max_bytes=6 * 2**20)
    cap.answered(60_000)
    assert search(cap, limit=65_536, requests=1_000) <= 7


@given(sizes=st.lists(st.tuples(st.booleans(), st.integers(0, 10_000))))
def test_the_cap_stays_between_one_and_the_ceiling_and_below_what_was_refused(
    sizes: list[tuple[bool, int]],
) -> None:
    cap = BodyCap(max_bytes=5_000)
    for taken, size in sizes:
        if taken:
            cap.answered(size)
        else:
            cap.refused(size)
            assert cap.max_bytes < size or size <= 1
        assert 1 <= cap.max_bytes <= 5_000


def test_a_stray_refusal_does_not_keep_bodies_small() -> None:
    cap = BodyCap(max_bytes=6_000)
    cap.answered(5_000)
    cap.refused(50)
    assert cap.max_bytes < 50
    assert search(cap, limit=6_000, requests=400) == 0
    assert cap.max_bytes == 6_000


def test_a_limit_that_some_servers_do_not_have_is_asked_for_now_and_then_only() -> None:
    cap = BodyCap(max_bytes=60_000)
    cap.answered(50_000)
    cap.refused(10_000)
    assert search(cap, limit=9_000, requests=1_000) <= 150


def test_a_ceiling_is_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        BodyCap(max_bytes=0)
