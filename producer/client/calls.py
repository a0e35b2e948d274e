"""What each call of the clients asks of the gateway, as steps."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from pydantic import BaseModel

from producer.client.batches import OVER, Accepted, Batches, NamedSource
from producer.client.sources import opened
from producer.client.steps import READ_S, Patience, Pause, Send, Steps, parsed
from producer.documents import Source, no_address, with_names
from producer.errors import NotFinished, OcrpoolError, Unavailable
from producer.formats import Format
from producer.idempotency import named, part_of
from producer.job import ADDRESS, JobList, JobResult, JobState, JobStatus, PagesRead, ReadOptions, ResultLink, to_json
from producer.timeline import Timeline

#: Longest long-poll: shorter than what proxies cut off.
POLL_S = 25.0
#: A watcher looks this often.
WATCH_S = 1.0


class _Batch(BaseModel):
    jobs: tuple[JobStatus, ...]


class Calls:
    """The calls of one client. Each raises what the `Producer`'s own raises, and `Unauthorized`."""

    def __init__(self, patience_s: float) -> None:
        self._patience = Patience(patience_s)

    def submit(
        self,
        source: Source,
        options: ReadOptions | None,
        name: str | None,
        idempotency_key: str | None,
        end: float = math.inf,
    ) -> Steps[Accepted]:
        key = idempotency_key if idempotency_key is not None else secrets.token_hex(16)
        named(key)
        headers = {"Idempotency-Key": key}
        options = options or ReadOptions()
        if isinstance(source, str) and ADDRESS.match(source):
            asked = {"url": source, "name": name or "", "options": to_json(options)}
            answer = yield from self._patience.answer(Send("POST", "/v1/jobs", headers=headers, json=asked, end=end))
        else:
            with opened(source, name) as ((shown, file), _):
                # A file without any name would be a field.
                form = {**as_fields(options), **({"name": shown} if shown else {})}
                files = [(shown or "/", file)]
                request = Send("POST", "/v1/jobs", headers=headers, form=form, files=files, end=end)
                answer = yield from self._patience.answer(request)
        return parsed(JobStatus, answer).id, "idempotent-replayed" in answer.headers

    def submit_all(
        self,
        sources: Iterable[Source],
        options: ReadOptions | None,
        names: Iterable[str] | None,
        idempotency_key: str | None,
    ) -> Steps[list[Accepted | OcrpoolError]]:
        """As `submit` for each document, or why it has no job."""
        each = with_names(sources, names)
        if idempotency_key is not None:
            return (yield from self._submit_each(each, options, named(idempotency_key)))
        return (yield from Batches(self._patience, as_fields(options or ReadOptions())).submit(each))

    def _submit_each(
        self, sources: Iterable[NamedSource], options: ReadOptions | None, key: str
    ) -> Steps[list[Accepted | OcrpoolError]]:
        """Each document under a key of its own, by its place. That of a request with many would be for all of them: if
        one was not there the first time, none would be known again."""
        found: list[Accepted | OcrpoolError] = []
        over: OcrpoolError | None = None
        for number, (source, name) in enumerate(sources):
            try:
                chosen = over or name
                if isinstance(chosen, OcrpoolError):
                    raise chosen
                no_address(source)
                found.append((yield from self.submit(source, options, chosen, part_of(key, number))))
            except OcrpoolError as error:
                found.append(error)
                if isinstance(error, OVER):
                    over = error
        return found

    def batch(self, batch: str) -> Steps[list[JobStatus]]:
        answer = yield from self._patience.answer(Send("GET", f"/v1/batches/{quote(batch, safe='')}"))
        return list(parsed(_Batch, answer).jobs)

    def jobs(self, state: JobState | None, most: int, cursor: str) -> Steps[JobList]:
        query = {"limit": str(most), "cursor": cursor, **({"state": state.value} if state else {})}
        answer = yield from self._patience.answer(Send("GET", "/v1/jobs", query=query))
        return parsed(JobList, answer)

    def pages(self, job_id: str, after: int, limit: int) -> Steps[PagesRead]:
        query = {"after": str(after), "limit": str(limit)}
        answer = yield from self._patience.answer(Send("GET", f"{job_path(job_id)}/pages", query=query))
        return parsed(PagesRead, answer)

    def timeline(self, job_id: str) -> Steps[Timeline]:
        answer = yield from self._patience.answer(Send("GET", f"{job_path(job_id)}/timeline"))
        return parsed(Timeline, answer)

    def status(self, job_id: str, wait_s: float = 0, end: float = math.inf) -> Steps[JobStatus]:
        query = {"wait": f"{wait_s:.3f}"} if wait_s else {}
        request = Send("GET", job_path(job_id), query=query, read_s=READ_S + wait_s, end=end)
        answer = yield from self._patience.answer(request)
        return parsed(JobStatus, answer)

    def changed(
        self, job_id: str, seen: JobStatus | None, end: float, longest_s: float = WATCH_S
    ) -> Steps[JobStatus | None]:
        """The next status that is not the one `seen`; None once that is final, or the time is up."""
        if seen is None:
            return (yield from self.status(job_id, end=end))
        while not seen.final and (left_s := end - time.monotonic()) > 0:
            asked_at, wait_s = time.monotonic(), min(longest_s, left_s)
            try:
                status = yield from self.status(job_id, wait_s, end)
            except Unavailable:
                if time.monotonic() < end:
                    raise
                return None
            if status != seen:
                return status
            # A gateway that stops, or waits less long, answers at once.
            if (early_s := asked_at + min(wait_s, WATCH_S) - time.monotonic()) > 0:
                yield Pause(early_s)
        return None

    def wait(self, job_id: str, end: float) -> Steps[JobStatus]:
        latest: JobStatus | None = None
        while (status := (yield from self.changed(job_id, latest, end, POLL_S))) is not None:
            latest = status
        assert latest is not None
        return latest

    def result(self, job_id: str, end: float = math.inf) -> Steps[JobResult]:
        answer = yield from self._patience.answer(Send("GET", f"{job_path(job_id)}/result", end=end))
        return parsed(JobResult, answer)

    def fetch(self, job_id: str, format: Format | str, page: int | None) -> Steps[bytes]:
        format = Format.named(format)
        if format is Format.OVERLAY:
            request = Send("GET", f"{job_path(job_id)}/pages/{page or 1}/overlay.png")
        else:
            request = Send("GET", f"{job_path(job_id)}/result", query={"format": format.value})
        return (yield from self._patience.answer(request)).content

    def link(self, job_id: str, format: Format | str, ttl_s: float | None) -> Steps[ResultLink]:
        query = {"format": Format.named(format).value, **({} if ttl_s is None else {"ttl_s": f"{ttl_s:.3f}"})}
        answer = yield from self._patience.answer(Send("GET", f"{job_path(job_id)}/result/link", query=query))
        return parsed(ResultLink, answer)

    def cancel(self, job_id: str) -> Steps[JobStatus]:
        return parsed(JobStatus, (yield from self._patience.answer(Send("DELETE", job_path(job_id)))))

    def retry(self, job_id: str) -> Steps[Accepted]:
        answer = yield from self._patience.answer(Send("POST", f"{job_path(job_id)}/retry"))
        return parsed(JobStatus, answer).id, "idempotent-replayed" in answer.headers

    def read(self, job_id: str, end: float) -> Steps[JobResult]:
        """The result, waited for. Raises `NotFinished` when the time is up; the job goes on."""
        try:
            status = yield from self.wait(job_id, end)
            if status.final:
                return (yield from self.result(job_id, end))
        except Unavailable:
            if time.monotonic() < end:
                raise
        raise NotFinished(f"The result of {job_id} has not come in time; the job goes on.")

    def ocr(
        self, source: Source, options: ReadOptions | None, name: str | None, timeout_s: float | None
    ) -> Steps[JobResult]:
        """Hand in and wait. Raises the job's own error, where it has one."""
        end = ending(timeout_s)
        job_id, _ = yield from self.submit(source, options, name, None, end)
        result = yield from self.read(job_id, end)
        if result.error is not None:
            raise result.error.exception()
        return result


def ending(timeout_s: float | None) -> float:
    """When so much time is up, by `time.monotonic`."""
    return math.inf if timeout_s is None else time.monotonic() + timeout_s


def job_path(job_id: str) -> str:
    # Whatever else it is, it names no job and must not lead elsewhere.
    return f"/v1/jobs/{re.sub(r'[^a-z0-9_]', '-', job_id)}"


def as_fields(options: ReadOptions) -> Mapping[str, str]:
    """The options that were chosen, as a form has them."""
    chosen = options.model_dump(mode="json", exclude_defaults=True)
    return {field: str(value).lower() if isinstance(value, bool) else str(value) for field, value in chosen.items()}
