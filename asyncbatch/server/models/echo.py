"""A model whose answers anybody can check: the first value of each row."""

from dataclasses import dataclass

import numpy as np

from asyncbatch.server.answers import ContainerError
from asyncbatch.server.rows import Predictions, Rows, first_values


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoModel:
    """Answers v, or v, v + 1, v + 2 … when there are several `outputs`, with v the row's first value."""

    outputs: int = 1

    @property
    def light(self) -> bool:
        return True

    def predict(self, rows: Rows) -> Predictions:
        values = first_values(rows)
        if self.outputs == 1:
            return values
        if values.dtype.kind not in "iufb":
            raise ContainerError(400, "the first value of a row must be a number")
        return values.astype(np.float64)[:, None] + np.arange(self.outputs)
