"""PaddleX's serving API: `POST /ocr` with the document in JSON, and its pages in the answer."""

from __future__ import annotations

import base64
import json
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Scope

from producer.errors import InvalidRequest, TooLarge
from producer.formats import paddlex
from producer.gateway.documents import Document, decoded, received
from producer.gateway.envelopes import answer_under
from producer.gateway.paddle_options import WEB_ADDRESS, OcrOptions, refused
from producer.gateway.pictures import picture
from producer.gateway.state import Gateway
from producer.job import JobStatus, MediaType, PageResult
from producer.media import SNIFF_BYTES, sniff

#: The first pages, whose pictures one answer carries: each is drawn by a process of its own, and held in memory.
MOST_PICTURES = 20
LOG_ID_CHARS = 128


class InferRequest(OcrOptions):
    """What PaddleX's server takes."""

    file: str = Field(description="The document's bytes in base64, or the address that it is fetched from.")
    file_type: Literal[0, 1] | None = Field(
        None, description="0 is a PDF, 1 an image. Without it, and of an address, the bytes tell."
    )
    log_id: str | None = Field(None, max_length=LOG_ID_CHARS, description="Comes back in the answer.")


class InferAnswer(BaseModel):
    """What PaddleX's server answers."""

    logId: str
    result: dict[str, Any] = Field(description="`ocrResults`, one a page, and `dataInfo`.")
    errorCode: Literal[0] = 0
    errorMsg: Literal["Success"] = "Success"


@dataclass(frozen=True)
class _Body:
    """A JSON body, not yet parsed."""

    body: IO[bytes]
    max_bytes: int
    too_large: TooLarge
    scope: Scope

    @cached_property
    def asked(self) -> InferRequest:
        """Parsed once, however often the upload is opened."""
        self.body.seek(0)
        content = self.body.read()
        try:
            asked = InferRequest.model_validate_json(content)
        except ValidationError as error:
            if named := _log_id_in(content):
                answer_under(self.scope, named)
            raise refused(error) from error
        if asked.log_id:
            answer_under(self.scope, asked.log_id)
        return asked

    def opened(self) -> AbstractContextManager[Document]:
        asked = self.asked
        options = asked.read_options()
        if re.match(WEB_ADDRESS, asked.file):
            return nullcontext(Document(asked.file, None, options, names={"url": "file"}))
        source = decoded("file", asked.file, self.max_bytes, self.too_large)
        is_pdf = sniff(source[:SNIFF_BYTES]) is MediaType.PDF
        if asked.file_type is not None and is_pdf != (asked.file_type == 0):
            raise InvalidRequest(f"fileType: {asked.file_type} is said, but the document is {_kind(is_pdf)}.")
        return nullcontext(Document(source, "", options))


def _log_id_in(content: bytes) -> str:
    """The `logId` of a body that is refused for something else; empty without one."""
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
        named = body.get("logId") if isinstance(body, dict) else None
        return named if isinstance(named, str) and len(named) <= LOG_ID_CHARS else ""
    return ""


def _kind(is_pdf: bool) -> str:
    return "a PDF (0)" if is_pdf else "an image (1)"


async def submit(request: Request, gateway: Gateway, idempotency_key: str | None) -> tuple[JobStatus, InferRequest]:
    """Accept the document in a JSON body. Returns where its job stands, and what was asked."""
    bodies: list[_Body] = []

    def body(content: IO[bytes], max_bytes: int, too_large: TooLarge) -> _Body:
        bodies.append(_Body(content, max_bytes, too_large, request.scope))
        return bodies[0]

    async with received(request, gateway.settings, body=body) as upload:
        _, status = await gateway.producer.submit(request, upload, idempotency_key)
        return status, bodies[0].asked


async def answer(gateway: Gateway, job_id: str, asked: InferRequest) -> Response:
    """The pages of a job that has ended. Raises the error of one without any page."""
    producer = gateway.producer.producer

    def read() -> tuple[dict[str, Any], list[int]]:
        found = producer.result(job_id)
        if found.error is not None:
            raise found.error.exception()
        pages = [page.page if isinstance(page, PageResult) else 0 for page in found.pages]
        return paddlex.served_result(found, producer.ledger.job(job_id)), pages

    served, pages = await gateway.producer.call(read)
    pictured = gateway.settings.paddlex_visualize if asked.visualize is None else asked.visualize
    if pictured:
        for page, entry in zip(pages[:MOST_PICTURES], served["ocrResults"], strict=False):
            if page:
                entry["ocrImage"] = base64.b64encode(await picture(gateway, job_id, page)).decode()
    told = InferAnswer(logId=asked.log_id or job_id, result=served)
    return Response(await gateway.producer.call(told.model_dump_json), media_type="application/json")
