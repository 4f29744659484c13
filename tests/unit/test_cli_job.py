"""Job files, the order of precedence, and the TOML writer."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.cli import toml
from asyncbatch.cli.job import Job, job_toml, read_job
from asyncbatch.config import OPTIONS, RunConfig
from asyncbatch.errors import ConfigError

TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)
SCALARS = st.one_of(
    TEXT,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXT, max_size=4),
)


def read(file: Path | None = None, environ: dict[str, str] | None = None, **options: Any) -> Job:
    paths = {name: options.pop(name, None) for name in ("source", "sink")}
    given = {"endpoint": "e", **options} if file is None else options
    return read_job(
        source=paths["source"] or (None if file else "in.csv"),
        sink=paths["sink"],
        file=str(file) if file else None,
        options=given,
        environ=environ or {},
    )


def job_file(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(
    values=st.dictionaries(TEXT, st.one_of(SCALARS, st.dictionaries(TEXT, SCALARS, max_size=3)), max_size=6)
)
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(values)) == values


def test_not_a_number_reads_back_and_other_values_are_refused() -> None:
    assert math.isnan(tomllib.loads(toml.dumps({"x": float("nan")}))["x"])
    assert tomllib.loads(toml.dumps({"x": -math.inf}))["x"] == -math.inf
    with pytest.raises(TypeError, match="NoneType"):
        toml.dumps({"x": None})


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = job_file(
        tmp_path,
        'source = "a.csv"\nsink = "out"\nendpoint = "file"\nbody = "json"\n'
        "chunk-rows = 1\nmax_retries = 1\nrate = 1.5\n",
    )
    environ = {"ASYNCBATCH_CHUNK_ROWS": "2", "ASYNCBATCH_MAX_RETRIES": "2", "HOME": "/"}
    job = read(file, environ, chunk_rows="3:4", region=None, header=[])
    assert str(job.config.speed.chunk_rows) == "3:4"
    assert job.config.failure.max_retries == 2
    assert job.config.speed.rate == 1.5
    assert job.config.request.body == "json"
    assert job.config.reply.prediction_name == "prediction"
    assert (job.source, job.sink, job.config.endpoint.endpoint) == ("a.csv", "out", "file")
    assert read(file, environ, source="b.csv", sink="-").source == "b.csv"


def test_a_flag_of_the_file_can_be_switched_off_by_the_environment(tmp_path: Path) -> None:
    file = job_file(tmp_path, 'source = "a"\nendpoint = "e"\nquiet = true')
    assert read(file).config.output.quiet
    assert not read(file, {"ASYNCBATCH_QUIET": "0"}).config.output.quiet


def test_a_list_on_the_command_line_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = job_file(tmp_path, 'source = "a"\nendpoint = "e"\nheader = ["A: 1", "B: 2"]')
    assert [each.name for each in read(file).config.request.header] == ["A", "B"]
    assert [each.name for each in read(file, header=["C: 3"]).config.request.header] == ["C"]


def test_options_that_need_each_other_may_come_from_different_layers(tmp_path: Path) -> None:
    file = job_file(tmp_path, 'source = "a"\nendpoint = "e"\ntemplate = "records"')
    assert read(file, body="json").config.request.template == "records"
    with pytest.raises(ConfigError, match="--template needs --body json"):
        read(file)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("chunk_row = 5", "unknown option 'chunk_row' in JOB", "did you mean 'chunk_rows'?"),
        ("Concurrencyy = 5", "unknown option 'Concurrencyy' in JOB", "did you mean 'concurrency'?"),
        ("[speed]\nrate = 1", "unknown option 'speed' in JOB", None),
        (
            'chunk_rows = "x"',
            "JOB: chunk_rows 'x': expected N or MIN:MAX",
            "--chunk-rows N|MIN:MAX: rows of a request",
        ),
        ("body = 5", "JOB: body 5: expected text, got int", None),
        ('header = "nonsense secret"', "JOB: header: expected 'Name: value'", None),
        ("source = 5", "JOB: source is not text", 'write source = "PATH"'),
        ("rate 5", "the job file JOB is not TOML: Expected '=' after a key", None),
    ],
)
def test_a_bad_job_file_is_named(tmp_path: Path, text: str, message: str, hint: str | None) -> None:
    file = job_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert caught.value.message.replace(str(file), "JOB").startswith(message)
    assert hint is None or caught.value.hint == hint
    assert "secret" not in caught.value.message


def test_a_job_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the job file .*nope\.toml: No such file"):
        read(tmp_path / "nope.toml")
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        read(tmp_path / "job.toml")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ASYNCBATCH_CHUNK_ROW": "5"}, "environment variable ASYNCBATCH_CHUNK_ROW names no option"),
        ({"ASYNCBATCH_RATE": "-1"}, "environment variable ASYNCBATCH_RATE: rate '-1': must be above 0"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(environ=environ)
    assert caught.value.message == message


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match="no SOURCE is given"):
        read_job(source=None, sink=None, file=None, options={}, environ={})
    with pytest.raises(ConfigError, match="no endpoint is given") as caught:
        read_job(source="a", sink=None, file=None, options={}, environ={})
    assert "-e NAME" in (caught.value.hint or "")


def test_the_printed_job_is_read_back_as_the_same_job(tmp_path: Path) -> None:
    values = {
        "endpoint": "churn",
        "send": "a,b*",
        "no_send": "id",
        "keep": "a",
        "types": "a=int64,b=string",
        "limit": "10",
        "delimiter": "\\t",
        "quote": "'",
        "no_header": "1",
        "body": "json",
        "template": '{"x": $rows}',
        "row": "object",
        "threshold": "0.5",
        "meta": "variant",
        "concurrency": "4:8",
        "chunk_rows": "100",
        "rate": "2.5",
        "max_memory": "1GB",
        "request_timeout": "5m",
        "max_errors": "2.5%",
        "on_error": "drop",
        "json": "true",
        "prediction_name": "p é",
    }
    job = read(sink="out dir/", **values)
    again = read(job_file(tmp_path, job_toml(job)))
    assert again == job
    assert set(values) <= set(tomllib.loads(job_toml(job)))


def test_every_option_with_a_plain_value_survives_the_printed_job(tmp_path: Path) -> None:
    examples = {"bool": "true", "int": "7", "float": "7"}
    for name, (part, option) in OPTIONS.items():
        if option.secret or name in ("endpoint", "quiet", "verbose", "template", "error_name"):
            continue
        for example in (*option.choices, *examples.values(), "a", "a=int64", "20MB", "1:3", "variant"):
            try:
                job = read(**{name: example})
            except ConfigError:
                continue
            assert read(job_file(tmp_path, job_toml(job))).config == job.config, (part, name, example)


def test_secrets_are_not_printed() -> None:
    text = job_toml(read(header=["Authorization: Bearer s3cret"], endpoint="https://u:pw@host/x"))
    assert "s3cret" not in text
    assert "pw" not in text
    assert text.endswith("# header was given too; secrets are not written down\n")
    assert tomllib.loads(text)["endpoint"] == "https://host/x"


def test_a_job_without_a_sink_is_printed_without_one() -> None:
    assert tomllib.loads(job_toml(read())) == {"source": "in.csv", "endpoint": "e"}
    assert RunConfig.from_options({"endpoint": "e"}) == read().config
