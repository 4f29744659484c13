"""Where replies are decoded: small ones on the event loop, others and slow expressions off it."""

import threading
from collections.abc import Sequence

import anyio
import pyarrow as pa
import pytest

from asyncbatch.codec import ReplyLayout, infer_layout, make_decoder, make_encoder
from asyncbatch.config import ReplyConfig, RequestConfig
from asyncbatch.model import Kind, Payload, Reply, Values
from asyncbatch.pipeline.blocks import Work
from asyncbatch.pipeline.invoking import Answer, Invoker
from asyncbatch.protocols import Decoder

REPLY = b'{"p": [{"s": 0.5}, {"s": 0.25}]}'


class Noting:
    """A decoder that remembers the threads it was called in."""

    def __init__(self, decoder: Decoder, *, slow: bool) -> None:
        self.decoder, self.slow = decoder, slow
        self.threads: list[str] = []

    @property
    def fields(self) -> "Sequence[pa.Field]":
        return self.decoder.fields

    def decode(self, reply: Reply, rows: int) -> tuple[Values, ...]:
        self.threads.append(threading.current_thread().name)
        return self.decoder.decode(reply, rows)


class Server:
    name, takes_batches, max_body_bytes, identity = "server", False, 2**20, {}

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def open(self, *, concurrency: int) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        return Reply(body=self.body, content_type="application/json")


def layout(path: str) -> ReplyLayout:
    reply = Reply(body=REPLY, content_type="application/json")
    return infer_layout([(reply, 2)], ReplyConfig(reply=path))


@pytest.mark.parametrize(
    ("path", "padding", "off"),
    [("p[*].s", 0, False), ("p[*].s", 200_000, True), ("p[?s > `0`].s", 0, True)],
    ids=["a plain path", "a plain path, a large reply", "an expression"],
)
def test_large_replies_and_expressions_are_decoded_off_the_event_loop(
    path: str, padding: int, off: bool
) -> None:
    own = make_decoder(layout(path))
    decoder = Noting(own, slow=own.slow)
    encoder = make_encoder(RequestConfig(), pa.schema([("x", pa.float64())]))
    good = pa.table({"x": [1.0]})

    async def ask() -> tuple[str, object]:
        invoker = Invoker(
            endpoint=Server(REPLY + b" " * padding),
            encoder=encoder,
            decoder=decoder,
            timeout_s=1.0,
            clock=anyio.current_time,
            good_rows=good,
        )
        answer = await invoker.invoke(Work(block=None, start=0, stop=1, kind=Kind.PROBE, chunk=-1))
        return threading.current_thread().name, answer

    here, answer = anyio.run(ask)
    assert isinstance(answer, Answer)
    assert (decoder.threads != [here]) == off
