"""Many documents at once: stored and accepted in a few round trips, asked after by the name of their batch."""

from __future__ import annotations

from typing import IO, cast

from producer.blobs import BlobStore
from producer.errors import NotFound, OcrpoolError
from producer.job import Job, JobStatus, Tenant, Unit
from producer.ledger import Ledger
from producer.scripts import reachable

#: Documents that are stored and accepted together: until they all are, none is read.
AT_ONCE = 100


class Storing:
    """Documents on their way in. What is refused has no job, and keeps no other from being accepted."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._asked: list[tuple[Job, bytes | IO[bytes]] | OcrpoolError] = []

    def add(self, job: Job, source: bytes | IO[bytes]) -> None:
        self._asked.append((job, source))

    def refuse(self, refusal: OcrpoolError) -> None:
        """Keep the place of a document that is refused."""
        self._asked.append(refusal)

    def accept(self) -> tuple[list[Job | OcrpoolError], list[Unit]]:
        """Each document's job, or why it is refused; and the units to publish."""
        try:
            return self._accept()
        except OcrpoolError as away:  # Some may have been accepted all the same: their blobs are left to the sweeper.
            return [one if isinstance(one, OcrpoolError) else away for one in self._asked], []

    def _accept(self) -> tuple[list[Job | OcrpoolError], list[Unit]]:
        # Whatever ends this process before the jobs are accepted, the sweeper finds the blobs.
        self._ledger.expect_blobs([one[0].blob for one in self._asked if isinstance(one, tuple)])
        stored = [self._stored(one) for one in self._asked]
        jobs = [one for one in stored if isinstance(one, Job)]
        verdicts = self._ledger.accept_all([(job, 1 if job.media_type.single_page else None) for job in jobs])
        refusals = {
            job.id: verdict for job, verdict in zip(jobs, verdicts, strict=True) if isinstance(verdict, OcrpoolError)
        }
        for blob in refusals:
            self._blobs.delete(blob)
        self._ledger.forget_blobs(list(refusals))
        units = [unit for verdict in verdicts if isinstance(verdict, list) for unit in verdict]
        return [refusals.get(one.id, one) if isinstance(one, Job) else one for one in stored], units

    def _stored(self, one: tuple[Job, bytes | IO[bytes]] | OcrpoolError) -> Job | OcrpoolError:
        if isinstance(one, OcrpoolError):
            return one
        job, source = one
        try:
            self._blobs.put(job.blob, source)
        except OcrpoolError as refusal:
            return refusal
        return job


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
