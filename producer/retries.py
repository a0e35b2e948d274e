"""A job that reads again what another one did not.

It is a job of its own, because final is final: whoever was told of the first one's end, holds its result or was called
back keeps the truth, and the new one passes admission with its limits like any other. The two name each other
(`retry_of`, `retried_by`); they share the document, which stays as long as the longer of them.
"""

from __future__ import annotations

from itertools import islice

from producer.errors import InvalidRequest, NotFinished
from producer.job import Job, JobResult, PageResult, Tenant, new_job_id
from producer.ledger import Ledger
from producer.page_ranges import MOST_CHARS, normal, numbers


def again(ledger: Ledger, job_id: str, tenant: Tenant | None = None) -> tuple[Job, int | None]:
    """The job that reads the unread pages of a final one, and its document's pages, as `Ledger.accept` takes them.

    Raises:
        NotFound: there is no such job, or it is not the tenant's.
        NotFinished: it has not ended.
        InvalidRequest: every page was read, or the unread ones lie too scattered to be named.
    """
    status = ledger.status(job_id, tenant)
    if not status.final:
        raise NotFinished(f"The job {job_id} has not ended: its pages are not tried again yet.")
    old = ledger.job(job_id)
    options, document_pages = old.options, None
    if status.pages_total is not None:
        unread = _unread(old, ledger.result(job_id), status.pages_total)
        if not unread:
            raise InvalidRequest("Every page of the job was read; there is none to be tried again.")
        pages = normal(",".join(map(str, unread)))
        if len(pages) > MOST_CHARS:
            raise InvalidRequest(
                f"pages: those to be tried again lie too scattered to be named in {MOST_CHARS} characters."
            )
        options, document_pages = options.model_copy(update={"pages": pages}), unread[-1]
    fresh = {"id": new_job_id(), "options": options, "retry_of": job_id, "batch": None}
    return old.model_copy(update=fresh), document_pages


def _unread(old: Job, result: JobResult, total: int) -> list[int]:
    read = {page.page for page in result.pages if isinstance(page, PageResult)}
    return [page for page in islice(numbers(old.options.pages), total) if page not in read]
