"""JSON Schema (draft 2020-12) of the report, made from its classes, so that the two cannot differ."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from asyncbatch.observe.metric import Metric
from asyncbatch.observe.report import SCHEMA_VERSION, RunReport

_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def report_schema() -> dict[str, Any]:
    """The schema of `RunReport.to_dict()`."""
    return document_schema(RunReport, title="asyncbatch run report", version=SCHEMA_VERSION)


def document_schema(cls: type[Any], *, title: str, version: int) -> dict[str, Any]:
    """The schema of a dataclass written as JSON, which has a field `schema_version`."""
    schema = _object(cls)
    schema["properties"]["schema_version"]["const"] = version
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{title}, version {version}",
        **schema,
    }


def _object(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties = {each.name: {**_type(hints[each.name]), **_said(each)} for each in dataclasses.fields(cls)}
    return {
        "type": "object",
        "description": (cls.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "required": list(properties),
    }


def _said(field: "dataclasses.Field[Any]") -> dict[str, str]:
    described: Metric | None = field.metadata.get("metric")
    if described is not None:
        return {"description": f"{described.formula} [{described.unit}]"}
    return {"description": field.metadata["description"]} if "description" in field.metadata else {}


def _type(hint: Any) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin is Sequence:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _type(arguments[0])}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_type(each) for each in arguments], "items": False}
    if origin is types.UnionType:
        if all(each in _SIMPLE for each in arguments):
            return {"type": [_SIMPLE[each] for each in arguments]}
        return {"anyOf": [_type(each) for each in arguments]}
    raise TypeError(f"no schema for {hint}")
