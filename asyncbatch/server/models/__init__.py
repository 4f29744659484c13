"""What is served: the Protocol of a model, and finding one by its name."""

import difflib
from pathlib import Path
from typing import Protocol

from asyncbatch.errors import InputError
from asyncbatch.server.config import BUILT_IN_MODELS, default_name
from asyncbatch.server.rows import Predictions, Rows


class Model(Protocol):
    """Anything that predicts. Blocking and safe to call from several threads."""

    @property
    def light(self) -> bool:
        """True: quick enough to be called on the event loop for small requests."""
        ...

    @property
    def features(self) -> int | None:
        """How many columns it takes; None where only calling it would tell."""
        ...

    def predict(self, rows: Rows) -> Predictions:
        """One prediction a row, in order.

        Raises:
            ContainerError: the rows are not what the model takes.
        """
        ...


def load_model(spec: str, *, outputs: int = 1, labels: tuple[str, ...] = ()) -> Model:
    """The model named as in `ServeConfig.model`.

    Args:
        spec: `flights`, `echo`, `simulated`, an ONNX file, or `python:package.module:function`.
        outputs: numbers a row, for `echo` and `simulated`.
        labels: answers to choose from instead of numbers, for `echo` and `simulated`.

    Raises:
        InputError: no such model, file or function, or the file is no ONNX model.
        MissingExtraError: onnxruntime is not installed.
    """
    if spec in ("echo", "simulated"):
        from asyncbatch.server.models.echo import EchoModel

        return EchoModel(outputs=outputs, labels=labels)
    if spec.startswith("python:"):
        from asyncbatch.server.models.function import FunctionModel

        return FunctionModel.load(spec)
    from asyncbatch.server.models.onnx_file import OnnxModel

    if spec == "flights":
        from asyncbatch.server.flights import MODEL_PATH

        return OnnxModel.load(MODEL_PATH, name=spec)
    path = Path(spec)
    if not path.is_file():
        near = difflib.get_close_matches(spec, BUILT_IN_MODELS, n=1)
        raise InputError(
            f"model {spec!r} is neither a file nor one of {', '.join(BUILT_IN_MODELS)}",
            hint=f"did you mean {near[0]!r}?"
            if near
            else "give an ONNX file or python:package.module:function",
        )
    return OnnxModel.load(path, name=default_name(spec))
