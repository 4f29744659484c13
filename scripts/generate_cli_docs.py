"""Write docs/cli.md, docs/options.md, docs/metrics.md and the JSON schemas from the code.

With `--check` nothing is written; exits 1 when a file is stale.
"""

import json
import os
import sys
from pathlib import Path

import typer.testing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from asyncbatch.bench.result import SCHEMA_VERSION, BenchResult  # noqa: E402
from asyncbatch.cli.main import build_app  # noqa: E402
from asyncbatch.cli.options import default_text, run_defaults, run_options  # noqa: E402
from asyncbatch.observe.metric import metrics_of  # noqa: E402
from asyncbatch.observe.metrics import RunTotals, Snapshot  # noqa: E402
from asyncbatch.observe.schema import document_schema, report_schema  # noqa: E402
from asyncbatch.observe.timeline import TimelinePoint  # noqa: E402
from asyncbatch.option import flag  # noqa: E402
from asyncbatch.pipeline.preview import SCHEMA_VERSION as PLAN_SCHEMA_VERSION  # noqa: E402
from asyncbatch.pipeline.preview import PlanReport  # noqa: E402

NOTE = "<!-- Made by scripts/generate_cli_docs.py; do not edit. -->"
OPTIONS_INTRODUCTION = """\
The same names serve everywhere: `--chunk-rows 500` on the command line, `ASYNCBATCH_CHUNK_ROWS=500` in the
environment, `chunk_rows = 500` in a job file for `-f`, `chunk_rows=500` in Python. The command line goes
before the environment, that before the job file. *Fixed* options may not change when a run is resumed."""


def cli_page() -> str:
    """Every help page, at 88 columns."""
    app = build_app()
    runner = typer.testing.CliRunner()
    environment = {"COLUMNS": "88", "NO_COLOR": "1"}
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    parts = ["# The command line", NOTE]
    for words in [[], *([name] for name in names)]:
        result = runner.invoke(app, [*words, "--help"], env=environment, prog_name="asyncbatch")
        if result.exit_code:
            raise SystemExit(
                f"asyncbatch {' '.join(words)} --help: exit code {result.exit_code}\n{result.output}"
            )
        parts += [f"## {' '.join(['asyncbatch', *words])}", f"```text\n{result.output.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def options_page() -> str:
    """The option table of a run."""
    parts = [
        "# Options of `run` and `plan`",
        NOTE,
        OPTIONS_INTRODUCTION,
    ]
    table, defaults = run_options(), run_defaults()
    for panel in dict.fromkeys(option.panel for option in table.values()):
        rows = ["| option | value | default | fixed | what it does |", "|---|---|---|---|---|"]
        for name, option in table.items():
            if option.panel == panel:
                default = default_text(option, defaults[name])
                names = " ".join(f"`{each}`" for each in (flag(name), option.short) if each)
                value = f"`{option.metavar}`" if option.metavar else "flag" if option.kind == "flag" else ""
                cells = [names, value, default, "yes" if option.semantic else "", option.help]
                rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        parts += [f"## {panel}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Names, units and formulas."""
    parts = ["# Metrics", NOTE]
    for title, cls in (
        ("While a run is under way", Snapshot),
        ("In the report of a run", RunTotals),
        ("In the report's timeline, a point each", TimelinePoint),
    ):
        rows = ["| metric | unit | what it is |", "|---|---|---|"]
        rows += [
            f"| `{name}` | {each.unit} | {_cell(each.formula)} |" for name, each in metrics_of(cls).items()
        ]
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """File to content."""
    docs = ROOT / "docs"
    bench_schema = document_schema(BenchResult, title="asyncbatch bench result", version=SCHEMA_VERSION)
    plan_schema = document_schema(PlanReport, title="asyncbatch plan", version=PLAN_SCHEMA_VERSION)
    return {
        docs / "cli.md": cli_page(),
        docs / "options.md": options_page(),
        docs / "metrics.md": metrics_page(),
        docs / "report-schema.json": json.dumps(report_schema(), indent=2) + "\n",
        docs / "bench-schema.json": json.dumps(bench_schema, indent=2) + "\n",
        docs / "plan-schema.json": json.dumps(plan_schema, indent=2) + "\n",
    }


def main(arguments: list[str]) -> int:
    """Write or compare; the exit code."""
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if arguments == ["--check"]:
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)}; run {os.path.relpath(__file__, ROOT)}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
