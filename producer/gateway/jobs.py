"""The native jobs API: hand in, follow, fetch, cancel."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from producer.errors import (
    CorruptDocument,
    FetchFailed,
    FetchForbidden,
    IdempotencyMismatch,
    InvalidRequest,
    NotFinished,
    NotFound,
    QueueFull,
    RequestInProgress,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    UploadTimeout,
)
from producer.formats import Format
from producer.gateway.documents import received
from producer.gateway.exports import EXPORT_ERRORS, AskedFormat, accepted, result_as
from producer.gateway.openapi import JOB_BODY, RESULT_EXAMPLE, STATUS_EXAMPLE
from producer.gateway.preferences import PreferHeader, applied, preferred_wait_s
from producer.gateway.problems import POLL_AFTER_S, responses
from producer.gateway.state import Gateway, TheGateway
from producer.job import JobResult, JobStatus
from producer.producer import JobHandle

router = APIRouter(prefix="", tags=["jobs"])

_JOB_ID = re.compile(r"job_[0-9a-f]{32}")


async def _known_form(
    job_id: Annotated[str, Path(description="The job's id.", examples=["job_" + "0" * 32])],
) -> str:
    """A job's id; what has not the form of one names no job, and never reaches Redis."""
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound("There is no such job.")
    return job_id


#: Behind `TheGateway` among a route's parameters, which are looked at in turn: strangers are told nothing.
JobIdInPath = Annotated[str, Depends(_known_form)]

IdempotencyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="Makes a request that is sent again the same job.", examples=["a-17"]),
]


class JobLinks(BaseModel):
    """Where to go on from here."""

    self: str = Field(examples=["/v1/jobs/job_..."])
    result: str = Field(examples=["/v1/jobs/job_.../result"])
    pages: str = Field(examples=["/v1/jobs/job_.../pages"])
    events: str = Field(examples=["/v1/jobs/job_.../events"])
    timeline: str = Field(examples=["/v1/jobs/job_.../timeline"])


class JobAnswer(JobStatus):
    """A job's status with its addresses."""

    links: JobLinks


class PaddlexResult(BaseModel):
    """The pages as PaddleX has them (`format=paddlex`)."""

    ocrResults: list[dict[str, Any]] = Field(description="One entry a page, in page order.")
    dataInfo: dict[str, Any]


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"


def described(status: JobStatus) -> JobAnswer:
    """The status with the job's addresses."""
    path = job_path(status.id)
    parts = {part: f"{path}/{part}" for part in ("result", "pages", "events", "timeline")}
    return JobAnswer(**dict(status), links=JobLinks(self=path, **parts))


def _answer(status: JobStatus, *, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    answer = described(status)
    out = {"Cache-Control": "no-store", **(headers or {})}
    if not status.final:
        out["Retry-After"] = str(POLL_AFTER_S)
    return Response(answer.model_dump_json(), status_code=code, headers=out, media_type="application/json")


def _where_it_is(job: JobHandle) -> dict[str, str]:
    return {"Location": job_path(job.id), **({"Idempotent-Replayed": "true"} if job.replayed else {})}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Hand in a document",
    response_model=JobAnswer,
    openapi_extra=JOB_BODY,
    responses={
        200: {"description": "It has ended already, within the time that was preferred.", "model": JobAnswer},
        202: {
            "description": "The job is accepted. `Location` is its address.",
            "content": {"application/json": {"example": STATUS_EXAMPLE}},
        },
        **responses(
            InvalidRequest,
            IdempotencyMismatch,
            RequestInProgress,
            FetchForbidden,
            FetchFailed,
            TooLarge,
            UnsupportedMediaType,
            CorruptDocument,
            UploadTimeout,
            QueueFull,
            Unavailable,
        ),
    },
)
async def submit(
    request: Request, gateway: TheGateway, idempotency_key: IdempotencyHeader = None, prefer: PreferHeader = None
) -> Response:
    """Accepts a PDF or an image and returns at once; the pool reads it in the background.

    The type is told from the document's first bytes, never from its name. Send it as a form with a `file` and the
    options as fields, or as JSON with the document in base64 or with the `url` that it is fetched from.

    With the option `webhook_url`, a signed webhook (https://www.standardwebhooks.com) tells when the job has ended.

    Send it again under the same `Idempotency-Key` when no answer came: it is one job, for as long as the pool knows it.
    With `Prefer: wait=10` the answer waits up to 10 seconds for the job to end, and is 200 if it has.
    """
    async with gateway.producer.sole_use(idempotency_key), received(request, gateway.settings) as upload:
        job, status = await gateway.producer.submit(request, upload, idempotency_key)
    headers = _where_it_is(job)
    if wait_s := preferred_wait_s(prefer, gateway.settings):
        status = await gateway.wait(status.id, wait_s, status)
        headers |= applied(wait_s)
    return _answer(status, code=200 if wait_s and status.final else 202, headers=headers)


@router.get(
    "/v1/jobs/{job_id}",
    summary="Follow a job",
    response_model=JobAnswer,
    responses={
        200: {
            "description": "The job's state and progress.",
            "content": {"application/json": {"example": STATUS_EXAMPLE}},
        },
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def status(
    gateway: TheGateway,
    job_id: JobIdInPath,
    wait: Annotated[
        float,
        Query(
            ge=0,
            allow_inf_nan=False,
            description="Seconds to wait for the job to end; a longer wait than the gateway's limit is cut to it.",
        ),
    ] = 0,
    prefer: PreferHeader = None,
) -> Response:
    """Tells how far the job is. With `wait`, or `Prefer: wait=`, answers as soon as the job has ended, or when the time
    is up."""
    preferred_s = 0 if wait else preferred_wait_s(prefer, gateway.settings)
    if wait_s := wait or preferred_s:
        found = await gateway.wait(job_id, wait_s)
    else:
        found = await gateway.producer.status(job_id)
    return _answer(found, headers=applied(preferred_s) if preferred_s else None)


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="Fetch a job's pages",
    response_model=JobResult | PaddlexResult,
    responses={
        200: {
            "description": "Every page's outcome, or what was made of the pages that were read.",
            "content": {
                "application/json": {"example": RESULT_EXAMPLE},
                "text/plain": {"schema": {"type": "string"}, "example": "TOTAL 12.50"},
                **{
                    one.media_type: {"schema": {"type": "string"}}
                    for one in (Format.JSONL, Format.MARKDOWN, Format.HOCR)
                },
                Format.PDF.media_type: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        **responses(InvalidRequest, NotFound, NotFinished, *EXPORT_ERRORS),
    },
)
async def result(
    request: Request,
    gateway: TheGateway,
    job_id: JobIdInPath,
    format: Annotated[AskedFormat | None, Query(description="Without it, `Accept` names one by its type.")] = None,
) -> Response:
    """Every page with its lines, in page order, once the job has ended; `paddlex` has PaddleX's field names.

    `jsonl` is a page a line. `pdf` is the document with its text, invisible, where it was read. In all but `json`,
    `OCRPool-Pages-Failed` counts the pages that were not read; a job without any page that was answers its error.
    """
    chosen = Format(format) if format else accepted(request.headers.get("accept", ""))
    return await result_as(gateway, job_id, chosen, job_path(job_id))


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Cancel a job",
    response_model=JobAnswer,
    responses={
        200: {
            "description": "Where the job stands now.",
            "content": {"application/json": {"example": {**STATUS_EXAMPLE, "state": "cancelled"}}},
        },
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def cancel(gateway: TheGateway, job_id: JobIdInPath) -> Response:
    """Stops the job's work. A job that has ended stays as it is."""
    return _answer(await gateway.producer.cancel(job_id))


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    summary="Read again what was not read",
    response_model=JobAnswer,
    responses={
        202: {
            "description": "The new job, of which `retry_of` is this one. `Location` is its address.",
            "content": {"application/json": {"example": STATUS_EXAMPLE}},
        },
        **responses(InvalidRequest, NotFound, NotFinished, QueueFull, Unavailable),
    },
)
async def retry(gateway: TheGateway, job_id: JobIdInPath) -> Response:
    """Reads the pages of a job that has ended which failed, or which it did not come to because it was cancelled or
    expired, in a new job: the old one stays as it is. Asked again, it is the same new job.
    """
    job, status = await gateway.producer.call(partial(_retried, gateway, job_id))
    return _answer(status, code=202, headers=_where_it_is(job))


def _retried(gateway: Gateway, job_id: str) -> tuple[JobHandle, JobStatus]:
    job = gateway.producer.producer.retry(job_id)
    return job, job.accepted or job.status()
