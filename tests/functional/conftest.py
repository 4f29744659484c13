"""The command as a person meets it: what it prints, what it exits with, and what it leaves on disk."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from asyncbatch.cli.main import main
from asyncbatch.store.local import LocalStore


@dataclass(frozen=True)
class Done:
    """An ended command."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Said:
    """A refusal: one sentence and what to do."""

    message: str
    hint: str


Command = Callable[..., Done]
Refused = Callable[..., Said]
KillBefore = Callable[[int], contextlib.AbstractContextManager[list[str]]]
Scripted = Callable[[str, bytes, int], tuple[int, Mapping[str, str], bytes]]
"""Path, body and number of the request (from 1) to status, headers and body of the reply."""


def listing(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Everything below `folder`, with size and time of the files."""
    found: dict[str, tuple[int, int] | None] = {}
    for each in sorted(folder.rglob("*")):
        status = each.lstat()
        name = str(each.relative_to(folder))
        found[name] = None if each.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command in this process, in `tmp_path`, without `ASYNCBATCH_*`; `env` sets and (None) unsets variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def command(*arguments: str, env: Mapping[str, str | None] | None = None) -> Done:
        with monkeypatch.context() as patched:
            for name, value in (env or {}).items():
                if value is None:
                    patched.delenv(name, raising=False)
                else:
                    patched.setenv(name, value)
            capfd.readouterr()
            code = main([str(each) for each in arguments])
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    yield command
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Refused:
    """A command that must fail: one sentence, a blank line and a hint on stderr, and nothing changed on disk."""

    def refused(*arguments: str, code: int = 2, env: Mapping[str, str | None] | None = None) -> Said:
        before = listing(tmp_path)
        done = command(*arguments, env=env)
        assert done.code == code, done.stderr
        assert done.stdout == ""
        assert listing(tmp_path) == before
        return said(done.stderr)

    return refused


def said(stderr: str) -> Said:
    """The sentence and the hint of `stderr`, which holds nothing else."""
    lines = stderr.splitlines()
    assert len(lines) == 3, stderr
    assert lines[0].startswith("asyncbatch: ")
    assert lines[1] == ""
    assert lines[2].startswith("hint: ")
    assert not lines[0].endswith("."), stderr
    assert not lines[2].endswith("."), stderr
    return Said(lines[0].removeprefix("asyncbatch: "), lines[2].removeprefix("hint: "))


@pytest.fixture
def hear() -> Callable[["subprocess.Popen[Any]", str], str]:
    """`hear(process, words)`: what it says on stderr, from now until it has said `words`; `communicate` has the rest.

    For what must come after a process has seen a signal: of two that come while it does not run, it sees one.
    """

    def hear(process: "subprocess.Popen[Any]", words: str) -> str:
        assert process.stderr is not None
        said = b""
        while words.encode() not in said:
            # Past the stream's buffer, which `communicate` does not know.
            piece = os.read(process.stderr.fileno(), 65_536)
            assert piece, said.decode()
            said += piece
        return said.decode()

    return hear


class _Killed(BaseException): ...


@pytest.fixture
def kill_before() -> KillBefore:
    """`with kill_before(step) as seen:` the process ends before its change number `step` of the disk; 0: never.

    `seen`: the changes there were, each as what is done and the name. Those of a lease do not count.
    """

    @contextlib.contextmanager
    def kill_before(step: int) -> Iterator[list[str]]:
        seen: list[str] = []

        def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def change(self: LocalStore, *values: Any, **named: Any) -> Any:
                what = values[0] if values and isinstance(values[0], str) else ""
                if values and not what.startswith("lease"):
                    seen.append(f"{name} {what}")
                    if len(seen) >= step > 0:
                        raise _Killed
                return real(self, *values, **named)

            return change

        with pytest.MonkeyPatch.context() as patch:
            for name in ("create_if_absent", "replace", "delete", "swap"):
                patch.setattr(LocalStore, name, counted(name, getattr(LocalStore, name)))
            yield seen

    return kill_before


@pytest.fixture
def answering() -> Iterator[Callable[[Scripted], str]]:
    """Starts an HTTP server that answers as a function says; gives its URL. Ends with the test."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Scripted) -> str:
        counted = iter(range(1, 10**9))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    pass  # the client went away

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, headers, reply = answer(self.path, body, next(counted))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
