"""From what was sent and what came back to the option that mends it, by the words of real servers."""

# ruff: noqa: E501 - a server's words, a case a line

from dataclasses import replace
from typing import Any

import pytest

from asyncbatch.pipeline.advice import Column, Refused, Sent, column_advice, refusal_advice, reply_advice

NUMBERS = tuple(Column(name=name, kind="number") for name in ("a", "b", "c"))
ID, LABEL, TEXT = (
    Column(name="id", kind="text"),
    Column(name="label", kind="number"),
    Column(name="note", kind="text"),
)
CSV = Sent(columns=NUMBERS, body="csv", content_type="text/csv", text_source=True)
JSON = replace(CSV, body="json", content_type="application/json")


def first(sent: Sent, status: int | None, text: str) -> str:
    advice = refusal_advice(sent, Refused(status=status, text=text))
    return advice[0].sentence() if advice else ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Feature size of text/csv inference data 5 is not consistent with feature size of trained model 3.", 3),
        ("X has 5 features, but GradientBoostingClassifier is expecting 3 features as input.", 3),
        ("Feature shape mismatch, expected: 3, got 5", 3),
        ("Check failed: learner_model_param_.num_feature >= p_fmat->Info().num_col_ (3 vs. 5) : Number of columns does not match number of features in booster. Columns: 5 Features: 3", 3),
        ("[LightGBM] [Fatal] The number of features in data (5) is not the same as it was in training data (3).", 3),
        ("INVALID_ARGUMENT : Got invalid dimensions for input: X for the following indices index: 1 Got: 5 Expected: 3", 3),
        ("the model takes 3 columns, got 5", 3),
        ("expected 3 columns, got 5", 3),
    ],
)  # fmt: skip
def test_too_many_columns_are_counted_in_every_librarys_words(text: str, wanted: int) -> None:
    sent = replace(CSV, columns=(replace(ID, kind="number"), *NUMBERS, LABEL))
    assert first(sent, 400, text) == f"the model takes {wanted} columns, and 5 are sent: --no-send id,label"


def test_too_many_columns_without_a_suspect_ask_for_names() -> None:
    said = first(CSV, 400, "X has 3 features, but Ridge is expecting 2 features as input.")
    assert (
        said
        == "the model takes 2 columns, and 3 are sent: name the 2 with --send, or leave 1 out with --no-send"
    )


def test_more_suspects_than_columns_too_many_are_not_all_blamed() -> None:
    sent = replace(CSV, columns=(replace(ID, kind="number"), *NUMBERS, LABEL))
    said = first(sent, 400, "X has 5 features, but Ridge is expecting 4 features as input.")
    assert "--no-send id,label" not in said
    assert "--send" in said


@pytest.mark.parametrize(
    ("sent", "status", "text", "fix"),
    [
        (replace(CSV, columns=(ID, *NUMBERS)), 415, "could not convert string to float: 'c1'", "--no-send id"),
        (replace(CSV, columns=(ID, *NUMBERS, LABEL)), 500, "ValueError: could not convert string to float: np.str_('c1')", "--no-send id,label"),
        (replace(CSV, columns=(ID, TEXT, *NUMBERS)), 400, "could not convert string to float: 'x'", "--no-send id,note"),
        (replace(CSV, columns=(Column(name="a b", kind="text"), *NUMBERS)), 400, "could not convert string to float: 'x'", "--no-send 'a b'"),
        (replace(CSV, body="csv-header"), 415, "could not convert string to float: 'a'", "--body csv"),
        (CSV, 400, "Failed to enforce schema of data: Model is missing inputs ['a', 'b']", "--body csv-header"),
        (JSON, 415, "Content-type application/json not supported. Supported content-type is text/csv, text/libsvm", "--body csv"),
        (CSV, 415, "Unsupported Media Type, only supports application/json", "--body json"),
        (replace(CSV, body="parquet", content_type="application/x-parquet"), 415, "This predictor only supports: ['text/csv', 'application/vnd.apache.parquet']. Got 'application/x-parquet'", "--content-type application/vnd.apache.parquet"),
        (replace(CSV, content_type="text/csv; charset=utf-8", content_type_given=True), 500, "Content type text/csv; charset=utf-8 is not supported by this framework.", "--content-type text/csv"),
        (replace(JSON, content_type="text/csv", content_type_given=True), 400, "could not parse", "--body csv"),
        (replace(CSV, accept="text/xml"), 406, "no", "leave --accept out"),
        (replace(CSV, accept="text/xml"), 406, "choose from application/json", "--accept application/json"),
        (JSON, 500, "Expected 2D array, got scalar array instead: array={'instances'}", "--template '$rows'"),
        (replace(JSON, template="$rows", row="value"), 500, "Expected 2D array, got 1D array instead", "--row array"),
        (replace(CSV, columns=NUMBERS[:1]), 500, "Expected 2D array, got 1D array instead", "--body npy"),
        (JSON, 422, '{"detail":[{"loc":["body","inputs"],"msg":"field required"}]}', "--template v2"),
        (replace(JSON, template="$rows"), 400, "missing key: instances", "--template instances"),
        (CSV, 400, "Failed to parse JSON: Expecting value: line 1 column 1 (char 0)", "--body json"),
        (JSON, 400, "The input must be a JSON dictionary with exactly one of the input fields {'dataframe_split'}", "--template split"),
    ],
)  # fmt: skip
def test_each_usual_mistake_names_its_option(sent: Sent, status: int, text: str, fix: str) -> None:
    assert fix in first(sent, status, text)


@pytest.mark.parametrize("text", ["", "Internal Server Error", "CUDA out of memory", "worker died"])
def test_nothing_is_guessed_from_nothing(text: str) -> None:
    assert refusal_advice(CSV, Refused(status=500, text=text)) == ()


def test_where_nothing_else_is_known_columns_that_look_wrong_are_named() -> None:
    sent = replace(CSV, columns=(replace(ID, kind="number"), *NUMBERS))
    assert first(sent, 500, "Internal Server Error").endswith("--no-send id")


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (["a;b;c"], "--delimiter ';'"),
        (["a\tb"], r"--delimiter '\t'"),
        (["0.1", "7", "x"], "--no-header"),
    ],
)
def test_a_misread_file_is_seen_by_its_names(names: list[str], fix: str) -> None:
    sent = replace(CSV, columns=tuple(Column(name=name, kind="text") for name in names))
    assert fix in first(sent, 415, "could not convert string to float")
    assert fix in column_advice(sent)[0].fix
    assert (
        column_advice(replace(sent, text_source=False)) == ()
        or fix not in column_advice(replace(sent, text_source=False))[0].fix
    )


@pytest.mark.parametrize(
    "name", ["id", "ID", "customer_id", "customerId", "uuid", "row_number", "Unnamed: 0", "index"]
)
def test_ids_by_name(name: str) -> None:
    assert Column(name=name, kind="number").looks_like_id


@pytest.mark.parametrize("name", ["label", "target", "y", "y_true", "class", "churn_label", "ground_truth"])
def test_labels_by_name(name: str) -> None:
    assert Column(name=name, kind="number").looks_like_label


@pytest.mark.parametrize(
    "name", ["paid", "humidity", "grid", "x", "year", "classes_taken", "monkey", "idle", "avoid"]
)
def test_features_that_only_sound_alike(name: str) -> None:
    column = Column(name=name, kind="number")
    assert not column.looks_like_id
    assert not column.looks_like_label


def test_text_that_never_repeats_may_be_an_id_but_not_where_text_is_what_is_sent() -> None:
    notes = Column(name="note", kind="text", distinct=True)
    assert column_advice(replace(CSV, columns=(notes, *NUMBERS)))[0].fix == "--no-send note"
    assert column_advice(replace(CSV, columns=(notes,))) == ()
    assert column_advice(replace(CSV, columns=(notes,), body="raw")) == ()


def test_an_accept_that_was_asked_for_is_doubted_when_replies_cannot_be_read() -> None:
    assert reply_advice(CSV) == ()
    assert reply_advice(replace(CSV, accept="text/xml"))[0].fix == "leave --accept out"


def test_advice_never_repeats_what_the_server_quoted() -> None:
    """Servers quote rows; what is typed after --no-send are names of columns alone."""
    options: dict[str, Any] = {"columns": (ID, *NUMBERS)}
    found = refusal_advice(
        replace(CSV, **options), Refused(status=415, text="could not convert string to float: 'secret'")
    )
    assert found
    assert not any("secret" in advice.sentence() for advice in found)
