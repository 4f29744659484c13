"""`serve --dialect mlflow` beside the real scoring server: the same bytes, and the same refusals."""

import json
import urllib.error
import urllib.request
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.codec import make_encoder
from asyncbatch.config import RequestConfig
from asyncbatch.model import BytesPayload
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.dialects import dialect

pytestmark = pytest.mark.real("mlflow")

CSV, JSON = "text/csv", "application/json"
BODIES = {
    "csv": RequestConfig(body="csv-header"),
    "split": RequestConfig(body="json", template="split"),
    "records": RequestConfig(body="json", template="records"),
    "parquet": RequestConfig(body="parquet", content_type="application/vnd.apache.parquet"),
}


def post(url: str, body: bytes, content_type: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": content_type, "Accept": "text/csv"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def encoded(table: pa.Table, request: RequestConfig) -> tuple[bytes, str]:
    payload = make_encoder(request, table.schema).encode(table).payload(0, table.num_rows)
    assert isinstance(payload, BytesPayload)
    return b"".join(bytes(piece) for piece in payload.pieces), payload.content_type


@pytest.mark.parametrize("model", ["number", "vector", "label"])
@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_replies_are_the_same_byte_for_byte(rows: int, form: str, model: str, mlflow_models: Any) -> None:
    real = mlflow_models[model]
    table = pq.read_table(real.rows).slice(0, rows)
    body, content_type = encoded(table, BODIES[form])
    status, media, reply = post(real.url, body, content_type)
    assert status == 200
    predictions = json.loads(reply)[
        "predictions"
    ]  # batch sizes may round differently: its own numbers are compared
    assert len(predictions) == rows
    ours = dialect("mlflow")
    assert ours.encode(predictions, accept="text/csv", content_type=content_type) == (
        reply,
        media.partition(";")[0],
    )
    assert len(ours.decode(body, content_type)) == rows


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"1.5,2.5,3.5,4.5", CSV),
        (b"[[1.5, 2.5, 3.5, 4.5]]", JSON),
        (b'{"rows": [[1.5, 2.5, 3.5, 4.5]]}', JSON),
        (b"{", JSON),
        (b"a,b\n1,2\n", "text/csv; header=present"),
        (b"a,b\n1,2\n", "text/csv; charset=latin-1"),
        (b"\x93NUMPY", "application/x-npy"),
    ],
)
def test_what_the_real_server_refuses_is_refused_with_its_status(
    body: bytes, content_type: str, mlflow_models: Any
) -> None:
    status, media, reply = post(mlflow_models["matrix"].url, body, content_type)
    with pytest.raises(ContainerError) as caught:
        dialect("mlflow").decode(body, content_type)
    assert caught.value.status == status
    assert caught.value.content_type.partition(";")[0] == media.partition(";")[0]
    if media == JSON:
        assert json.loads(caught.value.message)["error_code"] == json.loads(reply)["error_code"]
    else:
        assert reply.decode().startswith(caught.value.message.rstrip("."))


def test_without_a_header_line_the_first_row_is_lost_in_both(mlflow_models: Any) -> None:
    body = b"1.5,2.5,3.5,4.5\n0.5,1.5,2.5,3.5\n0.25,1,2,3\n"
    status, _, reply = post(mlflow_models["matrix"].url, body, CSV)
    assert status == 200
    assert len(json.loads(reply)["predictions"]) == len(dialect("mlflow").decode(body, CSV)) == 2
