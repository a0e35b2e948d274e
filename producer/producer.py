"""The producer's way in: hand in documents, follow them, fetch their results."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from producer.admission import AcceptedBefore, Known, Lapsed
from producer.batches import AT_ONCE, Asked, Storing, read_batch
from producer.blobs import BlobStore, open_store
from producer.caching import document_digest
from producer.documents import Source, content_digest, look, no_address, opened, readable, with_names
from producer.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    OcrpoolError,
    QueueFull,
    QuotaExceeded,
    TooLarge,
    Unavailable,
    naming,
)
from producer.escaping import NAME_CHARS, shown_name
from producer.following import follow
from producer.formats import Format
from producer.idempotency import IdempotencyKey, named, part_of
from producer.job import (
    ADDRESS,
    BATCH_NAME,
    Job,
    JobResult,
    JobState,
    JobStatus,
    PagesRead,
    ReadOptions,
    ResultLink,
    Tenant,
    new_job_id,
)
from producer.ledger import Ledger
from producer.listing import MOST_JOBS, list_jobs
from producer.media import sniff
from producer.pages import MOST_PAGES, read_pages
from producer.queue import Publisher
from producer.results import Results, Saves
from producer.retries import again
from producer.settings import Settings
from producer.sources import Sources, bucket_of, file_name
from producer.timeline import Timeline, read_timeline

if TYPE_CHECKING:
    from producer.fetching import Fetcher


class Producer:
    """Hands documents to a pool and fetches their results. Safe to share between threads; close it when done.

    >>> with Producer() as producer:
    ...     job = producer.submit("invoice.pdf")
    ...     job.wait(timeout_s=60)
    ...     print(job.result().text)
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        tenant: Tenant | None = None,
        ledger: Ledger | None = None,
        blobs: BlobStore | None = None,
    ) -> None:
        """With a `tenant`, documents are its own, and no other's job is to be seen; without one, every job is."""
        self.settings = settings or Settings()
        self.tenant = tenant
        self.blobs: BlobStore = blobs or (ledger.blobs if ledger else open_store(self.settings))
        self.ledger = ledger or Ledger(self.settings, blobs=self.blobs)
        self.results = Results(self.settings, self.ledger, self.blobs)
        self._sources = Sources(self.settings)
        self._publisher = Publisher(self.settings)
        self._views: dict[Tenant, Self] = {}

    def of_tenant(self, tenant: Tenant) -> Self:
        """This producer as the tenant has it. It shares this one's connections, and is not closed by itself."""
        if tenant == self.tenant:
            return self
        if tenant not in self._views:
            view = copy(self)
            view.tenant = tenant
            self._views[tenant] = view
        return self._views[tenant]

    def submit(
        self,
        document: Source,
        options: ReadOptions | None = None,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        batch: str | None = None,
    ) -> JobHandle:
        """Accept a document (its bytes, a file's path, or a file open for reading) and return at once; one at an
        `https://` or `s3://` address that the settings allow is fetched first.

        The job keeps the name, without folders and control characters, to be shown; it is never a path.

        Whoever cannot know whether a document was accepted hands it in again under the same `idempotency_key`: for as
        long as the pool knows the job, it is that one.

        Raises:
            FetchForbidden, FetchFailed: the address, or that of the webhook, must not be reached; there is no document.
            InvalidRequest: there is no such file, the name has more than 255 characters, the key is not of printable
                ASCII characters, or the one page of an image is not among those that were asked for.
            IdempotencyMismatch: the key was used with another document, name or options.
            UnsupportedMediaType, CorruptDocument, TooLarge: the document can be refused by its first bytes or size.
            QueueFull, QuotaExceeded, Unavailable: the pool takes nothing now.
        """
        options = self._checked(options)
        if isinstance(document, str) and ADDRESS.match(document):
            with tempfile.TemporaryFile() as fetched:
                named = self._fetch(document, fetched)
                return self._submit(fetched, options, named if name is None else name, idempotency_key, batch)
        if not isinstance(document, str | Path):
            return self._submit(readable(document), options, name or "", idempotency_key, batch)
        path = Path(document)
        with opened(path) as file:
            return self._submit(file, options, path.name if name is None else name, idempotency_key, batch)

    def _checked(self, options: ReadOptions | None) -> ReadOptions:
        """The options, or those that nobody chose. Raises `FetchForbidden` for a webhook that must not be sent."""
        options = options or ReadOptions()
        if options.webhook_url is not None:
            with naming("webhook_url"):
                self._fetcher.target(options.webhook_url)
        return options

    def origin(self, url: str) -> str:
        """The site that the document at an address is fetched from: host and port, or a bucket.

        Raises:
            InvalidRequest, FetchForbidden: what of `submit` can be told by the address.
        """
        if url.startswith("s3://"):
            return bucket_of(url)
        with naming("url"):
            return self._fetcher.target(url).origin

    def _fetch(self, url: str, file: IO[bytes]) -> str:
        """Write the document to the file; returns what it is called there."""
        try:
            with naming("url"):
                if url.startswith("s3://"):
                    self._sources.copy(url, file)
                    name = file_name(url)
                else:
                    self._fetcher.get(url, file)
                    name = self._fetcher.target(url).name
            file.flush()
            return name
        except OSError as error:
            raise Unavailable(f"There is no room for the document: {error.strerror}.") from error

    @cached_property
    def _fetcher(self) -> Fetcher:
        try:
            from producer.fetching import Fetcher
        except ModuleNotFoundError as error:
            raise Unavailable("Addresses need httpx: pip install 'ocrpool[gateway]'.") from error
        return Fetcher(self.settings)

    def _submit(
        self,
        source: bytes | IO[bytes],
        options: ReadOptions,
        name: str,
        idempotency_key: str | None,
        batch: str | None,
    ) -> JobHandle:
        job = self._new_job(source, options, name, batch)
        asked = self._asked(job, source, None if idempotency_key is None else named(idempotency_key, job.tenant))
        key, document = asked.key, asked.document
        # Whatever ends this process before the job is accepted, the sweeper finds the blob.
        known = self.ledger.recall(asked.sought, job.blob)
        if known is not None:
            with suppress(Lapsed):
                return self._submit_known(job, known, document, key)
            self.ledger.expect_blob(job.blob)
        self.blobs.put(job.blob, source)
        message = self._publisher.message
        try:
            accepted = self.ledger.accept(job, job.media_type.pages, key, document=document, message=message)
        except AcceptedBefore as before:
            self._drop_blob(job.blob)
            return JobHandle(self, before.job_id, replayed=True)
        except (QueueFull, QuotaExceeded, TooLarge, IdempotencyMismatch, InvalidRequest):
            # After any other error the job may have been accepted all the same, so its blob is left to the sweeper.
            self._drop_blob(job.blob)
            raise
        self._publisher.publish(accepted.units)
        return JobHandle(self, job.id, accepted=accepted.status)

    def _asked(self, job: Job, source: bytes | IO[bytes], key: str | None) -> Asked:
        """What is asked for it under the key of that name, if there is one."""
        used, document = None, ""
        if key is not None or self.settings.cache_ttl_s:
            content = content_digest(source)
            used = None if key is None else IdempotencyKey.of(key, content, job)
            document = document_digest(content, job.options, job.tenant) if self.settings.cache_ttl_s else ""
        return Asked(job, source, used, document)

    def _new_job(self, source: bytes | IO[bytes], options: ReadOptions, name: str, batch: str | None) -> Job:
        """The job for a document. Raises what of `submit` can be told by the document and its name."""
        name = shown_name(name)
        if len(name) > NAME_CHARS:
            raise InvalidRequest(f"name: at most {NAME_CHARS} characters.")
        head, size_bytes = look(source)
        media_type = sniff(head)
        if size_bytes > self.settings.max_document_bytes:
            raise TooLarge(
                f"The document has {size_bytes:,} bytes; at most {self.settings.max_document_bytes:,} are read."
            )
        job_id = new_job_id()
        return Job(
            id=job_id,
            blob=job_id,
            media_type=media_type,
            size_bytes=size_bytes,
            name=name,
            options=options,
            tenant=self.tenant or "",
            batch=batch,
        )

    def submit_all(
        self,
        documents: Iterable[Source],
        options: ReadOptions | None = None,
        *,
        names: Iterable[str] | None = None,
        batch: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[JobHandle | OcrpoolError]:
        """`submit` for many documents, none of them an address, several times as fast: the handle of each, or why it is
        refused, in their order.

        They are one batch under the name `batch` (1 to 64 letters, digits, `.`, `_`, `:` and `-`, no dot first), if
        there is one; see `batch`. An open file is read when its turn comes. Under an `idempotency_key`, those that were
        accepted before are the jobs that they were, each by its place among the documents.

        Raises:
            InvalidRequest: the name of the batch, or the key, has not the form of one; there are fewer names than
                documents. Where these cannot be counted before, those without a name are refused.
        """
        if batch is not None and not BATCH_NAME.fullmatch(batch):
            raise InvalidRequest(
                "batch: 1 to 64 letters, digits, dots, underscores, colons and hyphens, and no dot first."
            )
        options = self._checked(options)
        keys: Iterator[str | None] = itertools.repeat(None)
        if idempotency_key is not None:
            keys = map(partial(part_of, named(idempotency_key, self.tenant or "")), itertools.count())
        handles: list[JobHandle | OcrpoolError] = []
        each = zip(with_names(documents, names), keys, strict=False)
        while some := list(itertools.islice(each, AT_ONCE)):
            handles += self._submit_some(some, options, batch)
        return handles

    def _submit_some(
        self,
        documents: Sequence[tuple[tuple[Source, str | OcrpoolError | None], str | None]],
        options: ReadOptions,
        batch: str | None,
    ) -> list[JobHandle | OcrpoolError]:
        """Each document comes with its name and that of its key."""
        with ExitStack() as open_files:
            stored = Storing(self.ledger, self.blobs, self._publisher)
            for (document, chosen), key in documents:
                name = chosen or ""
                try:
                    if isinstance(name, OcrpoolError):
                        raise name
                    no_address(document)
                    if isinstance(document, str | Path):
                        source: bytes | IO[bytes] = open_files.enter_context(opened(Path(document)))
                        name = name or Path(document).name
                    else:
                        source = readable(document)
                    job = self._new_job(source, options, name, batch)
                    stored.add(self._asked(job, source, key))
                except OcrpoolError as refusal:
                    stored.refuse(refusal)
            answers = stored.accept()
        return [self._handle(answer) for answer in answers]

    def _handle(self, answer: JobStatus | AcceptedBefore | OcrpoolError) -> JobHandle | OcrpoolError:
        match answer:
            case JobStatus(id=job_id):
                return JobHandle(self, job_id, accepted=answer)
            case AcceptedBefore(job_id=job_id):
                return JobHandle(self, job_id, replayed=True)
            case refusal:
                return refusal

    def batch(self, batch: str) -> list[JobStatus]:
        """Where the jobs of a batch stand that are still there, in the order in which they were handed in.

        Raises:
            NotFound: there is none.
        """
        return read_batch(self.ledger, batch, self.tenant or "")

    def retry(self, job_id: str) -> JobHandle:
        """A new job that reads the pages of a final one that were not read: those that failed, and those that a
        cancelled or expired job did not come to. Its deadline counts from now. Asked again, it is the same job.

        Raises:
            NotFound: there is no such job.
            NotFinished: it has not ended.
            InvalidRequest: every page was read.
            QueueFull, QuotaExceeded, Unavailable: the pool takes nothing now.
        """
        job, document_pages = again(self.ledger, job_id, self.tenant)
        try:
            accepted = self.ledger.accept(job, document_pages, message=self._publisher.message)
        except AcceptedBefore as before:
            return JobHandle(self, before.job_id, replayed=True)
        self._publisher.publish(accepted.units)
        return JobHandle(self, job.id, accepted=accepted.status)

    def jobs(self, state: JobState | None = None, limit: int | None = None) -> Iterator[JobStatus]:
        """The jobs of a state, or all, the last accepted first; at most `limit`."""
        cursor: str | None = ""
        while cursor is not None and limit != 0:
            found = list_jobs(self.ledger, state, min(limit or MOST_JOBS, MOST_JOBS), cursor, self.tenant)
            yield from found.jobs
            limit, cursor = limit and limit - len(found.jobs), found.cursor

    def pages(self, job_id: str, after: int = 0, limit: int = MOST_PAGES) -> PagesRead:
        """At most `limit` (1 to 100) outcomes of a job, finished or not, in the order in which they came; `after` so
        many of them.

        Raises `NotFound`.
        """
        return read_pages(self.ledger, job_id, after, limit, self.tenant)

    def timeline(self, job_id: str) -> Timeline:
        """Who held which of the job's pages, and where their time went. Raises `NotFound`."""
        return read_timeline(self.ledger, job_id, self.tenant)

    def _submit_known(self, job: Job, known: Known, document: str, key: IdempotencyKey | None) -> JobHandle:
        """Its document lies where that of the known job does, which stays as long as either.

        Raises:
            Lapsed: the job is known no longer.
        """
        job = job.model_copy(update={"blob": known.blob})
        try:
            accepted = self.ledger.accept(job, job.media_type.pages, key, document=document, known=known)
        except AcceptedBefore as before:
            return JobHandle(self, before.job_id, replayed=True)
        return JobHandle(self, job.id, accepted=accepted.status)

    def _drop_blob(self, blob: str) -> None:
        self.blobs.delete(blob)
        self.ledger.forget_blobs([blob])

    def job(self, job_id: str) -> JobHandle:
        """The handle of a job that was submitted before, perhaps by another process."""
        return JobHandle(self, job_id)

    def status(self, job_id: str) -> JobStatus:
        """Where the job stands. Raises `NotFound`."""
        return self.ledger.status(job_id, self.tenant)

    def result(self, job_id: str) -> JobResult:
        """Every page's outcome. Raises `NotFinished` before the job is final, and `NotFound`."""
        return self.ledger.result(job_id, self.tenant)

    def link(self, job_id: str, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        """An address in the S3 store at which anybody may read the result in the format, without credentials, for so
        many seconds: `signed_url_ttl_s` at most, and no longer than the result is kept.

        Raises:
            NotFound, NotFinished: as `result`.
            FormatUnavailable: the documents lie in a folder, which has no addresses, or the format cannot be made here.
            OcrpoolError: the job's own error, where no page was read, except as JSON.
        """
        return self.results.link(self.status(job_id), format, ttl_s, partial(self.result, job_id))

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel the job; one that is final stays as it is. Raises `NotFound`."""
        self.ledger.cancel(job_id, self.tenant)
        return self.ledger.status(job_id, self.tenant)

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until the job is final, or `timeout_s` seconds have passed, and return where it stands then."""
        *_, status = self.watch(job_id, timeout_s=timeout_s)
        return status

    def watch(self, job_id: str, *, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """Yield the job's status now and whenever it has changed; end once it is final or the time is up."""
        return self.follow([job_id], timeout_s=timeout_s)

    def follow(self, job_ids: Iterable[str], *, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """`watch` for many jobs at once, on one subscription."""
        return follow(self.ledger, job_ids, tenant=self.tenant, timeout_s=timeout_s)

    def workers(self) -> list[str]:
        """The names of the workers that are ready."""
        return list(self.ledger.workers())

    def close(self) -> None:
        self._publisher.close()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class JobHandle(Saves):
    """One submitted job. Only its id matters: `Producer.job(id)` makes an equal handle in any process.

    Once it is final, `save_to_json`, `save_to_markdown`, `save_to_pdf`, `save_to_img` and `save` write its result.
    """

    producer: Producer
    id: str
    #: Whether an earlier request under the same idempotency key brought this job.
    replayed: bool = field(default=False, compare=False)
    #: Where it stood when it was accepted, if this process has handed it in.
    accepted: JobStatus | None = field(default=None, compare=False, repr=False)

    def status(self) -> JobStatus:
        return self.producer.status(self.id)

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        return self.producer.wait(self.id, timeout_s)

    def watch(self, timeout_s: float | None = None) -> Iterator[JobStatus]:
        return self.producer.watch(self.id, timeout_s=timeout_s)

    def result(self) -> JobResult:
        return self.producer.result(self.id)

    def link(self, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        return self.producer.link(self.id, format, ttl_s)

    def cancel(self) -> JobStatus:
        return self.producer.cancel(self.id)

    def retry(self) -> JobHandle:
        return self.producer.retry(self.id)

    def pages(self, after: int = 0) -> PagesRead:
        return self.producer.pages(self.id, after)

    def timeline(self) -> Timeline:
        return self.producer.timeline(self.id)

    def fetch(self, format: Format | str, page: int | None = None) -> IO[bytes]:
        """The result in a format, as a file to be closed; an overlay is of one page. Raises as `Results` does."""
        format = Format.named(format)
        results = self.producer.results
        if format is Format.PDF:
            return results.pdf(self.result())
        if format is Format.OVERLAY:
            return results.overlay(self.result(), page or 1)
        return io.BytesIO(results.text(self.result(), format).encode())
