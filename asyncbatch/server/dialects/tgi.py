"""Text Generation Inference: one prompt a request, one generated text out.

Source: huggingface/text-generation-inference `router/src/server.rs` (`compat_generate`, the route of
`/invocations`), whose JSON reader refuses anything but a string as `inputs`.
"""

import json
from typing import Any

from asyncbatch.server.answers import JSON, ContainerError
from asyncbatch.server.dialects.toolkit import plain_values
from asyncbatch.server.rows import Predictions, Rows, matrix_of


class TgiDialect:
    """`{"inputs": "…", "parameters": {…}}` in, `[{"generated_text":"…"}]` out. `parameters` have no effect
    here."""

    def decode(self, body: bytes, content_type: str) -> Rows:
        if content_type.partition(";")[0].strip().lower() != JSON:
            raise ContainerError(415, "Expected request with `Content-Type: application/json`")
        try:
            data = json.loads(body)
        except ValueError as error:
            raise ContainerError(400, f"Failed to parse the request body as JSON: {error}") from error
        prompt = data.get("inputs") if isinstance(data, dict) else None
        if not isinstance(prompt, str):
            raise ContainerError(
                422,
                "Failed to deserialize the JSON body into the target type: "
                + ("missing field `inputs`" if prompt is None else _wrong_type(prompt)),
            )
        if not prompt:
            body_ = {"error": "Input validation error: `inputs` cannot be empty", "error_type": "validation"}
            raise ContainerError(422, json.dumps(body_, separators=(",", ":")), content_type=JSON)
        return matrix_of([prompt])

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        texts = [{"generated_text": str(value)} for value in plain_values(predictions)]
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode(), JSON


def _wrong_type(value: Any) -> str:
    name = {list: "sequence", dict: "map", bool: "boolean", int: "integer", float: "floating point"}
    return f"inputs: invalid type: {name.get(type(value), 'null')}, expected a string"
