"""Many documents at once: stored and accepted in a few round trips, asked after by the name of their batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, cast

from producer.admission import Accepted, AcceptedBefore, Admission
from producer.blobs import BlobStore
from producer.errors import NotFound, OcrpoolError
from producer.idempotency import IdempotencyKey
from producer.job import Job, JobStatus, Tenant
from producer.ledger import Ledger
from producer.queue import Publisher
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

    def __init__(self, ledger: Ledger, blobs: BlobStore, publisher: Publisher) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._publisher = publisher
        self._asked: list[Asked | OcrpoolError] = []

    def add(self, document: Asked) -> None:
        self._asked.append(document)

    def refuse(self, refusal: OcrpoolError) -> None:
        """Keep the place of a document that is refused."""
        self._asked.append(refusal)

    def accept(self) -> list[JobStatus | AcceptedBefore | OcrpoolError]:
        """Where each document's job stands, or why there is no new one."""
        try:
            return self._accept()
        except OcrpoolError as away:  # Some may have been accepted all the same: their blobs are left to the sweeper.
            return [one if isinstance(one, OcrpoolError) else away for one in self._asked]

    def _accept(self) -> list[JobStatus | AcceptedBefore | OcrpoolError]:
        # Whatever ends this process before the jobs are accepted, the sweeper finds the blobs.
        self._ledger.expect_blobs([one.job.blob for one in self._asked if isinstance(one, Asked)])
        stored = [self._stored(one) for one in self._asked]
        asked = [one for one in stored if isinstance(one, Asked)]
        verdicts = self._ledger.accept_all([self._admission(one) for one in asked])
        self._publisher.publish(
            [unit for verdict in verdicts if isinstance(verdict, Accepted) for unit in verdict.units]
        )
        answers: dict[str, JobStatus | AcceptedBefore | OcrpoolError] = {}
        for one, verdict in zip(asked, verdicts, strict=True):
            if not isinstance(verdict, Accepted):
                answers[one.job.id] = verdict
                self._blobs.delete(one.job.blob)
            else:  # There already, where an answer was lost on its way and this was asked again.
                answers[one.job.id] = verdict.status or self._ledger.status(one.job.id)
        self._ledger.forget_blobs([job_id for job_id, one in answers.items() if not isinstance(one, JobStatus)])
        return [answers[one.job.id] if isinstance(one, Asked) else one for one in stored]

    def _admission(self, one: Asked) -> Admission:
        pages, message = one.job.media_type.pages, self._publisher.message
        return Admission(one.job, pages, self._ledger.settings, one.key, message=message)

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
