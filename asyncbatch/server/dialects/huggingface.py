"""The Hugging Face inference containers: `{"inputs": [...]}` in, `[{"label":…,"score":…}]` or nested lists
out.

Sources: aws/sagemaker-huggingface-inference-toolkit `decoder_encoder.py` and `handler_service.py`, which
turns every failure into a 400; its model server writes that as JSON with code, type and message.
"""

import csv
import io
import json
from typing import Any

import pyarrow as pa

from asyncbatch.server import content
from asyncbatch.server.answers import JSON, ContainerError
from asyncbatch.server.dialects.toolkit import npy, plain_values, unsupported_text
from asyncbatch.server.rows import Predictions, Rows, matrix_of

_HEADERS = ("question", "context", "inputs")
_NOT_TEXT = (
    "text input must be of type `str` (single example), `list[str]` (batch or single pretokenized example) or"
    " `list[list[str]]` (batch of pretokenized examples)."
)
"""What a tokenizer says to the whole object, which is what it gets where `inputs` is missing."""


class HuggingFaceDialect:
    """Takes application/json and, with a header line that names inputs, question or context, text/csv. Media
    types are looked up as they were sent. `parameters` are understood and have no effect here."""

    def decode(self, body: bytes, content_type: str) -> Rows:
        try:
            inputs = _inputs(body, content_type)
            rows = inputs if isinstance(inputs, list) else [inputs]
            if not rows:
                raise ValueError("inputs is empty")
            return pa.Table.from_pylist(rows) if isinstance(rows[0], dict) else matrix_of(rows)
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise _refused(str(error)) from error

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """JSON unless CSV or npy is accepted. A text a row is a label, with the score 1."""
        media = accept if accept not in ("", "*/*") else content.JSON
        values = [_answer(value) for value in plain_values(predictions)]
        if media == content.JSON:
            try:
                text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            except ValueError as error:
                raise _refused(str(error)) from error
            return text.encode(), media
        if media == content.CSV:
            return _csv(values).encode(), media
        if media == content.NPY:
            return npy(predictions), media
        raise _refused(unsupported_text(media))


def _inputs(body: bytes, content_type: str) -> Any:
    if content_type == content.JSON:
        data = json.loads(body)
        if not isinstance(data, dict):
            raise ValueError(f"{type(data).__name__!r} object has no attribute 'pop'")
        if "inputs" in data or not data.keys().isdisjoint(_HEADERS):
            return data.get("inputs", data)
        raise ValueError(_NOT_TEXT)
    if content_type != content.CSV:
        raise ValueError(unsupported_text(content_type or "None"))
    text = body.decode("utf-8")
    first = (text.splitlines() or [""])[0].lower()
    if not any(header in first for header in _HEADERS):
        raise ValueError(
            "You need to provide the correct CSV with Header columns to use it with the inference toolkit"
            " default handler."
        )
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row["inputs"] for row in rows] if rows and "inputs" in rows[0] else rows


def _answer(value: Any) -> Any:
    return {"label": value, "score": 1.0} if isinstance(value, str) else value


def _csv(values: list[Any]) -> str:
    if not all(isinstance(value, dict) for value in values):
        raise _refused(f"{type(values[0]).__name__!r} object has no attribute 'keys'")
    out = io.StringIO()
    writer = csv.DictWriter(out, values[0].keys())
    writer.writeheader()
    writer.writerows(values)
    return out.getvalue()


def _refused(message: str) -> ContainerError:
    body = {"code": 400, "type": "InternalServerException", "message": message}
    return ContainerError(400, json.dumps(body, indent=2) + "\n", content_type=JSON)
