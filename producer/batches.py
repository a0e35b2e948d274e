"""Many documents at once: stored and accepted in a few round trips, asked after by the name of their batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, cast

from producer.admission import Accepted, AcceptedBefore, Admission, Known, Lapsed
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
    #: Its digest (`producer.caching`), by which it may share pages with others.
    document: str = ""

    @property
    def sought(self) -> str:
        """The digest, unless it is to be read anew."""
        return self.document if self.job.options.cache else ""


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
        asked = [one for one in self._asked if isinstance(one, Asked)]
        # Whatever ends this process before the jobs are accepted, the sweeper finds the blobs.
        found = self._ledger.recall_all([(one.sought, one.job.blob) for one in asked])
        known = {one.job.id: known for one, known in zip(asked, found, strict=True) if known}
        answers, lapsed = self._accept_some(asked, known)
        if lapsed:  # They are read after all, and stand behind the others in their batch.
            self._ledger.recall_all([("", one.job.blob) for one in lapsed])
            answers |= self._accept_some(lapsed, {})[0]
        return [answers[one.job.id] if isinstance(one, Asked) else one for one in self._asked]

    def _accept_some(
        self, asked: Sequence[Asked], known: Mapping[str, Known]
    ) -> tuple[dict[str, JobStatus | AcceptedBefore | OcrpoolError], list[Asked]]:
        """The answer to each by its job's id, but for those that are `known` no longer: they are told beside."""
        answers: dict[str, JobStatus | AcceptedBefore | OcrpoolError] = {}
        lapsed, unwanted, stored = list[Asked](), list[str](), list[Asked]()
        for one in asked:
            refusal = None if one.job.id in known else self._refused(one)
            if refusal:
                answers[one.job.id] = refusal
            else:
                stored.append(one)
        verdicts = self._ledger.accept_all([self._admission(one, known.get(one.job.id)) for one in stored])
        self._publisher.publish(
            [unit for verdict in verdicts if isinstance(verdict, Accepted) for unit in verdict.units]
        )
        for one, verdict in zip(stored, verdicts, strict=True):
            if isinstance(verdict, Lapsed):
                lapsed.append(one)
            elif isinstance(verdict, Accepted):
                # There already, where an answer was lost on its way and this was asked again.
                answers[one.job.id] = verdict.status or self._ledger.status(one.job.id)
            else:
                answers[one.job.id] = verdict
                if one.job.id not in known:
                    self._blobs.delete(one.job.blob)
                    unwanted.append(one.job.blob)
        self._ledger.forget_blobs(unwanted)
        return answers, lapsed

    def _admission(self, one: Asked, known: Known | None) -> Admission:
        """A known job's document is this one's, too: it stays as long as either."""
        job = one.job.model_copy(update={"blob": known.blob}) if known else one.job
        pages, settings, message = job.media_type.pages, self._ledger.settings, self._publisher.message
        return Admission(job, pages, settings, one.key, one.document, known, message)

    def _refused(self, one: Asked) -> OcrpoolError | None:
        """Store the document; why it cannot be."""
        try:
            self._blobs.put(one.job.blob, one.source)
        except OcrpoolError as refusal:
            return refusal
        return None


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
