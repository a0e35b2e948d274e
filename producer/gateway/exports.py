"""Results on their way out, in the formats that a client may ask for."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import IO, Literal

from fastapi import Response
from starlette.types import Receive, Scope, Send

from producer.errors import (
    JOB_ERRORS,
    FormatUnavailable,
    OcrpoolError,
    TooLarge,
    Unavailable,
)
from producer.formats import Format, pages_missing, raise_without_pages
from producer.gateway.problems import JobProblem
from producer.gateway.state import Gateway
from producer.job import JobResult, ResultLink
from producer.results import disposition

#: What `format=` takes: all but the overlay, which is of one page and has an address of its own.
AskedFormat = Literal["json", "jsonl", "paddlex", "text", "markdown", "hocr", "pdf"]

#: Media types that `Accept` may name. PaddleX's JSON is JSON, so that only `format=` asks for it.
_BY_MEDIA_TYPE = {
    one.media_type: one for one in (Format.JSON, Format.JSONL, Format.TEXT, Format.MARKDOWN, Format.HOCR, Format.PDF)
}
_CHUNK_BYTES = 1 << 18
_WEIGHT = re.compile(r"q=(1(?:\.0{0,3})?|0(?:\.[0-9]{0,3})?)")

#: What making a file of a document may answer: an error of its own, or that of a job without any page.
EXPORT_ERRORS: tuple[type[OcrpoolError], ...] = (FormatUnavailable, TooLarge, Unavailable, *JOB_ERRORS)


class FileAnswer(Response):
    """Sends an open file to its end, and closes it whatever happens."""

    def __init__(self, gateway: Gateway, file: IO[bytes], format: Format, headers: dict[str, str]) -> None:
        self._gateway = gateway
        self._file = file
        size_bytes = os.fstat(file.fileno()).st_size
        super().__init__(headers={"Content-Length": str(size_bytes), **headers}, media_type=format.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            more = True
            while more:
                chunk = await self._gateway.producer.call(partial(self._file.read, _CHUNK_BYTES))
                more = bool(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def result_as(gateway: Gateway, job_id: str, format: Format, location: str) -> Response:
    """The job's result in the format; `location` is the job's path."""
    if format is Format.PDF:
        return await gateway.producer.export(partial(_pdf, gateway, job_id, location))
    return await gateway.producer.call(partial(_text, gateway, job_id, format, location))


async def result_link(gateway: Gateway, job_id: str, format: Format, ttl_s: float | None, location: str) -> ResultLink:
    """An address of the job's result in the format at the blob store."""
    run = gateway.producer.export if format is Format.PDF else gateway.producer.call
    return await run(partial(_link, gateway, job_id, format, ttl_s, location))


async def page_overlay(gateway: Gateway, job_id: str, page: int) -> Response:
    """The page's picture with its lines."""
    return await gateway.producer.export(partial(_overlay, gateway, job_id, page))


def accepted(accept: str) -> Format:
    """The format that the header likes best, JSON before others that it likes as much; JSON if it names none."""
    liked: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((found[1] for found in map(_WEIGHT.fullmatch, parameters) if found), "1")
        liked.setdefault(kind, float(weight))
    kinds = [kind for kind in (Format.JSON.media_type, *liked) if kind in _BY_MEDIA_TYPE]
    return _BY_MEDIA_TYPE[max(kinds, key=lambda kind: liked.get(kind, 0.0))]


def _text(gateway: Gateway, job_id: str, format: Format, location: str) -> Response:
    """Blocks: a result of many pages takes a while to read and to write out."""
    result, headers = _found(gateway, job_id, format, location)
    text = gateway.producer.producer.results.text(result, format)
    return Response(text, headers=headers, media_type=format.media_type)


def _pdf(gateway: Gateway, job_id: str, location: str) -> Response:
    result, headers = _found(gateway, job_id, Format.PDF, location)
    return FileAnswer(gateway, gateway.producer.producer.results.pdf(result), Format.PDF, headers)


def _link(gateway: Gateway, job_id: str, format: Format, ttl_s: float | None, location: str) -> ResultLink:
    producer = gateway.producer.producer
    status = producer.status(job_id)
    return producer.results.link(status, format, ttl_s, lambda: _found(gateway, job_id, format, location)[0])


def _overlay(gateway: Gateway, job_id: str, page: int) -> Response:
    producer = gateway.producer.producer
    result = producer.result(job_id)
    headers = _disposition(result.name, Format.OVERLAY, page)
    return FileAnswer(gateway, producer.results.overlay(result, page), Format.OVERLAY, headers)


def _found(gateway: Gateway, job_id: str, format: Format, location: str) -> tuple[JobResult, dict[str, str]]:
    """The result, and the headers that go with it in a format. JSON alone tells of a job without any page."""
    result = gateway.producer.producer.result(job_id)
    headers = _disposition(result.name, format)
    if format is not Format.JSON:
        try:
            raise_without_pages(result)
        except OcrpoolError as error:
            raise JobProblem(error, location) from error
        headers["OCRPool-Pages-Failed"] = str(pages_missing(result))
    return result, headers


def _disposition(name: str, format: Format, page: int | None = None) -> dict[str, str]:
    """What to call the answer as a file; and that it is of no other type."""
    return {"Content-Disposition": disposition(name, format, page), "X-Content-Type-Options": "nosniff"}
