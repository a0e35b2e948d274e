"""How a job comes along: its pages as soon as each is done, and what became of them on their way."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from producer.errors import InvalidRequest, NotFound, Unavailable
from producer.gateway.jobs import JobIdInPath
from producer.gateway.openapi import PAGES_EXAMPLE, TIMELINE_EXAMPLE
from producer.gateway.problems import POLL_AFTER_S, responses
from producer.gateway.state import Gateway, TheGateway
from producer.job import PagesRead
from producer.pages import MOST_PAGES
from producer.timeline import Timeline

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/pages",
    summary="Fetch pages as they are done",
    response_model=PagesRead,
    responses={
        200: {
            "description": "Outcomes in the order in which they came. `Retry-After` while more will come.",
            "content": {"application/json": {"example": PAGES_EXAMPLE}},
        },
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def pages(
    gateway: TheGateway,
    job_id: JobIdInPath,
    after: Annotated[int, Query(ge=0, le=10**9, description="Outcomes to pass over: `next` of the answer before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_PAGES, description="Most pages of one answer.")] = MOST_PAGES,
) -> Response:
    """Each page's outcome once it is there, whether the job has ended or not, in the order in which they came.

    Ask again with `after` set to `next` for as long as there is `more`: each outcome is told once, and none is missed.
    """
    body, wait = await gateway.producer.call(partial(_pages, gateway, job_id, after, limit))
    headers = {"Cache-Control": "no-store", **({"Retry-After": str(POLL_AFTER_S)} if wait else {})}
    return Response(body, headers=headers, media_type="application/json")


def _pages(gateway: Gateway, job_id: str, after: int, limit: int) -> tuple[str, bool]:
    """The answer, and whether there is nothing more at this moment."""
    found = gateway.producer.producer.pages(job_id, after, limit)
    return found.model_dump_json(), found.more and len(found.pages) < limit


@router.get(
    "/v1/jobs/{job_id}/timeline",
    summary="See a job's way through the pool",
    response_model=Timeline,
    responses={
        200: {
            "description": "Who held which pages, and where their time went.",
            "content": {"application/json": {"example": TIMELINE_EXAMPLE}},
        },
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def timeline(gateway: TheGateway, job_id: JobIdInPath) -> Response:
    """Each time that a worker took a span of pages, with its card and how that ended; and each page's batches: how long
    it waited for them, how full they were, and how long they took.
    """
    body = await gateway.producer.call(partial(_timeline, gateway, job_id))
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")


def _timeline(gateway: Gateway, job_id: str) -> str:
    return gateway.producer.producer.timeline(job_id).model_dump_json()
