"""A model whose answers anybody can check: the first value of each row."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncbatch.server.rows import Predictions, Rows, first_values


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoModel:
    """Answers v, or v, v + 1, v + 2 … when there are several `outputs`, with v the row's first value; or one
    of `labels`. Labels, and numbers for a text, come from a checksum of the value."""

    outputs: int = 1
    labels: tuple[str, ...] = ()

    @property
    def light(self) -> bool:
        return True

    @property
    def features(self) -> int | None:
        return None

    @property
    def plain(self) -> bool:
        """Whether the answer is the first value itself."""
        return self.outputs == 1 and not self.labels

    def predict(self, rows: Rows) -> Predictions:
        values = first_values(rows)
        if self.labels:
            return [self.labels[_checksum(value) % len(self.labels)] for value in values.tolist()]
        if self.outputs == 1:
            return values
        if values.dtype.kind not in "iufb":
            values = np.array([_number(value) for value in values.tolist()])
        return values.astype(np.float64)[:, None] + np.arange(self.outputs)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else _checksum(value) / 2**32


def _checksum(value: Any) -> int:
    text = str(float(value)) if isinstance(value, (int, float)) else str(value)
    return zlib.crc32(text.encode())
