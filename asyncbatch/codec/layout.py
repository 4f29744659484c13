"""How the replies of a run are read: learned once by the probe, then fixed and kept in the plan."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from asyncbatch.errors import ReplyError

Form = Literal["csv-lines", "csv-line", "json", "json-columns", "jsonl", "v2", "npy", "arrow", "python"]
"""`csv-lines`: a line a row. `csv-line`: all rows on one line. `json`: a list of rows at `path`.
`json-columns`: an object of lists at `path`. `jsonl`: a JSON value a line. `v2`: tensors with shape.
`python`: what a callable returned."""

FORM_WORDS: Mapping[Form, str] = {
    "csv-lines": "CSV, one line a row",
    "csv-line": "CSV with all rows on one line",
    "json": "a JSON list",
    "json-columns": "JSON, a list a column",
    "jsonl": "JSON Lines",
    "v2": "V2 tensors in JSON",
    "npy": "an npy array",
    "arrow": "Arrow IPC data",
    "python": "a Python object",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutField:
    """One output column."""

    name: str
    type: pa.DataType
    key: str = ""
    """Object key, column or tensor name in the reply; empty when the whole row is the value."""
    width: int | None = None
    """Values in each vector; None for scalars, where lengths vary, and where `--prediction-type` is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLayout:
    """The layout of every reply of a run. Equal layouts read equally."""

    form: Form
    path: str = ""
    """JMESPath to the rows inside JSON; empty for the whole body."""
    header: bool = False
    """The first CSV line names columns."""
    unwrap: bool = False
    """Each row is a list of one value, and the value is wanted."""
    named: bool = False
    """Rows are objects or columns with names: one field a name."""
    explicit_type: bool = False
    """The type is from `--prediction-type`: values are converted if only float precision is lost."""
    fields: tuple[LayoutField, ...]

    @property
    def schema(self) -> pa.Schema:
        """The output columns."""
        return pa.schema([pa.field(each.name, each.type) for each in self.fields])

    def describe(self) -> str:
        """For people: `a JSON list at predictions; a row is float64`."""
        where = f" at {self.path}" if self.path else ""
        header = " under a header line" if self.header else ""
        types = ", ".join((f"{each.name} " if self.named else "") + _type_words(each) for each in self.fields)
        return f"{FORM_WORDS[self.form]}{where}{header}; a row is {types}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives an equal layout."""
        return {
            "form": self.form,
            "path": self.path,
            "header": self.header,
            "unwrap": self.unwrap,
            "named": self.named,
            "explicit_type": self.explicit_type,
            "fields": [
                {"name": each.name, "key": each.key, "type": str(each.type), "width": each.width}
                for each in self.fields
            ],
            "schema": base64.b64encode(memoryview(self.schema.serialize())).decode(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReplyLayout":
        """From what `to_json` gave.

        Raises:
            ReplyError: it was written by something else.
        """
        try:
            if stored["form"] not in get_args(Form):
                raise ValueError(stored["form"])
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored["schema"])))
            fields = tuple(
                LayoutField(
                    name=each["name"], key=each["key"], width=each["width"], type=schema.field(index).type
                )
                for index, each in enumerate(stored["fields"])
            )
            return cls(
                form=stored["form"],
                path=stored["path"],
                header=stored["header"],
                unwrap=stored["unwrap"],
                named=stored["named"],
                explicit_type=stored["explicit_type"],
                fields=fields,
            )
        except (KeyError, TypeError, ValueError, IndexError, pa.ArrowException) as error:
            raise ReplyError(
                "the stored reply layout cannot be read",
                hint="it was written by another version; start anew with --overwrite",
            ) from error


def _type_words(field: LayoutField) -> str:
    words = str(field.type).replace("item: ", "").replace("double", "float64").replace("<float>", "<float32>")
    words = "float32" if words == "float" else words
    return f"{words} of {field.width}" if field.width is not None else words
