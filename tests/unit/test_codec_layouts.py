"""How real containers answer is learned from probes of several sizes, or refused naming the option to use."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from asyncbatch.codec import ReplyLayout, infer_layout, make_decoder
from asyncbatch.config import ReplyConfig
from asyncbatch.errors import ConfigError, ReplyError
from asyncbatch.model import Reply
from asyncbatch.testing import check_codec
from asyncbatch.testing.codec import check_decoder

SIZES = (1, 2, 7, 300)
Make = Callable[[int], "Reply"]


def scores(rows: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(3).normal(size=300)[:rows]]


def vectors(rows: int, width: int = 3) -> list[list[float]]:
    return [list(map(float, row)) for row in np.random.default_rng(4).random((300, width))[:rows]]


def text(body: str, content_type: str = "text/csv; charset=utf-8") -> Reply:
    return Reply(body=body.encode(), content_type=content_type)


def as_json(value: Any, content_type: str = "Application/JSON") -> Reply:
    return text(json.dumps(value), content_type)


def npy(array: Any) -> Reply:
    out = io.BytesIO()
    np.save(out, array)
    return Reply(body=out.getvalue(), content_type="application/x-npy")


def arrow(table: pa.Table, *, file: bool = False) -> Reply:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return Reply(body=sink.getvalue().to_pybytes(), content_type="application/vnd.apache.arrow.stream")


def v2(*outputs: tuple[str, list[int], str, list[Any]]) -> Reply:
    tensors = [{"name": n, "shape": s, "datatype": t, "data": d} for n, s, t, d in outputs]
    return as_json({"model_name": "m", "model_version": "1", "outputs": tensors})


def learn(make: Make, config: ReplyConfig | None = None, sizes: tuple[int, ...] = SIZES) -> ReplyLayout:
    layout = infer_layout([(make(rows), rows) for rows in sizes], config or ReplyConfig())
    stored = json.loads(json.dumps(layout.to_json()))
    assert ReplyLayout.from_json(stored) == layout
    return layout


def decoded(
    make: Make, rows: int, config: ReplyConfig | None = None, sizes: tuple[int, ...] = SIZES
) -> dict[str, Any]:
    decoder = make_decoder(learn(make, config, sizes))
    columns = decoder.decode(make(rows), rows)
    return {field.name: column.tolist() for field, column in zip(decoder.fields, columns, strict=True)}  # type: ignore[union-attr]


LABELS = ["cat", "dog, big", "o'x"]


def objects(rows: int) -> list[dict[str, Any]]:
    return [{"label": LABELS[row % 3], "score": score} for row, score in enumerate(scores(rows))]


def pairs(rows: int) -> list[tuple[str, float]]:
    return [(each["label"], each["score"]) for each in objects(rows)]


def bare(rows: int) -> list[float] | float:
    """As servers do that unpack the list of one."""
    return scores(rows) if rows > 1 else scores(1)[0]


SCALARS: dict[str, Make] = {
    "xgboost csv on one line": lambda n: text(",".join(map(str, scores(n)))),
    "a line a row": lambda n: text("\n".join(map(str, scores(n))) + "\n"),
    "crlf lines": lambda n: text("\r\n".join(map(str, scores(n))) + "\r\n"),
    "lines under a header": lambda n: text("\n".join(["score", *map(str, scores(n))])),
    "sklearn json": lambda n: as_json(scores(n)),
    "sklearn npy": lambda n: npy(np.array(scores(n))),
    "a column of npy": lambda n: npy(np.array(scores(n)).reshape(-1, 1)),
    "mlflow": lambda n: as_json({"predictions": scores(n)}),
    "deep envelope": lambda n: as_json({"model": {"v": [1, 2]}, "result": {"my-scores": scores(n)}}),
    "json with a lone value for one row": lambda n: as_json({"predictions": bare(n)}),
    "json lines": lambda n: text("\n".join(map(str, scores(n))), "application/jsonlines"),
    "v2": lambda n: v2(("predict", [n], "FP64", scores(n))),
    "v2 with a second axis of one": lambda n: v2(("predict", [n, 1], "FP64", scores(n))),
    "json with no content type": lambda n: as_json(scores(n), ""),
    "one line with no content type": lambda n: text(",".join(map(str, scores(n))), ""),
    "json with the wrong content type": lambda n: as_json({"predictions": scores(n)}, "text/plain"),
    "arrow": lambda n: arrow(pa.table({"p": scores(n)})),
    "arrow file": lambda n: arrow(pa.table({"p": scores(n)}), file=True),
    "numpy": lambda n: Reply(result=np.array(scores(n))),
    "list": lambda n: Reply(result=scores(n)),
    "list of numpy numbers": lambda n: Reply(result=list(np.array(scores(n)))),
    "one bare number": lambda n: Reply(result=scores(n) if n > 1 else scores(1)[0]),
    "pyarrow array": lambda n: Reply(result=pa.array(scores(n))),
    "pandas series": lambda n: Reply(result=pd.Series(scores(n))),
    "pandas frame": lambda n: Reply(result=pd.DataFrame({"p": scores(n)})),
}  # fmt: skip

VECTORS: dict[str, Make] = {
    "xgboost softprob on one line": lambda n: text(",".join(map(str, vectors(n)))),
    "a csv line a row": lambda n: text("\n".join(",".join(map(str, row)) for row in vectors(n))),
    "a bracketed line a row": lambda n: text("\n".join(map(str, vectors(n)))),
    "json": lambda n: as_json(vectors(n)),
    "mlflow": lambda n: as_json({"predictions": vectors(n)}),
    "npy": lambda n: npy(np.array(vectors(n))),
    "v2 flat": lambda n: v2(("p", [n, 3], "FP64", np.array(vectors(n)).reshape(-1).tolist())),
    "v2 nested": lambda n: v2(("p", [n, 3], "FP64", vectors(n))),
    "numpy": lambda n: Reply(result=np.array(vectors(n))),
    "numpy in fortran order": lambda n: Reply(result=np.asfortranarray(vectors(n))),
    "list": lambda n: Reply(result=vectors(n)),
    "list of arrays": lambda n: Reply(result=[np.array(row) for row in vectors(n)]),
}

TEXTS: dict[str, Make] = {
    "quoted csv lines": lambda n: text("\n".join(f'"{LABELS[i % 3]}"' for i in range(n))),
    "one csv line": lambda n: text(",".join(f'"{LABELS[i % 3]}"' for i in range(n))),
    "json": lambda n: as_json([LABELS[i % 3] for i in range(n)]),
    "npy": lambda n: npy(np.array([LABELS[i % 3] for i in range(n)])),
    "numpy objects": lambda n: Reply(result=np.array([LABELS[i % 3] for i in range(n)], object)),
    "v2": lambda n: v2(("label", [n], "BYTES", [LABELS[i % 3] for i in range(n)])),
    "pandas": lambda n: Reply(result=pd.Series([LABELS[i % 3] for i in range(n)])),
}

NAMED: dict[str, Make] = {
    "linear learner": lambda n: as_json({"predictions": objects(n)}),
    "huggingface": lambda n: as_json(objects(n)),
    "json lines": lambda n: text("\n".join(map(json.dumps, objects(n))), "application/jsonlines"),
    "json lines without a content type": lambda n: text("\n".join(map(json.dumps, objects(n))), ""),
    "csv under a header": lambda n: text("\n".join(["label,score", *(f'"{a}",{b}' for a, b in pairs(n))])),
    "v2": lambda n: v2(
        ("label", [n], "BYTES", [a for a, _ in pairs(n)]), ("score", [n, 1], "FP32", [b for _, b in pairs(n)])
    ),
    "arrow": lambda n: arrow(pa.Table.from_pylist(objects(n))),
    "pandas": lambda n: Reply(result=pd.DataFrame(objects(n))),
    "dict of columns": lambda n: Reply(
        result={"label": [a for a, _ in pairs(n)], "score": np.array([b for _, b in pairs(n)])}
    ),
    "list of dicts": lambda n: Reply(result=objects(n)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("rows", [1, 2, 7, 250])
def test_scalars(name: str, rows: int) -> None:
    assert decoded(SCALARS[name], rows) == {"prediction": scores(rows)}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("rows", [1, 2, 7, 250])
def test_vectors(name: str, rows: int) -> None:
    layout = learn(VECTORS[name])
    assert layout.fields[0].width == 3
    assert layout.fields[0].type == pa.list_(pa.float64())
    assert decoded(VECTORS[name], rows) == {"prediction": vectors(rows)}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_texts(name: str, rows: int) -> None:
    assert decoded(TEXTS[name], rows) == {"prediction": [LABELS[i % 3] for i in range(rows)]}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_objects_become_fields(name: str, rows: int) -> None:
    wanted = {"label": [r["label"] for r in objects(rows)], "score": [r["score"] for r in objects(rows)]}
    assert decoded(NAMED[name], rows) == wanted


@pytest.mark.parametrize("make", [*SCALARS.values(), *VECTORS.values(), *TEXTS.values(), *NAMED.values()])
def test_another_number_of_rows_is_never_taken(make: Make) -> None:
    check_decoder(make_decoder(learn(make)), [(make(rows), rows) for rows in (2, 7, 300)])


def test_the_conformance_suite_takes_a_codec_as_a_whole() -> None:
    from asyncbatch.codec import make_encoder
    from asyncbatch.config import RequestConfig

    table = pa.table({"x": scores(300)})
    make = SCALARS["mlflow"]
    check_codec(
        encoder=make_encoder(RequestConfig(body="json"), table.schema),
        table=table,
        decoder=make_decoder(learn(make)),
        replies=[(make(3), 3)],
    )


def test_three_numbers_on_one_line_are_three_rows_or_one_by_what_was_learned() -> None:
    line = text("0.25,0.5,0.25")
    flat = make_decoder(learn(SCALARS["xgboost csv on one line"]))
    assert flat.decode(line, 3)[0].tolist() == [0.25, 0.5, 0.25]  # type: ignore[union-attr]
    rows = make_decoder(learn(VECTORS["a csv line a row"]))
    assert rows.decode(line, 1)[0].tolist() == [[0.25, 0.5, 0.25]]  # type: ignore[union-attr]


def test_scores_of_several_labels_a_row_are_lists_of_objects() -> None:
    def make(rows: int) -> Reply:
        return as_json([[{"label": "a", "score": s}, {"label": "b", "score": 1 - s}] for s in scores(rows)])

    assert learn(make).schema.field(0).type == pa.list_(
        pa.struct([("label", pa.string()), ("score", pa.float64())])
    )
    assert decoded(make, 2)["prediction"][1][0] == {"label": "a", "score": scores(2)[1]}


def test_nested_embeddings_are_lists_of_lists() -> None:
    make: Make = lambda n: as_json([[[1.0, 2.0]] * (1 + i % 3) for i in range(n)])  # noqa: E731
    assert decoded(make, 2) == {"prediction": [[[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]]}


def test_lists_of_varying_length_are_read_with_any_length() -> None:
    make: Make = lambda n: as_json([["a"] * (i % 3) for i in range(n)])  # noqa: E731
    assert learn(make).fields[0].width is None
    assert decoded(make, 4) == {"prediction": [[], ["a"], ["a", "a"], []]}


def test_null_fits_all_and_nan_stays_nan() -> None:
    cells = ["nan", "1.5", "", "inf", "2", "-inf", "null"]
    make: Make = lambda n: text("\n".join(cells[i % 7] for i in range(n)))  # noqa: E731
    found = make_decoder(learn(make, sizes=(7, 6))).decode(make(7), 7)[0]
    assert str(found.to_pylist()) == "[nan, 1.5, None, inf, 2.0, -inf, None]"  # type: ignore[union-attr]
    make = lambda n: Reply(body=b"[" + b",".join([b"NaN", b"null", b"1"][i % 3] for i in range(n)) + b"]")  # noqa: E731
    found = make_decoder(learn(make)).decode(make(3), 3)[0]
    assert str(found.to_pylist()) == "[nan, None, 1.0]"  # type: ignore[union-attr]
    make = lambda n: text(",".join("[nan, 0.5]" for _ in range(n)))  # noqa: E731
    assert str(decoded(make, 2)["prediction"]) == "[[nan, 0.5], [nan, 0.5]]"


def test_all_nulls_are_a_float64_column() -> None:
    assert learn(lambda n: as_json([None] * n)).schema.field(0).type == pa.float64()


def test_booleans_are_booleans() -> None:
    make: Make = lambda n: as_json([i % 2 == 0 for i in range(n)])  # noqa: E731
    assert learn(make).schema.field(0).type == pa.bool_()
    assert decoded(make, 2) == {"prediction": [True, False]}


def test_the_column_is_named_as_asked() -> None:
    assert learn(SCALARS["mlflow"], ReplyConfig(prediction_name="churn")).schema.names == ["churn"]


@pytest.mark.parametrize(
    ("value", "given", "type_", "wanted"),
    [
        ([2**60 + 1, 7], "int64", pa.int64(), [2**60 + 1, 7]),
        ([1.0, 7], "int64", pa.int64(), [1, 7]),
        ([0.1, 7], "float32", pa.float32(), [float(np.float32(0.1)), 7.0]),
        ([0.5, "x"], "string", pa.string(), ["0.5", "x"]),
        ([[0.5], [1]], "float64", pa.float64(), [0.5, 1.0]),
        ([[1, 2], [3, 4]], "list<int32>", pa.list_(pa.int32()), [[1, 2], [3, 4]]),
        ([[1, 2], [3]], "list<float32>", pa.list_(pa.float32()), [[1.0, 2.0], [3.0]]),
        ([0, 1], "bool", pa.bool_(), [False, True]),
        (["2024-05-06", None], "date32", pa.date32(), None),
        (["0.5", "7"], "float64", pa.float64(), [0.5, 7.0]),
    ],
)
def test_prediction_type_converts(
    value: list[Any], given: str, type_: pa.DataType, wanted: list[Any] | None
) -> None:
    make: Make = lambda n: as_json([value[i % 2] for i in range(n)])  # noqa: E731
    config = ReplyConfig(prediction_type=given)
    if given == "string":
        with pytest.raises(ReplyError, match="mix a number and text") as caught:
            learn(make)
        assert "--prediction-type string" in (caught.value.hint or "")
    assert learn(make, config).schema.field(0).type == type_
    found = decoded(make, 2, config)["prediction"]
    assert wanted is None or found == wanted


def test_csv_text_keeps_its_zeros_as_string_and_its_digits_as_int64() -> None:
    make: Make = lambda n: text("\n".join(["007", "1152921504606846977"][i % 2] for i in range(n)))  # noqa: E731
    with pytest.raises(ReplyError, match="beyond 2\\^53") as caught:
        learn(make)
    assert "--prediction-type int64" in (caught.value.hint or "")
    assert decoded(make, 2, ReplyConfig(prediction_type="string")) == {
        "prediction": ["007", "1152921504606846977"]
    }
    assert decoded(make, 2, ReplyConfig(prediction_type="int64")) == {"prediction": [7, 2**60 + 1]}


REPLY_PATHS: list[tuple[str, Make]] = [
    ("predictions[*].score", lambda n: as_json({"predictions": objects(n)})),
    ("[*].score", lambda n: as_json(objects(n))),
    ("[].score", lambda n: as_json(objects(n))),
    ("outputs[0].data", lambda n: v2(("p", [n], "FP64", scores(n)))),
    ('"a b".predictions', lambda n: as_json({"a b": {"predictions": scores(n), "other": scores(n)}})),
    ("predictions", lambda n: as_json({"predictions": scores(n), "ids": list(range(n))})),
    ("map(&score, predictions)", lambda n: as_json({"predictions": objects(n)})),
    ("[*].score", lambda n: text("\n".join(map(json.dumps, objects(n))), "application/jsonlines")),
    ("out.p", lambda n: as_json({"out": {"p": scores(n) if n > 1 else scores(1)[0]}})),
]


@pytest.mark.parametrize(("path", "make"), REPLY_PATHS)
def test_reply_path_finds_the_predictions(path: str, make: Make) -> None:
    for rows in (1, 2, 250):
        assert decoded(make, rows, ReplyConfig(reply=path)) == {"prediction": scores(rows)}


def test_reply_path_to_an_object_of_lists_gives_its_columns() -> None:
    make: Make = lambda n: as_json({"out": {"label": ["a"] * n, "score": scores(n)}})  # noqa: E731
    with pytest.raises(ReplyError, match=r"2 lists with one item a row: out\.label, out\.score"):
        learn(make)
    assert decoded(make, 2, ReplyConfig(reply="out")) == {"label": ["a", "a"], "score": scores(2)}


def test_a_plain_path_keeps_nulls_so_rows_never_shift() -> None:
    make: Make = lambda n: as_json([{"s": None if i == 1 else 0.5} for i in range(n)])  # noqa: E731
    assert decoded(make, 3, ReplyConfig(reply="[*].s")) == {"prediction": [0.5, None, 0.5]}


def typed(prediction_type: str) -> ReplyConfig:
    return ReplyConfig(prediction_type=prediction_type)


UNSETTLED: list[tuple[Make, ReplyConfig, tuple[int, ...], str, str]] = [
    (
        lambda n: text("0.1,0.2,0.3"),
        ReplyConfig(),
        (1,),
        "answered with 3 values",
        "--prediction-type 'list<float64>'",
    ),
    (
        lambda n: as_json([0.1, 0.2, 0.3]),
        ReplyConfig(),
        (1,),
        "one row was answered with a list",
        "--prediction-type 'list<float64>'",
    ),
    (
        lambda n: text("[0.1, 0.2]", ""),
        ReplyConfig(),
        (1,),
        "one row was answered with a list",
        "list<float64>",
    ),
    (
        lambda n: as_json({"a": scores(n), "b": scores(n)}),
        ReplyConfig(),
        SIZES,
        "one item a row: a, b",
        "--reply a",
    ),
    (lambda n: as_json({"x": 1}), ReplyConfig(), SIZES, "no reading", "--reply outputs[0].data"),
    (lambda n: text("<html>\n" * n, "text/html"), ReplyConfig(), SIZES, "(text/html)", "check the address"),
    (
        lambda n: text("\n".join(map(str, scores(n + 1)))),
        ReplyConfig(),
        (1, 2, 7),
        "one prediction more",
        "--body csv,",
    ),
    (
        lambda n: as_json({"p": scores(n - 1)}),
        ReplyConfig(),
        (2, 7),
        "one prediction less",
        "--body csv-header",
    ),
    (
        lambda n: text("\n".join(["a", *["b"] * n])),
        ReplyConfig(),
        (1, 2, 7),
        "one prediction more",
        "header line",
    ),
    (
        lambda n: as_json({"p": scores(n)}),
        ReplyConfig(reply="q"),
        SIZES,
        "--reply 'q' does not",
        "--reply predictions",
    ),
    (
        lambda n: as_json([["a", 1]] * n),
        ReplyConfig(),
        SIZES,
        "replies mix text and a number",
        "--prediction-type",
    ),
    (
        lambda n: as_json(vectors(n)),
        typed("int64"),
        SIZES,
        "does not fit replies with a list of 3",
        "list<int64>",
    ),
    (
        lambda n: as_json(scores(n)),
        typed("list<int8>"),
        SIZES,
        "does not fit replies with a number",
        "float64",
    ),
    (
        lambda n: as_json(scores(n)),
        typed("int64"),
        SIZES,
        "found a number that is not whole",
        "--prediction-type",
    ),
    (lambda n: as_json(objects(n)), typed("int64"), SIZES, "replies have the fields", "--reply '[*].label'"),
    (lambda n: Reply(result=object()), ReplyConfig(), (2,), "no reading", "--reply"),
]


@pytest.mark.parametrize(("make", "config", "sizes", "message", "hint"), UNSETTLED)
def test_what_cannot_be_settled_names_the_option(
    make: Make, config: ReplyConfig, sizes: tuple[int, ...], message: str, hint: str
) -> None:
    with pytest.raises(ReplyError) as caught:
        learn(make, config, sizes)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_no_probe_and_bad_options_are_refused() -> None:
    with pytest.raises(ReplyError, match="no probe was answered"):
        infer_layout([], ReplyConfig())
    with pytest.raises(ConfigError, match="is no Arrow type"):
        learn(SCALARS["mlflow"], ReplyConfig(prediction_type="flaot"))
    with pytest.raises(ConfigError, match="is not JMESPath"):
        learn(SCALARS["mlflow"], ReplyConfig(reply="a[["))
    with pytest.raises(ReplyError, match="cannot be read"):
        ReplyLayout.from_json({"form": "json"})


def test_one_row_answers_alone_settle_prompts_and_single_numbers() -> None:
    assert decoded(lambda n: as_json([{"generated_text": "hi"}]), 1, sizes=(1,)) == {"generated_text": ["hi"]}
    assert decoded(lambda n: as_json({"generated_text": "hi"}), 1, sizes=(1,)) == {"generated_text": ["hi"]}
    assert decoded(lambda n: text("0.5"), 1, sizes=(1,)) == {"prediction": [0.5]}
    vector = typed("list<float64>")
    assert decoded(lambda n: text("0.1,0.2,0.3"), 1, vector, (1,)) == {"prediction": [[0.1, 0.2, 0.3]]}
    assert decoded(lambda n: text("[0.1, 0.2]"), 1, sizes=(1,)) == {
        "prediction": [[0.1, 0.2]]
    }  # XGBoost, by its type
    for config in (vector, ReplyConfig(reply="[@]")):
        assert decoded(lambda n: as_json([0.1, 0.2]), 1, config, (1,)) == {"prediction": [[0.1, 0.2]]}


@pytest.mark.parametrize("missing", [1, 2, 7, 300])
def test_any_probe_may_be_missing(missing: int) -> None:
    sizes = tuple(size for size in SIZES if size != missing)
    for name in ("xgboost csv on one line", "mlflow", "v2"):
        assert decoded(SCALARS[name], 5, sizes=sizes) == {"prediction": scores(5)}
