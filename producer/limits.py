"""What one tenant may have at a time. 0 is no limit."""

from __future__ import annotations

from pydantic import Field

from producer.job import Contract
from producer.settings import Settings


class Limits(Contract):
    """A tenant's limits. What is None is as the settings have it for every tenant."""

    max_queued_pages: int | None = Field(None, ge=0, le=10**9)
    max_unfinished_jobs: int | None = Field(None, ge=0, le=10**9)
    max_requests_per_s: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)
    max_document_bytes: int | None = Field(None, ge=0, le=10**12)

    @classmethod
    def of_all(cls, settings: Settings) -> Limits:
        """Those of a tenant that has none of its own."""
        return cls(
            max_queued_pages=settings.tenant_max_queued_pages,
            max_unfinished_jobs=settings.tenant_max_unfinished_jobs,
            max_requests_per_s=settings.tenant_max_requests_per_s,
            max_document_bytes=settings.tenant_max_document_bytes,
        )

    def over(self, defaults: Limits) -> Limits:
        """These, and for what is None the defaults."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))


#: What each limit counts, for sentences.
COUNTED = {
    "max_queued_pages": "queued pages",
    "max_unfinished_jobs": "unfinished jobs",
    "max_requests_per_s": "requests a second",
    "max_document_bytes": "bytes of a document",
}
