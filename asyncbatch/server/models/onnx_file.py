"""An ONNX file as a model, run by onnxruntime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asyncbatch.errors import InputError, MissingExtraError
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.rows import Predictions, Rows, to_columns, to_matrix

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """Runs on one thread, so that a row's answer does not depend on the rows beside it: with two, a fifth of
    the answers change by 1e-7 with the batch size.

    A model with one input gets all columns as one array; one with several gets one column each, in order. The
    prediction is the last output, which is where converted classifiers put the probabilities; numbers are
    answered as doubles.
    """

    session: Any
    name: str

    @classmethod
    def load(cls, path: Path, *, name: str) -> "OnnxModel":
        """Open the file.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            InputError: the file is no ONNX model, or one that onnxruntime cannot run.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(
                f"serving {path.name} needs onnxruntime", hint="pip install 'asyncbatch[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; the library would print it as well
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # `[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from x failed:Protobuf parsing failed.`
            text = " ".join(str(error).split()).rpartition("failed:")[2][:200].rstrip(". ")
            raise InputError(
                f"{path} is no ONNX model: {text}",
                hint="export the model to ONNX, or serve python:module:function",
            ) from error
        for each in session.get_inputs():
            if each.type not in _TYPES:
                raise InputError(
                    f"{path}: input {each.name} is a {each.type}", hint=f"inputs can be {', '.join(_TYPES)}"
                )
        return cls(session=session, name=name)

    @property
    def light(self) -> bool:
        return False

    @property
    def features(self) -> int | None:
        inputs = self.session.get_inputs()
        if len(inputs) > 1:
            return len(inputs)
        inner = inputs[0].shape[1:]
        return int(np.prod(inner)) if all(isinstance(size, int) and size > 0 for size in inner) else None

    def predict(self, rows: Rows) -> Predictions:
        inputs = self.session.get_inputs()
        if len(inputs) == 1:
            feeds = {inputs[0].name: _shaped(to_matrix(rows), inputs[0])}
        else:
            columns = to_columns(rows)
            if len(columns) != len(inputs):
                raise ContainerError(400, f"the model takes {len(inputs)} columns, got {len(columns)}")
            feeds = {
                each.name: _cast(column, each).reshape(-1, 1)
                for column, each in zip(columns, inputs, strict=True)
            }
        try:
            answer: Any = self.session.run(None, feeds)[-1]
        except Exception as error:
            raise ContainerError(500, f"{type(error).__name__}: {error}"[:2000]) from error
        if isinstance(answer, list):  # one mapping of label to probability a row
            return np.array([[each[label] for label in answer[0]] for each in answer], dtype=np.float64)
        if answer.dtype.kind == "f":
            answer = answer.astype(np.float64)
        flat = answer.ndim == 2 and answer.shape[1] == 1
        return np.reshape(answer, -1) if flat else np.asarray(answer)


def _shaped(matrix: "np.ndarray[Any, Any]", each: Any) -> "np.ndarray[Any, Any]":
    inner = [size for size in each.shape[1:] if isinstance(size, int) and size > 0]
    fixed = len(inner) == len(each.shape) - 1
    if fixed and int(np.prod(inner)) != matrix.shape[1]:
        raise ContainerError(400, f"the model takes {int(np.prod(inner))} columns, got {matrix.shape[1]}")
    array = _cast(matrix, each)
    return array.reshape(len(matrix), *inner) if fixed else array


def _cast(array: "np.ndarray[Any, Any]", each: Any) -> "np.ndarray[Any, Any]":
    wanted = _TYPES[each.type]
    try:
        if wanted is np.object_:
            return np.array([str(value) for value in array.flat], dtype=object).reshape(array.shape)
        return np.ascontiguousarray(array, dtype=wanted)
    except (ValueError, TypeError) as error:
        raise ContainerError(400, f"input {each.name} takes numbers: {error}") from error
