"""Which differences from a job's plan may be accepted, and how people are told."""

import pytest

from asyncbatch.config import OPTIONS, RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.pipeline.accepting import ACCEPTABLE, FIXED, NAMES, check_names, option_of, refused
from asyncbatch.sink.plan import Difference


def differs(field: str) -> Difference:
    return Difference(field=field, planned="a", now="b")


def test_every_compared_option_is_either_acceptable_or_fixed_for_a_reason() -> None:
    compared = {name for name, (_, option) in OPTIONS.items() if option.semantic}
    assert compared == ACCEPTABLE | FIXED.keys(), (
        "an option is new: asyncbatch.pipeline.accepting has both lists"
    )
    assert not ACCEPTABLE & FIXED.keys()


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("options.content_type", "content_type"),
        ("endpoint.variant", "target_variant"),
        ("endpoint.component", "inference_component_name"),
        ("endpoint.name", "endpoint"),
        ("endpoint.url", "endpoint"),
        ("input data/a.csv", ""),
        ("output column x", ""),
    ],
)
def test_what_a_difference_is_called_on_the_command_line(field: str, name: str) -> None:
    assert option_of(differs(field)) == name


def test_accepted_differences_are_no_error() -> None:
    found = [differs("options.target_variant"), differs("endpoint.variant")]
    assert refused(found, ["target_variant"], "out/") is None
    assert refused([], [], "out/") is None


def test_the_error_names_the_option_that_would_accept_all_of_it() -> None:
    error = refused([differs("options.accept"), differs("options.content_type")], ["round"], "out/")
    assert error is not None
    assert error.message == (
        "out/ belongs to a job that differs from this command: options.accept: planned a, now b;"
        " options.content_type: planned a, now b"
    )
    assert "--accept-changes accept,content-type,round to score the rest so" in str(error.hint)
    assert "--overwrite" in str(error.hint)


def test_the_error_says_why_it_cannot_be_accepted() -> None:
    error = refused([differs("options.keep"), differs("options.accept")], [], "out/")
    assert error is not None
    assert "--keep cannot be accepted to differ: it decides the output's columns" in str(error.hint)
    assert "--accept-changes" not in str(error.hint)


def test_a_changed_input_offers_no_way_around() -> None:
    error = refused([differs("input data/a.csv")], list(NAMES), "out/")
    assert error is not None
    assert "--accept-changes" not in str(error.hint)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("keep", "--accept-changes keep: it decides the output's columns"),
        ("block_rows", "--accept-changes block-rows: it decides which rows a part holds"),
        ("rate", "--accept-changes rate: nothing of that name is compared with the plan"),
        ("content_typo", "--accept-changes content-typo: nothing of that name"),
    ],
)
def test_names_that_cannot_be_accepted_are_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_names([name])
    assert caught.value.hint


def test_names_are_written_as_options_are() -> None:
    config = RunConfig.from_options(
        {"accept_changes": "--content-type,target_variant", "allow_change": "model"}
    )
    assert config.failure.accept_changes == ("content_type", "target_variant")
    assert config.failure.allow_change == ("model",)
    with pytest.raises(ConfigError, match="--allow-change"):
        RunConfig.from_options({"allow_change": "weather"})
