"""The progress line: what it says, what it drops, and what it writes to a terminal."""

import io
import os
from dataclasses import replace

import pytest

from asyncbatch.observe import text
from asyncbatch.observe.events import Progressed, Stopping, Waiting
from asyncbatch.observe.metrics import Snapshot
from asyncbatch.observe.progress import ProgressLine, fitting, pieces, plain_line, seconds_left, share_done
from asyncbatch.observe.terminal import Terminal

SNAPSHOT = Snapshot(
    elapsed_s=12.0,
    rows_total=336_776,
    rows_resumed=0,
    rows_done=152_000,
    rows_answered=160_000,
    rows_rejected=0,
    source_share=None,
    rows_per_s_recent=27_412.0,
    requests=300,
    in_flight=12,
    limit=16,
    chunk_rows=500,
    retries=0,
    throttled=0,
    bytes_sent=1,
    latency_p95_s=0.0213,
    blocks_open=3,
)


class Screen(io.StringIO):
    """A terminal of a size that the test sets; keeps what was written."""

    encoding = "utf-8"

    def __init__(self, columns: int, *, tty: bool = True) -> None:
        super().__init__()
        self.columns = columns
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    def fileno(self) -> int:
        return 12345

    def shown(self) -> str:
        """What a reader sees: enough of a terminal for carriage return and erase."""
        lines = [""]
        for piece in self.getvalue().replace("\r\x1b[2K", "\x00").splitlines(keepends=True):
            for character in piece:
                if character == "\x00":
                    lines[-1] = ""
                elif character == "\n":
                    lines.append("")
                else:
                    lines[-1] += character
        return "\n".join(lines)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Screen, Terminal]:
    screen = Screen(80)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((screen.columns, 24)))
    return screen, Terminal(screen, environ={"TERM": "xterm", "NO_COLOR": "1"})


def test_the_line_says_what_matters() -> None:
    assert plain_line(SNAPSHOT) == (
        "0:12 45% · 152,000/336,776 rows · 27.4k rows/s · ETA 0:06 · in flight 12/16 · chunk 500 · p95 21 ms"
    )
    busy = replace(SNAPSHOT, retries=1, throttled=2, rows_rejected=7)
    assert "7 rejects · in flight 12/16 · chunk 500 · 1 retry · 2 refused · p95 21 ms" in plain_line(busy)


def test_eta_is_unknown_before_anything_was_answered_and_without_a_total() -> None:
    fresh = replace(SNAPSHOT, rows_done=0, rows_answered=0, rows_per_s_recent=0.0, elapsed_s=0.0)
    assert seconds_left(fresh) is None
    unknown = replace(SNAPSHOT, rows_total=None)
    assert share_done(unknown) is None
    assert plain_line(unknown).startswith("0:12 152,000 rows · 27.4k rows/s · ETA ? ·")


def test_eta_without_a_total_comes_from_the_bytes_read_and_says_about() -> None:
    estimated = replace(SNAPSHOT, rows_total=None, source_share=0.25)
    assert seconds_left(estimated) == pytest.approx(36)
    assert plain_line(estimated).startswith("0:12 ~25% · 152,000 rows · 27.4k rows/s · ETA ~0:36")


def test_eta_falls_back_to_the_mean_pace_while_nothing_is_answered() -> None:
    stuck = replace(SNAPSHOT, rows_per_s_recent=0.0)
    assert seconds_left(stuck) == pytest.approx((336_776 - 160_000) / (160_000 / 12))


def test_rows_of_earlier_runs_do_not_count_towards_the_pace() -> None:
    resumed = replace(SNAPSHOT, rows_resumed=150_000, rows_per_s_recent=0.0)
    assert seconds_left(resumed) == pytest.approx((336_776 - 160_000) / (10_000 / 12))


def test_zero_rows_are_all_done() -> None:
    assert share_done(replace(SNAPSHOT, rows_total=0, rows_done=0)) == 1.0


@pytest.mark.parametrize("width", range(1, 140, 3))
def test_the_line_fits_any_width_and_drops_the_least_important_first(width: int) -> None:
    line = fitting(pieces(replace(SNAPSHOT, rows_rejected=3, retries=2)), width)
    assert len(line) <= width
    if width >= 25:
        assert "152,000/336,776 rows" in line
    if "p95" in line:
        assert "in flight" in line
    if "in flight" in line:
        assert "3 rejects" in line


def test_a_terminal_shows_one_line_that_is_redrawn(terminal: tuple[Screen, Terminal]) -> None:
    screen, drawn = terminal
    progress = ProgressLine(drawn)
    for second in range(5):
        progress(Progressed(snapshot=replace(SNAPSHOT, elapsed_s=float(second), rows_done=second)))
    assert screen.shown().count("rows/s") == 1
    assert "4/336,776 rows" in screen.shown()
    drawn.line("a log line")
    assert screen.shown().splitlines()[0] == "a log line"
    assert "4/336,776 rows" in screen.shown().splitlines()[1]
    drawn.clear()
    assert screen.shown() == "a log line\n"


def test_redraws_are_limited_to_ten_a_second(terminal: tuple[Screen, Terminal]) -> None:
    screen, drawn = terminal
    progress = ProgressLine(drawn)
    for hundredth in range(100):
        progress(Progressed(snapshot=replace(SNAPSHOT, elapsed_s=hundredth / 100)))
    assert 8 <= screen.getvalue().count("rows/s") <= 11


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 79, 80, 81, 100, 120, 200])
def test_never_wider_than_the_terminal(terminal: tuple[Screen, Terminal], columns: int) -> None:
    screen, drawn = terminal
    screen.columns = columns
    progress = ProgressLine(drawn)
    progress(Stopping(reason="x"))
    progress(Progressed(snapshot=replace(SNAPSHOT, rows_rejected=12, retries=3, throttled=4)))
    assert len(screen.shown()) < max(2, columns)


def test_a_bar_appears_where_there_is_room(terminal: tuple[Screen, Terminal]) -> None:
    screen, drawn = terminal
    screen.columns = 140
    ProgressLine(drawn)(Progressed(snapshot=SNAPSHOT))
    assert screen.shown().startswith("━" * 9 + "─" * 11 + "  45%")


def test_a_narrowed_window_is_cleaned_of_the_wrapped_line(terminal: tuple[Screen, Terminal]) -> None:
    screen, drawn = terminal
    drawn.status("x" * 79)
    screen.columns = 30
    drawn.status("y")
    assert screen.getvalue().endswith("\r\x1b[2K\x1b[2A\r\x1b[Jy")


def test_colours_only_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((140, 24)))
    for environment, coloured in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)):
        screen = Screen(140)
        ProgressLine(Terminal(screen, environ=environment))(Progressed(snapshot=SNAPSHOT))
        assert ("\x1b[36m" in screen.getvalue()) is coloured


@pytest.mark.parametrize(("tty", "term"), [(False, "xterm"), (True, "dumb")])
def test_elsewhere_plain_lines_after_two_seconds_then_every_ten(tty: bool, term: str) -> None:
    screen = Screen(80, tty=tty)
    progress = ProgressLine(Terminal(screen, environ={"TERM": term}))
    for tenth in range(351):
        progress(Progressed(snapshot=replace(SNAPSHOT, elapsed_s=tenth / 10)))
    assert "\x1b" not in screen.getvalue()
    assert "\r" not in screen.getvalue()
    assert [line.split()[0] for line in screen.getvalue().splitlines()] == ["0:02", "0:10", "0:20", "0:30"]


def test_a_stream_that_knows_no_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ProgressLine(Terminal(stream, environ={}))(Progressed(snapshot=SNAPSHOT))
    assert b"45% | 152,000/336,776 rows | 27.4k rows/s" in raw.getvalue()


def test_a_closed_stream_ends_nothing() -> None:
    stream = io.StringIO()
    drawn = Terminal(stream, environ={})
    stream.close()
    drawn.line("x")
    Terminal(stream, environ={}).line("x")

    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    drawn = Terminal(Broken(), environ={})
    drawn.line("x")
    drawn.status("x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (7.4, "7.40"),
        (999, "999"),
        (1000, "1.00k"),
        (27_412, "27.4k"),
        (999_600, "1.00M"),
        (3.2e9, "3.20G"),
    ],
)
def test_short(value: float, expected: str) -> None:
    assert text.short(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (45.2, "45 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (7200, "2 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0.0004, "0.4 ms"), (0.0213, "21 ms"), (0.9996, "1.0 s"), (120.0, "120 s")],
)
def test_latency(seconds: float | None, expected: str) -> None:
    assert text.latency(seconds) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (180e6, "180 MB"), (1.24e9, "1.2 GB"), (9e15, "9000 TB")],
)
def test_size(amount: float, expected: str) -> None:
    assert text.size(amount) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(7, "0:07"), (725, "12:05"), (12_000, "3:20:00"), (59.7, "1:00")]
)
def test_clock(seconds: float, expected: str) -> None:
    assert text.clock(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(4, "4"), (3.214, "3.21"), (27.44, "27.4"), (1234.5, "1,234")]
)
def test_number(value: float, expected: str) -> None:
    assert text.number(value) == expected


def test_credentials_in_urls_are_removed() -> None:
    assert text.without_credentials("https://user:p%40ss@host/path?x=a@b") == "https://host/path?x=a@b"
    assert text.without_credentials("s3://bucket/a@b.csv") == "s3://bucket/a@b.csv"


def test_waiting_is_a_status_on_a_terminal_and_a_line_a_minute_elsewhere(
    terminal: tuple[Screen, Terminal],
) -> None:
    looks = [
        Waiting(holder="process 7 on a", waited_s=float(second), rows_done=5, rows_total=None)
        for second in range(130)
    ]
    screen, drawn = terminal
    show = ProgressLine(drawn)
    for each in looks:
        show(each)
    assert screen.shown().endswith("waiting for process 7 on a · 2:09 · 5 rows")
    plain = Screen(80, tty=False)
    show = ProgressLine(Terminal(plain, environ={}))
    for each in looks:
        show(each)
    assert plain.getvalue().count("\n") == 2
