"""Page outcomes too large for Redis: they lie in the blob store, the ledger keeps a reference with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from producer.blobs import BlobStore
from producer.errors import NotFound, Unavailable
from producer.job import Contract, JobId

#: How a reference begins, and no outcome.
_STORED: Final = b'{"kind":"stored",'
#: Outcomes of a job that are fetched side by side.
FETCHED_AT_A_TIME: Final = 8


class StoredOutcome(Contract):
    """Stands in the ledger for an outcome that lies in the blob store."""

    kind: Literal["stored"] = "stored"
    blob: str
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, job_id: JobId, page: int, outcome: bytes) -> StoredOutcome:
        """The blob's key holds a digest of its bytes: another outcome of the page is another blob."""
        sha256 = hashlib.sha256(outcome).hexdigest()
        return cls(blob=f"{job_id}_{page}_{sha256[:32]}", size_bytes=len(outcome), sha256=sha256)


def inlined(found: Iterable[bytes], blobs: BlobStore) -> Iterator[bytes]:
    """Outcomes as the ledger keeps them, each as the JSON that it is or stands for.

    Raises:
        NotFound: one is gone from the blob store.
        Unavailable: the store cannot be reached, or gives other bytes than were stored.
    """
    outcomes = list(found)
    if not any(map(_is_stored, outcomes)):
        yield from outcomes
        return
    with ThreadPoolExecutor(FETCHED_AT_A_TIME, "outcomes") as threads:
        yield from threads.map(lambda outcome: _fetched(outcome, blobs) if _is_stored(outcome) else outcome, outcomes)


def _is_stored(outcome: bytes) -> bool:
    return outcome.startswith(_STORED)


def _fetched(reference: bytes, blobs: BlobStore) -> bytes:
    stored = StoredOutcome.model_validate_json(reference)
    try:
        outcome = blobs.get(stored.blob)
    except NotFound as error:
        raise NotFound("A page's outcome is gone from the blob store.") from error
    if hashlib.sha256(outcome).hexdigest() != stored.sha256:
        raise Unavailable("The blob store gives another outcome of a page than was stored.")
    return outcome
