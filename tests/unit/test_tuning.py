"""What runs have learned, between runs: where it is kept, by which key, and what is done about bad files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control import LearnedPoint
from asyncbatch.pipeline.tuning import MOST_POINTS, VERSION, Tuning, remember, tuning_file, tuning_for

POINT = LearnedPoint(
    chunk_rows=512,
    concurrency=8,
    latency_s=0.3,
    call_s=0.05,
    row_s=0.0005,
    spread=0.1,
    slots=8.0,
    max_rows=4000,
)


class Named:
    """Enough of an endpoint."""

    def __init__(self, **identity: str | None) -> None:
        self.identity: Mapping[str, str | None] = {"kind": "http", **identity}

    def __repr__(self) -> str:
        return f"Named({self.identity})"

    @property
    def name(self) -> str:
        return str(self.identity.get("name"))


def made(
    path: Path | None,
    *,
    warned: list[str] | None = None,
    send: tuple[str, ...] = ("a", "b"),
    content_type: str = "text/csv",
    endpoint: Any = None,
    **options: Any,
) -> Tuning | None:
    if path is not None:
        options["tuning"] = str(path)
    return tuning_for(
        RunConfig.from_options(options),
        endpoint or Named(name="churn"),
        content_type=content_type,
        send=send,
        warn=(warned if warned is not None else []).append,
    )


def sure(found: Tuning | None) -> Tuning:
    assert found is not None
    return found


def test_what_is_remembered_is_recalled(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "tuning.json"
    assert sure(made(file)).recall() is None
    sure(made(file)).remember(POINT)
    recalled = sure(made(file)).recall()
    assert recalled is not None
    assert recalled.point == POINT
    assert recalled.saved_at.startswith("20")
    assert [each.name for each in file.parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize(
    "other",
    [
        {"send": ("a",)},
        {"send": ("b", "a")},
        {"content_type": "application/json"},
        {"endpoint": Named(name="churn", region="eu-west-1")},
        {"endpoint": Named(name="other")},
        {"concurrency": "1:4"},
        {"chunk_rows": "1:100"},
        {"rate": "5"},
        {"body": "json", "template": "records"},
    ],
    ids=str,
)
def test_another_endpoint_body_selection_or_bound_is_another_point(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    file = tmp_path / "t.json"
    sure(made(file)).remember(POINT)
    assert sure(made(file, **other)).recall() is None
    assert sure(made(file)).recall() is not None


def test_an_unknown_part_of_the_identity_equals_any(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    sure(made(file, endpoint=Named(name="churn", account=None))).remember(POINT)
    assert sure(made(file)).recall() is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "damaged"),
        (b'{"format": "asyncbatch tuning", "version": 1}', "damaged"),
        (b'{"format": "asyncbatch tuning", "version": 1, "points": [1]}', "damaged"),
        (b'{"some": "other file"}', "no tuning file"),
        (b'{"format": "asyncbatch tuning", "version": 99, "points": {}}', "newer asyncbatch"),
        (b" " * 1_100_000, "damaged"),
    ],
    ids=["torn", "binary", "list", "no-points", "points-list", "other", "newer", "huge"],
)
def test_a_file_that_cannot_be_used_is_said_once_and_a_named_one_is_left_alone(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "t.json"
    file.write_bytes(content)
    warned: list[str] = []
    tuning = sure(made(file, warned=warned))
    assert tuning.recall() is None
    tuning.remember(POINT)
    tuning.remember(POINT)
    assert len(warned) == 1
    assert said in warned[0]
    assert str(file) in warned[0]
    assert file.read_bytes() == content


def test_a_damaged_cache_is_begun_anew_and_a_newer_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "asyncbatch" / "tuning.json"
    file.parent.mkdir()
    file.write_text("{")
    warned: list[str] = []
    tuning = sure(made(None, warned=warned))
    assert tuning.recall() is None
    tuning.remember(POINT)
    assert len(warned) == 1
    recalled = sure(made(None)).recall()
    assert recalled is not None
    assert recalled.point == POINT
    newer = json.dumps({"format": "asyncbatch tuning", "version": VERSION + 1, "points": {}})
    file.write_text(newer)
    sure(made(None)).remember(POINT)
    assert file.read_text() == newer


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_rows": 0},
        {"latency_s": "x"},
        {"row_s": -1},
        {"slots": None, "spread": True},
        {"call_s": 1e999},
    ],
    ids=str,
)
def test_a_point_that_makes_no_sense_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "t.json"
    sure(made(file)).remember(POINT)
    document = json.loads(file.read_text())
    for entry in document["points"].values():
        entry["point"] |= change
    file.write_text(json.dumps(document))
    warned: list[str] = []
    assert sure(made(file, warned=warned)).recall() is None
    assert len(warned) == 1
    assert "makes no sense" in warned[0]


def test_what_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    warned: list[str] = []
    tuning = sure(made(tmp_path / "file" / "t.json", warned=warned))
    tuning.remember(POINT)
    tuning.remember(POINT)
    assert len(warned) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.json"
    sure(made(file)).remember(POINT)
    before = file.read_bytes()

    def full(self: Path, target: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    warned: list[str] = []
    sure(made(file, warned=warned, send=("z",))).remember(POINT)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["t.json"]
    assert "No space left" in warned[0]


def test_the_file_holds_no_secrets_and_no_column_names(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    tuning = made(
        file,
        send=("social_security_number",),
        endpoint=Named(name="https://models.example/score?token=…"),
        header=["Authorization: Bearer s3cret"],
        endpoint_url="http://a:hunter2@localhost:1",
    )
    sure(tuning).remember(POINT)
    text = file.read_text()
    for secret in ("social", "s3cret", "hunter2", "Authorization"):
        assert secret not in text


def test_the_oldest_points_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    points = {
        f"k{number:04d}": {
            "endpoint": "e",
            "saved_at": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}Z",
            "point": POINT.as_dict(),
        }
        for number in range(MOST_POINTS)
    }
    file.write_text(json.dumps({"format": "asyncbatch tuning", "version": 1, "points": points}))
    sure(made(file)).remember(POINT)
    kept = json.loads(file.read_text())["points"]
    assert len(kept) == MOST_POINTS
    assert "k0000" not in kept
    assert sure(made(file)).key in kept


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"HOME": "/home/x"}, "linux", "/home/x/.cache/asyncbatch/tuning.json"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "/c"}, "linux", "/c/asyncbatch/tuning.json"),
        ({"HOME": "/Users/x"}, "darwin", "/Users/x/Library/Caches/asyncbatch/tuning.json"),
        ({"HOME": "/Users/x", "XDG_CACHE_HOME": "/c"}, "darwin", "/c/asyncbatch/tuning.json"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "relative"}, "linux", None),
        ({}, "linux", None),
    ],
)
def test_where_the_cache_is(environ: dict[str, str], platform: str, path: str | None) -> None:
    found = tuning_file(environ, platform)
    assert (None if found is None else found.as_posix()) == path


def test_neither_no_tuning_nor_a_guest_uses_it(tmp_path: Path) -> None:
    assert made(None, no_tuning=True) is None
    assert made(tmp_path / "t.json", background=True) is None
    with pytest.raises(Exception, match="exclude each other"):
        made(tmp_path / "t.json", no_tuning=True)


def test_only_controllers_that_learn_are_remembered(tmp_path: Path) -> None:
    class Found:
        def __init__(self, point: LearnedPoint | None) -> None:
            self.point = point

        def learned(self) -> LearnedPoint | None:
            return self.point

    tuning = sure(made(tmp_path / "t.json"))
    controller: Any
    for controller in (Found(None), object()):
        remember(tuning, controller)
        remember(None, controller)
    assert not tuning.path.exists()
    controller = Found(POINT)
    remember(tuning, controller)
    assert tuning.path.exists()
