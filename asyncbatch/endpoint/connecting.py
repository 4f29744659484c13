"""From a host name to a connection: every address is used, the quickest to answer first, and TLS is verified.

Addresses are tried as RFC 8305 (happy eyeballs) says; each new connection begins with the next address, so that many
connections spread over all of them.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

import aiohappyeyeballs

from asyncbatch.endpoint.connection import Connection
from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, Transport

Address: TypeAlias = "tuple[int, int, int, str, tuple[Any, ...]]"
"""As `getaddrinfo` gives it."""
_NEXT_ADDRESS_S = 0.25
"""How long an address may take before the next one is tried beside it; RFC 8305 recommends 250 ms."""
_ADDRESSES_S = 10.0
"""How long the answers of a name server are used: load balancers change them, with a time to live of a minute."""


class Connector:
    """Makes connections to one host.

    Args:
        trust: what verifies the server; None: no TLS.
        timeout_s: for name, TCP and TLS together.
    """

    def __init__(self, *, host: str, port: int, trust: ssl.SSLContext | None, timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._trust = trust
        self._timeout_s = timeout_s
        self._addresses: list[Address] = []
        self._looked_up_s = float("-inf")
        self._turn = 0
        self._looking = asyncio.Lock()
        self.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def connect(self, make: Callable[[], Connection], *, timeout_s: float | None) -> Connection:
        """A connection, its handshakes done.

        Args:
            timeout_s: what is left for the whole request; None: no limit.

        Raises:
            InvocationError: the name is not known, nobody listens, nobody answers in time, or the server is not trusted.
        """
        short = timeout_s is not None and timeout_s < self._timeout_s
        try:
            async with asyncio.timeout(timeout_s if short else self._timeout_s):
                return await self._connect(make)
        except TimeoutError as error:
            self._forget()
            transport = Transport.TIMEOUT if short else Transport.CONNECT
            raise _failed(transport, f"no connection to {self.where} in time", error) from error
        except ssl.SSLCertVerificationError as error:
            raise _failed(Transport.TLS, f"{self.where} is not trusted: {_tls(error)}", error) from error
        except ssl.SSLError as error:
            raise _failed(
                Transport.TLS, f"no TLS connection to {self.where}: {_tls(error)}", error
            ) from error
        except (socket.gaierror, UnicodeError) as error:
            raise _failed(Transport.CONNECT, f"the name {self._host} is not known", error) from error
        except (OSError, RuntimeError) as error:  # uvloop has RuntimeErrors for closed sockets
            self._forget()
            raise _failed(
                Transport.CONNECT, f"no connection to {self.where}: {_reason(error)}", error
            ) from error

    async def _connect(self, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._in_turn(loop)
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = self._host if self._trust is not None else None
            _, connection = await loop.create_connection(
                make, sock=sock, ssl=self._trust, server_hostname=name
            )
        except BaseException:
            sock.close()
            raise
        if self._trust is None:
            connection.keep_socket(sock)
        return connection

    async def _in_turn(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        """All addresses, beginning with another one each time."""
        async with self._looking:
            if loop.time() - self._looked_up_s > _ADDRESSES_S:
                self._addresses = await self._look_up(loop)
                self._looked_up_s = loop.time()
        first = self._turn % len(self._addresses)
        self._turn += 1
        return self._addresses[first:] + self._addresses[:first]

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        kind = {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}
        try:  # a number is no question for a name server, and needs no thread
            return list(socket.getaddrinfo(self._host, self._port, flags=socket.AI_NUMERICHOST, **kind))
        except socket.gaierror:
            return list(await loop.getaddrinfo(self._host, self._port, **kind))

    def _forget(self) -> None:
        """Ask for the addresses again: they may have moved."""
        self._looked_up_s = float("-inf")


def _failed(transport: Transport, message: str, error: Exception) -> InvocationError:
    return InvocationError(Failure(transport=transport, message=message))


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return type(error).__name__


def _tls(error: ssl.SSLError) -> str:
    text = getattr(error, "verify_message", "") or error.reason or type(error).__name__
    return str(text).replace("_", " ").lower()
