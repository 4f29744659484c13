"""The table of benchmarks/mutants.py fits the code: it breaks what is there, and names tests that are there."""

from pathlib import Path

import pytest
from mutants import Mutant, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", load(), ids=lambda mutant: mutant.invariant)
def test_a_mutant_changes_one_place_and_is_guarded_by_tests_that_exist(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    compile(mutant.applied(text), mutant.file, "exec")
    assert mutant.applied(text) != text
    assert mutant.guard
    assert mutant.missing_guards(ROOT) == []


def test_a_line_that_is_not_there_is_said() -> None:
    mutant = Mutant(invariant="x", file="f.py", old="a = 1", new="a = 2", guard=())
    assert mutant.applied("a = 1\n") == "a = 2\n"
    for text in ("", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match=r"f\.py holds"):
            mutant.applied(text)
