"""The real servers themselves, asked with plain HTTP: what the tests beside this one take for granted."""

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from asyncbatch.server.background import background
from asyncbatch.server.config import ServeConfig


def post(
    url: str, body: bytes, content_type: str, *, trust: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, timeout=20, context=trust)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    )
    try:
        connection.request("POST", parts.path, body, {"Content-Type": content_type})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.real("mlflow")
@pytest.mark.parametrize("name", ["number", "vector", "label", "matrix"])
def test_mlflow_answers_what_the_model_predicts(mlflow_models: Mapping[str, Any], name: str) -> None:
    model = mlflow_models[name]
    rows = pq.read_table(model.rows).slice(0, 3)
    body = {
        "dataframe_split": {
            "columns": rows.column_names,
            "data": [list(row.values()) for row in rows.to_pylist()],
        }
    }
    status, reply = post(model.url, json.dumps(body).encode(), "application/json")
    assert (status, json.loads(reply)) == (200, {"predictions": model.expected[:3]})


@pytest.mark.real("mlflow")
def test_mlflow_takes_the_first_line_for_a_header_and_says_nothing(mlflow_models: Mapping[str, Any]) -> None:
    model = mlflow_models["matrix"]
    rows = pq.read_table(model.rows).slice(0, 2).to_pylist()
    body = "".join(",".join(map(repr, row.values())) + "\n" for row in rows)
    status, reply = post(model.url, body.encode(), "text/csv")
    assert (status, len(json.loads(reply)["predictions"])) == (200, 1)


@pytest.mark.real("nginx")
def test_nginx_passes_requests_on_and_refuses_by_its_limits(start_nginx: Callable[..., Any]) -> None:
    with background(ServeConfig(model="echo")) as server:
        nginx = start_nginx(upstream=f"{server.host}:{server.port}", location="client_max_body_size 1k;")
        assert post(nginx.invocations_url, b"7,8\n", "text/csv") == (200, b"7\n")
        status, _ = post(nginx.invocations_url, b"7\n" * 1000, "text/csv")
        assert status == 413
        assert [each["status"] for each in nginx.requests(at_least=2)] == [200, 413]


@pytest.mark.real("nginx")
def test_nginx_shows_a_certificate_of_our_own_authority(
    start_nginx: Callable[..., Any], authority: Any
) -> None:
    with background(ServeConfig(model="echo")) as server:
        nginx = start_nginx(upstream=f"{server.host}:{server.port}", tls=authority)
        trust = ssl.create_default_context(cafile=str(authority.ca))
        assert post(nginx.invocations_url, b"7\n", "text/csv", trust=trust)[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            post(nginx.invocations_url, b"7\n", "text/csv", trust=ssl.create_default_context())
