"""boto3's own client, unchanged, against the embedded endpoint."""

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from asyncbatch.server import Credential, ServeConfig, SimulationConfig, flights
from asyncbatch.server.background import Background, background

KEY = Credential(access_key="AKIAEXAMPLE", secret_key="secret")
EXPIRED = Credential(access_key="ASIAOLD", secret_key="secret", session_token="token", expires_at=1.0)
LIMIT = 100_000


def client(server: Background, *, key: Credential = KEY, region: str = "us-east-1") -> Any:
    return boto3.client(
        "sagemaker-runtime",
        region_name=region,
        endpoint_url=server.url,
        aws_access_key_id=key.access_key,
        aws_secret_access_key=key.secret_key,
        aws_session_token=key.session_token,
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=16),
    )


def invoke(
    runtime: Any, body: bytes, *, name: str = "echo", content_type: str = "text/csv", **more: str
) -> Any:
    return runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType=content_type, **more)


@pytest.fixture(scope="module")
def echo() -> Iterator[Background]:
    config = ServeConfig(
        model="echo",
        names=("echo", "second"),
        credentials=(KEY, EXPIRED),
        variants=("blue", "green"),
        max_body_bytes=LIMIT,
    )
    with background(config) as server:
        yield server


@pytest.fixture(scope="module")
def served_flights() -> Iterator[Background]:
    with background(ServeConfig(model="flights")) as server:
        yield server


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return flights.load_flights()


def refused(call: Callable[[], Any]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value


def code(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def test_a_reply_has_what_the_service_sends(echo: Background) -> None:
    reply = invoke(client(echo), b"1.5,2\n3,4\n")
    assert reply["Body"].read() == b"1.5\n3\n"
    assert reply["ContentType"] == "text/csv"
    assert reply["InvokedProductionVariant"] in ("blue", "green")
    assert len(reply["ResponseMetadata"]["RequestId"]) == 36


def test_threads_of_clients_each_get_their_own_answers(echo: Background) -> None:
    runtime = client(echo)

    def ask(number: int) -> bool:
        rows = [number * 100 + row for row in range(50)]
        body = "".join(f"{row},x\n" for row in rows).encode()
        return [int(line) for line in invoke(runtime, body)["Body"].read().split()] == rows

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(100)))


def test_the_target_variant_answers_and_another_is_refused(echo: Background) -> None:
    runtime = client(echo)
    assert invoke(runtime, b"1\n", TargetVariant="green")["InvokedProductionVariant"] == "green"
    error = refused(lambda: invoke(runtime, b"1\n", TargetVariant="red"))
    assert code(error) == (400, "ValidationError")


def test_every_name_is_served_and_another_is_not_found(echo: Background) -> None:
    runtime = client(echo)
    assert invoke(runtime, b"1\n", name="second")["Body"].read() == b"1\n"
    with pytest.raises(runtime.exceptions.ValidationError) as caught:
        invoke(runtime, b"1\n", name="third")
    assert caught.value.response["Error"]["Message"] == "Endpoint third of account 123456789012 not found."


def test_a_containers_refusal_is_a_model_error(echo: Background) -> None:
    runtime = client(echo)
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        invoke(runtime, b"1\n", content_type="application/x-unheard-of")
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == 415
    assert "application/x-unheard-of" in response["OriginalMessage"]
    assert response["LogStreamArn"].startswith("arn:aws:logs:us-east-1:123456789012:log-group:")
    assert response["Error"]["Message"].startswith("Received client error (415) from primary with message")


def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(echo: Background) -> None:
    runtime = client(echo)
    assert invoke(runtime, b"1," + b"2" * (LIMIT - 3) + b"\n")["Body"].read() == b"1\n"
    error = refused(lambda: invoke(runtime, b"1" * (LIMIT + 1)))
    assert code(error) == (413, "413")
    error = refused(lambda: invoke(runtime, b"1" * 20 * LIMIT))
    assert error.response["Error"]["Message"] == f"HTTP content length exceeded {LIMIT} bytes."
    assert invoke(runtime, b"1\n")["Body"].read() == b"1\n"


def test_a_wrong_or_expired_key_is_refused_by_name(echo: Background) -> None:
    wrong = Credential(access_key=KEY.access_key, secret_key="guess")
    unknown = Credential(access_key="AKIAOTHER", secret_key="secret")
    for key, region, name in (
        (wrong, "us-east-1", "InvalidSignatureException"),
        (unknown, "us-east-1", "UnrecognizedClientException"),
        (EXPIRED, "us-east-1", "ExpiredTokenException"),
        (KEY, "eu-west-1", "InvalidSignatureException"),
    ):
        runtime = client(echo, key=key, region=region)
        assert code(refused(lambda runtime=runtime: invoke(runtime, b"1\n"))) == (403, name)  # type: ignore[misc]


def test_an_unsigned_request_is_refused_by_the_service_but_not_by_the_container(echo: Background) -> None:
    status, body, headers = post(echo, "/endpoints/echo/invocations", b"1\n")
    assert (status, json.loads(body)) == (403, {"message": "Missing Authentication Token"})
    assert headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException:"
    assert post(echo, "/invocations", b"1\n")[:2] == (200, b"1\n")


def test_no_secret_and_no_name_of_a_row_is_in_the_statistics(echo: Background) -> None:
    post(echo, "/invocations", b"rowcontent\n")
    text = json.dumps(echo.stats())
    assert KEY.secret_key not in text
    assert "rowcontent" not in text


def post(
    server: Background, path: str, body: Any, *, method: str = "POST", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        sent = {
            "Content-Type": "text/csv",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        connection.request(method, path, body, sent)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers
    finally:
        connection.close()


def test_the_container_contract(echo: Background) -> None:
    assert post(echo, "/ping", None, method="GET")[0] == 200
    assert post(echo, "/invocations", b"1,2\n")[:2] == (200, b"1\n")
    status, body, _ = post(echo, "/invocations", b"nope", Content_Type="application/json")
    assert status == 400
    assert b"application/json" in body
    assert post(echo, "/invocations", b"1\n", Accept="image/png")[0] == 406


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/endpoints/echo", "POST", 404),
        ("/invocations", "GET", 405),
        ("/endpoints/echo/invocations", "PUT", 405),
    ],
)
def test_other_paths_and_methods(echo: Background, path: str, method: str, status: int) -> None:
    assert post(echo, path, None, method=method)[0] == status


def test_a_chunked_body_is_read_and_bounded(echo: Background) -> None:
    assert post(echo, "/invocations", iter([b"1,2\n3", b",4\n"]))[:2] == (200, b"1\n3\n")
    assert post(echo, "/invocations", iter([b"1" * 60_000] * 2))[0] == 413


def test_a_client_that_waits_for_permission_to_send_gets_it(echo: Background) -> None:
    with socket.create_connection((echo.host, echo.port), timeout=20) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 4\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"7,8\n")
        reply = connection.recv(10_000)
        assert reply.startswith(b"HTTP/1.1 200")
        assert reply.endswith(b"\r\n\r\n7\n")


def test_clients_that_leave_or_speak_no_http_leave_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: "
    with background(ServeConfig(model="echo")) as server:
        for data in (
            head + b"400\r\n\r\nrowcontent",
            head + b"-4\r\n\r\nrowcontent",
            b"rowcontent\r\n\r\n",
            b"",
        ):
            with socket.create_connection((server.host, server.port), timeout=20) as connection:
                connection.sendall(data)
        deadline = time.monotonic() + 30
        while server.stats()["outcomes"] != {"disconnected": 1} and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.stats()["outcomes"] == {"disconnected": 1}
        assert post(server, "/invocations", b"1\n")[:2] == (200, b"1\n")
    assert capfd.readouterr() == ("", "")


def test_the_articles_loop_agrees_with_the_model_called_directly(
    served_flights: Background, table: pa.Table
) -> None:
    """Rows by the hundred, joined by commas and newlines; the reply split at newlines, each piece a float."""
    runtime = client(served_flights)
    sample = table.slice(5_000, 2_050)
    test_data = pd.DataFrame(sample.select(list(flights.FEATURES)).to_pydict())
    predictions: list[float] = []
    for start in range(0, len(test_data), 100):
        batch = test_data.iloc[start : start + 100]
        payload = "\n".join(",".join(str(value) for value in row) for row in batch.values)
        reply = runtime.invoke_endpoint(EndpointName="flights", Body=payload, ContentType="text/csv")
        predictions.extend(float(line) for line in reply["Body"].read().decode().strip().split("\n"))
    assert np.array_equal(np.array(predictions), flights.predict_directly(sample))


def test_flights_answer_the_same_in_every_format(served_flights: Background, table: pa.Table) -> None:
    from asyncbatch.server import content

    sample = table.slice(0, 300).select(list(flights.FEATURES))
    expected = flights.predict_directly(sample).tolist()
    rows = [list(row.values()) for row in sample.to_pylist()]
    bodies = {
        content.CSV: "".join(",".join(map(str, row)) + "\n" for row in rows).encode(),
        content.JSON: json.dumps({"instances": rows}).encode(),
        content.JSONL: "\n".join(map(json.dumps, rows)).encode(),
        content.NPY: content.encode(np.array(rows, dtype=np.float64), content.NPY),
    }
    for content_type, body in bodies.items():
        for accept in (content_type, content.JSON):
            status, reply, headers = post(
                served_flights, "/invocations", body, Content_Type=content_type, Accept=accept
            )
            assert (status, headers["Content-Type"]) == (200, accept)
            if accept == content.JSON:
                assert json.loads(reply)["predictions"] == expected
            elif accept in (content.CSV, content.JSONL):
                assert [float(line) for line in reply.split()] == expected


def test_a_function_is_served_and_its_exception_is_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served_function.py").write_text(
        "def score(rows):\n"
        "    if rows.shape[1] != 2:\n"
        "        raise ValueError(f'cannot score {rows.tolist()}')\n"
        "    return rows.sum(axis=1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with background(ServeConfig(model="python:served_function:score")) as server:
        runtime = client(server)
        assert invoke(runtime, b"1,2\n3,4.5\n", name="score")["Body"].read() == b"3.0\n7.5\n"
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            invoke(runtime, b"1,2,424242\n", name="score")
        assert caught.value.response["OriginalStatusCode"] == 500
        assert caught.value.response["OriginalMessage"].startswith("ValueError: cannot score")
        assert server.stats()["outcomes"] == {"200": 1, "ModelError": 1}
    said = capfd.readouterr().err
    assert "ValueError" in said
    assert "424242" not in said


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("400", 400, "ThrottlingException"),
        ("429", 429, "ModelNotReadyException"),
        ("424", 424, "ModelError"),
        ("500", 500, "InternalFailure"),
        ("503", 503, "ServiceUnavailable"),
        ("530", 530, "InternalDependencyException"),
    ],
)
def test_errors_come_out_of_boto3_under_their_names(kind: str, status: int, name: str) -> None:
    config = ServeConfig(model="simulated", simulation=SimulationConfig(errors={kind: 1.0}))
    with background(config) as server:
        runtime = client(server)
        error = refused(lambda: invoke(runtime, b"1\n", name="simulated"))
        assert code(error) == (status, name)
        if hasattr(runtime.exceptions, name):
            assert isinstance(error, getattr(runtime.exceptions, name))
        if kind == "400":
            _, body, _ = post(server, "/endpoints/simulated/invocations", b"1\n")
            assert json.loads(body) == {"message": None}


def test_a_stopped_server_frees_its_port_and_its_process() -> None:
    with background(ServeConfig(model="echo")) as server:
        assert invoke(client(server), b"1\n")["Body"].read() == b"1\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=20)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
