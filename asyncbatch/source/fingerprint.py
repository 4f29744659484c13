"""What must not change in an input between a run and its resumption.

A local file is known by its size, its modification time and a hash of its first and last 64 KiB. Equal size
and time mean unchanged. A different time alone (the file was touched, or copied back) is settled by the hash:
a change of equal size that leaves the first and the last 64 KiB alone *and* alters the time is not noticed.
Formats with a footer (Parquet, Arrow) have their row counts and offsets in those bytes.
"""

from collections.abc import Mapping
from hashlib import blake2b

from asyncbatch.source import opening

EDGE_BYTES = 64 * 1024


def file_fingerprint(path: str) -> dict[str, str | int]:
    """The fingerprint of a local file as it is now.

    Raises:
        InputError: the file is missing or not readable.
    """
    state = opening.stat(path)
    digest = blake2b(opening.read_range(path, 0, EDGE_BYTES), digest_size=16)
    if state.size_bytes > EDGE_BYTES:
        digest.update(opening.read_range(path, max(EDGE_BYTES, state.size_bytes - EDGE_BYTES), EDGE_BYTES))
    return {"size": state.size_bytes, "mtime_ns": state.mtime_ns, "edges": digest.hexdigest()}


def fingerprint_changed(old: Mapping[str, str | int], new: Mapping[str, str | int]) -> bool:
    """Whether the file that had the fingerprint `old` when planned is another one now.

    A modification time decides nothing by itself when both fingerprints hold a content hash. A key that only
    one of the two holds is unknown to the other and equals anything.
    """
    shared = [key for key in old if key in new]
    differing = {key for key in shared if old[key] != new[key]}
    if "edges" in shared:
        differing.discard("mtime_ns")
    return bool(differing)
