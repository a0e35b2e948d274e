"""The client whose calls are awaited."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from producer.client.calls import Calls, ending
from producer.client.connection import PATIENCE_S, closed_client, open_until, settings_of
from producer.client.mapping import Outcome, check, counting, outcome
from producer.client.steps import Pause, Returned, Send, Steps
from producer.documents import Source
from producer.errors import InvalidRequest, OcrpoolError
from producer.formats import Format
from producer.job import JobResult, JobState, JobStatus, PagesRead, ReadOptions, ResultLink
from producer.listing import MOST_JOBS
from producer.pages import MOST_PAGES
from producer.results import file_name, write
from producer.timeline import Timeline


class AsyncClient:
    """`Client` on an event loop: the same calls, awaited. A call that is cancelled leaves no connection behind.

    >>> async with AsyncClient("https://ocr.example.com", api_key) as client:
    ...     async for outcome in client.map(paths, concurrency=50):
    ...         print(outcome.document, outcome.error or outcome.result.text)
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self._http = httpx.AsyncClient(**settings_of(base_url, api_key))
        self._calls = Calls(patience_s)
        self._closed = asyncio.Event()

    async def ocr(
        self,
        document: Source,
        options: ReadOptions | None = None,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
    ) -> JobResult:
        return await self._run(self._calls.ocr(document, options, name, timeout_s))

    async def submit(
        self,
        document: Source,
        options: ReadOptions | None = None,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        return AsyncJob(self, *await self._run(self._calls.submit(document, options, name, idempotency_key)))

    async def map(
        self,
        documents: Iterable[Source],
        options: ReadOptions | None = None,
        *,
        concurrency: int = 8,
        timeout_s: float | None = None,
        progress: bool | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """As `Client.map`. Whoever stops early closes the generator (`aclosing`), which ends what is under way."""
        check(concurrency)
        left = iter(documents)
        under_way: set[asyncio.Task[Outcome]] = set()
        try:
            with counting(documents, progress) as count:
                while True:
                    for document in islice(left, concurrency - len(under_way)):
                        steps = outcome(self._calls, document, options, timeout_s)
                        under_way.add(asyncio.create_task(self._run(steps)))
                    if not under_way:
                        return
                    done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for one in done:
                        count(one.result())
                        yield one.result()
        finally:
            for one in under_way:
                one.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def submit_all(
        self,
        documents: Iterable[Source],
        options: ReadOptions | None = None,
        *,
        names: Iterable[str] | None = None,
        idempotency_key: str | None = None,
    ) -> list[AsyncJob | OcrpoolError]:
        found = await self._run(self._calls.submit_all(documents, options, names, idempotency_key))
        return [one if isinstance(one, OcrpoolError) else AsyncJob(self, *one) for one in found]

    async def batch(self, batch: str) -> list[JobStatus]:
        return await self._run(self._calls.batch(batch))

    async def jobs(self, state: JobState | None = None, limit: int | None = None) -> AsyncGenerator[JobStatus, None]:
        cursor: str | None = ""
        while cursor is not None and limit != 0:
            found = await self._run(self._calls.jobs(state, min(limit or MOST_JOBS, MOST_JOBS), cursor))
            for job in found.jobs:
                yield job
            limit, cursor = limit and limit - len(found.jobs), found.cursor

    def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(self, job_id)

    async def status(self, job_id: str) -> JobStatus:
        return await self._run(self._calls.status(job_id))

    async def result(self, job_id: str) -> JobResult:
        return await self._run(self._calls.result(job_id))

    async def pages(self, job_id: str, after: int = 0, limit: int = MOST_PAGES) -> PagesRead:
        return await self._run(self._calls.pages(job_id, after, limit))

    async def timeline(self, job_id: str) -> Timeline:
        return await self._run(self._calls.timeline(job_id))

    async def fetch(self, job_id: str, format: Format | str, page: int | None = None) -> IO[bytes]:
        return io.BytesIO(await self._run(self._calls.fetch(job_id, format, page)))

    async def link(self, job_id: str, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        return await self._run(self._calls.link(job_id, format, ttl_s))

    async def cancel(self, job_id: str) -> JobStatus:
        return await self._run(self._calls.cancel(job_id))

    async def retry(self, job_id: str) -> AsyncJob:
        return AsyncJob(self, *await self._run(self._calls.retry(job_id)))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        return await self._run(self._calls.wait(job_id, ending(timeout_s)))

    async def watch(self, job_id: str, *, timeout_s: float | None = None) -> AsyncGenerator[JobStatus, None]:
        end, seen = ending(timeout_s), None
        while (seen := await self._run(self._calls.changed(job_id, seen, end))) is not None:
            yield seen

    async def close(self) -> None:
        """As `Client.close`."""
        self._closed.set()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[Returned]) -> Returned:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._take(step)
                except (httpx.RequestError, OcrpoolError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
        finally:
            steps.close()

    async def _take(self, step: Send | Pause) -> httpx.Response | None:
        with open_until(self._closed):
            if not self._closed.is_set():
                if isinstance(step, Send):
                    return await self._http.send(step.built(self._http))
                try:
                    await asyncio.wait_for(self._closed.wait(), step.seconds)
                except TimeoutError:
                    return None
        raise closed_client()


@dataclass(frozen=True)
class AsyncJob:
    """One submitted job, as `ClientJob`, with calls that are awaited."""

    client: AsyncClient
    id: str
    replayed: bool = field(default=False, compare=False)

    async def status(self) -> JobStatus:
        return await self.client.status(self.id)

    async def wait(self, timeout_s: float | None = None) -> JobStatus:
        return await self.client.wait(self.id, timeout_s)

    def watch(self, timeout_s: float | None = None) -> AsyncGenerator[JobStatus, None]:
        return self.client.watch(self.id, timeout_s=timeout_s)

    async def result(self) -> JobResult:
        return await self.client.result(self.id)

    async def pages(self, after: int = 0) -> PagesRead:
        return await self.client.pages(self.id, after)

    async def timeline(self) -> Timeline:
        return await self.client.timeline(self.id)

    async def fetch(self, format: Format | str, page: int | None = None) -> IO[bytes]:
        return await self.client.fetch(self.id, format, page)

    async def save_to_json(self, path: Path | str) -> Path:
        return await self.save(path, Format.JSON)

    async def save_to_markdown(self, path: Path | str) -> Path:
        return await self.save(path, Format.MARKDOWN)

    async def save_to_pdf(self, path: Path | str) -> Path:
        return await self.save(path, Format.PDF)

    async def save_to_img(self, folder: Path | str) -> list[Path]:
        """Write an overlay of each page that was read into the folder, which is made."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        result, paths = await self.result(), []
        for page in (page.page for page in result.pages if page.kind == "page"):
            paths.append(Path(folder) / file_name(result.name, Format.OVERLAY, page))
            await asyncio.to_thread(write, await self.fetch(Format.OVERLAY, page), paths[-1])
        return paths

    async def save(self, path: Path | str, format: Format | str) -> Path:
        """Write the result in any format but the overlay, and return the file's path."""
        format = Format.named(format)
        if format is Format.OVERLAY:
            raise InvalidRequest("An overlay is a picture of one page: use save_to_img.")
        path = Path(path)
        if path.is_dir():
            path /= file_name((await self.result()).name, format)
        await asyncio.to_thread(write, await self.fetch(format), path)
        return path

    async def link(self, format: Format | str = Format.JSON, ttl_s: float | None = None) -> ResultLink:
        return await self.client.link(self.id, format, ttl_s)

    async def cancel(self) -> JobStatus:
        return await self.client.cancel(self.id)

    async def retry(self) -> AsyncJob:
        return await self.client.retry(self.id)
