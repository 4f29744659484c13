"""The control plane of the embedded endpoint: what stands behind its name, and putting something else there.

`POST /` with `X-Amz-Target` (AWS JSON 1.1), as much of it as clients of one endpoint ask: SageMaker's DescribeEndpoint and
UpdateEndpoint, and DescribeScalableTargets of Application Auto Scaling. UpdateEndpoint switches at once to one of the
configurations that the server was started with; invocations under way are answered by the old one.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from asyncbatch.server.answers import Answer, ServiceError
from asyncbatch.server.config import ServeConfig
from asyncbatch.server.models import Model

SAGEMAKER, SCALING = "sagemaker", "application-autoscaling"
"""The services that requests are signed for."""
_JSON = "application/x-amz-json-1.1"
_CREATED_S = 1_767_225_600.0
"""When every endpoint was made: a server that is started again serves the same model, and says so."""
_TARGETS = {"SageMaker": SAGEMAKER, "AnyScaleFrontendService": SCALING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What answers while a configuration is in service."""

    config: str
    model: Model
    spec: str
    """The model's name, as given."""
    variants: Sequence[str]


class ControlPlane:
    """Which of several configurations is in service. Of one event loop."""

    def __init__(
        self, config: ServeConfig, deployed: Sequence[Deployed], *, clock: Callable[[], float] = time.time
    ) -> None:
        """The first of `deployed` is in service at once; `clock` gives Unix seconds."""
        self._config = config
        self._known = {each.config: each for each in deployed}
        self._clock = clock
        self._created_s = self._modified_s = _CREATED_S
        self.current = deployed[0]

    def answer(self, target: str, body: bytes) -> Answer:
        """The reply to an operation named by `X-Amz-Target`; errors too."""
        operations: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "SageMaker.DescribeEndpoint": self._describe,
            "SageMaker.UpdateEndpoint": self._update,
            "AnyScaleFrontendService.DescribeScalableTargets": self._scalable_targets,
        }
        try:
            if target not in operations:
                raise ServiceError(400, "UnknownOperationException", None)
            try:
                asked = orjson.loads(body or b"{}")
            except orjson.JSONDecodeError:
                asked = None
            if not isinstance(asked, dict):
                raise ServiceError(400, "SerializationException", None)
            found = operations[target](asked)
        except ServiceError as error:
            return control_error(error)
        return Answer(body=orjson.dumps(found), content_type=_JSON)

    def _describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name, current = self._name(asked), self.current
        return {
            "EndpointName": name,
            "EndpointArn": self._arn(name),
            "EndpointConfigName": current.config,
            "EndpointStatus": "InService",
            "CreationTime": self._created_s,
            "LastModifiedTime": self._modified_s,
            "ProductionVariants": [
                {
                    "VariantName": variant,
                    "DeployedImages": [{"ResolvedImage": self._image(current)}],
                    "CurrentWeight": 1.0,
                    "DesiredWeight": 1.0,
                    "CurrentInstanceCount": 1,
                    "DesiredInstanceCount": 1,
                }
                for variant in current.variants
            ],
        }

    def _update(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = self._name(asked)
        wanted = self._known.get(asked.get("EndpointConfigName", ""))
        if wanted is None:
            raise _not_found("endpoint configuration", f"{asked.get('EndpointConfigName')}")
        self.current = wanted
        self._modified_s = self._clock()
        return {"EndpointArn": self._arn(name)}

    def _scalable_targets(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Every variant, where the endpoint is said to be scaled."""
        name = self._config.endpoint_names[0]
        resources = [f"endpoint/{name}/variant/{variant}" for variant in self.current.variants]
        wanted = asked.get("ResourceIds") or resources
        return {
            "ScalableTargets": [
                {
                    "ServiceNamespace": "sagemaker",
                    "ResourceId": resource,
                    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
                    "MinCapacity": 1,
                    "MaxCapacity": 4,
                    "RoleARN": f"arn:aws:iam::{self._config.account}:role/scaling",
                    "CreationTime": self._created_s,
                }
                for resource in resources
                if self._config.autoscaled and resource in wanted
            ]
        }

    def _name(self, asked: Mapping[str, Any]) -> str:
        name = asked.get("EndpointName", "")
        if name not in self._config.endpoint_names:
            raise _not_found("endpoint", f'"{self._arn(name)}"')
        return str(name)

    def _arn(self, name: str) -> str:
        return f"arn:aws:sagemaker:{self._config.region}:{self._config.account}:endpoint/{name}"

    def _image(self, deployed: Deployed) -> str:
        digest = hashlib.sha256(deployed.spec.encode()).hexdigest()
        return f"{self._config.account}.dkr.ecr.{self._config.region}.amazonaws.com/serve@sha256:{digest}"


def signed_for(target: str) -> str:
    """The service that a request with this `X-Amz-Target` is signed for."""
    return _TARGETS.get(target.partition(".")[0], SAGEMAKER)


def control_error(error: ServiceError) -> Answer:
    """An error as AWS JSON 1.1 writes it."""
    body = orjson.dumps({"__type": error.name, "message": error.message})
    return Answer(status=error.status, body=body, content_type=_JSON, outcome=error.name)


def _not_found(what: str, name: str) -> ServiceError:
    return ServiceError(400, "ValidationException", f"Could not find {what} {name}.")
