"""PaddleOCR's job API, as its own client speaks it: `PaddleOCRClient(base_url=...)` reads with this pool.

Its states, and ours: `pending` is queued; `running`; `done` is succeeded, or partial with an `errorMsg`; `failed` is
failed, cancelled or expired, with the reason in `errorMsg`. A page that was not read has `error` in its `prunedResult`
and no lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import IO, Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.datastructures import FormData, UploadFile

from producer.errors import InvalidRequest, TooLarge, renamed
from producer.escaping import NAME_CHARS, shown_name
from producer.formats import paddlex
from producer.gateway.batches import BatchIdInPath
from producer.gateway.documents import Document, once_each, received
from producer.gateway.envelopes import JOB_REFUSAL, PADDLEOCR, documented, log_id
from producer.gateway.jobs import JobIdInPath
from producer.gateway.openapi import inlined
from producer.gateway.paddle_options import WEB_ADDRESS, OcrOptions, ServedModels, refused
from producer.gateway.pictures import picture
from producer.gateway.state import Gateway, OpenGateway, TheGateway
from producer.job import BATCH_NAME, Contract, JobState, JobStatus, PageFailure

router = APIRouter(prefix=PADDLEOCR.rstrip("/"), tags=["paddleocr"], responses=documented(JOB_REFUSAL))

_STATES = {
    JobState.QUEUED: "pending",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "done",
    JobState.PARTIAL: "done",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
    JobState.EXPIRED: "failed",
}


#: Fields of ours that a refusal may name, and what the client calls them.
_NAMES = {"url": "fileUrl", "pages": "pageRanges"}


class Answer(BaseModel):
    """The envelope of what went well."""

    logId: str
    code: Literal[0] = 0
    msg: str = "Success"
    data: dict[str, Any]


class OcrJob(Contract):
    """What the client asks for, beside a file."""

    model_config = ConfigDict(alias_generator=to_camel)

    model: str = Field(description="A model that the pool runs.", examples=["PP-OCRv6"])
    file_url: str | None = Field(
        None, pattern=WEB_ADDRESS, description="Where the document is fetched from, in place of a file."
    )
    optional_payload: OcrOptions = OcrOptions()
    page_ranges: str | None = Field(None, description="Which pages are read; all without it.", examples=["2,4-6"])
    batch_id: str | None = Field(
        None, pattern=f"^{BATCH_NAME.pattern}$", description="A name of the client's, to ask after many jobs at once."
    )

    def document(self, file: IO[bytes] | None, name: str, served: ServedModels) -> Document:
        served.check(self.model)
        options = self.optional_payload.read_options(self.page_ranges)
        if (file is None) == (self.file_url is None):
            raise InvalidRequest("fileUrl: give the document either as a file or as fileUrl.")
        if self.file_url is not None:
            return Document(self.file_url, None, options, self.batch_id, _NAMES)
        assert file is not None
        return Document(file, name, options, self.batch_id, _NAMES)


@dataclass(frozen=True)
class _Form:
    """The file and the fields of a form, not yet looked at."""

    form: FormData
    served: ServedModels

    def opened(self) -> AbstractContextManager[Document]:
        fields: dict[str, Any] = once_each(self.form.multi_items())
        file = fields.pop("file", None)
        if not isinstance(file, UploadFile | None):
            raise InvalidRequest("file: the form has no file in the field of this name.")
        if "optionalPayload" in fields:
            try:
                fields["optionalPayload"] = json.loads(fields["optionalPayload"])
            except (ValueError, TypeError, RecursionError) as error:
                raise InvalidRequest("optionalPayload: not valid JSON.") from error
        try:
            asked = OcrJob.model_validate(fields)
        except ValidationError as error:
            raise refused(error) from error
        # The asynchronous client quotes a name as if it were part of a URL.
        name = shown_name(unquote(file.filename or ""))[:NAME_CHARS] if file else ""
        return nullcontext(asked.document(file.file if file else None, name, self.served))


@dataclass(frozen=True)
class _Json:
    """A JSON body, not yet parsed."""

    body: IO[bytes]
    served: ServedModels

    def opened(self) -> AbstractContextManager[Document]:
        self.body.seek(0)
        try:
            asked = OcrJob.model_validate_json(self.body.read())
        except ValidationError as error:
            raise refused(error) from error
        return nullcontext(asked.document(None, "", self.served))


_FORM_FIELDS = OcrJob.model_json_schema()["properties"] | {
    "file": {"type": "string", "format": "binary", "description": "A PDF or an image."},
    "optionalPayload": {"type": "string", "description": "The options as JSON text."},
}
_FORM_FIELDS.pop("fileUrl")
JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file", "model"], "properties": _FORM_FIELDS}
            },
            "application/json": {"schema": inlined(OcrJob)},
        },
    }
}


@router.post("/jobs", summary="Hand in a document", response_model=Answer, openapi_extra=JOB_BODY)
async def submit(request: Request, gateway: TheGateway) -> Response:
    """Accepts a document as the client of PaddleOCR sends it, and returns at once."""

    def form(fields: FormData, max_bytes: int) -> _Form:
        return _Form(fields, gateway.models)

    def body(file: IO[bytes], max_bytes: int, too_large: TooLarge) -> _Json:
        return _Json(file, gateway.models)

    async with received(request, gateway.settings, form=form, body=body) as upload:
        _, status = await gateway.producer.submit(request, upload)
    return _success({"jobId": status.id})


@router.get("/jobs/{job_id}", summary="Follow a job", response_model=Answer)
async def status(request: Request, gateway: TheGateway, job_id: JobIdInPath) -> Response:
    """Where the job stands; once it is done, with the address of its pages."""

    def told() -> dict[str, Any]:
        return _told(gateway.producer.producer.status(job_id), gateway.urls.signer(str(request.base_url)))

    return _success(await gateway.producer.call(told))


@router.get("/jobs/batch/{batch_id}", summary="Follow the jobs of a batch", response_model=Answer)
async def batch(request: Request, gateway: TheGateway, batch_id: BatchIdInPath) -> Response:
    """Where the jobs stand that were handed in under this `batchId`, in that order."""

    def told() -> list[dict[str, Any]]:
        signed = gateway.urls.signer(str(request.base_url))
        return [_told(one, signed) for one in gateway.producer.producer.batch(batch_id)]

    return _success({"batchId": batch_id, "extractResult": await gateway.producer.call(told)})


Expires = Annotated[int, Query(description="When the address expires, in seconds since the epoch.")]
Signature = Annotated[str, Query(max_length=64, description="Made by this pool.")]


@router.get(
    "/jobs/{job_id}/result.jsonl",
    summary="Fetch a job's pages",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def result(
    request: Request, job_id: str, expires: Expires, signature: Signature, gateway: OpenGateway
) -> Response:
    """A page a line, in page order. The address is signed, and needs no token."""

    def lines() -> str:
        gateway.urls.check(_result_path(job_id), expires, signature)
        return "\n".join(_lines(gateway, job_id, gateway.urls.signer(str(request.base_url))))

    return Response(await gateway.producer.call(lines), headers=_UNCACHED, media_type="application/x-ndjson")


@router.get(
    "/jobs/{job_id}/pages/{page}.png",
    summary="See a page's lines",
    response_class=Response,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def page_picture(
    job_id: str,
    page: Annotated[int, Path(ge=1, le=10_000_000)],
    expires: Expires,
    signature: Signature,
    gateway: OpenGateway,
) -> Response:
    """The page with the quads of its lines. The address is signed, and needs no token."""
    await gateway.producer.call(partial(gateway.urls.check, _picture_path(job_id, page), expires, signature))
    return Response(await picture(gateway, job_id, page), headers=_UNCACHED, media_type="image/png")


def _result_path(job_id: str) -> str:
    return f"{PADDLEOCR}jobs/{job_id}/result.jsonl"


def _picture_path(job_id: str, page: int) -> str:
    return f"{PADDLEOCR}jobs/{job_id}/pages/{page}.png"


_UNCACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _success(data: dict[str, Any]) -> Response:
    return Response(
        Answer(logId=log_id(), data=data).model_dump_json(), headers=_UNCACHED, media_type="application/json"
    )


def _told(status: JobStatus, signed: Callable[[str], str]) -> dict[str, Any]:
    """A job as the client reads it."""
    state = _STATES[status.state]
    told: dict[str, Any] = {
        "jobId": status.id,
        "state": state,
        "extractProgress": {
            "totalPages": status.pages_total or 0,
            "extractedPages": status.pages_done,
            "startTime": _shown(status.started_at),
            "endTime": _shown(status.finished_at),
        },
    }
    if state == "done":
        told["resultUrl"] = {"jsonUrl": signed(_result_path(status.id))}
    if status.state is JobState.PARTIAL:
        told["errorMsg"] = f"{status.pages_failed} of {status.pages_total} pages could not be read."
    elif state == "failed":
        told["errorMsg"] = renamed(status.error.message, _NAMES) if status.error else "No page could be read."
    return told


def _shown(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _lines(gateway: Gateway, job_id: str, signed: Callable[[str], str]) -> Iterator[str]:
    """The job's pages as JSON. Whoever has its signed address need not be its tenant."""
    ledger = gateway.producer.producer.ledger
    found, job = ledger.result(job_id), ledger.job(job_id)
    served = paddlex.served_result(found, job)
    for page, entry in zip(found.pages, served["ocrResults"], strict=True):
        if job.options.visualize and not isinstance(page, PageFailure):
            entry["ocrImage"] = signed(_picture_path(job_id, page.page))
        told: dict[str, Any] = {"ocrResults": [entry]}
        if page is found.pages[0]:
            told["dataInfo"] = served["dataInfo"]
        # In ASCII: the client guesses the encoding, from the first 200 KB of a long result.
        yield json.dumps({"logId": job_id, "result": told, "errorCode": 0, "errorMsg": "Success"})
