"""Many documents at once: stored and accepted in a few round trips, asked after by the name of their batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, cast

from producer.admission import AcceptedBefore
from producer.blobs import BlobStore
from producer.errors import NotFound, OcrpoolError
from producer.idempotency import IdempotencyKey
from producer.job import Job, JobStatus, Tenant, Unit
from producer.ledger import Ledger
from producer.scripts import reachable

#: Documents that are stored and accepted together: until they all are, none is read.
AT_ONCE = 100


@dataclass(frozen=True)
class Asked:
    """A document that asks to be accepted."""

    job: Job
    source: bytes | IO[bytes]
    key: IdempotencyKey | None = None


class Storing:
    """Documents on their way in. What is refused has no job, and keeps no other from being accepted."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._asked: list[Asked | OcrpoolError] = []

    def add(self, document: Asked) -> None:
        self._asked.append(document)

    def refuse(self, refusal: OcrpoolError) -> None:
        """Keep the place of a document that is refused."""
        self._asked.append(refusal)

    def accept(self) -> tuple[list[Job | AcceptedBefore | OcrpoolError], list[Unit]]:
        """Each document's job, or why there is no new one; and the units to publish."""
        try:
            return self._accept()
        except OcrpoolError as away:  # Some may have been accepted all the same: their blobs are left to the sweeper.
            return [one if isinstance(one, OcrpoolError) else away for one in self._asked], []

    def _accept(self) -> tuple[list[Job | AcceptedBefore | OcrpoolError], list[Unit]]:
        # Whatever ends this process before the jobs are accepted, the sweeper finds the blobs.
        self._ledger.expect_blobs([one.job.blob for one in self._asked if isinstance(one, Asked)])
        stored = [self._stored(one) for one in self._asked]
        asked = [one for one in stored if isinstance(one, Asked)]
        verdicts = self._ledger.accept_all(
            [(one.job, 1 if one.job.media_type.single_page else None, one.key) for one in asked]
        )
        others = {
            one.job.id: verdict for one, verdict in zip(asked, verdicts, strict=True) if not isinstance(verdict, list)
        }
        for blob in others:
            self._blobs.delete(blob)
        self._ledger.forget_blobs(list(others))
        units = [unit for verdict in verdicts if isinstance(verdict, list) for unit in verdict]
        return [others.get(one.job.id, one.job) if isinstance(one, Asked) else one for one in stored], units

    def _stored(self, one: Asked | OcrpoolError) -> Asked | OcrpoolError:
        if isinstance(one, OcrpoolError):
            return one
        try:
            self._blobs.put(one.job.blob, one.source)
        except OcrpoolError as refusal:
            return refusal
        return one


def read_batch(ledger: Ledger, batch: str, tenant: Tenant) -> list[JobStatus]:
    """Where the jobs of the tenant's batch stand that are still there, in the order in which they were handed in.

    Raises:
        NotFound: there is none.
    """
    with reachable():
        found = cast(list[bytes], ledger.redis.lrange(f"{ledger.namespace}:batch:{tenant}:{batch}", 0, -1))
    jobs = [
        status
        for some in range(0, len(found), AT_ONCE)
        for status in ledger.statuses([one.decode() for one in found[some : some + AT_ONCE]])
    ]
    if not jobs:
        raise NotFound("There is no such batch, or its jobs are gone.")
    return jobs
