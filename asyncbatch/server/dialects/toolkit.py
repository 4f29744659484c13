"""What the containers built on AWS's Python inference toolkit share: how they write JSON, and how they refuse
a media type. Both look the header up as it is, parameters included."""

import io
import json
from typing import Any

import numpy as np

from asyncbatch.server.answers import JSON, ContainerError
from asyncbatch.server.rows import Predictions


def unsupported_text(media_type: str) -> str:
    """The text of the toolkit's `UnsupportedFormatError`, with the indentation that it leaves in."""
    indent = " " * 12
    return (
        f"Content type {media_type} is not supported by this framework.\n\n"
        f"{indent}Please implement input_fn to to deserialize the request data or an output_fn to\n"
        f"{indent}serialize the response. For more information, see the SageMaker Python SDK README."
    )


def unsupported(status: int, media_type: str) -> ContainerError:
    """415 for a Content-Type, 406 for an Accept; the stack trace is left empty."""
    body = {
        "error": "UnsupportedFormatError",
        "error-message": unsupported_text(media_type),
        "stack-trace": "",
    }
    return ContainerError(status, json.dumps(body), content_type=JSON)


def plain_values(predictions: Predictions) -> list[Any]:
    """Python values, as `tolist` gives them."""
    values: list[Any] = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
    return values


def npy(predictions: Predictions) -> bytes:
    """As `numpy.save` writes it.

    Raises:
        ContainerError: 500, the predictions are objects.
    """
    array = np.asarray(predictions)
    if array.dtype.hasobject:
        raise ContainerError(500, "Object arrays cannot be saved when allow_pickle=False")
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
