"""A metric: a dataclass field that carries its unit and its formula, for documentation and schema."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Unit and formula of one field."""

    unit: str
    formula: str


def metric(unit: str, formula: str, **more: Any) -> Any:
    """A dataclass field that carries its `Metric`; `more` goes to `dataclasses.field`."""
    return dataclasses.field(metadata={"metric": Metric(unit=unit, formula=formula)}, **more)


def metrics_of(cls: type[Any]) -> dict[str, Metric]:
    """Field name to `Metric`, in order; fields without one are left out."""
    return {
        each.name: each.metadata["metric"] for each in dataclasses.fields(cls) if "metric" in each.metadata
    }
