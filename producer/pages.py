"""A job's outcomes as soon as each is there, in the order in which they came."""

from __future__ import annotations

from dataclasses import dataclass

from producer.job import JobStatus, PagesRead, Tenant
from producer.ledger import OUTCOME, Ledger
from producer.outcomes import inlined
from producer.records import fields_of_job, status_of

#: Outcomes that are told in one go.
MOST_PAGES = 100


@dataclass(frozen=True)
class Progress:
    """Where a job stands, and which pages came next."""

    status: JobStatus
    #: The pages behind those that were passed over, at most as many as were asked for; and which of them failed.
    pages: tuple[tuple[int, bool], ...]
    #: The outcomes that there are.
    outcomes: int


def read_pages(
    ledger: Ledger, job_id: str, after: int = 0, limit: int = MOST_PAGES, tenant: Tenant | None = None
) -> PagesRead:
    """The outcomes behind the first `after`, at most `limit` (1 to 100).

    Raises:
        NotFound: there is no such job, or it is not the tenant's.
        Unavailable: Redis cannot be reached, or the blob store, where one of the pages lies there.
    """
    status, count, _, outcomes = _read(ledger, job_id, after, limit, tenant, outcomes=True)
    pages = tuple(OUTCOME.validate_json(outcome) for outcome in inlined(filter(None, outcomes), ledger.blobs))
    done = after + len(outcomes)
    return PagesRead(id=job_id, state=status.state, pages=pages, next=done, more=done < count or not status.final)


def read_progress(ledger: Ledger, job_id: str, after: int, tenant: Tenant | None = None) -> Progress:
    """The job's status and the pages behind the first `after`, at most 100.

    Raises:
        NotFound: there is no such job, or it is not the tenant's.
    """
    status, count, order, _ = _read(ledger, job_id, after, MOST_PAGES, tenant, outcomes=False)
    return Progress(status, tuple((abs(page), page < 0) for page in map(int, order)), count)


def _read(
    ledger: Ledger, job_id: str, after: int, limit: int, tenant: Tenant | None, *, outcomes: bool
) -> tuple[JobStatus, int, list[bytes], list[bytes | None]]:
    fields, count, order, found = ledger.scripts.run("pages", job_id, after, limit, "1" if outcomes else "0")
    return status_of(job_id, fields_of_job(job_id, fields, tenant)), count, order, found
