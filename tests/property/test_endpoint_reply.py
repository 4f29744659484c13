"""The reply reader against any bytes: exactly the reply that the framing says, or a named failure; never another reply."""

import gzip
import zlib
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncbatch.endpoint.reply import ERROR_BYTES, Broken, ReplyReader, WireReply
from asyncbatch.model import Transport

BOUND = 100_000


@dataclass(frozen=True)
class Written:
    """A reply as some server could write it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: str
    chunks: tuple[int, ...]
    interim: int
    version: str

    def bytes(self) -> bytes:
        out = b"HTTP/1.1 100 Continue\r\n\r\n" * min(self.interim, 1)
        out += b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * max(0, self.interim - 1)
        lines = [
            f"HTTP/{self.version} {self.status} Some Words",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        if self.framing == "length":
            lines.append(f"Content-Length: {len(self.body)}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        out += "\r\n".join([*lines, "", ""]).encode()
        if self.framing != "chunked":
            return out + self.body
        start = 0
        for size in (*self.chunks, len(self.body)):
            piece = self.body[start : start + size]
            if piece:
                out += b"%X;ext=1\r\n%b\r\n" % (len(piece), piece)
            start += size
        return out + b"0\r\nX-Trailer: t\r\nContent-Type: of/a-trailer\r\n\r\n"


NAMES = st.from_regex(r"x-[a-z0-9]{1,8}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
REPLIES = st.builds(
    Written,
    status=st.sampled_from([200, 200, 201, 299, 300, 400, 413, 424, 500, 503, 530]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=5, unique_by=lambda each: each[0]).map(tuple),
    body=st.binary(max_size=300),
    framing=st.sampled_from(["length", "chunked", "end"]),
    chunks=st.lists(st.integers(1, 50), max_size=6).map(tuple),
    interim=st.integers(0, 3),
    version=st.just("1.1"),
)


def read(data: bytes, cuts: list[int], *, clean: bool = True) -> tuple[WireReply | Broken, bool]:
    """What a reader makes of `data` cut at `cuts`, then the end of the connection; and whether it was in step before."""
    reader = ReplyReader(max_reply_bytes=BOUND, decompress=False)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        if start < stop and reader.feed(data[start:stop]):
            break
    in_step = reader.in_step and reader.result is not None
    reader.end(clean=clean)
    assert reader.result is not None
    return reader.result, in_step


CUTS = st.lists(st.integers(0, 10**6), max_size=12)


@settings(max_examples=250, deadline=None)
@given(REPLIES, CUTS)
def test_a_proper_reply_is_read_as_it_was_written(written: Written, cuts: list[int]) -> None:
    found, in_step = read(written.bytes(), cuts)
    assert isinstance(found, WireReply), found
    assert (found.status, found.body) == (written.status, written.body)
    sent = dict(written.headers)
    assert {name: found.headers[name] for name in sent} == sent
    assert "x-trailer" not in found.headers
    assert "content-type" not in found.headers
    assert in_step == (written.framing != "end")


@settings(max_examples=250, deadline=None)
@given(REPLIES, st.data())
def test_a_reply_cut_short_is_never_taken_for_a_whole_one(written: Written, data: st.DataObject) -> None:
    whole = written.bytes()
    kept = data.draw(st.integers(0, len(whole) - 1))
    clean = data.draw(st.booleans())
    found, _ = read(whole[:kept], data.draw(CUTS), clean=clean)
    if isinstance(found, WireReply):
        # Only a reply that ends with its connection cannot tell, and only where that was no reset.
        assert written.framing == "end"
        assert clean
        assert written.body.startswith(found.body)
    else:
        expected = Transport.RESET if kept == 0 else Transport.TRUNCATED
        assert found.transport is expected


@settings(max_examples=250, deadline=None)
@given(REPLIES, st.data())
@example(Written(200, (), b"", "length", (), 0, "1.1"), None)
def test_any_damage_gives_the_same_result_however_it_is_split(
    written: Written, data: st.DataObject | None
) -> None:
    damaged = bytearray(written.bytes())
    if data is not None:
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
            kind = data.draw(st.sampled_from(["flip", "insert", "delete", "double"]))
            if kind == "flip" and damaged:
                damaged[at] = data.draw(st.integers(0, 255))
            elif kind == "insert":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=20))
            elif kind == "delete":
                del damaged[at : at + data.draw(st.integers(1, 10))]
            else:
                damaged[at:at] = damaged[at : at + 30]
    whole, _ = read(bytes(damaged), [])
    split, _ = read(bytes(damaged), data.draw(CUTS) if data is not None else list(range(60)))
    each, _ = read(bytes(damaged), list(range(len(damaged))))
    for other in (split, each):
        assert type(other) is type(whole)
        if isinstance(whole, WireReply):
            assert other == whole


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.binary(max_size=400), st.text("HTP/1.0 2\r\n:abc;", max_size=200).map(str.encode)), CUTS)
def test_any_bytes_end_in_a_result(data: bytes, cuts: list[int]) -> None:
    found, _ = read(data, cuts)
    if isinstance(found, Broken):
        assert found.transport in (Transport.RESET, Transport.TRUNCATED, Transport.PROTOCOL)


@settings(max_examples=80, deadline=None)
@given(st.lists(REPLIES.filter(lambda each: each.framing != "end"), min_size=2, max_size=5), CUTS)
def test_a_connection_in_step_carries_one_reply_after_the_other(
    replies: list[Written], cuts: list[int]
) -> None:
    reader = ReplyReader(max_reply_bytes=BOUND, decompress=False)
    for written in replies:
        reader.start()
        data = written.bytes()
        edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
        for start, stop in pairwise(edges):
            reader.feed(data[start:stop])
        assert isinstance(reader.result, WireReply)
        assert reader.result.body == written.body
        assert reader.in_step


@pytest.mark.parametrize(
    ("data", "transport"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc", Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", Transport.PROTOCOL),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", Transport.PROTOCOL),
        (b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000, Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 600_000, Transport.PROTOCOL),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 30_000, Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 100_000, Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 400_000, Transport.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n", Transport.REPLY_TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n%b\r\n" % (b"x" * 65535) * 2,
         Transport.REPLY_TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_001, Transport.REPLY_TOO_LARGE),
    ],
)  # fmt: skip
def test_replies_that_are_none(data: bytes, transport: Transport) -> None:
    for size in (len(data), 1000, 997):
        found, in_step = read(data, list(range(0, len(data), size)))
        assert isinstance(found, Broken)
        assert found.transport is transport
        assert not in_step


def test_what_comes_after_a_reply_does_not_change_it_but_ends_the_connection() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    for more in (b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"):
        reader = ReplyReader(max_reply_bytes=BOUND, decompress=False)
        assert reader.feed(reply + more)
        assert isinstance(reader.result, WireReply)
        assert reader.result.body == b"a"
        assert not reader.in_step


@pytest.mark.parametrize(
    ("head", "in_step"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    ],
)
def test_whether_the_connection_may_be_used_again(head: bytes, in_step: bool) -> None:
    found, step = read(head, [])
    assert isinstance(found, WireReply)
    assert step is in_step


def test_an_error_is_read_so_far_and_no_further() -> None:
    data = b"HTTP/1.1 500 No\r\nContent-Length: 9999999\r\n\r\n" + b"e" * (ERROR_BYTES + 1)
    found, in_step = read(data, [])
    assert isinstance(found, WireReply)
    assert found.body == b"e" * ERROR_BYTES
    assert not in_step


def unpacked(body: bytes, coding: str, status: int = 200) -> WireReply | Broken | None:
    reader = ReplyReader(max_reply_bytes=BOUND, decompress=True)
    reader.feed(b"HTTP/1.1 %d X\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status, coding.encode(), len(body), body))  # fmt: skip
    return reader.result


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(body) + packing.flush()


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=2000))
def test_compressed_replies(body: bytes) -> None:
    packed = {
        "gzip": gzip.compress(body),
        "x-gzip": gzip.compress(body[:7]) + gzip.compress(body[7:]),
        "deflate": zlib.compress(body),
        "identity": body,
    }
    for coding, data in packed.items():
        found = unpacked(data, coding)
        assert isinstance(found, WireReply)
        assert found.body == body
        cut = unpacked(data[:-1], coding)
        if coding != "identity" and data:
            assert isinstance(cut, Broken)
    bare = unpacked(raw_deflate(body), "deflate")
    assert isinstance(bare, Broken) or bare is None or bare.body == body


def test_a_compressed_bomb_is_not_unpacked() -> None:
    found = unpacked(gzip.compress(b"0" * 50_000_000), "gzip")
    assert isinstance(found, Broken)
    assert found.transport is Transport.REPLY_TOO_LARGE
    refusal = unpacked(gzip.compress(b"0" * 50_000_000), "gzip", status=500)
    assert isinstance(refusal, WireReply)
    assert len(refusal.body) == ERROR_BYTES


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
def test_a_coding_that_was_not_asked_for(coding: str) -> None:
    found = unpacked(b"abc", coding)
    assert isinstance(found, Broken)
    assert found.transport is Transport.PROTOCOL
