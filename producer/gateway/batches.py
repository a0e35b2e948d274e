"""Many documents in one request, each accepted or refused on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field

from producer.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    OcrpoolError,
    RequestInProgress,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    UploadTimeout,
)
from producer.gateway.documents import received_many
from producer.gateway.jobs import IdempotencyHeader, JobAnswer, described
from producer.gateway.openapi import BATCH_BODY, STATUS_EXAMPLE
from producer.gateway.problems import POLL_AFTER_S, RETRY_AFTER_S, Problem, problem_of, responses
from producer.gateway.state import Gateway, TheGateway
from producer.idempotency import named
from producer.job import BATCH_NAME, JobState, JobStatus, batch_id_of, new_batch_id

router = APIRouter(tags=["jobs"])

#: Requests for batches that a gateway takes at a time: each holds its small documents in memory.
AT_A_TIME = 4

_PROBLEM_EXAMPLE = problem_of(TooLarge()).model_dump(exclude_none=True)


async def _known_form(batch_id: Annotated[str, Path(description="The batch's id.", examples=["batch_17"])]) -> str:
    """As a job's id in a path."""
    if not BATCH_NAME.fullmatch(batch_id):
        raise NotFound("There is no such batch.")
    return batch_id


BatchIdInPath = Annotated[str, Depends(_known_form)]


class BatchedDocument(BaseModel):
    """One document of a batch: its job, or why it was refused."""

    name: str
    job: JobAnswer | None = None
    problem: Problem | None = None


class BatchAccepted(BaseModel):
    """What came of the documents, in the order in which they were sent."""

    id: str = Field(examples=["batch_17"])
    accepted: int
    refused: int
    documents: list[BatchedDocument]


class BatchAnswer(BaseModel):
    """Where the jobs of a batch stand that the pool still knows, in the order in which they were handed in."""

    id: str = Field(examples=["batch_17"])
    #: Whether all have ended.
    final: bool
    states: dict[JobState, int] = Field(description="How many are in each state.", examples=[{"running": 1}])
    jobs: list[JobAnswer]


def batch_path(batch_id: str) -> str:
    return f"/v1/batches/{batch_id}"


@router.post(
    "/v1/batches",
    status_code=202,
    summary="Hand in many documents",
    response_model=BatchAccepted,
    openapi_extra=BATCH_BODY,
    responses={
        202: {
            "description": "Each document's job or problem. `Location` is the batch's address, if any was accepted.",
            "content": {
                "application/json": {
                    "example": {
                        "id": "batch_17",
                        "accepted": 1,
                        "refused": 1,
                        "documents": [
                            {"name": "invoice.pdf", "job": STATUS_EXAMPLE, "problem": None},
                            {"name": "film.mp4", "job": None, "problem": _PROBLEM_EXAMPLE},
                        ],
                    }
                }
            },
        },
        **responses(
            InvalidRequest,
            IdempotencyMismatch,
            RequestInProgress,
            TooLarge,
            UnsupportedMediaType,
            UploadTimeout,
            Unavailable,
        ),
    },
)
async def submit(request: Request, gateway: TheGateway, idempotency_key: IdempotencyHeader = None) -> Response:
    """Accepts the files of a form, all in the field `file`, with the options as fields that are for all of them.

    Each is accepted or refused on its own, as if it had come alone: look at each document's `problem`, whatever the
    answer's status. `Retry-After` tells that some of those may be accepted later.

    The same request again under the same `Idempotency-Key` is the same batch: what was accepted before is the same job,
    and what was refused is looked at anew. Another request under the key is refused.
    """
    batch = new_batch_id()
    if idempotency_key is not None:
        batch = batch_id_of(named(idempotency_key, gateway.producer.producer.tenant or ""))
    with _place(request):
        async with (
            gateway.producer.sole_use(idempotency_key),
            received_many(request, gateway.settings) as upload,
        ):
            found, replayed = await gateway.producer.submit_all(upload, batch, idempotency_key)
            names = upload.names
    body = await gateway.producer.call(partial(_accepted, batch, names, found))
    headers = {"Cache-Control": "no-store", **({"Idempotent-Replayed": "true"} if replayed else {})}
    if any(isinstance(one, JobStatus) for one in found):
        headers["Location"] = batch_path(batch)
    if any(isinstance(one, OcrpoolError) and one.retryable for one in found):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return Response(body, status_code=202, headers=headers, media_type="application/json")


@contextmanager
def _place(request: Request) -> Iterator[None]:
    """One of the places for batches, which are counted on the one event loop."""
    state = request.app.state
    if (taken := getattr(state, "batches", 0)) >= AT_A_TIME:
        raise Unavailable(f"The gateway takes {AT_A_TIME} batches at a time, and no more now.")
    state.batches = taken + 1
    try:
        yield
    finally:
        state.batches -= 1


def _accepted(batch: str, names: list[str], found: list[JobStatus | OcrpoolError]) -> str:
    documents = [
        BatchedDocument(name=name, problem=problem_of(one))
        if isinstance(one, OcrpoolError)
        else BatchedDocument(name=name, job=described(one))
        for name, one in zip(names, found, strict=True)
    ]
    accepted = sum(document.job is not None for document in documents)
    answer = BatchAccepted(id=batch, accepted=accepted, refused=len(documents) - accepted, documents=documents)
    return answer.model_dump_json()


@router.get(
    "/v1/batches/{batch_id}",
    summary="Follow a batch",
    response_model=BatchAnswer,
    responses={
        200: {
            "description": "The states of its jobs.",
            "content": {
                "application/json": {
                    "example": {"id": "batch_17", "final": False, "states": {"running": 1}, "jobs": [STATUS_EXAMPLE]}
                }
            },
        },
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def status(gateway: TheGateway, batch_id: BatchIdInPath) -> Response:
    """Tells how far each document of a batch is."""
    body, final = await gateway.producer.call(partial(_status, gateway, batch_id))
    headers = {"Cache-Control": "no-store", **({} if final else {"Retry-After": str(POLL_AFTER_S)})}
    return Response(body, headers=headers, media_type="application/json")


def _status(gateway: Gateway, batch_id: str) -> tuple[str, bool]:
    jobs = gateway.producer.producer.batch(batch_id)
    final = all(job.final for job in jobs)
    states = dict(Counter(job.state for job in jobs))
    answer = BatchAnswer(id=batch_id, final=final, states=states, jobs=[described(job) for job in jobs])
    return answer.model_dump_json(), final
