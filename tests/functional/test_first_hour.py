"""A stranger's first hour, scripted: wrong guesses on purpose, each ended by one sentence that names the option.

The file has a header line, an id and a label; the endpoint is the built-in XGBoost with four features. Other
containers' usual mistakes follow.
"""

# ruff: noqa: E501 - a guess and its mending, a line each

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from asyncbatch.cli.main import main
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

Serve = Callable[[ServeConfig], Background]
FEATURES = "age,income,visits,score"
ROWS = 400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`people.csv` with a text id, `numbers.csv` with a numeric one, the same with semicolons and without header,
    and `reviews.csv` with a text."""
    rng = np.random.default_rng(8)
    header = f"customer_id,{FEATURES},label"
    rows = [
        ",".join(f"{value:.6f}" for value in line) + f",{number % 2}"
        for number, line in enumerate(rng.normal(size=(ROWS, 4)))
    ]
    files = {
        "people.csv": [header, *(f"c-{number},{row}" for number, row in enumerate(rows))],
        "numbers.csv": [header, *(f"{1000 + number},{row}" for number, row in enumerate(rows))],
        "bare.csv": [f"{1000 + number},{row}" for number, row in enumerate(rows)],
        "reviews.csv": [
            "id,review,label",
            *(f'{number},"good, {number % 9}",{number % 2}' for number in range(ROWS)),
        ],
    }
    files["semicolons.csv"] = [line.replace(",", ";") for line in files["numbers.csv"]]
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives exit code, stdout, and the hint (the last line of stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments, environ={})
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line]
        hints = [line for line in lines if line.startswith("hint: ")]
        if code:
            assert len(hints) == 1
            assert lines[-1] == hints[0]
            assert not hints[0].endswith(".")
        return code, out, hints[0].removeprefix("hint: ") if hints else ""

    return run


Say = Callable[..., tuple[int, str, str]]
SEND = ("--no-send", "customer_id,label")
WRONG: list[tuple[str, str, tuple[str, ...], str]] = [
    ("every column sent, the id is text", "people.csv", (), "--no-send customer_id,label"),
    ("every column sent", "numbers.csv", (), "--no-send customer_id,label"),
    ("the label sent", "numbers.csv", ("--no-send", "customer_id"), "--no-send label"),
    ("the id sent", "people.csv", ("--no-send", "label"), "--no-send customer_id"),
    ("two features too few", "people.csv", ("--send", "age,income"), "--send"),
    ("a feature misspelt", "people.csv", ("--send", "age,incom,visits,score"), "did you mean 'income'?"),
    ("a column that is not there", "people.csv", ("--no-send", "id,label"), "customer_id"),
    ("header line sent", "people.csv", (*SEND, "--body", "csv-header"), "--body csv"),
    ("JSON sent", "people.csv", (*SEND, "--body", "json"), "--body csv"),
    ("JSON Lines sent", "people.csv", (*SEND, "--body", "jsonl"), "--body csv"),
    ("npy sent", "people.csv", (*SEND, "--body", "npy"), "--body csv"),
    ("JSON said to be CSV", "people.csv", (*SEND, "--body", "json", "--content-type", "text/csv"), "--body csv"),
    ("CSV said to be JSON", "people.csv", (*SEND, "--content-type", "application/json"), "--body json"),
    ("another type of CSV", "people.csv", (*SEND, "--content-type", "application/csv"), "--content-type text/csv"),
    ("wrong Accept", "people.csv", (*SEND, "--accept", "text/html"), "--accept text/csv"),
    ("a place in JSON", "people.csv", (*SEND, "--reply", "predictions"), "leave --reply out"),
    ("a wrong place in JSON", "people.csv", (*SEND, "--accept", "application/json", "--reply", "scores"), "leave --reply out"),
    ("a vector expected", "people.csv", (*SEND, "--prediction-type", "list<float64>"), "--prediction-type"),
    ("whole numbers expected", "people.csv", (*SEND, "--prediction-type", "int64"), "leave --prediction-type out"),
    ("no such type", "people.csv", (*SEND, "--prediction-type", "floot"), "float32"),
    ("the largest of one number", "people.csv", (*SEND, "--argmax"), "--threshold"),
    ("header taken for a row", "people.csv", ("--no-header",), "leave --no-header out"),
    ("header taken for a row, columns named", "people.csv", (*SEND, "--no-header"), "--no-header"),
    ("a row taken for the header", "bare.csv", (), "--no-header"),
    ("a row taken for the header, columns named", "bare.csv", SEND, "--no-header"),
    ("another delimiter", "semicolons.csv", (), "--delimiter ';'"),
    ("another delimiter, columns named", "semicolons.csv", SEND, "--delimiter ';'"),
    ("another name for the prediction", "people.csv", (*SEND, "--prediction-name", "age"), "--prediction-name"),
    ("a template without JSON", "people.csv", (*SEND, "--template", "inputs"), "--body json"),
]  # fmt: skip


@pytest.fixture
def xgboost(serve: Serve) -> Background:
    return serve(ServeConfig(model="echo", dialect="xgboost", features=4))


@pytest.mark.parametrize(
    ("file", "guess", "fix"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_guess_ends_in_the_option_that_mends_it(
    file: str, guess: tuple[str, ...], fix: str, folder: Path, say: Say, xgboost: Background
) -> None:
    code, _, hint = say("run", file, "scored", "-e", xgboost.invocations_url, "--no-progress", *guess)
    assert code in (1, 2)
    assert fix in hint
    assert not (folder / "scored").exists()


def test_a_wrong_address_names_the_option(folder: Path, say: Say, xgboost: Background) -> None:
    code, _, hint = say("run", "people.csv", "scored", "-e", f"{xgboost.url}/predict", *SEND)
    assert code == 1
    assert "-e" in hint
    assert "/invocations" in hint


@pytest.mark.parametrize("file", ["people.csv", "numbers.csv", "semicolons.csv"])
def test_whoever_types_what_the_hints_say_arrives(
    file: str, folder: Path, say: Say, xgboost: Background
) -> None:
    """From the barest command on, with each hint's option put on the command line as it is printed."""
    typed: dict[str, str] = {}
    for _ in range(4):
        command = [part for option in typed.items() for part in option]
        code, _, hint = say("run", file, "scored", "-e", xgboost.invocations_url, *command)
        if code == 0:
            break
        options = re.findall(r"(--[a-z-]+)( '[^']*'| [^ ,]+(?:,[^ ,]+)*)?", hint)
        typed |= {name: shlex.split(value)[0] for name, value in options if value}
    assert code == 0
    delimiter = ";" if file == "semicolons.csv" else ","
    ages = pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))["age"]
    assert pq.read_table("scored")["prediction"].to_pylist() == ages.to_pylist()


def test_the_plan_shows_what_was_sent_and_how_the_reply_was_read(
    folder: Path, say: Say, xgboost: Background
) -> None:
    code, out, _ = say(
        "plan", "people.csv", "-e", xgboost.invocations_url, *SEND, "--show", "2", "-H", "X-Api-Key: hush", "--accept", "text/csv",
        "--keep", "customer_id,age",
    )  # fmt: skip
    assert code == 0
    assert "hush" not in out
    first = next(line for line in (folder / "people.csv").read_text().splitlines() if line.startswith("c-0,"))
    assert f"    {','.join(first.split(',')[1:5])}\n" in out
    for expected in (
        "    POST /invocations\n",
        "    X-Api-Key: …\n",
        "    Accept: text/csv\n",
        "    Content-Type: text/csv\n",
        "request   2 rows, ",
        "reply     200 in ",
        "    content-type: text/csv\n",
        "read as\n    prediction double: ",
        "reply     CSV with all rows on one line; a row is float64",
        "output    no SINK given: customer_id string, age double, prediction double, error string",
    ):
        assert expected in out
    assert re.search(r"^    customer_id +string +not sent +\d+\.\d kept$", out, re.MULTILINE)
    assert re.search(r"^    age +double +\d+\.\d sent +\d+\.\d kept$", out, re.MULTILINE)
    assert re.search(r"^    income +double +\d+\.\d sent +not kept$", out, re.MULTILINE)
    assert not re.search(r"^    label ", out, re.MULTILINE)


def test_the_plan_shows_a_request_that_was_refused(folder: Path, say: Say, xgboost: Background) -> None:
    code, out, hint = say(
        "plan", "people.csv", "-e", xgboost.invocations_url, *SEND, "--body", "csv-header", "--show", "1"
    )
    assert code == 1
    assert f"    {FEATURES}\n" in out
    assert "reply     HTTP 415 in " in out
    assert "could not convert string to float" in out
    assert hint == "the header line is read as a row: --body csv, which sends none"


def test_the_plan_points_at_an_id_that_an_endpoint_takes_without_a_word(
    folder: Path, say: Say, xgboost: Background
) -> None:
    code, out, _ = say(
        "plan", "numbers.csv", "-e", xgboost.invocations_url, "--send", "customer_id,age,income,label"
    )
    assert code == 0
    assert "check     column 'customer_id' is sent and may be an id: --no-send customer_id\n" in out
    assert "check     column 'label' is sent and may be a label: --no-send label" in out
    code, out, _ = say("plan", "numbers.csv", "-e", xgboost.invocations_url, *SEND)
    assert "check" not in out


OTHERS: list[tuple[str, str, str, tuple[str, ...], str]] = [
    ("sklearn: an envelope", "sklearn", "people.csv", (*SEND, "--body", "json"), "--template '$rows'"),
    ("sklearn: a charset", "sklearn", "people.csv", (*SEND, "--content-type", "text/csv; charset=utf-8"), "--content-type text/csv"),
    ("sklearn: the header counted", "sklearn", "people.csv", (*SEND, "--body", "csv-header"), "--body csv"),
    ("sklearn: too many features", "sklearn", "numbers.csv", (), "--no-send customer_id,label"),
    ("sklearn: one column", "sklearn", "people.csv", ("--send", "age"), "--body npy"),
    ("sklearn: wrong Accept", "sklearn", "people.csv", (*SEND, "--accept", "application/jsonlines"), "leave --accept out"),
    ("huggingface: CSV", "huggingface", "reviews.csv", ("--send", "review"), "--body json --template inputs --row value"),
    ("huggingface: another envelope", "huggingface", "reviews.csv", ("--send", "review", "--body", "json"), "--template inputs --row value"),
    ("huggingface: a name twice", "huggingface", "reviews.csv",
     ("--send", "review", "--body", "json", "--template", "inputs", "--row", "value"), "--rename label="),
    ("v2: another envelope", "v2", "people.csv", (*SEND, "--body", "json"), "--template v2"),
    ("v2: a list instead of tensors", "v2", "people.csv", (*SEND, "--body", "json", "--template", "inputs"), "--template v2"),
    ("v2: CSV", "v2", "people.csv", SEND, "--body json"),
    ("mlflow: no header", "mlflow", "people.csv", SEND, "--body csv-header"),
    ("mlflow: no envelope", "mlflow", "people.csv", (*SEND, "--body", "json", "--template", "$rows"), "--template split"),
    ("mlflow: Parquet by another name", "mlflow", "people.csv", (*SEND, "--body", "parquet"), "--content-type application/vnd.apache.parquet"),
    ("tgi: a list of prompts", "tgi", "reviews.csv", ("--send", "review", "--body", "json", "--template", "inputs", "--row", "value"),
     "--body raw --template '{\"inputs\": $row}'"),
    ("tgi: no template", "tgi", "reviews.csv", ("--send", "review", "--body", "raw"), "--template '{\"inputs\": $row}'"),
    ("tgi: several columns", "tgi", "reviews.csv", ("--body", "raw", "--template", '{"inputs": $row}'), "--send"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "file", "guess", "fix"), [each[1:] for each in OTHERS], ids=[each[0] for each in OTHERS]
)
def test_other_containers_usual_mistakes(
    dialect: str, file: str, guess: tuple[str, ...], fix: str, folder: Path, say: Say, serve: Serve
) -> None:
    texts = dialect in ("huggingface", "tgi")
    server = serve(
        ServeConfig(
            model="echo",
            dialect=dialect,
            features=None if texts else 4,
            simulation=SimulationConfig(labels=("good", "bad")) if dialect == "huggingface" else None,
        )
    )
    code, _, hint = say("run", file, "scored", "-e", server.invocations_url, *guess)
    assert code in (1, 2)
    assert fix in hint


SAGEMAKER: list[tuple[str, tuple[str, ...], str]] = [
    ("people.csv", (), "--no-send customer_id,label"),
    ("numbers.csv", ("--no-send", "customer_id"), "--no-send label"),
    ("people.csv", (*SEND, "--body", "csv-header"), "--body csv"),
    ("people.csv", (*SEND, "--body", "json"), "--body csv"),
    ("people.csv", (*SEND, "--accept", "text/html"), "--accept text/csv"),
]


@pytest.mark.parametrize(("file", "guess", "fix"), SAGEMAKER)
def test_the_containers_words_are_understood_through_sagemaker_too(
    file: str, guess: tuple[str, ...], fix: str, folder: Path, say: Say, xgboost: Background
) -> None:
    code, out, hint = say(
        "plan", file, "-e", xgboost.name, "--endpoint-url", xgboost.url, "--show", "2", *guess
    )
    assert code == 1
    assert fix in hint
    assert f"    POST /endpoints/{xgboost.name}/invocations\n" in out
    assert "reply     HTTP 424 ModelError (container" in out


def test_what_goes_to_sagemaker_is_shown_without_its_signature(
    folder: Path, say: Say, xgboost: Background
) -> None:
    code, out, _ = say(
        "plan", "people.csv", "-e", xgboost.name, "--endpoint-url", xgboost.url, *SEND, "--show", "2",
        "--target-variant", "AllTraffic",
    )  # fmt: skip
    assert code == 0
    assert "    X-Amzn-SageMaker-Target-Variant: AllTraffic\n" in out
    assert "    Authorization: AWS4-HMAC-SHA256 …\n" in out
    assert "Signature=" not in out


def test_what_a_function_is_given_is_shown(folder: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ages_for_tests.py").write_text("def age(batch):\n    return batch.column(0)\n")
    monkeypatch.syspath_prepend(folder)
    code, out, _ = say(
        "plan", "people.csv", "-e", "python:ages_for_tests:age", "--send", "age,income", "--show", "1"
    )
    assert code == 0
    assert re.search(r"^    \{'age': -?\d+\.\d+, 'income': -?\d+\.\d+\}$", out, re.MULTILINE)
    assert re.search(r"^    prediction double: -?\d+\.\d+$", out, re.MULTILINE)


@pytest.mark.parametrize("rows", ["0", "-1", "some"])
def test_show_wants_a_number_of_rows(rows: str, folder: Path, say: Say) -> None:
    code, _, hint = say("plan", "people.csv", "-e", "x", "--show", rows)
    assert code == 2
    assert "--show 3" in hint
