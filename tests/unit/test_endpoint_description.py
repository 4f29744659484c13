"""When is it another model: pure comparison of what DescribeEndpoint says."""

from dataclasses import replace
from typing import Any

import pytest

from asyncbatch.endpoint.description import (
    describe_in_short,
    from_json,
    is_shared,
    model_changes,
    read_description,
    to_json,
)
from asyncbatch.model import ModelDescription
from asyncbatch.pipeline.watching import judged

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/churn@sha256:" + "ab" * 32
OTHER = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/churn@sha256:" + "cd" * 32


def answer(**more: Any) -> dict[str, Any]:
    """As on the wire."""
    variant = {
        "VariantName": "AllTraffic",
        "DeployedImages": [{"SpecifiedImage": "churn:1", "ResolvedImage": IMAGE, "ResolutionTime": 1.0}],
        "DesiredWeight": 1.0,
        "DesiredInstanceCount": 2,
    }
    return {
        "EndpointConfigName": "blue",
        "LastModifiedTime": 1_767_225_600.25,
        "ProductionVariants": [variant | more.pop("variant", {})],
        **more,
    }


BEFORE = read_description(answer())


def test_what_is_read_of_it() -> None:
    assert BEFORE.config == "blue"
    assert BEFORE.modified == "2026-01-01T00:00:00.250Z"
    assert [(each.name, each.images, each.instances, each.weight) for each in BEFORE.variants] == [
        ("AllTraffic", (IMAGE,), 2, 1.0)
    ]
    assert (BEFORE.pending, BEFORE.scales) == ("", None)
    assert describe_in_short(BEFORE) == (
        "blue (AllTraffic sha256:abababababab), modified 2026-01-01T00:00:00.250Z"
    )


@pytest.mark.parametrize("empty", [{}, {"ProductionVariants": None, "PendingDeploymentSummary": None}])
def test_anything_may_be_missing(empty: dict[str, Any]) -> None:
    assert read_description(empty) == ModelDescription(config="", modified="")


@pytest.mark.parametrize(
    "description", [BEFORE, read_description({}), replace(BEFORE, pending="x", scales=True)]
)
def test_it_survives_being_stored(description: ModelDescription) -> None:
    assert from_json(to_json(description)) == description


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"EndpointConfigName": "green"}, "endpoint configuration: blue, now green"),
        (
            {"variant": {"DeployedImages": [{"ResolvedImage": OTHER}]}},
            "image of AllTraffic: sha256:abababababab, now sha256:cdcdcdcdcdcd",
        ),
        ({"variant": {"VariantName": "Canary"}}, "variants: AllTraffic, now Canary"),
        (
            {"PendingDeploymentSummary": {"EndpointConfigName": "green"}},
            "a rollout of endpoint configuration green has begun, beside blue",
        ),
        (
            {"LastModifiedTime": 1_767_229_200},
            "last modified: 2026-01-01T00:00:00.250Z, now 2026-01-01T01:00:00.000Z",
        ),
    ],
)
def test_another_model(more: dict[str, Any], said: str) -> None:
    assert model_changes(BEFORE, read_description(answer(**more))) == [said]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"PendingDeploymentSummary": {"EndpointConfigName": "blue"}},
        {"LastModifiedTime": 1_767_229_200, "variant": {"DesiredInstanceCount": 3}},
        {"LastModifiedTime": 1_767_229_200, "variant": {"DesiredWeight": 0.5}},
        {"variant": {"DeployedImages": []}},
        {"LastModifiedTime": 1_767_229_200, "variant": {"ManagedInstanceScaling": {"Status": "ENABLED"}}},
    ],
    ids=["the same", "its own rollout", "scaled out", "weights moved", "images not told", "managed scaling"],
)
def test_the_same_model(more: dict[str, Any]) -> None:
    assert model_changes(BEFORE, read_description(answer(**more))) == []


def test_where_it_is_known_to_scale_the_time_says_nothing() -> None:
    later = read_description(answer(LastModifiedTime=1_767_229_200), scales=True)
    assert model_changes(BEFORE, later) == []
    assert model_changes(BEFORE, replace(later, scales=False)) != []


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (BEFORE, ""),
        (replace(BEFORE, scales=False), ""),
        (replace(BEFORE, scales=True), "autoscaling"),
        (replace(BEFORE, variants=BEFORE.variants * 2), "2 variants"),
    ],
)
def test_who_else_may_be_using_it(description: ModelDescription, said: str) -> None:
    assert is_shared(description) == said


GREEN = replace(BEFORE, config="green")


def test_the_first_model_seen_is_the_jobs() -> None:
    assert judged([], [], BEFORE) == (None, [])


def test_a_model_accepted_before_may_come_back() -> None:
    assert judged([BEFORE, GREEN], [0, 1], BEFORE) == (0, [])
    assert judged([BEFORE, GREEN], [0, 1], GREEN) == (1, [])


def test_a_model_that_stopped_a_run_is_known_and_still_not_accepted() -> None:
    index, changes = judged([BEFORE, GREEN], [0], GREEN)
    assert index == 1
    assert changes == ["endpoint configuration: blue, now green"]
    assert judged([BEFORE, GREEN], [0], BEFORE) == (0, [])


def test_a_third_model_is_compared_with_the_last_accepted_one() -> None:
    third = replace(BEFORE, config="red")
    assert judged([BEFORE, GREEN], [0, 1], third) == (None, ["endpoint configuration: green, now red"])
