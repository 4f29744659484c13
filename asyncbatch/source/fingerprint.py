"""What must not change in an input between a run and its resumption.

A local file is known by its size, its modification time and a hash of its first and last 64 KiB; any difference counts as a
change. A file that was only touched or copied anew is refused too: nothing short of reading all of it again could tell, and a
changed input must never mix in silently.
"""

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
