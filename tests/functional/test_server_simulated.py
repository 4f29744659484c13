"""The simulated endpoint over HTTP."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from typing import Any

import aiohttp
import numpy as np
import pytest

from asyncbatch.server import ServeConfig, Server, SimulationConfig, content, serving
from asyncbatch.server.rows import Rows
from asyncbatch.server.simulation import poison_mask


def config(**simulation: Any) -> ServeConfig:
    return ServeConfig(model="simulated", simulation=SimulationConfig(**simulation))


def lines(start: int, stop: int) -> bytes:
    return b"".join(b"%d,x\n" % row for row in range(start, stop))


async def ask(
    session: aiohttp.ClientSession, server: Server, body: bytes, **headers: str
) -> tuple[int, bytes]:
    url = f"{server.url}/endpoints/simulated/invocations"
    async with session.post(url, data=body, headers={"Content-Type": "text/csv", **headers}) as reply:
        return reply.status, await reply.read()


async def ask_many(
    served: ServeConfig, bodies: list[bytes]
) -> tuple[list[tuple[int, bytes]], dict[str, Any], float]:
    """All at once; the replies in order, the statistics, and the seconds it took."""
    async with (
        serving(served) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        started = time.monotonic()
        replies = await asyncio.gather(*(ask(session, server, body) for body in bodies))
        return replies, server.stats(), time.monotonic() - started


async def ask_until_refused(served: ServeConfig, *, requests: int, refused: int) -> Counter[int]:
    """All at once, to an endpoint that does not end a request in the time of this test; the statuses of the refusals."""
    async with (
        serving(served) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        asked = [asyncio.create_task(ask(session, server, b"1\n")) for _ in range(requests)]
        found: Counter[int] = Counter()
        for each in itertools.islice(asyncio.as_completed(asked), refused):
            found[(await each)[0]] += 1
        assert server.stats()["in_flight"] == requests - refused
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return found


def statuses(served: ServeConfig, bodies: list[bytes]) -> Counter[int]:
    replies, _, _ = asyncio.run(ask_many(served, bodies))
    return Counter(status for status, _ in replies)


def test_each_row_answers_its_first_value_byte_for_byte() -> None:
    replies, stats, _ = asyncio.run(ask_many(config(), [b"1.50,a\n 2,b\nabc\n", lines(0, 1000)]))
    assert replies[0] == (200, b"1.50\n 2\nabc\n")
    assert replies[1][1].split() == [b"%d" % row for row in range(1000)]
    assert stats["rows"] == 1003
    assert stats["outcomes"] == {"200": 2}


def test_it_echoes_every_body_format() -> None:
    async def scenario() -> None:
        async with serving(config()) as server, aiohttp.ClientSession() as session:
            for kind in (content.JSON, content.JSONL, content.NPY, content.ARROW, content.PARQUET):
                body = content.encode(np.array([[1.5], [2.5]]), kind)
                if kind == content.JSON:
                    body = b'{"instances":[[1.5,9],[2.5,9]]}'
                if kind in (content.ARROW, content.PARQUET):
                    body = content.encode(np.array([1.5, 2.5]), kind)
                status, reply = await ask(
                    session, server, body, **{"Content-Type": kind, "Accept": "text/csv"}
                )
                assert (status, reply) == (200, b"1.5\n2.5\n"), kind

    asyncio.run(scenario())


def test_several_outputs_count_up_from_the_first_value() -> None:
    replies, _, _ = asyncio.run(ask_many(config(outputs=3), [b"1.5,a\n", lines(7, 9)]))
    assert replies == [(200, b"1.5,2.5,3.5\n"), (200, b"7.0,8.0,9.0\n8.0,9.0,10.0\n")]


def test_slots_bound_what_is_served_at_once() -> None:
    replies, stats, seconds = asyncio.run(ask_many(config(a=0.05, slots=2), [b"1\n"] * 8))
    assert {status for status, _ in replies} == {200}
    assert seconds >= 0.19
    assert stats["slots"]["most_busy"] == 2
    assert stats["slots"]["most_waiting"] == 6
    assert stats["slots"]["busy_share"] > 0.2
    assert stats["most_in_flight"] == 8


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops does not wait long for open requests."""
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.1)


@pytest.mark.usefixtures("short_grace")
def test_a_full_queue_refuses_with_503() -> None:
    full = config(a=100, slots=1, queue=2)
    assert asyncio.run(ask_until_refused(full, requests=10, refused=7)) == {503: 7}


def test_the_bucket_throttles_with_400_or_429() -> None:
    assert statuses(config(rate=0.01, burst=3), [b"1\n"] * 10) == {200: 3, 400: 7}
    assert statuses(config(rate=0.01, burst=3, throttle=429), [b"1\n"] * 10) == {200: 3, 429: 7}


@pytest.mark.usefixtures("short_grace")
def test_more_than_max_conc_are_throttled() -> None:
    assert asyncio.run(ask_until_refused(config(a=100, max_conc=2), requests=5, refused=3)) == {400: 3}


def test_caps_answer_413() -> None:
    assert statuses(config(cap_rows=10), [lines(0, 10), lines(0, 11)]) == {200: 1, 413: 1}
    assert statuses(config(cap_bytes=20), [b"1" * 20, b"1" * 21]) == {200: 1, 413: 1}


def test_too_few_and_too_many_rows_fail_in_the_container() -> None:
    assert statuses(config(min_rows=2), [lines(0, 1), lines(0, 2)]) == {424: 1, 200: 1}
    assert statuses(config(oom_rows=5), [lines(0, 5), lines(0, 6)]) == {200: 1, 424: 1}


def test_error_shares_are_kept() -> None:
    served = config(errors={"500": 0.3, "503": 0.2}, seed=4)
    found = statuses(served, [b"1\n"] * 400)
    assert found[500] == pytest.approx(120, abs=35)
    assert found[503] == pytest.approx(80, abs=30)
    assert sum(found.values()) == 400
    assert found == statuses(served, [b"1\n"] * 400)


def test_only_requests_with_a_poisoned_row_fail() -> None:
    poisoned = poison_mask(np.arange(1000.0), share=0.02, seed=9)
    bodies = [lines(start, start + 10) for start in range(0, 1000, 10)]
    replies, _, _ = asyncio.run(ask_many(config(poison_share=0.02, seed=9), bodies))
    refused = [status == 424 for status, _ in replies]
    assert refused == [bool(each.any()) for each in poisoned.reshape(-1, 10)]
    assert any(refused)
    assert not all(refused)


def test_a_marked_row_fails_with_the_containers_400() -> None:
    replies, _, _ = asyncio.run(ask_many(config(poison_value="-999"), [b"1\n-999,2\n", b"1\n-99\n"]))
    assert [status for status, _ in replies] == [424, 200]
    assert b'"OriginalStatusCode":400' in replies[0][1]


def test_a_simulation_surrounds_a_real_model_too() -> None:
    served = ServeConfig(model="flights", names=("simulated",), simulation=SimulationConfig(cap_rows=2))
    row = b"1,515,819,1400,1545\n"
    replies, _, _ = asyncio.run(ask_many(served, [row * 2, row * 3]))
    assert [status for status, _ in replies] == [200, 413]
    assert len(set(replies[0][1].split())) == 1


def test_a_short_reply_lacks_the_last_row() -> None:
    replies, stats, _ = asyncio.run(ask_many(config(errors={"short": 1.0}), [lines(0, 5)]))
    assert replies == [(200, b"0\n1\n2\n3\n")]
    assert stats["outcomes"] == {"short": 1}


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("short", b"0\n1\n"),
        ("long", b"0\n1\n2\n2\n"),
        ("nan", b"nan\nnan\nnan\n"),
        ("empty", b""),
        ("mistyped", b"0\n1\n2\n"),
    ],
)
@pytest.mark.parametrize("body", [lines(0, 3), b'"0"\n1\n2\n'], ids=["lines", "parsed"])
def test_a_flawed_reply_is_complete_and_wrong(kind: str, reply: bytes, body: bytes) -> None:
    replies, stats, _ = asyncio.run(ask_many(config(errors={kind: 1.0}), [body]))
    assert [(status, text.replace(b".0", b"")) for status, text in replies] == [(200, reply)]
    assert stats["outcomes"] == {kind: 1}
    assert stats["rows_in"] == 3


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("413", 413, b"exceeded"),
        ("424-400", 424, b'"OriginalStatusCode":400'),
        ("502", 502, b"<html>"),
        ("capacity", 400, b"no capacity"),
        ("garbage", 200, b"<html>"),
    ],
)
def test_more_kinds_of_errors_look_as_they_do_elsewhere(kind: str, status: int, said: bytes) -> None:
    replies, _, _ = asyncio.run(ask_many(config(errors={kind: 1.0}), [lines(0, 5)]))
    assert replies[0][0] == status
    assert said in replies[0][1]


def test_a_trickling_reply_is_slow_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbatch.server.app.HANG_S", 0.2)
    replies, _, took_s = asyncio.run(ask_many(config(errors={"trickle": 1.0}), [lines(0, 300)]))
    assert replies == [(200, lines(0, 300).replace(b",x", b""))]
    assert took_s >= 0.2


def test_a_reset_ends_without_a_reply_and_a_truncated_one_inside_it() -> None:
    async def scenario(kind: str) -> Exception:
        async with serving(config(errors={kind: 1.0})) as server, aiohttp.ClientSession() as session:
            try:
                await ask(session, server, lines(0, 1000))
            except aiohttp.ClientError as error:
                assert server.stats()["outcomes"] == {kind: 1}
                return error
        raise AssertionError("a whole reply came")

    assert isinstance(asyncio.run(scenario("reset")), aiohttp.ServerDisconnectedError)
    assert isinstance(asyncio.run(scenario("truncated")), aiohttp.ClientPayloadError)
    assert isinstance(asyncio.run(scenario("reset-inside")), aiohttp.ClientError)


def test_a_client_that_gives_up_does_not_lose_a_slot() -> None:
    async def scenario() -> None:
        async with serving(config(a=0.1, slots=1)) as server, aiohttp.ClientSession() as session:
            impatient = [asyncio.create_task(ask(session, server, b"1\n")) for _ in range(4)]
            await asyncio.sleep(0.03)
            for task in impatient:
                task.cancel()
            await asyncio.gather(*impatient, return_exceptions=True)
            assert await ask(session, server, b"2\n") == (200, b"2\n")
            slots = server.stats()["slots"]
            assert (slots["busy"], slots["waiting"]) == (0, 0)

    asyncio.run(scenario())


def test_only_small_bodies_are_read_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[int, bool] = {}

    async def scenario() -> None:
        loops = threading.get_ident()
        decode = content.decode

        def noting(body: bytes, content_type: str) -> Rows:
            threads[len(body)] = threading.get_ident() == loops
            return decode(body, content_type)

        monkeypatch.setattr(content, "decode", noting)
        async with serving(config()) as server, aiohttp.ClientSession() as session:
            for size in (10, 100_000):
                await ask(session, server, b'"1",' + b"2" * (size - 5) + b"\n")

    asyncio.run(scenario())
    assert threads == {10: True, 100_000: False}


def test_a_large_csv_body_does_not_hold_the_interpreter_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    shortcut: list[int] = []
    number_lines = content._number_lines

    def noting(body: bytes) -> object:
        shortcut.append(len(body))
        return number_lines(body)

    monkeypatch.setattr(content, "_number_lines", noting)
    small, large = b"1.5,2\n" * 10, b"1.5,2\n" * 200_000
    assert len(content.decode(small, content.CSV)) == 10
    assert len(content.decode(large, content.CSV)) == 200_000
    assert shortcut == [len(small)]


def test_what_nobody_foresaw_is_an_internal_failure_without_the_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(body: bytes, content_type: str) -> Rows:
        raise RuntimeError(f"cannot read {body!r}")

    monkeypatch.setattr(content, "decode", fail)
    replies, stats, _ = asyncio.run(ask_many(config(), [b'"rowcontent"\n']))
    assert replies[0][0] == 500
    assert b"InternalFailure" not in replies[0][1]
    assert stats["outcomes"] == {"InternalFailure": 1}
    assert "RuntimeError at" in caplog.text
    assert "rowcontent" not in caplog.text + replies[0][1].decode()


@pytest.mark.usefixtures("short_grace")
def test_stopping_does_not_wait_for_a_hanging_request() -> None:
    async def scenario() -> float:
        async with aiohttp.ClientSession() as session:
            async with serving(config(errors={"hang": 1.0})) as server:
                request = asyncio.create_task(ask(session, server, b"5\n"))
                await until_it_is_there(server)
                started = time.monotonic()
            stopped = time.monotonic() - started
            with pytest.raises(aiohttp.ClientError):
                await request
            return stopped

    assert asyncio.run(scenario()) < 30  # the request hangs for 60 s


async def until_it_is_there(server: Server) -> None:
    while not server.stats()["in_flight"]:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.01)


def test_stopping_waits_for_open_requests() -> None:
    async def scenario() -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session:
            async with serving(config(a=0.2)) as server:
                request = asyncio.create_task(ask(session, server, b"5\n"))
                await until_it_is_there(server)
            return await request

    assert asyncio.run(scenario()) == (200, b"5\n")
