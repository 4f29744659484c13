"""The HTTP endpoint against a server that misbehaves: what goes beyond the promises of the protocol."""

import asyncio
import datetime as dt
import gzip
import ipaddress
import ssl
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control.failures import Action, classify
from asyncbatch.endpoint import make_endpoint, pool
from asyncbatch.errors import ConfigError, InvocationError
from asyncbatch.model import BytesPayload, Failure, Reply, Transport
from asyncbatch.protocols import Endpoint
from asyncbatch.testing.faults import Fault, FaultServer, Plan

PAYLOAD = BytesPayload(pieces=(b"1,2\n",), content_type="text/csv", nbytes=4)


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


def with_server(
    test: Callable[[FaultServer, Endpoint], Awaitable[None]],
    *,
    path: str = "/invocations",
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> None:
    """Run `test` with a server and an endpoint opened for it."""

    async def run() -> None:
        async with FaultServer(tls=tls) as server:
            endpoint = make_endpoint(RunConfig.from_options({"endpoint": server.url + path, **options}))
            await endpoint.open(concurrency=4)
            try:
                await test(server, endpoint)
            finally:
                await endpoint.aclose()

    asyncio.run(run())


async def fails(endpoint: Endpoint, payload: BytesPayload = PAYLOAD, timeout_s: float = 2.0) -> Failure:
    with pytest.raises(InvocationError) as caught:
        await endpoint.invoke(payload, timeout_s=timeout_s)
    return caught.value.failure


def test_only_the_headers_asked_for_are_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_TOKEN", "Bearer t0ken")
    (tmp_path / "key").write_text("k3y\n")

    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=2)
        seen = server.seen[0]
        names = [name for name, _ in seen.headers]
        assert names[0] == "Host"
        assert sorted(names[1:]) == [
            "Accept-Encoding",
            "Authorization",
            "Content-Length",
            "Content-Type",
            "User-Agent",
            "X-Key",
        ]
        assert seen.header("authorization") == ["Bearer t0ken"]
        assert seen.header("x-key") == ["k3y"]
        assert seen.header("user-agent")[0].startswith("asyncbatch/")
        assert seen.target == "/invocations"

    with_server(test, header=["Authorization: @env:MODEL_TOKEN", f"X-Key: @file:{tmp_path / 'key'}"])


def test_accept_is_sent_when_given() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        await endpoint.invoke(PAYLOAD, timeout_s=2)
        assert server.seen[0].header("accept") == ["application/json"]

    with_server(test, accept="application/json")


def test_query_and_user_of_the_url_are_sent() -> None:
    async def run() -> None:
        async with FaultServer() as server:
            url = server.url.replace("http://", "http://user:pw@") + "/a%20b/v1?x=1&y=%2F"
            endpoint = make_endpoint(RunConfig.from_options({"endpoint": url}))
            await endpoint.open(concurrency=1)
            await endpoint.invoke(PAYLOAD, timeout_s=2)
            await endpoint.aclose()
            assert server.seen[0].target in ("/a%20b/v1?x=1&y=%2F", "/a%20b/v1?x=1&y=/")
            assert server.seen[0].header("authorization") == ["Basic dXNlcjpwdw=="]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Authorization: @env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
        ("Authorization: @file:/no/such/file", "/no/such/file"),
        ("Content-Type: text/csv", "has an option of its own"),
        ("Accept: text/csv", "has an option of its own"),
        ("Content-Length: 3", "written by asyncbatch itself"),
        ("Transfer-Encoding: chunked", "written by asyncbatch itself"),
        ("X-A: a\x00b", "control character"),
    ],
)
def test_headers_that_cannot_be_sent(header: str, message: str) -> None:
    endpoint = make_endpoint(RunConfig.from_options({"endpoint": "http://localhost/", "header": [header]}))
    with pytest.raises(ConfigError, match=message):
        asyncio.run(endpoint.open(concurrency=1))


def test_a_stale_connection_is_told_from_a_fresh_one() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        for fault in (Fault.RESET, Fault.CLOSE):
            server.script([Plan(fault=fault)])
            fresh = await fails(endpoint)
            assert (fresh.transport, fresh.reused_connection) == (Transport.RESET, False)
            server.script([Plan(), Plan(fault=fault)])
            await endpoint.invoke(PAYLOAD, timeout_s=2)
            stale = await fails(endpoint)
            assert (stale.transport, stale.reused_connection) == (Transport.RESET, True)
            assert classify(stale).action is Action.RESEND

    with_server(test)


def test_compressed_replies_are_read_within_the_bound() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        small, bomb = b"0.5," * 100, b"0" * 50_000_000
        for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            headers = (("Content-Encoding", encoding),)
            server.script([Plan(body=compress(small), headers=headers)])
            reply = await endpoint.invoke(PAYLOAD, timeout_s=2)
            assert reply.body == small
            server.script([Plan(body=compress(bomb), headers=headers)])
            failure = await fails(endpoint)
            assert failure.transport is Transport.REPLY_TOO_LARGE
        server.script([Plan(body=b"this is not gzip", headers=(("Content-Encoding", "gzip"),))])
        failure = await fails(endpoint)
        assert failure.transport in (Transport.TRUNCATED, Transport.PROTOCOL)

    with_server(test, max_reply=1_000_000)


def test_a_redirect_names_the_host_and_is_not_followed() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        server.script([Plan(status=308, headers=(("Location", "https://other.example/x?token=t"),))])
        failure = await fails(endpoint)
        assert failure.message == "redirects to https://other.example/x"
        assert classify(failure).action is Action.FATAL
        assert len(server.seen) == 1

    with_server(test)


def test_the_message_is_the_start_of_what_the_server_says() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        server.script([Plan(status=500, body=b"Expected 2D array, got 1D array instead: " + b"x" * 100_000)])
        failure = await fails(endpoint)
        assert failure.message.startswith("Expected 2D array")
        assert len(failure.message) == 2048
        assert failure.error_name == ""

    with_server(test)


def test_variant_and_headers_of_the_reply() -> None:
    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        headers = (("x-Amzn-Invoked-Production-Variant", "blue"), ("X-Model", "7"))
        server.script([Plan(body=b"1", headers=headers)])
        reply: Reply = await endpoint.invoke(PAYLOAD, timeout_s=2)
        assert reply.variant == "blue"
        assert reply.headers["x-model"] == "7"

    with_server(test)


def test_an_unknown_host_name() -> None:
    async def run() -> None:
        endpoint = make_endpoint(
            RunConfig.from_options({"endpoint": "http://no-such-host.invalid:8080/x?key=k"})
        )
        await endpoint.open(concurrency=1)
        try:
            failure = await fails(endpoint, timeout_s=20)
        finally:
            await endpoint.aclose()
        assert failure.transport is Transport.CONNECT
        assert "no-such-host.invalid" in failure.message
        assert "key" not in failure.message

    asyncio.run(run())


def test_a_connection_that_is_never_accepted_ends_at_the_connect_timeout() -> None:
    import socket

    async def run() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            fillers = []
            for _ in range(3):  # the backlog, so that the next handshake hangs
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
            options = {"endpoint": f"http://127.0.0.1:{port}/", "connect_timeout": 0.2}
            endpoint = make_endpoint(RunConfig.from_options(options))
            await endpoint.open(concurrency=1)
            failure = await fails(endpoint, timeout_s=5)
            assert failure.transport is Transport.CONNECT
            await endpoint.aclose()
            for filler in fillers:
                filler.close()

    asyncio.run(run())


def _authority(folder: Path, names: list[str]) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1 by an authority of its own, and the authority's certificate."""
    pytest.importorskip("cryptography", reason="makes the certificates of the TLS tests")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def build(subject: str, issuer: str, key: Any, signer: Any, authority: bool) -> Any:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            alternatives: list[Any] = [
                x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
                for name in names
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(signer, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = build("test authority", "test authority", authority_key, authority_key, True)
    certificate = build("server", "test authority", key, authority_key, False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, folder / "ca.pem"


def test_tls_with_a_ca_bundle(tmp_path: Path) -> None:
    tls, bundle = _authority(tmp_path, ["127.0.0.1"])

    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        server.script([Plan(body=b"0.5")], then=Plan(body=b"1", fault=Fault.STALL))
        big = BytesPayload(pieces=(b"1,2\n" * 500_000,), content_type="text/csv", nbytes=2_000_000)
        assert (await endpoint.invoke(big, timeout_s=5)).body == b"0.5"
        assert server.seen[0].body == big.pieces[0]
        failure = await fails(endpoint, timeout_s=0.2)
        assert failure.transport is Transport.TIMEOUT

    with_server(test, tls=tls, ca_bundle=str(bundle))


def test_the_bundle_of_the_environment_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, bundle = _authority(tmp_path, ["127.0.0.1"])
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        server.script([Plan(body=b"0.5")])
        assert (await endpoint.invoke(PAYLOAD, timeout_s=5)).body == b"0.5"

    with_server(test, tls=tls)


def test_servers_that_are_not_trusted(tmp_path: Path) -> None:
    tls, bundle = _authority(tmp_path, ["other.example"])

    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        failure = await fails(endpoint)
        assert failure.transport is Transport.TLS
        assert classify(failure).action is Action.FATAL
        assert "127.0.0.1" in failure.message

    with_server(test, tls=tls)  # an unknown authority
    with_server(test, tls=tls, ca_bundle=str(bundle))  # a known one, for another name


def test_a_failed_handshake_is_not_waited_for_at_the_end(tmp_path: Path) -> None:
    tls, _ = _authority(tmp_path, ["other.example"])

    async def run() -> float:
        async with FaultServer(tls=tls) as server:
            endpoint = make_endpoint(RunConfig.from_options({"endpoint": server.url}))
            await endpoint.open(concurrency=1)
            assert (await fails(endpoint)).transport is Transport.TLS
            began_s = asyncio.get_running_loop().time()
            await endpoint.aclose()
            return asyncio.get_running_loop().time() - began_s

    assert asyncio.run(run()) < pool._CLOSE_S


def test_https_to_a_server_without_tls() -> None:
    async def run() -> None:
        async with FaultServer() as server:
            url = server.url.replace("http://", "https://")
            endpoint = make_endpoint(RunConfig.from_options({"endpoint": url}))
            await endpoint.open(concurrency=1)
            server.script(then=Plan(fault=Fault.GARBAGE))
            failure = await fails(endpoint, timeout_s=1)
            assert failure.transport in (Transport.TLS, Transport.CONNECT, Transport.TIMEOUT)
            await endpoint.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_bundle_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    options = {"endpoint": "https://localhost/", "ca_bundle": str(bundle)}
    with pytest.raises(ConfigError, match="--ca-bundle"):
        asyncio.run(make_endpoint(RunConfig.from_options(options)).open(concurrency=1))


def test_no_message_holds_what_was_sent() -> None:
    secret = BytesPayload(pieces=(b"hunter2," * 20_000,), content_type="text/csv", nbytes=160_000)

    async def test(server: FaultServer, endpoint: Endpoint) -> None:
        for fault in Fault:
            if fault in (Fault.NONE, Fault.EARLY, Fault.TRICKLE):
                continue
            server.script([Plan(fault=fault, body=b"0123456789")])
            failure = await fails(endpoint, secret, timeout_s=0.15)
            assert "hunter2" not in repr(failure)
            assert "t0ken" not in repr(failure)
            assert "k3y" not in repr(failure)

    with_server(test, path="/?key=k3y", header=["Authorization: t0ken"], max_reply=100_000)


def test_closing_while_invocations_are_under_way_leaves_nothing() -> None:
    async def run() -> None:
        async with FaultServer() as server:
            server.script(then=Plan(fault=Fault.STALL))
            endpoint = make_endpoint(RunConfig.from_options({"endpoint": server.url}))
            await endpoint.open(concurrency=4)
            tasks = [asyncio.ensure_future(endpoint.invoke(PAYLOAD, timeout_s=5)) for _ in range(4)]
            while server.in_flight < 4:  # noqa: ASYNC110  # no event tells of it
                await asyncio.sleep(0.01)
            await endpoint.aclose()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, InvocationError) for result in results), results
            while server.open_connections:  # noqa: ASYNC110  # no event tells of it
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 10))
