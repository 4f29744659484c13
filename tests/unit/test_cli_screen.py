"""Errors as a person or a program reads them, and the commands with doubles for what they call."""

import inspect
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncbatch.cli import plan, run, serve
from asyncbatch.cli.help import two_columns
from asyncbatch.cli.job import Job
from asyncbatch.cli.options import default_text, run_defaults, run_options
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.cli.serve_options import DEFAULTS, SERVE_OPTIONS, SIMULATION_FIELDS
from asyncbatch.config import OPTIONS, OutputConfig, RunConfig
from asyncbatch.errors import ConfigError, EndpointError, StoppedError
from asyncbatch.observe.events import Progressed, RunFinished, Warned
from asyncbatch.observe.logs import LogLines
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.progress import ProgressLine
from asyncbatch.observe.report import RunReport, make_report
from asyncbatch.server import ServeConfig, SimulationConfig


def screen(**output: Any) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream, OutputConfig(**output)), stream


def fails(error: BaseException) -> Any:
    def command() -> int:
        raise error

    return command


def finished(exit_code: int = 0) -> RunReport:
    collector = MetricsCollector(clock=lambda: 0.0)
    return make_report(
        config=RunConfig(),
        totals=collector.totals(),
        status="done",
        exit_code=exit_code,
        job_id="j",
        endpoint="e",
        source="in",
        sink="out",
        started_at=datetime.now(UTC),
    )


def job(sink: str | None = "out", **options: Any) -> Job:
    return Job(config=RunConfig.from_options({"endpoint": "e", **options}), source="in", sink=sink)


def test_an_error_is_a_sentence_and_a_hint() -> None:
    shown, stream = screen()
    assert (
        shown.guard(fails(ConfigError("column 'agee' is not in a.parquet", hint="did you mean 'age'?"))) == 2
    )
    assert stream.getvalue() == "asyncbatch: column 'agee' is not in a.parquet\n\nhint: did you mean 'age'?\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(EndpointError("x"), 1), (StoppedError("x"), 75), (ConfigError("x"), 2), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    shown, stream = screen()
    assert shown.guard(fails(error)) == code
    assert stream.getvalue() == ("" if code == 130 else "asyncbatch: x\n")


def test_an_error_of_exit_code_zero_needs_no_words() -> None:
    class GoneError(StoppedError):
        exit_code = 0

    shown, stream = screen()
    assert shown.guard(fails(GoneError("x"))) == 0
    assert stream.getvalue() == ""


def test_an_error_in_json() -> None:
    shown, stream = screen(log_format="json")
    assert shown.guard(fails(StoppedError("SIGTERM received", hint="the same command goes on"))) == 75
    found = json.loads(stream.getvalue())
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "error",
        "event": "error",
        "message": "SIGTERM received",
        "hint": "the same command goes on",
        "exit_code": 75,
    }


def test_an_unexpected_error_is_named_without_its_words_which_may_be_row_contents() -> None:
    shown, stream = screen()
    assert shown.guard(fails(ZeroDivisionError("row 5: John"))) == 1
    assert stream.getvalue() == (
        "asyncbatch: unexpected ZeroDivisionError: this is a bug\n\n"
        "hint: the same command with -v shows where\n"
    )


def test_verbose_shows_the_traceback() -> None:
    shown, stream = screen(verbose=True)
    assert shown.guard(fails(ZeroDivisionError("x"))) == 1
    assert stream.getvalue().startswith("Traceback (most recent call last):")
    assert stream.getvalue().endswith("asyncbatch: unexpected ZeroDivisionError: this is a bug\n")


@pytest.mark.parametrize(
    ("output", "kinds"),
    [
        ({}, [ProgressLine, LogLines]),
        ({"quiet": True}, [LogLines]),
        ({"no_progress": True}, [LogLines]),
        ({"log_format": "json"}, [LogLines]),
    ],
)
def test_hooks_follow_the_output_options(output: dict[str, Any], kinds: list[type]) -> None:
    shown, _ = screen(**output)
    assert [type(each) for each in shown.hooks()] == kinds


def test_quiet_is_quiet_but_for_errors() -> None:
    shown, stream = screen(quiet=True)
    snapshot = MetricsCollector(clock=lambda: 0.0).snapshot(limit=1, chunk_rows=1, blocks_open=0)
    for hook in shown.hooks():
        for event in (Warned(message="x"), Progressed(snapshot=snapshot), RunFinished(report=finished())):
            hook(event)
    assert stream.getvalue() == ""
    shown.guard(fails(ConfigError("x")))
    assert stream.getvalue() == "asyncbatch: x\n"


def test_run_hands_on_the_job_and_returns_the_exit_code_of_the_report() -> None:
    seen: list[Any] = []

    def run_job(*arguments: Any, **named: Any) -> RunReport:
        seen.append((arguments, named))
        return finished(exit_code=3)

    out = io.StringIO()
    given = job()
    assert run.execute(given, hooks=[], run_job=run_job, stdout=out) == 3
    assert seen == [((given.config, "in", "out"), {"hooks": []})]
    assert out.getvalue() == ""
    assert run.execute(job(json="1"), hooks=[], run_job=run_job, stdout=out) == 3
    assert json.loads(out.getvalue())["exit_code"] == 3


def test_run_needs_a_sink_and_stdout_serves_one_of_data_and_report() -> None:
    def run_job(*_: Any, **__: Any) -> RunReport:
        raise AssertionError("must not be called")

    with pytest.raises(ConfigError, match="no SINK is given"):
        run.execute(job(sink=None), hooks=[], run_job=run_job)
    with pytest.raises(ConfigError, match="--json and SINK - both write to stdout"):
        run.execute(job(sink="-", json="1"), hooks=[], run_job=run_job)


def test_plan_prints_its_findings() -> None:
    class Plan:
        def to_dict(self) -> dict[str, Any]:
            return {"rows": 5}

        def summary(self) -> str:
            return "5 rows"

    out = io.StringIO()
    assert plan.execute(job(), hooks=[], plan_job=lambda *_, **__: Plan(), stdout=out) == 0
    assert out.getvalue() == "5 rows\n"
    out = io.StringIO()
    assert plan.execute(job(json="1"), hooks=[], plan_job=lambda *_, **__: Plan(), stdout=out) == 0
    assert json.loads(out.getvalue()) == {"rows": 5}


@pytest.mark.parametrize("command", [run.run, plan.plan])
def test_a_command_has_the_options_of_the_table(command: Any) -> None:
    parameters = inspect.signature(command).parameters
    assert [name for name in parameters if name in OPTIONS] == list(OPTIONS)
    assert all(parameters[name].default is None for name in OPTIONS)
    assert set(parameters) - set(OPTIONS) <= {"source", "sink", "file", "print_config", "show"}


def test_defaults_are_told_where_there_are_any() -> None:
    table, defaults = run_options(), run_defaults()
    told = {name: default_text(option, defaults[name]) for name, option in table.items()}
    assert told["request_timeout"] == "70s"
    assert told["body"] == "csv"
    assert told["max_retries"] == "6"
    assert told["chunk_rows"] == "found while running"
    assert told["target_model"] == told["quiet"] == told["deadline"] == ""


def test_help_columns() -> None:
    rows = [
        ("-q, --quiet", "only errors"),
        ("    --a-very-long-option-name VALUE", "one two three four five"),
    ]
    assert two_columns(rows, 50).splitlines() == [
        "  -q, --quiet                 only errors",
        "      --a-very-long-option-name VALUE",
        "                              one two three four",
        "                              five",
    ]


def test_a_reader_that_is_gone_is_no_failure(tmp_path: Any) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "x").open("w") as file:
        print_out("x", Gone())
        file.write("goes nowhere")
    assert (tmp_path / "x").read_text() == ""


def test_serve_config_from_options() -> None:
    assert serve.serve_config("flights", {}, {}) == ServeConfig(model="flights", port=8080)
    found = serve.serve_config(
        "simulated",
        {
            "port": "0",
            "name": "a,b",
            "latency": "20ms",
            "errors": "503=0.01,hang=0.1",
            "slots": "8",
            "seed": None,
        },
        {},
    )
    assert (found.port, found.names) == (0, ("a", "b"))
    assert found.simulation == SimulationConfig(a=0.02, errors={"503": 0.01, "hang": 0.1}, slots=8)


def test_serve_verifies_signatures_with_the_keys_of_the_environment() -> None:
    found = serve.serve_config(
        "flights", {"verify_sigv4": True}, {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    )
    assert [each.access_key for each in found.credentials] == ["AK"]
    assert "s3cret" not in repr(found)
    with pytest.raises(ConfigError, match="needs AWS_ACCESS_KEY_ID"):
        serve.serve_config("flights", {"verify_sigv4": True}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": "fast"}, "--latency 'fast': expected a duration"),
        ({"errors": "503"}, "--errors '503': expected KIND=SHARE"),
        ({"errors": "999=0.1"}, "no error kind '999'"),
        ({"port": "99999"}, "port 99999 is not between 0 and 65535"),
        ({"shape": "round"}, "shape 'round' is unknown"),
        ({"slots": "0"}, "--slots '0': must be 1 or more"),
    ],
)
def test_a_bad_serve_option_is_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve.serve_config("simulated", options, {})
    assert message in caught.value.message


def test_help_of_serve_shows_the_real_defaults() -> None:
    fields = {**{name: name for name in SERVE_OPTIONS}, **SIMULATION_FIELDS}
    for name, shown in DEFAULTS.items():
        owner = SimulationConfig() if name in SIMULATION_FIELDS else ServeConfig()
        if name != "port" and shown is not None:
            assert getattr(owner, fields[name]) == shown, name


def test_serving_to_others_is_warned_of() -> None:
    served: list[ServeConfig] = []
    for host, warned in (
        ("127.0.0.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("box", True),
    ):
        shown, stream = screen()
        assert serve.execute(ServeConfig(host=host), shown, run_forever=served.append) == 0
        assert ("can be reached by others" in stream.getvalue()) is warned
    assert len(served) == 5
