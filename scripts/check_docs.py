"""Check the documentation: links, names of tests, files and options, and every block marked to be run.

    python scripts/check_docs.py [--static] [PAGE ...]

Without pages: every page of docs/ and the Markdown files beside it; blocks are run in docs/ only. Marks are
HTML comments, which readers do not see, in the line before a code block:

    <!-- run -->            run it: `console` command by command, `python` with what the page's earlier blocks
                            define; await is allowed at the top level
    <!-- run exit=2 -->     the last command of a console block ends with this exit code
    <!-- file model.py -->  write the block to this file first
    <!-- output -->         what the python block before it printed
    <!-- serve echo -->     anywhere on the page: what answers at http://127.0.0.1:8080

Lines of a console block that are no command are the output that is expected, stdout and stderr together; `…`
stands for any text. The blocks of a page share a folder that is empty at first, without AWS configuration.
"""

import ast
import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PLACE = "127.0.0.1:8080"
TIMEOUT_S = 60
AT_ONCE = 3
_FENCE = re.compile(r"^(```+)(\w*)\s*$")
_MARK = re.compile(r"^<!--\s*(run|file|output|serve)\b\s*(.*?)\s*-->\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)")
_TEST = re.compile(r"(?<![\w/])(tests/[\w/]+\.py)(?:::(\w+))?")
_FILE = re.compile(r"(?:docs|scripts|tests|asyncbatch|benchmarks)/[\w./-]+\.\w+")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_NOT_OURS = frozenset(("--check", "--slow", "--static"))
"""Options of scripts and of pytest, which pages may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block and the mark above it."""

    language: str
    text: str
    line: int
    mark: str = ""
    argument: str = ""


@dataclass(slots=True, kw_only=True)
class Page:
    """A Markdown file, taken apart."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)
    """Line number and text of everything outside blocks."""
    serve: str = ""

    @property
    def name(self) -> str:
        return os.path.relpath(self.path, ROOT)


def read_page(path: Path) -> Page:
    page = Page(path=path)
    mark = argument = ""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if fence := _FENCE.match(line):
            body = []
            for _, inner in lines:
                if inner.strip() == fence[1]:
                    break
                body.append(inner)
            page.blocks.append(
                Block(language=fence[2], text="\n".join(body), line=number, mark=mark, argument=argument)
            )
            mark = argument = ""
        elif found := _MARK.match(line):
            if found[1] == "serve":
                page.serve = found[2]
            else:
                mark, argument = found[1], found[2]
        else:
            page.prose.append((number, line))
            if line.strip():
                mark = argument = ""
    return page


# -- what can be checked by reading


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Page) -> set[str]:
    return {slug(line.lstrip("#")) for _, line in page.prose if re.match(r"#{1,6} ", line)}


def check_links(page: Page) -> Iterator[str]:
    for number, line in page.prose:
        for target in _LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.path.parent / path).resolve() if path else page.path
            if not there.exists():
                yield f"{page.name}:{number}: {target} does not exist"
            elif anchor and there.suffix == ".md" and anchor not in anchors(read_page(there)):
                yield f"{page.name}:{number}: {path or 'the page'} has no heading #{anchor}"


def check_names(page: Page) -> Iterator[str]:
    """Tests and files that are named must exist."""
    for number, line in page.prose:
        for path, test in _TEST.findall(line):
            if not (ROOT / path).is_file():
                yield f"{page.name}:{number}: {path} does not exist"
            elif test and test not in test_names(path):
                yield f"{page.name}:{number}: {path} has no test {test}"
        for code in re.findall(r"`([^`]+)`", line):
            for path in _FILE.findall(code):
                if not path.startswith("tests/") and code.startswith(path) and not (ROOT / path).exists():
                    yield f"{page.name}:{number}: {path} does not exist"


def test_names(path: str) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        each.name
        for each in ast.walk(tree)
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name.startswith("test_")
    }


def check_options(page: Page, known: frozenset[str]) -> Iterator[str]:
    """Options in the text must be options of a command."""
    for number, line in page.prose:
        for code in re.findall(r"`([^`]+)`", line):
            for option in _OPTION.findall(code):
                if option not in known:
                    yield f"{page.name}:{number}: no command has the option {option}"


def known_options() -> frozenset[str]:
    sys.path.insert(0, str(ROOT))
    import typer

    from asyncbatch.cli.main import build_app

    group = typer.main.get_command(build_app())
    commands = [group, *getattr(group, "commands", {}).values()]
    names = {
        name for command in commands for each in command.params for name in [*each.opts, *each.secondary_opts]
    }
    return frozenset(names | {"--help"} | _NOT_OURS)


def check_static(pages: Sequence[Page]) -> list[str]:
    known = known_options()
    problems = []
    for page in pages:
        problems += [*check_links(page), *check_names(page)]
        if ROOT / "docs" in page.path.parents:
            problems += check_options(page, known)
    return problems


# -- what is run


@contextlib.contextmanager
def server(model: str) -> Iterator[str]:
    """`asyncbatch serve MODEL` on a free port; `host:port`."""
    command = [str(BIN / "asyncbatch"), "serve", *model.split(), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1:\d+)", said)
        if found is None:
            raise SystemExit(f"{' '.join(command)}: {said}{process.stdout.read()}")
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ASYNCBATCH_"))}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "HOME": str(folder),
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ASYNCBATCH_NO_PROGRESS": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])),
    }


def commands_of(block: Block) -> list[tuple[str, str]]:
    """Each command with the output expected of it."""
    found: list[tuple[list[str], list[str]]] = []
    open_line = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
            open_line = line.endswith("\\")
        elif found and (open_line or line.startswith("> ")):
            found[-1][0].append(line.removeprefix("> "))
            open_line = line.endswith("\\")
        elif found:
            found[-1][1].append(line)
    return [("\n".join(command), "\n".join(output)) for command, output in found]


def same(expected: str, got: str) -> bool:
    """Equal, but for blanks at line ends and what `…` stands for."""
    wanted, there = (
        "\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (expected, got)
    )
    pattern = ".*?".join(re.escape(piece) for piece in wanted.split("…"))
    return re.fullmatch(pattern, there, re.DOTALL) is not None


def run_console(block: Block, where: str, folder: Path, address: str) -> Iterator[str]:
    code = re.search(r"exit=(\d+)", block.argument)
    commands = commands_of(block)
    for index, (command, expected) in enumerate(commands):
        try:
            result = subprocess.run(
                ["bash", "-c", command.replace(PLACE, address)],
                cwd=folder,
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield f"{where}: {command}: still running after {TIMEOUT_S} s"
            return
        got = result.stdout.replace(address, PLACE).replace(str(folder), "~")
        wanted = int(code[1]) if code and index == len(commands) - 1 else 0
        if result.returncode != wanted:
            yield f"{where}: {command}: exit code {result.returncode}, not {wanted}\n{got}"
            return
        if expected.strip() and not same(expected, got):
            yield f"{where}: {command}: printed\n{got}"


def console(block: Block, page: Page, folder: Path, address: str) -> list[str]:
    return list(run_console(block, f"{page.name}:{block.line}", folder, address))


def only_plans(block: Block) -> bool:
    """Whether it writes nothing, so that it can be run beside others."""
    commands = [command for command, _ in commands_of(block)]
    return block.language == "console" and all(
        re.search(r"(?:^|\s)asyncbatch plan ", command) and ">" not in command for command in commands
    )


def run_python(blocks: Sequence[Block], page: Page, folder: Path, address: str) -> Iterator[str]:
    """All of them in one process, each with what it printed."""
    texts = [block.text.replace(PLACE, address) for block in blocks if block.language == "python"]
    try:
        result = subprocess.run(
            [sys.executable, "-W", "error::SyntaxWarning", __file__, "--python"],
            cwd=folder,
            env=environment(folder),
            input=json.dumps(texts),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield f"{page.name}:{blocks[0].line}: still running after {TIMEOUT_S} s"
        return
    printed: list[str] = json.loads(result.stdout.splitlines()[-1]) if result.stdout.strip() else []
    at = -1
    for block in blocks:
        if block.language == "python":
            at += 1
            if at >= len(printed):
                yield f"{page.name}:{block.line}: {result.stderr.strip()}"
                return
        elif not same(block.text, printed[at].replace(address, PLACE)):
            yield f"{page.name}:{block.line}: printed\n{printed[at]}"


def execute_python(texts: Sequence[str]) -> int:
    """In a process of its own: execute the blocks in one namespace; print what each printed, as JSON."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = []
    sys.path.insert(0, str(Path.cwd()))
    with asyncio.Runner() as runner:
        for text in texts:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                try:
                    code = compile(text, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                    waiting = eval(code, names)
                    if waiting is not None:
                        runner.run(waiting)
                except Exception:
                    sys.__stdout__.write(json.dumps(printed) + "\n")  # type: ignore[union-attr]
                    raise
            printed.append(out.getvalue())
    print(json.dumps(printed))
    return 0


def run_page(page: Page, addresses: dict[str, str]) -> list[str]:
    """Run the marked blocks of a page, in order."""
    problems: list[str] = []
    address = addresses.get(page.serve, PLACE)
    marked = [block for block in page.blocks if block.mark]
    with tempfile.TemporaryDirectory(prefix="asyncbatch-docs-") as name:
        folder = Path(name).resolve()
        while marked:
            block = marked.pop(0)
            if block.mark == "file":
                (folder / block.argument).write_text(block.text + "\n", encoding="utf-8")
            elif block.language == "console":
                together = [block]
                while marked and only_plans(block) and only_plans(marked[0]):
                    together.append(marked.pop(0))
                with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
                    for found in pool.map(lambda each: console(each, page, folder, address), together):
                        problems += found
            elif block.language == "python":
                group = [block]
                while marked and marked[0].language != "console":
                    block = marked.pop(0)
                    if block.mark == "file":
                        (folder / block.argument).write_text(block.text + "\n", encoding="utf-8")
                    else:
                        group.append(block)
                problems += run_python(group, page, folder, address)
            else:
                problems.append(f"{page.name}:{block.line}: a {block.language} block cannot be run")
    return problems


def run_pages(pages: Sequence[Page]) -> list[str]:
    models = sorted({page.serve for page in pages if page.serve})
    with contextlib.ExitStack() as stack:
        addresses = {model: stack.enter_context(server(model)) for model in models}
        longest_first = sorted(pages, key=lambda page: -len([block for block in page.blocks if block.mark]))
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            return [
                problem
                for found in pool.map(lambda page: run_page(page, addresses), longest_first)
                for problem in found
            ]


def main(arguments: list[str]) -> int:
    if arguments == ["--python"]:
        return execute_python(json.load(sys.stdin))
    started = time.monotonic()
    static = "--static" in arguments
    chosen = [Path(each).resolve() for each in arguments if each != "--static"]
    pages = [
        read_page(path) for path in chosen or sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    ]
    problems = check_static(pages)
    runnable = [
        page
        for page in pages
        if ROOT / "docs" in page.path.parents and any(block.mark for block in page.blocks)
    ]
    if not static:
        problems += run_pages(runnable)
    for problem in problems:
        print(problem, file=sys.stderr)
    blocks = sum(1 for page in runnable for block in page.blocks if block.mark == "run")
    done = "read" if static else f"read, {blocks} blocks run"
    print(f"{len(pages)} pages {done}, {len(problems)} problems, {time.monotonic() - started:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
