"""Asks SageMaker's control plane what stands behind an endpoint's name. Looks only; whatever fails is done without."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from asyncbatch.aws import AwsOperation, AwsSession
from asyncbatch.endpoint.description import read_description
from asyncbatch.errors import InvocationError
from asyncbatch.model import Failure, ModelDescription, Transport, Undescribed, VariantDescription

TIMEOUT_S = 2.0
_Ask: TypeAlias = Callable[[AwsOperation, Mapping[str, Any]], Awaitable[dict[str, Any]]]
DESCRIBE_ENDPOINT = AwsOperation(
    name="SageMaker.DescribeEndpoint",
    signing_name="sagemaker",
    endpoint_prefix="api.sagemaker",
    service_id="SAGEMAKER",
)
DESCRIBE_SCALABLE_TARGETS = AwsOperation(
    name="AnyScaleFrontendService.DescribeScalableTargets",
    signing_name="application-autoscaling",
    endpoint_prefix="application-autoscaling",
    service_id="APPLICATION_AUTO_SCALING",
)
_DENIED = frozenset(("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"))
_ASKS_AGAIN = frozenset(
    ("ThrottlingException", "Throttling", "ExpiredTokenException", "ExpiredToken", "NoCredentialsError")
)


class ControlPlane:
    """What is known of one endpoint besides its answers.

    The address is what botocore would take: environment (`AWS_ENDPOINT_URL_SAGEMAKER`), profile and region count. Only
    where invocations go to this machine, and nothing else is named, it is the same address: stand-ins serve both.
    """

    def __init__(self, *, name: str, service_url: str | None, at_home: bool) -> None:
        """`service_url` is where invocations go if not to AWS; `at_home`: that is this machine."""
        self._name = name
        self._url = service_url if at_home else None
        self._at_home = at_home
        self._asks_scaling = True
        self._answered = False

    async def describe(
        self, aws: AwsSession, *, region: str, signed: bool, amz_date: str | None
    ) -> ModelDescription | Undescribed:
        """See `protocols.DescribesModel`.

        Args:
            signed: False: there are no credentials, and requests to this machine need none.
            amz_date: what time to sign with; None: the local clock's.
        """
        ask = partial(
            aws.ask,
            endpoint_url=self._url,
            region=region,
            timeout_s=TIMEOUT_S,
            signed=signed,
            amz_date=amz_date,
        )
        try:
            wanted = {"EndpointName": self._name}
            answer = await ask(DESCRIBE_ENDPOINT, wanted)
        except InvocationError as error:
            return self._undescribed(error.failure)
        self._answered = True
        found = read_description(answer)
        if found.scales or not found.variants or not self._asks_scaling:
            return found
        return replace(found, scales=await self._scales(found.variants, ask))

    async def _scales(self, variants: Sequence[VariantDescription], ask: _Ask) -> bool | None:
        """Whether Application Auto Scaling has a variant of it registered; asked no more once that is refused."""
        wanted = {
            "ServiceNamespace": "sagemaker",
            "ResourceIds": [f"endpoint/{self._name}/variant/{variant.name}" for variant in variants],
        }
        try:
            answer = await ask(DESCRIBE_SCALABLE_TARGETS, wanted)
        except InvocationError:
            self._asks_scaling = False
            return None
        return bool(answer.get("ScalableTargets"))

    def _undescribed(self, failure: Failure) -> Undescribed:
        """Once it has answered, it is asked again whatever it says: an endpoint may be gone for a moment."""
        again = failure.error_name in _ASKS_AGAIN or (failure.status or 0) >= 500
        if failure.error_name in _DENIED:
            reason = "sagemaker:DescribeEndpoint is not allowed"
        elif failure.transport is not None:
            why = failure.message if failure.transport is Transport.TIMEOUT else failure.error_name
            reason = f"SageMaker's control plane cannot be reached ({why})"
        else:
            reason = f"DescribeEndpoint answered {failure.error_name or failure.status}"
        return Undescribed(reason=reason, lasting=not (again or self._answered), expected=self._at_home)
