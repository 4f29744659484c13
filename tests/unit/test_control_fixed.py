import subprocess
import sys

import pytest

from asyncbatch.control import FixedController
from asyncbatch.model import ChunkTarget, Kind, Outcome, Sample
from asyncbatch.protocols import Controller


def test_says_what_it_was_told_whatever_happens() -> None:
    controller: Controller = FixedController(chunk_rows=500, chunk_bytes=6_000_000, concurrency=16)
    controller.record(
        Sample(rows=500, body_bytes=1, started_s=0, finished_s=9, outcome=Outcome.THROTTLED, kind=Kind.FIRST)
    )
    controller.note_remaining(3)
    assert controller.next_chunk() == ChunkTarget(rows=500, bytes=6_000_000)
    assert controller.concurrency() == 16
    assert controller.send_delay() == 0.0
    assert isinstance(controller, Controller)


@pytest.mark.parametrize("name", ["chunk_rows", "chunk_bytes", "concurrency"])
def test_refuses_less_than_one(name: str) -> None:
    good = {"chunk_rows": 1, "chunk_bytes": 1, "concurrency": 1}
    with pytest.raises(ValueError, match=name):
        FixedController(**(good | {name: 0}))


def test_the_folder_imports_with_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import asyncbatch.control as c;"
        "[getattr(c, n) for n in c.__all__];"
        "tops = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(tops - set(sys.stdlib_module_names) - {'asyncbatch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import asyncbatch.control

    with pytest.raises(AttributeError, match="nothing_like_this"):
        asyncbatch.control.nothing_like_this  # noqa: B018
