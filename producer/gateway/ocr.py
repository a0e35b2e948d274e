"""One request, one answer: hand in a document and wait for its pages."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from producer.errors import (
    JOB_ERRORS,
    DeadlineExceeded,
    FetchForbidden,
    IdempotencyMismatch,
    InvalidRequest,
    NotFinished,
    OcrpoolError,
    QueueFull,
    RequestInProgress,
    TooLarge,
    Unavailable,
    UploadTimeout,
)
from producer.gateway import paddlex
from producer.gateway.documents import received
from producer.gateway.envelopes import SERVING_REFUSAL, sends_json
from producer.gateway.jobs import IdempotencyHeader, job_path
from producer.gateway.openapi import OCR_BODY, RESULT_EXAMPLE, inlined
from producer.gateway.paddlex import InferAnswer, InferRequest
from producer.gateway.problems import JobProblem, responses
from producer.gateway.state import Gateway, TheGateway
from producer.job import JobResult

router = APIRouter(tags=["ocr"])


_FORM = OCR_BODY["requestBody"]["content"]
_BODY = {"requestBody": {"required": True, "content": {**_FORM, "application/json": {"schema": inlined(InferRequest)}}}}


def _both_ways(documented: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """An error's status is the same to whoever sends JSON; its form is PaddleX's."""
    told = {"schema": {"type": "object", "required": list(SERVING_REFUSAL)}, "example": SERVING_REFUSAL}
    for entry in documented.values():
        entry["content"]["application/json"] = told
    return documented


class OcrAnswer(BaseModel):
    """The pages of one document."""

    result: JobResult


@router.post(
    "/ocr",
    summary="Read a document and wait for it",
    response_model=OcrAnswer | InferAnswer,
    openapi_extra=_BODY,
    responses={
        200: {
            "description": "Every page's outcome. Pages that failed stand beside those that were read.",
            "content": {"application/json": {"example": {"result": RESULT_EXAMPLE}}},
        },
        **_both_ways(
            responses(
                InvalidRequest,
                IdempotencyMismatch,
                RequestInProgress,
                FetchForbidden,
                TooLarge,
                UploadTimeout,
                QueueFull,
                Unavailable,
                *JOB_ERRORS,
            )
        ),
    },
)
async def read(request: Request, gateway: TheGateway, idempotency_key: IdempotencyHeader = None) -> Response:
    """Waits until every page is read, up to the gateway's longest wait.

    When that is not enough the answer is 504 and its `Location` is the job, which goes on and can be followed there.
    A document that cannot be read answers its own error.

    Sent again under the same `Idempotency-Key` it is the same job, read once.

    JSON is answered as PaddleX's server does: `file` in base64 and its options bring `result.ocrResults`, and errors
    come as `errorCode` and `errorMsg`.
    """
    async with gateway.producer.sole_use(idempotency_key):
        if sends_json(request.scope):
            status, asked = await paddlex.submit(request, gateway, idempotency_key)
            answer = partial(paddlex.answer, gateway, status.id, asked)
        else:
            async with received(request, gateway.settings) as upload:
                _, status = await gateway.producer.submit(request, upload, idempotency_key)
            answer = partial(gateway.producer.call, partial(_answer, gateway, status.id))
    location = job_path(status.id)
    limit_s = gateway.settings.max_wait_s

    async def at_its_end() -> Response | None:
        with suppress(NotFinished):
            return await answer()
        return None

    try:
        if response := await gateway.read_at_end(status.id, at_its_end, limit_s, is_known=not status.final):
            return response
    except OcrpoolError as error:
        raise JobProblem(error, location) from error
    if gateway.watcher.released:
        raise JobProblem(Unavailable("The gateway is stopping; the job goes on at its Location."), location)
    late = DeadlineExceeded(f"The document was not read within {limit_s:g} s; the job goes on at its Location.")
    raise JobProblem(late, location)


def _answer(gateway: Gateway, job_id: str) -> Response:
    """Blocks, as a result of many pages takes a while to write out. Raises the error of a job without any page."""
    result = gateway.producer.producer.result(job_id)
    if result.error is not None:
        raise result.error.exception()
    return Response(OcrAnswer(result=result).model_dump_json(), media_type="application/json")
