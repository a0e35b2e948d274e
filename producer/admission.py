"""What a job asks of the ledger to be accepted, and what the answer means.

Limits, idempotency, the cap of the queue and the record are one script, `accept.lua`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from producer.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFinished,
    NotFound,
    QueueFull,
    QuotaExceeded,
    TooLarge,
)
from producer.idempotency import IdempotencyKey
from producer.job import PREPARE, Job, JobStatus, Span, Unit
from producer.limits import COUNTED, Limits
from producer.records import fields_of, status_of
from producer.settings import Settings

#: Jobs that a batch may have.
BATCH_JOBS = 10_000


class AcceptedBefore(Exception):
    """The idempotency key has brought a job for the same request."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class Lapsed(Exception):
    """The pages that were known are so no longer."""


@dataclass(frozen=True)
class Known:
    """A final job that has the pages of another's document, and where that lies."""

    job_id: str
    blob: str


@dataclass(frozen=True)
class Accepted:
    """What came of an admission: where the job stood then, and what is yet to be published of it."""

    #: None for a job that was there already.
    status: JobStatus | None
    units: list[Unit]


@dataclass(frozen=True)
class Admission:
    """One job's. `document` is its document's digest (`producer.caching`), by which it may share pages with others."""

    job: Job
    #: None until they are counted.
    document_pages: int | None
    settings: Settings
    key: IdempotencyKey | None = None
    document: str = ""
    known: Known | None = None
    #: Makes the broker's message for a unit. Without it, whoever asked publishes.
    message: Callable[[Unit], str] | None = None

    @property
    def publishes(self) -> bool:
        """Whether the messages are published with the job, unless it follows another. One that has to be on the disk
        before it is read is published by whoever asked."""
        return self.message is not None and not self.settings.durable

    @cached_property
    def spans(self) -> list[Span] | None:
        """Raises `InvalidRequest` when the document has none of the pages that were asked for."""
        if self.document_pages is None:
            return None
        return list(self.job.options.spans(self.document_pages, self.settings.span_pages))

    @property
    def units(self) -> list[Unit]:
        """What is read of the document, and how. Raises as `spans` does."""
        names = [PREPARE] if self.spans is None else [str(span) for span in self.spans]
        return [(self.job.id, name, self.job.options.lane.value) for name in names]

    def request(self) -> str:
        """The script's argument (JSON). Raises as `spans` does."""
        job, settings, key = self.job, self.settings, self.key
        deadline_s = job.options.deadline_s or settings.deadline_s
        request = {
            "id": job.id,
            "record": job.model_dump_json(),
            "blob": job.blob,
            "max_unfinished": settings.max_queued_jobs,
            "deadline_ms": round(deadline_s * 1000),
            "ttl_s": int(deadline_s + settings.result_ttl_s),
            "lane": job.options.lane.value,
            "pages_total": None if self.spans is None else sum(span.count for span in self.spans),
            "key": key.name if key else "",
            "fingerprint": key.fingerprint if key else "",
            "webhook": job.options.webhook_url or "",
            "units": [unit for _, unit, _ in self.units],
            "document": self.document,
            "source": self.known.job_id if self.known else "",
            "follows": job.options.cache,
            "known_s": int(settings.cache_ttl_s),
            "known_bytes": settings.cache_max_bytes,
            "result_ttl_s": int(settings.result_ttl_s),
            "tenant": job.tenant,
            "size_bytes": job.size_bytes,
            "limits": Limits.of_all(settings).model_dump(),
        }
        if job.batch:
            request |= {"batch": job.batch, "batch_most": BATCH_JOBS}
        if job.retry_of:
            request["retry_of"] = job.retry_of
        if self.message is not None:
            request |= {"messages": [self.message(unit) for unit in self.units], "publishes": self.publishes}
        return json.dumps(request)

    @staticmethod
    def recorded(verdict: Any) -> bool:
        """Whether that answer of the script's says that there is a new job."""
        return verdict[0] in (b"accepted", b"follows", b"final")

    def outcome(self, verdict: Any) -> Accepted:
        """What follows from that answer of the script's. Raises what `Ledger.accept` does."""
        job = self.job
        match verdict:
            case [b"same", job_id]:
                raise AcceptedBefore(job_id.decode())
            case [b"mismatch"]:
                raise IdempotencyMismatch("The idempotency key was used with another document, name or options.")
            case [b"full", seconds]:
                most = self.settings.max_queued_jobs
                raise QueueFull(
                    f"The pool holds {most} unfinished jobs and takes no more now.", retry_after_s=seconds or None
                )
            case [b"quota", seconds, limit, most]:
                raise QuotaExceeded(
                    f"{limit.decode()}: a tenant may have {most.decode()} {COUNTED[limit.decode()]}, no more now.",
                    retry_after_s=seconds or None,
                )
            case [b"large", _, limit, most]:
                raise TooLarge(
                    f"{limit.decode()}: the document has {job.size_bytes:,} bytes; at most {int(most):,} are read."
                )
            case [b"lapsed"]:
                raise Lapsed
            case [b"exists"]:
                return Accepted(None, [])
            case [b"final" | b"follows", flat]:
                return Accepted(status_of(job.id, fields_of(flat)), [])
            case [b"accepted", flat]:
                return Accepted(status_of(job.id, fields_of(flat)), [] if self.publishes else self.units)
            case [b"batch full"]:
                raise InvalidRequest(f"batch: {job.batch} has {BATCH_JOBS} documents, the most of one batch.")
            case [b"gone"]:
                raise NotFound(f"There is no job {job.retry_of}, or it is gone.")
            case [b"not final"]:
                raise NotFinished(f"The job {job.retry_of} has not ended: its pages are not tried again yet.")
        raise AssertionError(verdict)
