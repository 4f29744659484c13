"""scripts/check_docs.py finds what it is there to find, and the pages pass the part that needs no server."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


check_docs = load("check_docs")
measure_dependencies = load("measure_dependencies")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_the_pages_name_nothing_that_does_not_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert check_docs.check_static([check_docs.read_page(each) for each in pages]) == []


def test_every_dependency_has_its_row_and_its_figures() -> None:
    assert measure_dependencies.check() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](gone.md)", "gone.md does not exist"),
        ("# A b\n[x](#a-c)", "has no heading #a-c"),
        ("`tests/unit/test_gone.py::test_x`", "tests/unit/test_gone.py does not exist"),
        ("`tests/unit/test_control_budget.py::test_gone`", "has no test test_gone"),
        ("`scripts/gone.py`", "scripts/gone.py does not exist"),
    ],
)
def test_what_does_not_exist_is_found(page: Path, text: str, problem: str) -> None:
    page.write_text(text)
    found = [*check_docs.check_links(read := check_docs.read_page(page)), *check_docs.check_names(read)]
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "text",
    ["# A `b` c\n[x](#a-b-c)", "[x](page.md)", "[x](https://example.com/)", "```text\n[x](gone.md)\n```"],
)
def test_what_exists_or_is_elsewhere_is_no_problem(page: Path, text: str) -> None:
    page.write_text(text)
    assert [*check_docs.check_links(check_docs.read_page(page))] == []


def test_options_that_no_command_has_are_found(page: Path) -> None:
    page.write_text("`--chunk-rows 5` and `--chunk-row 5`")
    assert [
        line.partition(": ")[2]
        for line in check_docs.check_options(check_docs.read_page(page), frozenset(("--chunk-rows",)))
    ] == ["no command has the option --chunk-row"]


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        ("a\nb", "a  \nb\n", True),
        ("a … c", "a b\nb c", True),
        ("a", "a b", False),
        ("a.c", "abc", False),
    ],
)
def test_output_is_compared_but_for_what_an_ellipsis_stands_for(expected: str, got: str, equal: bool) -> None:
    assert check_docs.same(expected, got) is equal


def run(page: Path, text: str) -> list[str]:
    page.write_text(text)
    found: list[str] = check_docs.run_page(check_docs.read_page(page), {})
    return found


def test_marked_blocks_are_run_in_one_folder_and_others_are_not(page: Path) -> None:
    assert (
        run(
            page,
            "<!-- file m.py -->\n```python\nx = 1\n```\n"
            "<!-- run -->\n```console\n$ cat m.py\nx = 1\n$ echo 2 > two\n```\n"
            "```console\n$ exit 1\n```\n"
            "<!-- run -->\n```python\nfrom m import x\ny = x\n```\n"
            "<!-- run -->\n```python\nprint(y, open('two').read().strip())\n```\n"
            "<!-- output -->\n```text\n1 2\n```\n",
        )
        == []
    )


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("<!-- run -->\n```console\n$ exit 3\n```\n", "exit code 3, not 0"),
        ("<!-- run exit=2 -->\n```console\n$ true\n```\n", "exit code 0, not 2"),
        ("<!-- run -->\n```console\n$ echo a\nb\n```\n", "printed\na"),
        ("<!-- run -->\n```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("<!-- run -->\n```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```\n", "printed\n1"),
    ],
)
def test_a_block_that_does_something_else_is_a_problem(page: Path, block: str, problem: str) -> None:
    found = run(page, block)
    assert len(found) == 1
    assert problem in found[0]
