"""What may be served, and under which name."""

import json

import pytest

from asyncbatch.errors import ConfigError
from asyncbatch.server import Credential, ServeConfig, SimulationConfig
from asyncbatch.server.config import default_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("flights", "flights"),
        ("models/churn v2.onnx", "churn-v2"),
        ("python:pkg.mod:score", "score"),
        ("python:pkg.mod:Model.predict_proba", "Model-predict-proba"),
        ("___.onnx", "model"),
        ("x" * 80 + ".onnx", "x" * 63),
    ],
)
def test_an_endpoint_is_named_after_its_model(model: str, name: str) -> None:
    assert default_name(model) == name
    assert ServeConfig(model=model, names=(name,)).endpoint_names == ServeConfig(model=model).endpoint_names


@pytest.mark.parametrize(
    "given_",
    [
        {"port": 70000},
        {"port": -1},
        {"dialect": "klingon"},
        {"names": ("a b",)},
        {"names": ("-a",)},
        {"variants": ()},
        {"max_body_bytes": 0},
        {"threads": -1},
    ],
)
def test_nonsense_is_refused_with_a_hint(given_: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeConfig(**given_)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_config_survives_the_pipe_to_another_process() -> None:
    config = ServeConfig(
        model="simulated",
        names=("a", "b"),
        credentials=(Credential(access_key="A", secret_key="S", session_token="T", expires_at=1.5),),
        simulation=SimulationConfig(a=0.1, errors={"500": 0.1}),
    )
    assert ServeConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert ServeConfig.from_json(json.loads(json.dumps(ServeConfig().to_json()))) == ServeConfig()


def test_it_binds_to_loopback_unless_told_otherwise() -> None:
    assert ServeConfig().host == "127.0.0.1"
