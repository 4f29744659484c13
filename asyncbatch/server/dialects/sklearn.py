"""The stock scikit-learn container and others on AWS's Python inference toolkit.

CSV is read by `np.genfromtxt`, which makes one row (and one column) 1-D: predict then fails. The media types
are looked up as they were sent. Sources: aws/sagemaker-inference-toolkit `decoder.py`, `encoder.py`,
`transformer.py`; aws/sagemaker-scikit-learn-container issues 15 and 145. That container also makes CSV and
JSON float32 before it calls the model; here the model gets what was read.
"""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncbatch.server import content
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.dialects.toolkit import npy, plain_values, unsupported
from asyncbatch.server.rows import Predictions, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnDialect:
    """Takes text/csv, application/json and application/x-npy; answers any of them, by default JSON."""

    features: int | None = None

    def decode(self, body: bytes, content_type: str) -> Rows:
        """Text in CSV becomes NaN; a header line becomes a row of NaN."""
        media = content_type or content.JSON
        if media not in (content.CSV, content.JSON, content.NPY):
            raise unsupported(415, media)
        try:
            array = _read(body, media)
        except (ValueError, TypeError) as error:
            raise ContainerError(500, str(error)) from error
        if array.ndim != 2:
            raise ContainerError(500, _not_2d(array))
        if array.dtype.kind not in "biuf":
            raise ContainerError(500, f"could not convert string to float: {_first_text(array)!r}")
        if self.features is not None and array.shape[1] != self.features:
            raise ContainerError(
                500,
                f"X has {array.shape[1]} features, but LogisticRegression is expecting {self.features}"
                " features as input.",
            )
        return array

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """The first supported type of Accept; a missing one and `*/*` mean JSON."""
        wishes = [content.JSON] if accept in ("", "*/*") else accept.replace(" ", "").split(",")
        for wish in wishes:
            if wish == content.JSON:
                return json.dumps(plain_values(predictions)).encode(), wish
            if wish == content.NPY:
                return npy(predictions), wish
            if wish == content.CSV:
                out = io.StringIO()
                np.savetxt(out, np.asarray(predictions), delimiter=",", fmt="%s")
                return out.getvalue().encode(), wish
        raise unsupported(406, accept)


def _read(body: bytes, media: str) -> "np.ndarray[Any, Any]":
    if media == content.JSON:
        return np.array(json.loads(body))
    if media == content.NPY:
        return content.decode_npy(body)
    if not body.strip():
        return np.array([])  # genfromtxt warns, and gives the same
    return np.genfromtxt(io.StringIO(body.decode("utf-8")), delimiter=",")


def _not_2d(array: "np.ndarray[Any, Any]") -> str:
    """scikit-learn's `check_array`."""
    found = "scalar array" if array.ndim == 0 else f"{array.ndim}D array"
    return (
        f"Expected 2D array, got {found} instead:\narray={array}.\nReshape your data either using"
        " array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a"
        " single sample."
    )


def _first_text(array: "np.ndarray[Any, Any]") -> str:
    for value in array.flat:
        try:
            float(value)
        except (ValueError, TypeError):
            return str(value)
    return ""
