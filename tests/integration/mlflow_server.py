"""Runs in MLflow's own environment: trains small models, says where MLflow's scoring server serves them.

    python mlflow_server.py FOLDER

For each model NAME it writes `NAME.parquet`, the rows to score, and `NAME.expected.json`, what the model's
own `predict` says to all of them at once. Prints one JSON line, name to port, when they can be asked, and
ends when its standard input is closed.
"""

import asyncio
import json
import logging
import socket
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import mlflow  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import uvicorn  # noqa: E402
from mlflow.pyfunc import scoring_server  # noqa: E402
from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402

ROWS = 5_003
COLUMNS = ["length", "width, cm", 'the "third"', "größe"]
"""Names that a CSV header line has to quote."""
SEED = 11


@dataclass(frozen=True)
class Made:
    """A fitted model, the rows to score, and whether MLflow is told their types."""

    model: Any
    frame: pd.DataFrame
    signature: bool


def make_models() -> dict[str, Made]:
    """`number`, `vector`, `label` take named columns; `matrix` was fitted without names."""
    rng = np.random.default_rng(SEED)
    values = rng.normal(size=(ROWS, len(COLUMNS)))
    target = values[:, 0] + np.where(values[:, 1] > 0, 2.0, 0.0) + 0.1 * rng.normal(size=ROWS)
    whole = pd.DataFrame(values, columns=COLUMNS)
    gaps = whole.mask(rng.random(whole.shape) < 0.07)
    labels = np.array(["low", "middling, so to say", "größer"])[np.digitize(target, [0.0, 2.0])]
    trees = HistGradientBoostingRegressor(max_iter=12, random_state=SEED)
    return {
        "number": Made(trees.fit(gaps, target), gaps, signature=True),
        "vector": Made(
            LinearRegression().fit(whole, np.column_stack([target, -target, target**2])),
            whole,
            signature=True,
        ),
        "label": Made(LogisticRegression().fit(whole, labels), whole, signature=True),
        "matrix": Made(
            HistGradientBoostingRegressor(max_iter=12, random_state=SEED).fit(values, target),
            whole,
            signature=False,
        ),
    }


def save(name: str, made: Made, folder: Path) -> Any:
    """The model as MLflow loads it again from disk; rows and expected answers are written beside it."""
    made.frame.to_parquet(folder / f"{name}.parquet", index=False)
    expected = made.model.predict(made.frame if made.signature else made.frame.to_numpy())
    (folder / f"{name}.expected.json").write_text(json.dumps(expected.tolist()))
    signature = mlflow.models.infer_signature(made.frame, expected) if made.signature else None
    mlflow.sklearn.save_model(
        made.model,
        folder / name,
        signature=signature,
        pip_requirements=[],
        serialization_format="cloudpickle",
    )
    return mlflow.pyfunc.load_model(str(folder / name))


async def serve(models: dict[str, Any]) -> None:
    """One uvicorn a model, until standard input ends."""
    servers = []
    tasks = []
    ports = {}
    for name, model in models.items():
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(scoring_server.init(model), log_level="error"))
        tasks.append(asyncio.create_task(server.serve(sockets=[listening])))
        servers.append(server)
        ports[name] = listening.getsockname()[1]
    # Connections wait in the sockets' queues until uvicorn takes them.
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()

    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (sys.stdin.buffer.read(), loop.call_soon_threadsafe(closed.set)), daemon=True
    ).start()
    await closed.wait()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


def main() -> None:
    folder = Path(sys.argv[1])
    asyncio.run(serve({name: save(name, made, folder) for name, made in make_models().items()}))


if __name__ == "__main__":
    main()
