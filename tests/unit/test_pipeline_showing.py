"""What `plan --show` prints of requests and replies of every kind."""

import pyarrow as pa
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.model import BatchPayload, BytesPayload, Failure, Reply, Transport
from asyncbatch.pipeline.probing import Exchange
from asyncbatch.pipeline.showing import chosen, shown_columns, shown_exchange
from asyncbatch.protocols import Endpoint, ShowsRequests


def payload(body: bytes = b"1,2", content_type: str = "text/csv") -> BytesPayload:
    return BytesPayload(pieces=(body[:1], body[1:]), content_type=content_type, nbytes=len(body))


def endpoint(**options: object) -> Endpoint:
    return make_endpoint(RunConfig.from_options({"endpoint": "churn-prod", **options}))


def exchange(rows: int = 1, body: bytes = b"1,2", **outcome: object) -> Exchange:
    outcome = outcome or {"reply": Reply(body=b"0.5", content_type="text/csv")}
    return Exchange(rows=rows, payload=payload(body), seconds=0.0123, **outcome)  # type: ignore[arg-type]


def shown(found: Exchange, where: Endpoint | None = None) -> str:
    return "\n".join(shown_exchange(found, where or endpoint(), None).lines())


def test_a_request_is_shown_as_it_is_sent() -> None:
    text = shown(exchange(), endpoint(target_variant="blue", accept="text/csv", header=["X-Key: hush"]))
    assert "request   1 row, 3 bytes" in text
    assert "    POST /endpoints/churn-prod/invocations\n" in text
    for line in (
        "Content-Type: text/csv",
        "X-Amzn-SageMaker-Target-Variant: blue",
        "Accept: text/csv",
        "X-Key: …",
    ):
        assert f"    {line}\n" in text
    assert "hush" not in text
    assert text.endswith("reply     200 in 12 ms, 3 bytes\n\n    0.5")


@pytest.mark.parametrize("name", ["churn-prod", "http://127.0.0.1:1/invocations"])
def test_endpoints_that_take_bytes_show_what_they_send_beside_them(name: str) -> None:
    assert isinstance(endpoint(endpoint=name), ShowsRequests)


def test_secrets_in_an_address_are_not_shown() -> None:
    where = endpoint(endpoint="http://me:hush@127.0.0.1:8080/v1/score?api_key=hush&version=2")
    line, headers = where.request_head(payload())  # type: ignore[attr-defined]
    assert line == "POST /v1/score?api_key=…&version=2"
    assert ("Host", "127.0.0.1:8080") in headers
    assert not any("hush" in value for _, value in headers)


def test_bytes_that_are_no_text_are_shown_in_hex() -> None:
    text = shown(exchange(body=b"\x93NUMPY\x01\x00" + bytes(200)))
    assert "    93 4e 55 4d 50 59 01 00 00" in text
    assert "… 112 more bytes" in text


def test_long_bodies_are_cut() -> None:
    text = shown(exchange(reply=Reply(body=b"0.5," * 5_000)))
    assert "16,000 more characters" in text
    assert len(text) < 6_000


def test_a_reply_that_sets_a_cookie_does_not_show_it() -> None:
    text = shown(exchange(reply=Reply(body=b"1", headers={"set-cookie": "session=hush", "x-served-by": "a"})))
    assert "hush" not in text
    assert "    x-served-by: a\n" in text


def test_a_refusal_is_shown_with_all_its_words() -> None:
    failure = Failure(
        status=424, error_name="ModelError", original_status=500, original_message="Expected 2D array\n" * 30
    )
    text = shown(exchange(failure=failure))
    assert "reply     HTTP 424 ModelError (container" in text
    assert text.count("    Expected 2D array") == 30


def test_no_reply_at_all_is_said() -> None:
    failure = Failure(transport=Transport.TIMEOUT, message="no complete reply within 70 s")
    assert "reply     timeout in 12 ms" in shown(exchange(failure=failure))


def test_what_a_function_gets_and_returns_is_shown_as_rows() -> None:
    batch = pa.record_batch({"x": [1.5, 2.5]})
    found = Exchange(
        rows=2, payload=BatchPayload(batch=batch, nbytes=16), seconds=0.1, reply=Reply(result=[0.5, 0.25])
    )
    text = shown(found, make_endpoint(RunConfig.from_options({"endpoint": "python:math:sqrt"})))
    assert "call of " in text
    assert "{'x': 1.5}" in text
    assert "[0.5, 0.25]" in text


def test_the_exchange_nearest_to_what_was_asked_for_is_shown() -> None:
    found = [exchange(rows) for rows in (1, 2, 7, 300)]
    assert [chosen(found, rows) for rows in (1, 3, 6, 200, 1000)] == [
        found[0],
        found[1],
        found[2],
        found[3],
        found[3],
    ]
    assert chosen([], 3) is None


@pytest.mark.parametrize(("body", "sent"), [("csv", 3.0), ("json", 3.0), ("npy", 8.0), ("parquet", 8.0)])
def test_columns_cost_what_their_values_take(body: str, sent: float) -> None:
    table = pa.table({"x": [0.5, 1.5], "id": ["a", "b"], "unused": [1, 2]})
    columns = shown_columns(table, sent=["x"], kept=["id", "x"], body=body)
    assert [(column.name, column.sent_bytes_per_row) for column in columns] == [("x", sent), ("id", None)]
    assert columns[0].kept_bytes_per_row == 8.0
