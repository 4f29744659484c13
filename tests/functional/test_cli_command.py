"""The command as it is typed: exit codes, what goes to stdout and stderr, help and what it imports."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyncbatch._version import __version__
from asyncbatch.cli.main import build_app, main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "",
    *sorted(each.name or each.callback.__name__ for each in build_app().registered_commands if each.callback),
]
HEAVY = (
    "pyarrow",
    "numpy",
    "aioboto3",
    "aiobotocore",
    "boto3",
    "botocore",
    "aiohttp",
    "polars",
    "pandas",
    "onnxruntime",
)


def run(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCBATCH_")}
    return subprocess.run(
        [sys.executable, "-m", "asyncbatch", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **(env or {})},
    )


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"asyncbatch {__version__}\n", "")


def test_the_exit_code_of_a_usage_error_reaches_the_shell() -> None:
    done = run("run", "--zzz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("asyncbatch: asyncbatch run has no option --zzz\n\nhint: ")


def test_without_arguments_the_help_is_shown() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout.startswith("Usage: asyncbatch ")
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from asyncbatch.cli.main import main; code = main(sys.argv[1:]);"
        f"print(code, [each for each in {HEAVY!r} if each in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "0 []\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_help_fits_and_names_are_whole(command: str, columns: str) -> None:
    found = CliRunner().invoke(build_app(), [*command.split(), "-h"], env={"COLUMNS": columns})
    assert found.exit_code == 0
    assert "\x1b" not in found.output
    page, _, examples = found.output.partition("\nExamples\n")
    assert examples.strip().startswith("asyncbatch ")
    assert "…" not in page.replace("c1, …", "")
    for line in page.splitlines():
        assert len(line) <= int(columns) or not line.startswith(" " * 7), line


def test_help_of_retry_shows_only_what_a_retry_may_be_given() -> None:
    page = run("retry", "--help").stdout
    assert all(f" {shown} " in page for shown in ("--region", "--header", "--rate", "--max-errors", "--json"))
    run_alone = ("--send", "--block-rows", "--body", "--format", "--reprocess", "--shard", "--overwrite")
    assert not any(f" {hidden} " in page for hidden in run_alone)
    assert all(f" {shown} " in run("run", "--help").stdout for shown in run_alone)


def test_summaries_are_short() -> None:
    listing = run("--help").stdout.partition("Commands\n")[2].partition("\n\n")[0]
    assert listing
    for line in listing.splitlines():
        assert re.fullmatch(r"  \S+ +\S.{0,59}", line), line
        assert not line.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["rnu"], "asyncbatch has no command rnu", "did you mean run? asyncbatch --help shows how"),
        (["run"], "no SOURCE is given",
         "asyncbatch run SOURCE SINK -e ENDPOINT; or source = \"PATH\" in a -f file"),
        (["run", "a", "b"], "no endpoint is given", None),
        (["run", "a", "-e", "x"], "no SINK is given", None),
        (["run", "a", "-", "-e", "x", "--json"], "--json and SINK - both write to stdout", None),
        (["run", "--chunk-row", "5"], "asyncbatch run has no option --chunk-row",
         "did you mean --chunk-rows? asyncbatch run --help shows how"),
        (["run", "--zzz"], "asyncbatch run has no option --zzz", "asyncbatch run --help shows how"),
        (["run", "--rate"], "option '--rate' requires an argument", "asyncbatch run --help shows how"),
        (["run", "a", "b", "c", "-e", "x"], "got unexpected extra argument(s) (c)",
         "a glob stands in quotes: 'in/*.csv'; asyncbatch run --help shows how"),
        (["run", "a", "b", "-e", "x", "--rate", "0"], "--rate '0': must be above 0",
         "--rate X: requests per second, at most"),
        (["run", "a", "b", "-e", "x", "--row", "arry"],
         "--row 'arry': expected one of array, object, value", "did you mean 'array'?"),
        (["run", "a", "b", "-e", "x", "-H", "secret"], "--header: expected 'Name: value'", None),
        (["plan", "-f", "nope.toml"], "cannot read the job file nope.toml: No such file or directory", None),
        (["serve", "flights", "--port", "x"], "--port 'x': expected a whole number",
         "--port N: port to listen at; 0 takes a free one"),
        (["run", "a", "b", "-e", "x", "--limit", "1e3"], "--limit '1e3': expected a whole number", None),
        (["run", "a", "b", "-e", "x", "--rate", "fast"], "--rate 'fast': expected a number", None),
        (["run", "a", "b", "-e", "x", "--threshold", "x"], "--threshold 'x': expected a number", None),
        (["run", "a", "b", "-e", "x", "--max-errors", "x%"], "--max-errors 'x%': expected a number", None),
        (["run", "a", "b", "-e", "x", "--max-retries", "-1"], "--max-retries '-1': must be 0 or more", None),

    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence_and_a_hint(
    arguments: list[str], message: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == f"asyncbatch: {message}"
    assert lines[1] == ""
    assert lines[2].startswith("hint: ")
    assert len(lines) == 3
    assert hint is None or lines[2] == f"hint: {hint}"


def test_errors_in_json_also_before_the_options_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, env in (
        (["run", "--zzz", "--log-format", "json"], {}),
        (["run", "--log-format=json"], {}),
        (["run"], {"ASYNCBATCH_LOG_FORMAT": "json"}),
    ):
        assert main(arguments, environ=env) == 2
        assert json.loads(capsys.readouterr().err)["event"] == "error"


def test_print_config_with_every_layer(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        'source = "in.csv"\nendpoint = "a"\nrate = 5\nlimit = 10\nheader = "X-Key: s3cret"\n'
    )
    done = run(
        "plan", "-f", "job.toml", "--print-config", "--limit", "30", cwd=tmp_path,
        env={"ASYNCBATCH_RATE": "7", "ASYNCBATCH_LIMIT": "20"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout) == {"source": "in.csv", "endpoint": "a", "limit": 30, "rate": 7.0}
    assert "s3cret" not in done.stdout + done.stderr


def test_completion_knows_commands_options_and_choices() -> None:
    def completed(line: str) -> str:
        words = line.split(" ")
        environment = {
            "_ASYNCBATCH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        return run(env=environment).stdout

    assert "run" in completed("asyncbatch r").split()
    assert "--chunk-rows" in completed("asyncbatch run --chunk").split()
    assert completed("asyncbatch run --body js").split() == ["jsonl", "json"]


def test_serve_says_where_and_ends_quietly_on_a_signal() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncbatch", "serve", "echo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert re.search(r"echo at http://127\.0\.0\.1:\d+", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, complaints) == (0, "")


def test_the_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_cli_docs.py"), "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
