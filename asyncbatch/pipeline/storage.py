"""With which rights a run uses the buckets of its source and its sink."""

from typing import Any

from asyncbatch.config import RunConfig
from asyncbatch.store.access import Access


def source_access(config: RunConfig, session: Any = None) -> Access:
    """Credentials are those of the endpoint, unless `--source-profile` or `--anonymous` says otherwise."""
    return Access(
        profile=config.storage.source_profile or config.endpoint.profile,
        region=config.endpoint.region,
        session=session,
        ca_bundle=config.endpoint.ca_bundle,
        anonymous=config.storage.anonymous,
        requester_pays=config.storage.requester_pays,
        bucket_owner=config.storage.source_bucket_owner,
    )


def sink_access(config: RunConfig, session: Any = None) -> Access:
    """Credentials are those of the endpoint, unless `--sink-profile` says otherwise."""
    return Access(
        profile=config.storage.sink_profile or config.endpoint.profile,
        region=config.endpoint.region,
        session=session,
        ca_bundle=config.endpoint.ca_bundle,
        requester_pays=config.storage.requester_pays,
        bucket_owner=config.storage.sink_bucket_owner,
        kms_key=config.storage.kms_key,
    )
