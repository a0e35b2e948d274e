"""The jobs of the pool, a part at a time."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from producer.errors import InvalidRequest, Unavailable
from producer.gateway.jobs import JobAnswer, described
from producer.gateway.openapi import STATUS_EXAMPLE
from producer.gateway.problems import responses
from producer.gateway.state import Gateway, TheGateway
from producer.job import JobState
from producer.listing import MOST_JOBS, list_jobs

router = APIRouter(tags=["jobs"])


class JobListAnswer(BaseModel):
    """Jobs, the last accepted first."""

    jobs: list[JobAnswer]
    cursor: str | None = Field(
        description="Asks for the jobs before these; null where there are none.", examples=["17"]
    )


@router.get(
    "/v1/jobs",
    summary="List jobs",
    response_model=JobListAnswer,
    responses={
        200: {
            "description": "Jobs with their states.",
            "content": {"application/json": {"example": {"jobs": [STATUS_EXAMPLE], "cursor": "17"}}},
        },
        **responses(InvalidRequest, Unavailable),
    },
)
async def jobs(
    gateway: TheGateway,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS, description="Most jobs of one answer.")] = 50,
    cursor: Annotated[str, Query(max_length=20, description="`cursor` of the answer before.")] = "",
) -> Response:
    """Lists the jobs that the pool still knows, the last accepted first.

    Jobs that are accepted meanwhile are before the first answer's, so none is told twice; of one whose state changes
    meanwhile, a list of one state may tell nothing.
    """
    answer = await gateway.producer.call(partial(_list, gateway, state, limit, cursor))
    return Response(answer, headers={"Cache-Control": "no-store"}, media_type="application/json")


def _list(gateway: Gateway, state: JobState | None, limit: int, cursor: str) -> str:
    producer = gateway.producer.producer
    found = list_jobs(producer.ledger, state, limit, cursor, producer.tenant)
    return JobListAnswer(jobs=[described(job) for job in found.jobs], cursor=found.cursor).model_dump_json()
