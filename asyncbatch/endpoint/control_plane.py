"""Asks SageMaker's control plane what stands behind an endpoint's name. Looks only; whatever fails is done without."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncbatch.aws import AwsSession
from asyncbatch.endpoint.description import read_description
from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, ModelDescription, Transport, Undescribed, VariantDescription

TIMEOUT_S = 2.0
_SAGEMAKER = "sagemaker", "AWS_ENDPOINT_URL_SAGEMAKER"
_SCALING = "application-autoscaling", "AWS_ENDPOINT_URL_APPLICATION_AUTO_SCALING"
_DENIED = frozenset(("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"))
_ASKS_AGAIN = frozenset(
    ("ThrottlingException", "Throttling", "ExpiredTokenException", "ExpiredToken", "NoCredentialsError")
)


class ControlPlane:
    """What is known of one endpoint besides its answers.

    The address is botocore's for the region: environment (`AWS_ENDPOINT_URL_SAGEMAKER`), profile and partition count.
    Only where invocations go to this machine, and nothing else is named, it is the same address: stand-ins serve both.
    """

    def __init__(self, *, name: str, service_url: str | None, at_home: bool) -> None:
        """`service_url` is where invocations go if not to AWS; `at_home`: that is this machine."""
        self._name = name
        self._url = service_url if at_home else None
        self._at_home = at_home
        self._asks_scaling = True
        self._answered = False

    async def describe(self, aws: AwsSession, *, region: str, signed: bool) -> ModelDescription | Undescribed:
        """See `protocols.DescribesModel`.

        Args:
            signed: False: there are no credentials, and requests to this machine need none.
        """
        try:
            wanted = {"EndpointName": self._name}
            answer = await self._ask(_SAGEMAKER, "describe_endpoint", wanted, aws, region, signed)
        except InvocationError as error:
            return self._undescribed(error.failure)
        self._answered = True
        found = read_description(answer)
        if found.scales or not found.variants or not self._asks_scaling:
            return found
        return replace(found, scales=await self._scales(found.variants, aws, region, signed))

    async def _scales(
        self, variants: Sequence[VariantDescription], aws: AwsSession, region: str, signed: bool
    ) -> bool | None:
        """Whether Application Auto Scaling has a variant of it registered; asked no more once that is refused."""
        wanted = {
            "ServiceNamespace": "sagemaker",
            "ResourceIds": [f"endpoint/{self._name}/variant/{variant.name}" for variant in variants],
        }
        try:
            answer = await self._ask(_SCALING, "describe_scalable_targets", wanted, aws, region, signed)
        except InvocationError:
            self._asks_scaling = False
            return None
        return bool(answer.get("ScalableTargets"))

    async def _ask(
        self,
        service: tuple[str, str],
        operation: str,
        parameters: Mapping[str, Any],
        aws: AwsSession,
        region: str,
        signed: bool,
    ) -> dict[str, Any]:
        name, variable = service
        named = os.environ.get(variable) or os.environ.get("AWS_ENDPOINT_URL")
        return await aws.ask(
            name,
            operation,
            parameters,
            endpoint_url=None if named else self._url,
            region=region,
            timeout_s=TIMEOUT_S,
            signed=signed,
        )

    def _undescribed(self, failure: Failure) -> Undescribed:
        if failure.error_name in _DENIED:
            return Undescribed(reason="sagemaker:DescribeEndpoint is not allowed", expected=self._at_home)
        if failure.transport is not None:
            why = failure.message if failure.transport is Transport.TIMEOUT else failure.error_name
            reason = f"SageMaker's control plane cannot be reached ({why})"
            return Undescribed(reason=reason, lasting=not self._answered, expected=self._at_home)
        again = failure.error_name in _ASKS_AGAIN or (failure.status or 0) >= 500
        return Undescribed(
            reason=f"DescribeEndpoint answered {failure.error_name or failure.status}",
            lasting=not again,
            expected=self._at_home,
        )
