"""What became different while a job ran, in the state folder: models seen behind the endpoint, changes accepted.

The plan is never changed. What was accepted since is kept here, counts when a command is compared with the plan, and goes
into the manifest. Each record is written whole; of several processes of one job the last one's counts, and they see the
same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from asyncbatch.errors import OutputError
from asyncbatch.sink.layout import HISTORY
from asyncbatch.sink.plan import Difference
from asyncbatch.store.base import Store, read_bytes

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenModel:
    """One model that stood behind the endpoint's name."""

    description: Mapping[str, Any]
    """JSON values; opaque here. As it was when first seen."""
    latest: Mapping[str, Any]
    """As it was when last seen: scaling moves some of it."""
    first_seen: str
    last_seen: str
    """Parts that were committed between the last sight of one model and the first of the next may hold answers of both."""
    accepted: bool
    """False: the run stopped when it was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedChange:
    """One thing that the plan says differently from a later command, and that was accepted."""

    field: str
    """As in `Difference`."""
    planned: str
    now: str
    value: Any
    """JSON value of what holds from then on."""
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Oldest first."""

    models: tuple[SeenModel, ...] = ()
    accepted: tuple[AcceptedChange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "models": [asdict(each) for each in self.models],
            "accepted_changes": [asdict(each) for each in self.accepted],
        }

    def for_manifest(self) -> dict[str, Any]:
        """What does not move while nothing changes, so that shards that finish at the same time write the same."""
        models = self.to_json()["models"]
        for each in models:
            del each["latest"]
        for each in models[-1:]:
            del each["last_seen"]
        return {"models": models, "accepted_changes": self.to_json()["accepted_changes"]}

    def now(self, prefix: str, planned: Mapping[str, Any]) -> dict[str, Any]:
        """`planned` with what was accepted since; fields begin with `prefix`, such as `options.`."""
        found = dict(planned)
        for change in self.accepted:
            if change.field.startswith(prefix):
                found[change.field.removeprefix(prefix)] = change.value
        return found


def load_history(state: Store) -> History:
    """Empty where nothing became different.

    Raises:
        OutputError: it is damaged.
    """
    try:
        values = json.loads(read_bytes(state, HISTORY))
        return History(
            models=tuple(SeenModel(**each) for each in values["models"]),
            accepted=tuple(AcceptedChange(**each) for each in values["accepted_changes"]),
        )
    except FileNotFoundError:
        return History()
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{state.root}/{HISTORY} is damaged", hint="remove it; models seen before are then not known"
        ) from error


def save_history(state: Store, history: History) -> None:
    """Replace what is there."""
    content = json.dumps(
        {"format_version": FORMAT_VERSION, **history.to_json()}, indent=1, ensure_ascii=False
    )
    state.replace(HISTORY, lambda file: file.write(content.encode() + b"\n"))


def note_model(state: Store, description: Mapping[str, Any], *, known: int | None, accepted: bool) -> None:
    """Write down that a model was seen just now.

    Args:
        known: which of the models of the history it is; None: a new one.
        accepted: whether rows may be sent to it.
    """
    history, at = load_history(state), utc_now()
    models = list(history.models)
    if known is None:
        models.append(
            SeenModel(
                description=description, latest=description, first_seen=at, last_seen=at, accepted=accepted
            )
        )
    else:
        models[known] = replace(
            models[known],
            latest=description,
            last_seen=at,
            accepted=accepted or models[known].accepted,
        )
    save_history(state, replace(history, models=tuple(models)))


def note_accepted(state: Store, changes: Sequence[tuple[Difference, Any]]) -> None:
    """Write down differences from the plan that hold from now on, each with its new value."""
    at = utc_now()
    added = tuple(
        AcceptedChange(field=change.field, planned=change.planned, now=change.now, value=value, at=at)
        for change, value in changes
    )
    history = load_history(state)
    save_history(state, replace(history, accepted=history.accepted + added))


def utc_now() -> str:
    """ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
