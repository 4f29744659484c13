"""An output that is there already, looked at without taking its lease and without changing anything."""

from dataclasses import dataclass
from typing import Any

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PartFooter, member_from_values
from asyncbatch.sink.layout import SinkLocation, locate
from asyncbatch.sink.manifest import load_manifest_values
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.places import open_places
from asyncbatch.sink.plan import Plan, load_plan
from asyncbatch.sink.replaced import parts_of
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store


@dataclass(frozen=True, kw_only=True)
class Existing:
    """A planned output and the places it lies in."""

    location: SinkLocation
    plan: Plan
    state: Store
    parts: Store
    target: Store
    """The folder of the single file; of partition folders, the one that they are in."""

    def parts_sink(self) -> PartsSink:
        """What can be asked of the parts; use it for reading only."""
        return PartsSink(plan=self.plan, parts=self.parts, state=self.state)


def open_existing(spec: str, *, owner: str | None = None, access: Access | None = None) -> Existing:
    """The output named `spec`; its format is the plan's.

    Args:
        owner: marks the unfinished files of whoever is going to write there.
        access: to an object store.

    Raises:
        OutputError: nothing was planned there, or the plan is damaged.
    """
    location = locate(spec)
    if location.kind == "stream":
        raise OutputError("standard output leaves nothing to look at", hint="name a folder or a file")
    places = open_places(location, owner=owner, access=access)
    state = places.state
    plan = load_plan(state) if places.begun() else None
    if plan is None:
        raise OutputError(
            f"{location.spec} is no output of asyncbatch: there is no plan in {state.root}",
            hint="name the SINK of a run, as it was given there",
        )
    location = locate(spec, format=plan.options.get("format"), columns=plan.partition_columns)
    mode = str(plan.options.get("mode", "fail"))
    places = open_places(location, owner=owner, access=access, mode=mode)
    parts = parts_of(plan, places.parts, places.state)
    return Existing(location=location, plan=plan, state=places.state, parts=parts, target=places.target)


def published_parts(existing: Existing) -> list[PartFooter]:
    """Of a finished single file: the parts that it was made of, in row order, as the manifest says.

    Raises:
        OutputError: there is no manifest, or it is damaged.
    """
    values = load_manifest_values(existing.state)
    if values is None:
        raise OutputError(
            f"{existing.location.spec} is not finished: it has no manifest",
            hint="asyncbatch status says what is missing; the run's command goes on",
        )
    return footers_from_manifest(existing, values)


def footers_from_manifest(existing: Existing, values: dict[str, Any]) -> list[PartFooter]:
    """The footers that a manifest's lines were made of.

    Raises:
        OutputError: it is damaged.
    """
    plan = existing.plan
    try:
        return [
            member_from_values(
                # Manifests of the first releases have the range in the name only.
                {"range": each["name"].removeprefix("part-").removesuffix(".parquet"), **each},
                job_id=plan.job_id,
                config_hash=plan.config_hash,
            )
            for each in values["parts"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"the manifest in {existing.state.root} is damaged", hint="run the same command again"
        ) from error
