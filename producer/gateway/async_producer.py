"""The producer's blocking calls, awaitable: each runs in a bounded thread, none on the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from functools import partial
from typing import Self, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from producer.documents import content_digest
from producer.errors import InvalidRequest, OcrpoolError, renamed
from producer.gateway.documents import ManyFiles, Upload, left
from producer.gateway.fetches import PLACES, Fetches
from producer.idempotency import named, print_of_many
from producer.job import JobStatus, ReadOptions, Tenant
from producer.producer import JobHandle, Producer

#: Threads for submissions, which hold or copy documents, and for all other calls, which are short: the first cannot
#: starve the second. What waits for strangers' servers has others, see `Fetches`.
SUBMIT_THREADS = 8
CALL_THREADS = 16

Returned = TypeVar("Returned")


class AsyncProducer:
    """`Producer`'s face towards the routes. Belongs to one event loop.

    Each method raises what the producer's own raises.
    """

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self._submits = CapacityLimiter(SUBMIT_THREADS)
        self._calls = CapacityLimiter(CALL_THREADS)
        self.fetches = Fetches()
        self._fetch_threads = CapacityLimiter(PLACES)
        self._exports = CapacityLimiter(producer.settings.export_processes)

    def of_tenant(self, tenant: Tenant) -> Self:
        """The same threads, for the tenant's jobs alone."""
        producer = self.producer.of_tenant(tenant)
        if producer is self.producer:
            return self
        view = copy(self)
        view.producer = producer
        return view

    async def call(self, function: Callable[[], Returned]) -> Returned:
        """Run `function` in a thread, once one is free."""
        return await to_thread.run_sync(function, limiter=self._calls)

    async def export(self, function: Callable[[], Returned]) -> Returned:
        """Run `function`, which starts a process of its own, in a thread, once one of the few for such is free."""
        return await to_thread.run_sync(function, limiter=self._exports)

    async def submit(
        self, request: Request, upload: Upload, idempotency_key: str | None = None
    ) -> tuple[JobHandle, JobStatus]:
        """Hand in what the request has brought; one whose client leaves before a document is fetched ends in
        `ClientDisconnect`."""
        submit = partial(self._submit, upload, idempotency_key)
        submitted = await to_thread.run_sync(submit, limiter=self._submits)
        if isinstance(submitted, str):
            tenant = self.producer.tenant if self.producer.settings.asks_for_keys else None
            async with self.fetches.place(submitted, tenant, partial(left, request)):
                submitted = await to_thread.run_sync(partial(submit, fetching=True), limiter=self._fetch_threads)
        assert not isinstance(submitted, str)
        return submitted

    def _check_webhook(self, options: ReadOptions) -> None:
        if options.webhook_url is not None and not self.producer.settings.webhook_secrets:
            raise InvalidRequest("webhook_url: this pool sends no webhooks (OCRPOOL_WEBHOOK_SECRETS is empty).")

    async def submit_all(
        self, upload: ManyFiles, batch: str, idempotency_key: str | None = None
    ) -> tuple[list[JobStatus | OcrpoolError], bool]:
        """Where each of the documents stands, or why it is refused; and whether an earlier request brought some."""
        submit = partial(self._submit_all, upload, batch, idempotency_key)
        return await to_thread.run_sync(submit, limiter=self._submits)

    def _submit_all(
        self, upload: ManyFiles, batch: str, idempotency_key: str | None
    ) -> tuple[list[JobStatus | OcrpoolError], bool]:
        self._check_webhook(upload.options)
        if idempotency_key is not None:
            name = named(idempotency_key, self.producer.tenant or "")
            contents = map(content_digest, upload.files)
            self.producer.ledger.use_for(name, print_of_many(contents, upload.names, upload.options))
        handles = self.producer.submit_all(
            upload.files, upload.options, names=upload.names, batch=batch, idempotency_key=idempotency_key
        )
        found = [one.accepted or one.status() if isinstance(one, JobHandle) else one for one in handles]
        return found, any(isinstance(handle, JobHandle) and handle.replayed for handle in handles)

    def _submit(
        self, upload: Upload, idempotency_key: str | None, *, fetching: bool = False
    ) -> tuple[JobHandle, JobStatus] | str:
        """The job; or the origin of a document that has to be fetched, unless this is the thread for it."""
        with upload.opened() as document:
            self._check_webhook(document.options)
            try:
                if isinstance(document.source, str) and not fetching:
                    return self.producer.origin(document.source)
                job = self.producer.submit(
                    document.source,
                    document.options,
                    name=document.name,
                    idempotency_key=idempotency_key,
                    batch=document.batch,
                )
            except OcrpoolError as error:
                if (told := renamed(str(error), document.names)) != str(error):
                    raise type(error)(told, retry_after_s=error.retry_after_s) from error
                raise
            return job, job.accepted or job.status()

    @asynccontextmanager
    async def sole_use(self, idempotency_key: str | None) -> AsyncIterator[None]:
        """See `Ledger.sole_use`; without a key, nobody else's request is this one."""
        if idempotency_key is None:
            yield
            return
        use = self.producer.ledger.sole_use(named(idempotency_key, self.producer.tenant or ""))
        await self.call(use.__enter__)
        try:
            yield
        finally:
            await self.call(partial(use.__exit__, None, None, None))

    async def status(self, job_id: str) -> JobStatus:
        return await self.call(partial(self.producer.status, job_id))

    async def cancel(self, job_id: str) -> JobStatus:
        return await self.call(partial(self.producer.cancel, job_id))
