"""Runs the README's `console` blocks whose lines begin with `$`, in a clean copy of the tree, as a newcomer would.

    python scripts/run_readme_blocks.py README.md [--tests]

The test command is left out unless `--tests` is given: the full check runs the tests anyway. Blocks without `$` show how to
use the tool with an endpoint of one's own; their options are checked against `--help`.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = "336,776 rows"


def blocks(text: str) -> list[str]:
    return re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    return [line[2:] for block in blocks(text) for line in block.splitlines() if line.startswith("$ ")]


def examples(text: str) -> list[str]:
    lines = [line for block in blocks(text) for line in block.splitlines()]
    return [line for line in lines if line.startswith("asyncbatch ")]


def clean_copy(folder: Path) -> Path:
    """The files git knows or would add; nothing that only this machine has."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def check_examples(asyncbatch: Path, lines: list[str]) -> None:
    """Every option that an example uses exists."""
    for line in lines:
        command = line.split()[1]
        helped = subprocess.run(
            [asyncbatch, command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"(?<=\s)--?[a-z][a-z0-9-]*", line):
            if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", helped):
                raise SystemExit(f"README: {option} of {line!r} is not in asyncbatch {command} --help")


def main() -> int:
    text = Path(sys.argv[1]).read_text()
    found = commands(text)
    assert "asyncbatch demo" in found[0], "the first command is the demo"
    wanted = [line for line in found if "pytest" not in line or "--tests" in sys.argv]
    with tempfile.TemporaryDirectory() as folder:
        where = clean_copy(Path(folder))
        for line in wanted:
            print(f"$ {line}", flush=True)
            ran = subprocess.run(["bash", "-c", line], cwd=where, capture_output=True, text=True, check=False)
            print(ran.stdout[-3000:], ran.stderr[-2000:], flush=True)
            if ran.returncode != 0:
                return ran.returncode
            if "asyncbatch demo" in line and ROWS not in ran.stdout:
                print(f"README: the demo did not print {ROWS}")
                return 1
        check_examples(where / ".venv" / "bin" / "asyncbatch", examples(text))
    print(f"{len(wanted)} commands run, {len(examples(text))} examples checked")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
