"""A run into a database that is killed again and again leaves whole blocks, and ends with every row once."""

import sys

import pytest
import torture_databases

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.mark.timeout(300)
def test_a_killed_run_into_a_table_ends_with_every_row_once() -> None:
    found = torture_databases.torture(kills=3, seed=3)
    assert found["violations"] == []
    assert found["kills"] >= 3
