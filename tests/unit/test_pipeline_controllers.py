"""Which controller steers a run."""

import random
from typing import Any

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control import AdaptiveController, FixedController, GuestController
from asyncbatch.errors import ConfigError
from asyncbatch.pipeline.controllers import concurrency_ceiling, make_controller
from asyncbatch.protocols import Controller


def made(**options: Any) -> Controller:
    return make_controller(RunConfig.from_options(options), clock=lambda: 0.0, rng=random.Random(1))


def test_nothing_left_to_find_needs_no_search() -> None:
    controller = made(chunk_rows=500, concurrency=16)
    assert isinstance(controller, FixedController)
    assert (controller.next_chunk().rows, controller.concurrency()) == (500, 16)


@pytest.mark.parametrize("options", [{}, {"chunk_rows": 500}, {"concurrency": 16}, {"chunk_rows": "4:64"}])
def test_what_is_left_open_is_found_while_running(options: dict[str, Any]) -> None:
    assert isinstance(made(**options), AdaptiveController)


def test_the_bounds_of_the_user_are_kept() -> None:
    controller = made(chunk_rows="40:50", concurrency="3:5")
    assert 40 <= controller.next_chunk().rows <= 50
    assert 3 <= controller.concurrency() <= 5


def test_a_guest_is_a_guest_and_no_more_is_pooled_than_may_be_in_flight() -> None:
    assert isinstance(made(background=True, max_slowdown=1.1), GuestController)
    assert concurrency_ceiling(RunConfig.from_options({"concurrency": "2:9"})) == 9


@pytest.mark.parametrize(
    "options",
    [
        {"max_slowdown": 1.5},
        {"max_chunk_time": "1s"},
        {"background": True, "target_latency": "1s"},
        {"max_slowdown": 1},
    ],
)
def test_options_that_make_no_sense_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RunConfig.from_options(options)
