"""What each family of containers answers, byte for byte: replies, and the ways in which it fails."""

# ruff: noqa: ISC004 - tables of bytes, a case a line

import asyncio
import io
import json
import shlex
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncbatch.codec import make_encoder
from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.model import BytesPayload
from asyncbatch.server import ServeConfig, serving
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.config import DIALECTS
from asyncbatch.server.dialects import dialect
from asyncbatch.server.models.echo import EchoModel
from asyncbatch.server.rows import to_matrix
from asyncbatch.server.running import announcement
from asyncbatch.server.work import ModelWork, Request, open_work

SCORES = np.array([0.43861907720565796, 0.25, 1e-07])
CLASSES = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
LABELS = ["spam", "größer"]
REVIEWS = [{"label": "POSITIVE", "score": 0.9998}, {"label": "NEGATIVE", "score": 0.75}]
CSV, JSON, NPY = "text/csv", "application/json", "application/x-npy"


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


REPLIES: list[tuple[str, Any, str, bytes, str]] = [
    ("xgboost", SCORES, "", b"0.43861907720565796,0.25,1e-07", CSV),
    ("xgboost", SCORES[:1], "*/*", b"0.43861907720565796", CSV),
    ("xgboost", SCORES, "text/csv; charset=utf-8", b"0.43861907720565796,0.25,1e-07", CSV),
    ("xgboost", CLASSES, CSV, b"[0.1, 0.2, 0.7],[0.3, 0.3, 0.4]", CSV),
    ("xgboost", CLASSES[:1], "", b"[0.1, 0.2, 0.7]", CSV),
    (
        "xgboost",
        SCORES,
        JSON,
        b'{"predictions": [{"score": 0.43861907720565796}, {"score": 0.25}, {"score": 1e-07}]}',
        JSON,
    ),
    (
        "xgboost",
        CLASSES,
        JSON,
        b'{"predictions": [{"score": [0.1, 0.2, 0.7]}, {"score": [0.3, 0.3, 0.4]}]}',
        JSON,
    ),
    ("sklearn", SCORES, "", b"[0.43861907720565796, 0.25, 1e-07]", JSON),
    ("sklearn", CLASSES, "*/*", b"[[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]", JSON),
    ("sklearn", LABELS, JSON, b'["spam", "gr\\u00f6\\u00dfer"]', JSON),
    ("sklearn", SCORES, CSV, b"0.43861907720565796\n0.25\n1e-07\n", CSV),
    ("sklearn", CLASSES, CSV, b"0.1,0.2,0.7\n0.3,0.3,0.4\n", CSV),
    ("sklearn", SCORES, NPY, npy(SCORES), NPY),
    ("sklearn", CLASSES, "application/x-npy, text/csv", npy(CLASSES), NPY),
    (
        "huggingface",
        REVIEWS,
        "",
        b'[{"label":"POSITIVE","score":0.9998},{"label":"NEGATIVE","score":0.75}]',
        JSON,
    ),
    (
        "huggingface",
        LABELS,
        "*/*",
        '[{"label":"spam","score":1.0},{"label":"größer","score":1.0}]'.encode(),
        JSON,
    ),
    ("huggingface", CLASSES, JSON, b"[[0.1,0.2,0.7],[0.3,0.3,0.4]]", JSON),
    ("huggingface", REVIEWS, CSV, b"label,score\r\nPOSITIVE,0.9998\r\nNEGATIVE,0.75\r\n", CSV),
    ("huggingface", CLASSES, NPY, npy(CLASSES), NPY),
    (
        "v2",
        SCORES,
        "",
        b'{"model_name":"model","model_version":"1","outputs":[{"name":"predict","shape":[3,1],'
        b'"datatype":"FP64","data":[0.43861907720565796,0.25,1e-07]}]}',
        JSON,
    ),
    (
        "v2",
        CLASSES,
        "*/*",
        b'{"model_name":"model","model_version":"1","outputs":[{"name":"predict","shape":[2,3],'
        b'"datatype":"FP64","data":[0.1,0.2,0.7,0.3,0.3,0.4]}]}',
        JSON,
    ),
    (
        "v2",
        LABELS[:1],
        "",
        b'{"model_name":"model","model_version":"1","outputs":[{"name":"predict","shape":[1,1],'
        b'"datatype":"BYTES","data":["spam"]}]}',
        JSON,
    ),
    ("mlflow", SCORES, "", b'{"predictions": [0.43861907720565796, 0.25, 1e-07]}', JSON),
    ("mlflow", CLASSES, CSV, b'{"predictions": [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]}', JSON),
    ("mlflow", LABELS, "", b'{"predictions": ["spam", "gr\\u00f6\\u00dfer"]}', JSON),
    ("tgi", ["Größe"], "", '[{"generated_text":"Größe"}]'.encode(), JSON),
]


@pytest.mark.parametrize(("name", "predictions", "accept", "body", "media"), REPLIES)
def test_replies_byte_for_byte(name: str, predictions: Any, accept: str, body: bytes, media: str) -> None:
    assert dialect(name).encode(predictions, accept=accept, content_type=CSV) == (body, media)


REQUESTS: list[tuple[str, bytes, str, Any]] = [
    ("xgboost", b"1,2.5,-3\n4,,6\n", CSV, [[1, 2.5, -3], [4, np.nan, 6]]),
    ("xgboost", b"1;2\n4;5", "Text/CSV; charset=utf-8", [[1, 2], [4, 5]]),
    ("xgboost", b"1,2", "", [[1, 2]]),
    ("sklearn", b"1,2\n3,x", CSV, [[1, 2], [3, np.nan]]),
    ("sklearn", b"a,b\n1,2", CSV, [[np.nan, np.nan], [1, 2]]),
    ("sklearn", b"[[1, 2]]", JSON, [[1, 2]]),
    ("sklearn", b"[[1, 2]]", "", [[1, 2]]),
    ("sklearn", npy([[1.5, 2.0]]), NPY, [[1.5, 2]]),
    ("huggingface", b'{"inputs":["a","b"],"parameters":{"top_k":1}}', JSON, [["a"], ["b"]]),
    ("huggingface", b'{"inputs":"a"}', JSON, [["a"]]),
    ("huggingface", b'{"inputs":[[1,2],[3,4]]}', JSON, [[1, 2], [3, 4]]),
    ("huggingface", b'inputs\n"a, b"\nc\n', CSV, [["a, b"], ["c"]]),
    ("huggingface", b"question,context\nwho,me\n", CSV, [["who", "me"]]),
    (
        "v2",
        b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP64","data":[1,2,3,4]}]}',
        JSON,
        [[1, 2], [3, 4]],
    ),
    (
        "v2",
        b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP64","data":[[1,2],[3,4]]}]}',
        "",
        [[1, 2], [3, 4]],
    ),
    (
        "v2",
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","data":[1,2]},'
        b'{"name":"y","shape":[2,1],"datatype":"BYTES","data":["a","b"]}]}',
        JSON,
        [[1, "a"], [2, "b"]],
    ),
    ("mlflow", b"a,b\n1,2\n3,4", CSV, [[1, 2], [3, 4]]),
    ("mlflow", b"1,2\n3,4\n", CSV, [[3, 4]]),
    ("mlflow", b'{"dataframe_split":{"columns":["a","b"],"data":[[1,"x"]]}}', JSON, [[1, "x"]]),
    ("mlflow", b'{"dataframe_records":[{"a":1,"b":2}]}', "application/json; charset=utf-8", [[1, 2]]),
    ("mlflow", b'{"instances":[[1,2]]}', JSON, [[1, 2]]),
    ("mlflow", b'{"inputs":{"a":[1,3],"b":[2,4]}}', JSON, [[1, 2], [3, 4]]),
    ("tgi", b'{"inputs":"hello","parameters":{"max_new_tokens":5}}', "application/json; charset=utf-8", [["hello"]]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "media", "rows"), REQUESTS)
def test_requests_are_read_as_the_container_reads_them(name: str, body: bytes, media: str, rows: Any) -> None:
    found = to_matrix(dialect(name).decode(body, media)).tolist()
    assert str(found) == str([[_as(value, found) for value in row] for row in rows])


def _as(value: Any, found: list[list[Any]]) -> Any:
    whole = all(isinstance(each, (int, str)) for row in found for each in row)
    return value if isinstance(value, str) or whole else float(value)


FAILURES: list[tuple[str, int | None, bytes, str, int, str]] = [
    # The header line counts as a row of numbers.
    ("xgboost", None, b"x,y\n1,2", CSV, 415, "Loading csv data failed with Exception, please ensure data is in csv format:\n"
     " <class 'ValueError'>\n could not convert string to float: "),
    ("xgboost", None, b"1,2\n1", CSV, 415, "inhomogeneous"),
    ("xgboost", None, b"[[1,2]]", JSON, 415, "Content-type application/json not supported. Supported content-type is text/csv"),
    ("xgboost", None, b"", CSV, 204, ""),
    ("xgboost", 3, b"1,2,3,4", CSV, 400, "Unable to evaluate payload provided: Feature size of text/csv inference data 4 is"
     " not consistent with feature size of trained model 3."),
    ("xgboost", 4, b"1,2", CSV, 400, "inference data 2 is not consistent"),
    # One row, and one column, are 1-D.
    ("sklearn", None, b"1,2", CSV, 500, "Expected 2D array, got 1D array instead:\narray=[1. 2.].\nReshape your data"),
    ("sklearn", None, b"1\n2", CSV, 500, "Expected 2D array, got 1D array instead:\narray=[1. 2.]."),
    ("sklearn", None, b"1", CSV, 500, "Expected 2D array, got scalar array instead:\narray=1.0."),
    ("sklearn", None, b"", CSV, 500, "Expected 2D array"),
    ("sklearn", None, b"1,2\n3", CSV, 500, "Line #2 (got 1 columns instead of 2)"),
    ("sklearn", None, b'{"instances":[[1,2]]}', JSON, 500, "Expected 2D array, got scalar array instead"),
    ("sklearn", None, b"{", JSON, 500, "Expecting property name"),
    ("sklearn", None, b"1,2\n3,4", "text/csv; charset=utf-8", 415, "Content type text/csv; charset=utf-8 is not supported"),
    ("sklearn", 3, b"1,2\n3,4", CSV, 500, "X has 2 features, but LogisticRegression is expecting 3 features as input."),
    ("huggingface", None, b"a\nb", CSV, 400, "You need to provide the correct CSV with Header columns"),
    ("huggingface", None, b'{"instances":["a"]}', JSON, 400, "text input must be of type `str`"),
    ("huggingface", None, b'["a"]', JSON, 400, "'list' object has no attribute 'pop'"),
    ("huggingface", None, b'{"inputs":"a"}', "application/json; charset=utf-8", 400, "is not supported by this framework"),
    ("v2", None, b'{"instances":[[1]]}', JSON, 400, "Unable to find 'inputs'"),
    ("v2", None, b'{"inputs":[[1,2]]}', JSON, 400, "attempt to access JSON non-object"),
    ("v2", None, b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP64","data":[1]}]}', JSON, 400, "has 1 elements"),
    ("v2", None, b"1,2", CSV, 415, "unsupported content type 'text/csv'"),
    ("mlflow", None, b"1,2", CSV, 400, "Encountered an unexpected error while evaluating the model"),
    ("mlflow", None, b"[[1,2]]", JSON, 400, "Received a list."),
    ("mlflow", None, b'{"rows":[[1,2]]}', JSON, 400, "exactly one of the input fields"),
    ("mlflow", None, b"a,b\n1,2", "text/csv; header=present", 415, "Unrecognized content type parameters: header."),
    ("mlflow", None, b"a,b\n1,2", "text/csv; charset=latin-1", 415, "The scoring server only supports UTF-8"),
    ("mlflow", None, npy([[1.0]]), NPY, 415, "This predictor only supports the following content types"),
    ("mlflow", 3, b"a,b\n1,2", CSV, 400, "Failed to enforce schema"),
    ("tgi", None, b'{"inputs":["a"]}', JSON, 422, "invalid type: sequence, expected a string"),
    ("tgi", None, b'{"prompt":"a"}', JSON, 422, "missing field `inputs`"),
    ("tgi", None, b'{"inputs":""}', JSON, 422, "`inputs` cannot be empty"),
    ("tgi", None, b"a", "text/plain", 415, "Expected request with `Content-Type: application/json`"),
    ("tgi", None, b"a", JSON, 400, "Failed to parse the request body as JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "features", "body", "media", "status", "message"), FAILURES)
def test_failures_have_the_containers_status_and_words(
    name: str, features: int | None, body: bytes, media: str, status: int, message: str
) -> None:
    with pytest.raises(ContainerError) as caught:
        dialect(name, features=features).decode(body, media)
    said = caught.value.message
    assert caught.value.status == status
    if said.startswith("{"):
        tree = json.loads(said)
        said = " ".join(map(str, tree.values()))
    assert message in said


def test_xgboost_takes_one_feature_too_few_without_a_word() -> None:
    rows = dialect("xgboost", features=3).decode(b"1,2\n3,4", CSV)
    assert str(to_matrix(rows).tolist()) == "[[1.0, 2.0, nan], [3.0, 4.0, nan]]"


@pytest.mark.parametrize(
    ("name", "accept", "status"),
    [("xgboost", "application/xml", 406), ("sklearn", "application/jsonlines", 406), ("huggingface", "a/b", 400)],
)  # fmt: skip
def test_an_accept_that_the_container_does_not_know_is_refused(name: str, accept: str, status: int) -> None:
    with pytest.raises(ContainerError) as caught:
        dialect(name).encode(SCORES, accept=accept, content_type=CSV)
    assert caught.value.status == status


def test_a_charset_or_several_wishes_are_not_known_to_those_that_look_headers_up() -> None:
    with pytest.raises(ContainerError):
        dialect("sklearn").encode(SCORES, accept="text/csv; charset=utf-8", content_type=CSV)
    with pytest.raises(ContainerError):
        dialect("huggingface").encode(REVIEWS, accept="application/json, text/csv", content_type=JSON)


def test_every_dialect_can_be_served() -> None:
    assert {name: ServeConfig(model="echo", dialect=name).dialect for name in DIALECTS} == {
        name: name for name in DIALECTS
    }
    with pytest.raises(ConfigError, match="klingon"):
        ServeConfig(dialect="klingon")
    with pytest.raises(ConfigError, match="features"):
        ServeConfig(features=0)


def test_a_model_of_labels_answers_by_the_rows_first_value_alone() -> None:
    model = EchoModel(labels=("a", "b", "c"))
    values = [0.5 * index for index in range(60)]
    whole = model.predict(np.array([[value, 1.0] for value in values]))
    assert set(whole) == {"a", "b", "c"}
    assert whole == [model.predict(pa.table({"x": [value], "y": ["other"]}))[0] for value in values]


def test_several_numbers_can_be_asked_of_a_text() -> None:
    answers = np.asarray(EchoModel(outputs=3).predict(np.array([["a"], ["b"], ["a"]], dtype=object)))
    assert answers.shape == (3, 3)
    assert (answers[0] == answers[2]).all()
    assert 0 <= answers[1, 0] < 1
    assert answers[1].tolist() == (answers[1, 0] + np.arange(3)).tolist()


@pytest.mark.parametrize("name", [each for each in DIALECTS if each != "plain"])
def test_no_short_cut_goes_around_a_dialect(name: str) -> None:
    """The echo of plain CSV lines without reading them is for `plain` alone."""
    spoken = dialect(name)
    try:
        work = open_work(
            Request(body=b"1,2\n3,4", content_type=CSV, accept=""), model=EchoModel(), dialect=spoken
        )
    except ContainerError:
        return
    assert isinstance(work, ModelWork)
    assert work.answer() == spoken.encode(EchoModel().predict(work.decoded), accept="", content_type=CSV)


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_announced_is_a_command_that_works(name: str) -> None:
    async def line() -> str:
        async with serving(ServeConfig(model="echo", dialect=name)) as server:
            return announcement(server)

    words = shlex.split(asyncio.run(line()).partition("try: asyncbatch run FILE OUT ")[2])
    names = [word.removeprefix("--") for word in words if word.startswith("--")]
    values = [words[words.index(f"--{each}") + 1] for each in names]
    config = RunConfig.from_options({"endpoint": words[1], **dict(zip(names, values, strict=True))})
    schema = (
        pa.schema([("TEXT", pa.string())])
        if "send" in names
        else pa.schema([("x", pa.float64()), ("y", pa.float64())])
    )
    table = pa.table(
        {field.name: ["7"] if field.type == pa.string() else [7.0] for field in schema}, schema=schema
    )
    payload = make_encoder(config.request, schema).encode(table).payload(0, 1)
    assert isinstance(payload, BytesPayload)
    body = b"".join(bytes(piece) for piece in payload.pieces)
    if name == "sklearn":
        body += b"\n" + body  # one row alone is what it cannot read
    rows = dialect(name).decode(body, payload.content_type)
    assert float(to_matrix(rows)[0, 0]) == 7.0
