"""From a URI to the client of its bucket; the libraries are imported here, when one is needed."""

from asyncbatch.errors import ConfigError, MissingExtraError
from asyncbatch.store.access import Access
from asyncbatch.store.client import ObjectClient
from asyncbatch.store.uri import ObjectUri


def connect(uri: ObjectUri, access: Access) -> ObjectClient:
    """The client of the bucket of `uri`, one for each `access`. Looks for credentials, and sends nothing to the bucket.

    Raises:
        MissingExtraError: the library is not installed; the hint names the extra.
        ConfigError: there are no credentials, or an option that the store does not have.
    """
    client: ObjectClient | None = access.clients.get(uri.place)
    if client is None:
        client = access.clients[uri.place] = _connect(uri, access)
    return client


def _connect(uri: ObjectUri, access: Access) -> ObjectClient:
    if uri.scheme != "s3" and access.bucket_owner is not None:
        raise ConfigError(
            f"{uri.place} has no owner to expect", hint="leave the option out: it is for S3 buckets"
        )
    if uri.scheme == "s3":
        from asyncbatch.store.s3 import S3Client

        return S3Client(uri.bucket, access)
    if uri.scheme == "gs":
        try:
            import google.cloud.storage  # noqa: F401  # is it there?
        except ImportError as error:
            raise _missing("gs", "gcs") from error
        from asyncbatch.store.gcs import GcsClient

        return GcsClient(uri.bucket, access)
    try:
        import azure.storage.blob  # noqa: F401  # is it there?
    except ImportError as error:
        raise _missing("az", "azure") from error
    from asyncbatch.store.azure import AzureClient

    return AzureClient(uri.bucket, uri.account, access)


def _missing(scheme: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"{scheme}:// needs a library that is not installed", hint=f"pip install 'asyncbatch[{extra}]'"
    )
