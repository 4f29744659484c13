"""What DescribeEndpoint says of the model behind a name, and what has become different of it. Pure.

A change of the configuration, of an image or of the variants is another model. The time of the last modification alone is
not: scaling moves it too. It counts where neither the instances wanted nor the weights moved and nothing scales them: then
the same configuration was deployed again, perhaps with another artefact in the same place.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from asyncbatch.model import ModelDescription, VariantDescription


def read_description(answer: Mapping[str, Any], *, scales: bool | None = None) -> ModelDescription:
    """From the JSON of DescribeEndpoint's answer.

    Args:
        scales: what Application Auto Scaling says of its variants; None if it was not asked, or did not answer.
    """
    config = answer.get("EndpointConfigName") or ""
    pending = (answer.get("PendingDeploymentSummary") or {}).get("EndpointConfigName") or ""
    variants = answer.get("ProductionVariants") or ()
    managed = any((each.get("ManagedInstanceScaling") or {}).get("Status") == "ENABLED" for each in variants)
    return ModelDescription(
        config=config,
        modified=_iso(answer.get("LastModifiedTime")),
        variants=tuple(sorted((_variant(each) for each in variants), key=lambda each: each.name)),
        pending=pending if pending != config else "",
        scales=True if managed else scales,
    )


def model_changes(before: ModelDescription, now: ModelDescription) -> list[str]:
    """What makes `now` another model than `before`, each as `what: old, now new`; empty if nothing does."""
    found = []
    if before.config != now.config:
        found.append(_changed("endpoint configuration", before.config, now.config))
    if now.pending and now.pending != before.pending:
        found.append(f"a rollout of endpoint configuration {now.pending} has begun, beside {now.config}")
    old, new = _by_name(before), _by_name(now)
    if old.keys() != new.keys():
        found.append(_changed("variants", ", ".join(old) or "none", ", ".join(new) or "none"))
    for name in old.keys() & new.keys():
        images = old[name].images, new[name].images
        if images[0] != images[1] and all(images):
            found.append(_changed(f"image of {name}", *map(_digests, images)))
    if not found and before.modified != now.modified and not _may_scale(before, now):
        found.append(_changed("last modified", before.modified or "unknown", now.modified or "unknown"))
    return found


def describe_in_short(description: ModelDescription) -> str:
    """For people, one line: configuration, variants with the start of their digests, time of the last change."""
    variants = ", ".join(
        f"{each.name} {_digests(each.images)}" if each.images else each.name for each in description.variants
    )
    rollout = f", {description.pending} being rolled out" if description.pending else ""
    return f"{description.config}{rollout} ({variants or 'no variants'}), modified {description.modified}"


def is_shared(description: ModelDescription) -> str:
    """Why others may well use the endpoint: `3 variants`, `autoscaling`; empty if nothing speaks for it."""
    if len(description.variants) > 1:
        return f"{len(description.variants)} variants"
    return "autoscaling" if description.scales else ""


def to_json(description: ModelDescription) -> dict[str, Any]:
    """JSON values."""
    return {
        "config": description.config,
        "modified": description.modified,
        "variants": {
            each.name: {"images": list(each.images), "instances": each.instances, "weight": each.weight}
            for each in description.variants
        },
        "pending": description.pending,
        "scales": description.scales,
    }


def from_json(values: Mapping[str, Any]) -> ModelDescription:
    """What `to_json` gave; raises KeyError, TypeError or AttributeError for anything else."""
    return ModelDescription(
        config=values["config"],
        modified=values["modified"],
        variants=tuple(
            VariantDescription(
                name=name, images=tuple(each["images"]), instances=each["instances"], weight=each["weight"]
            )
            for name, each in values["variants"].items()
        ),
        pending=values["pending"],
        scales=values["scales"],
    )


def _variant(values: Mapping[str, Any]) -> VariantDescription:
    images = (
        each.get("ResolvedImage") or each.get("SpecifiedImage") for each in values.get("DeployedImages") or ()
    )
    return VariantDescription(
        name=values.get("VariantName") or "",
        images=tuple(sorted(image for image in images if image)),
        instances=values.get("DesiredInstanceCount"),
        weight=values.get("DesiredWeight"),
    )


def _may_scale(before: ModelDescription, now: ModelDescription) -> bool:
    if before.scales or now.scales:
        return True
    return _capacity(before) != _capacity(now)


def _capacity(description: ModelDescription) -> list[tuple[str, int | None, float | None]]:
    return [(each.name, each.instances, each.weight) for each in description.variants]


def _by_name(description: ModelDescription) -> dict[str, VariantDescription]:
    return {each.name: each for each in description.variants}


def _changed(what: str, before: str, now: str) -> str:
    return f"{what}: {before}, now {now}"


def _digests(images: tuple[str, ...]) -> str:
    """`sha256:0123456789ab`, or the tag, of each image."""
    return " ".join(_digest(image) for image in images)


def _digest(image: str) -> str:
    name, at, digest = image.partition("@")
    return digest[: len("sha256:") + 12] if at else name.rpartition("/")[2]


def _iso(when: object) -> str:
    """AWS JSON writes a time as Unix seconds; stand-ins write text, which is taken as it is."""
    if isinstance(when, (int, float)):
        return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return when if isinstance(when, str) else ""
