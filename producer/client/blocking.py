"""The client whose calls block."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import IO, Self

import httpx

from producer.client.calls import Calls, ending
from producer.client.connection import PATIENCE_S, Connections, closed_client, open_until, settings_of
from producer.client.mapping import Outcome, check, counting, outcome
from producer.client.steps import Pause, Returned, Send, Steps
from producer.documents import Source
from producer.errors import OcrpoolError
from producer.formats import Format
from producer.job import JobResult, JobState, JobStatus, PagesRead, ReadOptions, ResultLink
from producer.listing import MOST_JOBS
from producer.pages import MOST_PAGES
from producer.results import Saves
from producer.timeline import Timeline


class Client:
    """Hands documents to a gateway and fetches their results. Safe to share between threads; close it when done.

    >>> with Client("https://ocr.example.com", api_key) as client:
    ...     print(client.ocr("invoice.pdf").text)

    A gateway that is away, full or crowded is waited for, as long as it asks and up to `patience_s` seconds a call.
    Every submission has an idempotency key: one whose answer was lost is sent again and is the same job.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """Raises `InvalidRequest` for what cannot be an address or a key; blanks around a key do not matter."""
        self._http = httpx.Client(**settings_of(base_url, api_key))
        self._calls = Calls(patience_s)
        self._connections = Connections()
        self._closed = threading.Event()
        #: Set as the client is closed, each to end what it is for.
        self._stops = {self._closed}

    def ocr(
        self,
        document: Source,
        options: ReadOptions | None = None,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
    ) -> JobResult:
        """Hand in a document and wait for its pages.

        Raises:
            OcrpoolError: what `submit` raises, or the job's own error.
            NotFinished: the time is up; the message names the job, which goes on.
            Unavailable: the time is up, and the gateway has not said that it has the document.
        """
        return self._run(self._calls.ocr(document, options, name, timeout_s))

    def submit(
        self,
        document: Source,
        options: ReadOptions | None = None,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> ClientJob:
        """As `Producer.submit`; an address is fetched by the gateway.

        Raises:
            OcrpoolError: as there.
            Unauthorized: the API key is missing or wrong.
        """
        return ClientJob(self, *self._run(self._calls.submit(document, options, name, idempotency_key)))

    def map(
        self,
        documents: Iterable[Source],
        options: ReadOptions | None = None,
        *,
        concurrency: int = 8,
        timeout_s: float | None = None,
        progress: bool | None = None,
    ) -> Generator[Outcome, None, None]:
        """What came of each document, as soon as it is there, with `concurrency` of them in the pool at a time and
        `timeout_s` for each. Whoever stops early leaves those to the pool, and hands in no more.

        A bar counts them on a terminal; `progress` says otherwise.

        Raises:
            ValueError: `concurrency` is less than 1.
        """
        check(concurrency)
        stopped = threading.Event()
        self._stops.add(stopped)
        threads = ThreadPoolExecutor(concurrency, thread_name_prefix="ocrpool-map")
        left = iter(documents)
        under_way: set[Future[Outcome]] = set()
        try:
            with counting(documents, progress) as count:
                while True:
                    for document in islice(left, concurrency - len(under_way)):
                        steps = outcome(self._calls, document, options, timeout_s)
                        under_way.add(threads.submit(self._run, steps, stopped))
                    if not under_way:
                        return
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for one in done:
                        count(one.result())
                        yield one.result()
        finally:
            stopped.set()
            self._stops.discard(stopped)
            threads.shutdown(wait=False, cancel_futures=True)

    def submit_all(
        self,
        documents: Iterable[Source],
        options: ReadOptions | None = None,
        *,
        names: Iterable[str] | None = None,
        idempotency_key: str | None = None,
    ) -> list[ClientJob | OcrpoolError]:
        """`submit` for many documents, none of them an address, many in a request: the handle of each, or why it has
        none, in their order. What a request is refused for is so for each of its documents; once the gateway is waited
        for in vain, it is so for the rest.

        Those of a request are a batch, which the gateway names; their jobs' statuses tell its name. Under an
        `idempotency_key`, those that were accepted before are the jobs that they were, each by its place among the
        documents; they are handed in one by one then, and are no batch.

        Raises:
            InvalidRequest: the key has not the form of one; there are fewer names than documents. Where these cannot
                be counted before, those without a name are refused.
        """
        found = self._run(self._calls.submit_all(documents, options, names, idempotency_key))
        return [one if isinstance(one, OcrpoolError) else ClientJob(self, *one) for one in found]

    def batch(self, batch: str) -> list[JobStatus]:
        """As `Producer.batch`; a job's status names its batch. Raises `NotFound`."""
        return self._run(self._calls.batch(batch))

    def jobs(self, state: JobState | None = None, limit: int | None = None) -> Iterator[JobStatus]:
        """The jobs of a state, or all, the last accepted first; at most `limit`."""
        cursor: str | None = ""
        while cursor is not None and limit != 0:
            found = self._run(self._calls.jobs(state, min(limit or MOST_JOBS, MOST_JOBS), cursor))
            yield from found.jobs
            limit, cursor = limit and limit - len(found.jobs), found.cursor

    def job(self, job_id: str) -> ClientJob:
        """The handle of a job that was submitted before, perhaps by another process."""
        return ClientJob(self, job_id)

    def status(self, job_id: str) -> JobStatus:
        """Where the job stands. Raises `NotFound`."""
        return self._run(self._calls.status(job_id))

    def result(self, job_id: str) -> JobResult:
        """Every page's outcome. Raises `NotFinished` before the job is final, and `NotFound`."""
        return self._run(self._calls.result(job_id))

    def pages(self, job_id: str, after: int = 0, limit: int = MOST_PAGES) -> PagesRead:
        """As `Producer.pages`: a part of the outcomes, whether the job has ended or not. Raises `NotFound`."""
        return self._run(self._calls.pages(job_id, after, limit))

    def timeline(self, job_id: str) -> Timeline:
        """Who held which of the job's pages, and where their time went. Raises `NotFound`."""
        return self._run(self._calls.timeline(job_id))

    def fetch(self, job_id: str, format: Format | str, page: int | None = None) -> IO[bytes]:
        """The result in a format, as a file to be closed; an overlay is of one page. Raises as `result`, and:

        FormatUnavailable: the gateway cannot make it.
        OcrpoolError: the page's own error, or the job's, where nothing was read.
        """
        return io.BytesIO(self._run(self._calls.fetch(job_id, format, page)))

    def link(self, job_id: str, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        """As `Producer.link`: an address at which anybody may read the result for a while."""
        return self._run(self._calls.link(job_id, format, ttl_s))

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel the job; one that is final stays as it is. Raises `NotFound`."""
        return self._run(self._calls.cancel(job_id))

    def retry(self, job_id: str) -> ClientJob:
        """As `Producer.retry`."""
        return ClientJob(self, *self._run(self._calls.retry(job_id)))

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until the job is final, or `timeout_s` seconds have passed, and return where it stands then, as far as
        the gateway has told. Raises `Unavailable` if it has told nothing, or is away."""
        return self._run(self._calls.wait(job_id, ending(timeout_s)))

    def watch(self, job_id: str, *, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """Yield the job's status now and when it has changed, looking once a second; end once it is final or the time
        is up."""
        end, seen = ending(timeout_s), None
        while (seen := self._run(self._calls.changed(job_id, seen, end))) is not None:
            yield seen

    def close(self) -> None:
        """Drop the connections; calls under way raise `Unavailable` at once, or within ten seconds where a connection
        is just being made."""
        self._closed.set()
        for stop in list(self._stops):
            stop.set()
        self._connections.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[Returned], stopped: threading.Event | None = None) -> Returned:
        """Take the steps. Between two of them `stopped` ends it; closing the client does so within one, too."""
        stopped = stopped or self._closed
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._take(step, stopped)
                except (httpx.RequestError, OcrpoolError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
        finally:
            steps.close()

    def _take(self, step: Send | Pause, stopped: threading.Event) -> httpx.Response | None:
        with open_until(self._closed):
            if not stopped.is_set() and not self._closed.is_set():
                if isinstance(step, Send):
                    return self._http.send(step.built(self._http, self._connections.traced))
                if not stopped.wait(step.seconds):
                    return None
        raise closed_client()


@dataclass(frozen=True)
class ClientJob(Saves):
    """One submitted job. Only its id matters: `Client.job(id)` makes an equal handle in any process.

    Once it is final, `save_to_json`, `save_to_markdown`, `save_to_pdf`, `save_to_img` and `save` write its result.
    """

    client: Client
    id: str
    #: Whether an earlier request under the same idempotency key brought this job.
    replayed: bool = field(default=False, compare=False)

    def status(self) -> JobStatus:
        return self.client.status(self.id)

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        return self.client.wait(self.id, timeout_s)

    def watch(self, timeout_s: float | None = None) -> Iterator[JobStatus]:
        return self.client.watch(self.id, timeout_s=timeout_s)

    def result(self) -> JobResult:
        return self.client.result(self.id)

    def pages(self, after: int = 0) -> PagesRead:
        return self.client.pages(self.id, after)

    def timeline(self) -> Timeline:
        return self.client.timeline(self.id)

    def fetch(self, format: Format | str, page: int | None = None) -> IO[bytes]:
        return self.client.fetch(self.id, format, page)

    def link(self, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        return self.client.link(self.id, format, ttl_s)

    def cancel(self) -> JobStatus:
        return self.client.cancel(self.id)

    def retry(self) -> ClientJob:
        return self.client.retry(self.id)
