"""AWS session, region and credentials: one chain for the endpoint and the object store.

aioboto3 and botocore are imported when a session is made, not before. What is missing is said here, before
anything is sent, with the command that mends it.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio.to_thread

from asyncbatch.errors import AsyncBatchError, ConfigError, InvocationError
from asyncbatch.model import Failure, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOperation:
    """An operation of a service that speaks AWS JSON 1.1, named as botocore's service models name it."""

    name: str
    """`X-Amz-Target`."""
    signing_name: str
    endpoint_prefix: str
    service_id: str
    """Upper case with `_`: `AWS_ENDPOINT_URL_…`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSession:
    """Where clients come from."""

    session: Any
    """An `aioboto3.Session`: `async with session.client(…)`."""
    core: Any
    """The botocore session in it: configuration and addresses."""
    region: str | None
    """As given, or by AWS_REGION, AWS_DEFAULT_REGION, or the profile."""
    profile: str | None
    """None: the default one."""
    ca_bundle: str | None
    """PEM file of what alone is trusted; None: the usual."""

    def needed_region(self) -> str:
        """The region.

        Raises:
            ConfigError: there is none.
        """
        if self.region is None:
            raise ConfigError(
                "no AWS region is set",
                hint="give --region, set AWS_REGION, or run: aws configure set region REGION"
                + self._profile_option(),
            )
        return self.region

    async def check_credentials(self) -> None:
        """Load the credentials, and renew them where they have run out. May ask a metadata service or STS.

        Raises:
            ConfigError: there are none, or the login has expired.
        """
        if not await self.has_credentials():
            raise ConfigError(
                "no AWS credentials were found",
                hint=f"run: aws configure{self._profile_option()}, "
                "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )

    async def has_credentials(self) -> bool:
        """Whether credentials were found; those found are usable.

        Raises:
            ConfigError: they were found but cannot be had, such as an expired login.
        """
        with credential_errors(self.profile):
            credentials = await self.session.get_credentials()
            if credentials is None:
                return False
            await credentials.get_frozen_credentials()
        return True

    async def ask(
        self,
        target: AwsOperation,
        parameters: Mapping[str, Any],
        *,
        endpoint_url: str | None,
        region: str,
        timeout_s: float,
        signed: bool = True,
        amz_date: str | None = None,
    ) -> dict[str, Any]:
        """One call of an operation in AWS JSON 1.1, such as DescribeEndpoint: one attempt, signed by botocore's signer.

        Without a client of botocore's: building one for SageMaker takes 110 ms of CPU and 20 MB (measured), this takes 3 ms.

        Args:
            endpoint_url: used unless environment or profile name an address; None: AWS's own for `region`.
            signed: False for a local stand-in that needs no account.
            amz_date: what time to sign with; None: the local clock's.

        Raises:
            InvocationError: refused, unreachable, or no credentials.
        """
        try:
            async with asyncio.timeout(timeout_s):
                keys = await self._keys() if signed else None
                status, headers, body = await anyio.to_thread.run_sync(
                    lambda: self._post(target, parameters, endpoint_url, region, timeout_s, keys, amz_date),
                    abandon_on_cancel=True,
                )
        except TimeoutError as error:
            message = f"no answer within {timeout_s:g} s"
            raise InvocationError(Failure(transport=Transport.TIMEOUT, message=message)) from error
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        values: dict[str, Any] = found if isinstance(found, dict) else {}
        if not 200 <= status < 300 or found is None:
            name = str(values.get("__type", "")).rpartition("#")[2]
            message = str(values.get("message") or values.get("Message") or "")
            raise InvocationError(
                Failure(status=status, error_name=name, message=message, server_date=headers.get("Date", ""))
            )
        return values

    async def _keys(self) -> Any:
        try:
            with credential_errors(self.profile):
                credentials = await self.session.get_credentials()
                found = await credentials.get_frozen_credentials() if credentials is not None else None
        except ConfigError as error:
            raise InvocationError(Failure(error_name="NoCredentialsError", message=error.message)) from error
        if found is None:
            raise InvocationError(Failure(error_name="NoCredentialsError"))
        return found

    def _post(
        self,
        target: AwsOperation,
        parameters: Mapping[str, Any],
        endpoint_url: str | None,
        region: str,
        timeout_s: float,
        keys: Any,
        amz_date: str | None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body. Blocking."""
        from botocore import httpsession
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, HTTPClientError
        from botocore.utils import get_environ_proxies

        try:
            url = self._address(target, endpoint_url, region)
            headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target.name}
            request = AWSRequest(
                method="POST", url=url, data=json.dumps(dict(parameters)).encode(), headers=headers
            )
            if keys is not None and amz_date is None:
                SigV4Auth(keys, target.signing_name, region).add_auth(request)
            elif keys is not None:
                sign_at(request, keys, service=target.signing_name, region=region, amz_date=amz_date or "")
            sessions: Any = httpsession
            http = sessions.URLLib3Session(
                verify=sessions.get_cert_path(self.ca_bundle or True),
                proxies=get_environ_proxies(url),
                timeout=(timeout_s, timeout_s),
            )
            try:
                answer = http.send(request.prepare())
                return answer.status_code, answer.headers, answer.content
            finally:
                http.close()
        except (BotoCoreError, HTTPClientError, OSError, ValueError) as error:
            raise InvocationError(
                Failure(transport=Transport.CONNECT, error_name=type(error).__name__)
            ) from error

    def _address(self, target: AwsOperation, given: str | None, region: str) -> str:
        """As botocore finds a service: environment, profile, `given`, region."""
        if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            profile = self.core.get_scoped_config()
            services = self.core.full_config.get("services", {}).get(profile.get("services", ""), {})
            named = (
                os.environ.get(f"AWS_ENDPOINT_URL_{target.service_id}")
                or os.environ.get("AWS_ENDPOINT_URL")
                or services.get(target.service_id.lower(), {}).get("endpoint_url")
                or profile.get("endpoint_url")
            )
            if named:
                return str(named)
        if given:
            return given
        found = self.core.get_component("endpoint_resolver").construct_endpoint(
            target.endpoint_prefix,
            region,
            use_fips_endpoint=bool(self.core.get_config_variable("use_fips_endpoint")),
        )
        if found is None:
            raise ValueError(f"no address is known for {target.endpoint_prefix} in {region}")
        return f"https://{found['hostname']}/"

    def _profile_option(self) -> str:
        return f" --profile {self.profile}" if self.profile else ""


def aws_session(
    *,
    region: str | None = None,
    profile: str | None = None,
    ca_bundle: str | None = None,
    session: object | None = None,
) -> AwsSession:
    """The session for these options; reads the AWS configuration files, sends nothing.

    Args:
        session: a boto3 session (or aioboto3's, or the SageMaker SDK's) for its credentials and region; a
            region or profile given beside it comes first.

    Raises:
        ConfigError: an unknown profile, unreadable AWS configuration, or `session` is no such thing.
    """
    import aioboto3
    import boto3
    from aiobotocore.session import AioSession

    # A SageMaker SDK session carries the boto3 one.
    given: Any = getattr(session, "boto_session", session)
    if given is not None and not isinstance(given, boto3.Session):
        raise ConfigError(
            f"session is a {type(given).__name__}, not a boto3 session", hint="pass session=boto3.Session(…)"
        )
    with credential_errors(profile):
        if given is not None and profile is None:
            profile = _profile_of(given)
            region = region or given.region_name
            if isinstance(given, aioboto3.Session):
                ca_bundle = ca_bundle or os.environ.get("AWS_CA_BUNDLE")
                return AwsSession(
                    session=given, core=given._session, region=region, profile=profile, ca_bundle=ca_bundle
                )
        core = AioSession()
        if profile is not None:
            core.set_config_variable("profile", profile)
            core.get_scoped_config()  # raises for an unknown profile
        if given is not None and profile == _profile_of(given):
            core.register_component("credential_provider", _Provider(given))
            for event, hook in custom_hooks(given.events, "sagemaker-runtime.InvokeEndpoint"):
                core.register(event, hook)
        # AWS_REGION is what every AWS SDK but boto3 reads first; Lambda, ECS and EKS set it.
        region = region or os.environ.get("AWS_REGION") or core.get_config_variable("region")
        _preload(core)
        return AwsSession(
            session=aioboto3.Session(botocore_session=core),
            core=core,
            region=region,
            profile=core.get_config_variable("profile"),
            ca_bundle=ca_bundle or core.get_config_variable("ca_bundle"),
        )


def _preload(core: Any) -> None:
    """Read what a client is built from into botocore's cache: 60 ms that it would take on the event loop."""
    from botocore.exceptions import DataNotFoundError

    loader = core.get_component("data_loader")
    try:
        for kind in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model("sagemaker-runtime", kind)
        for name in ("endpoints", "partitions", "sdk-default-configuration"):
            loader.load_data(name)
    except DataNotFoundError:
        pass  # another version keeps it elsewhere, and reads it when it needs it


def sign_at(request: Any, credentials: Any, *, service: str, region: str, amz_date: str) -> None:
    """Sign botocore's `request` by its own SigV4, as of another time than the local clock's.

    Args:
        request: a `botocore.awsrequest.AWSRequest`; gets the headers of the signature.
        credentials: frozen ones.
        amz_date: such as `20261122T084030Z`.
    """
    from botocore.auth import SigV4Auth

    signer = SigV4Auth(credentials, service, region)
    request.context["timestamp"] = amz_date
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        del request.headers[name]
    request.headers["X-Amz-Date"] = amz_date
    if credentials.token:
        request.headers["X-Amz-Security-Token"] = credentials.token
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    request.headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
        f"SignedHeaders={signer.signed_headers(signer.headers_to_sign(request))}, Signature={signature}"
    )


Hook: TypeAlias = "tuple[str, Callable[..., Any]]"
_STAGES = (
    "provide-client-params", "before-parameter-build", "before-endpoint-resolution", "before-call", "request-created",
    "choose-signer", "before-sign", "before-send", "response-received", "before-parse", "after-call", "needs-retry",
)  # fmt: skip
"""The events of one call of a client, in their order."""
_SDK = frozenset(("asyncbatch", "boto3", "aioboto3", "botocore", "aiobotocore"))


def custom_hooks(events: Any, operation: str) -> list[Hook]:
    """Event hooks for one operation that neither the SDK nor asyncbatch brings, each with its event.

    Args:
        events: of a session or a client.
        operation: such as `sagemaker-runtime.InvokeEndpoint`.
    """
    # botocore has no public way to list them; where another version keeps them elsewhere there are none to see.
    emitter = getattr(events, "_emitter", events)
    find = getattr(getattr(emitter, "_handlers", None), "prefix_search", None)
    if find is None:
        return []
    found = []
    for stage in _STAGES:
        event = f"{stage}.{operation}"
        for hook in find(event):
            module = getattr(hook, "__module__", None) or type(hook).__module__
            if module.partition(".")[0] not in _SDK:
                found.append((event, hook))
    return found


def fixed_session(*, access_key: str, secret_key: str, region: str) -> Any:
    """A boto3 session with these keys and no other configuration: for endpoints on this machine."""
    import boto3

    return boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region)


def _profile_of(session: Any) -> str | None:
    return session.profile_name if session.profile_name != "default" else None


@contextmanager
def credential_errors(profile: str | None) -> Iterator[None]:
    """botocore's complaints about credentials, as one sentence with the command that helps."""
    from botocore import exceptions as boto

    option = f" --profile {profile}" if profile else ""
    try:
        yield
    except AsyncBatchError:
        raise
    except boto.ProfileNotFound as error:
        raise ConfigError(
            f"AWS profile {error.kwargs.get('profile', profile)!r} does not exist",
            hint="aws configure list-profiles shows those that do; see --profile and AWS_PROFILE",
        ) from error
    except (boto.SSOError, boto.TokenRetrievalError, boto.NoAuthTokenError) as error:
        raise ConfigError("the AWS login has expired", hint=f"run: aws sso login{option}") from error
    except boto.PartialCredentialsError as error:
        raise ConfigError(
            f"the AWS credentials lack {error.kwargs.get('cred_var', 'a part')}",
            hint=f"run: aws configure{option}",
        ) from error
    except boto.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "an error")
        raise ConfigError(
            f"AWS credentials could not be had: {error.operation_name} answered {code}",
            hint=f"check the role of the profile: aws sts get-caller-identity{option}",
        ) from error
    except RuntimeError as error:  # botocore's, where what was renewed has expired too
        raise ConfigError("the AWS login has expired", hint=f"run: aws sso login{option}") from error
    except boto.BotoCoreError as error:
        raise ConfigError(
            f"AWS credentials or configuration cannot be used: {type(error).__name__}",
            hint=f"check with: aws sts get-caller-identity{option}",
        ) from error


class _Provider:
    """What botocore asks for credentials: those of the given boto3 session."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def load_credentials(self) -> Any:
        # May ask a metadata service or STS, blocking.
        source = await asyncio.to_thread(self._session.get_credentials)
        return None if source is None else _SharedCredentials(source)


class _SharedCredentials:
    """Credentials that always are those of a boto3 session, renewed whenever that one renews them."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.method = getattr(source, "method", "explicit")

    async def get_frozen_credentials(self) -> Any:
        """The keys to sign with now."""
        needs_refresh = getattr(self._source, "refresh_needed", None)
        if needs_refresh is not None and needs_refresh():
            return await asyncio.to_thread(self._source.get_frozen_credentials)
        return self._source.get_frozen_credentials()

    async def get_account_id(self) -> Any:
        """The account, where an address needs it."""
        return getattr(await self.get_frozen_credentials(), "account_id", None)

    def get_deferred_property(self, name: str) -> Any:
        """botocore's way to look at the account only when an address needs it."""

        async def read() -> Any:
            return getattr(await self.get_frozen_credentials(), name, None)

        return read
