"""With whose rights, and under which terms, a bucket is used."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Options of one side of a run: the source, or the sink."""

    profile: str | None = None
    """AWS profile; None: that of the environment."""
    region: str | None = None
    session: Any = None
    """A boto3 session for its credentials; a profile beside it comes first."""
    ca_bundle: str | None = None
    anonymous: bool = False
    """Requests are not signed: public buckets."""
    requester_pays: bool = False
    bucket_owner: str | None = None
    """The account that must own the bucket; requests to another's are refused by S3."""
    kms_key: str | None = None
    """Key for what is written, instead of the bucket's default."""
    clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """By bucket, of those made so far: building one of boto's takes 0.1 s."""
