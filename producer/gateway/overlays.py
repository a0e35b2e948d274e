"""Pictures of single pages with their lines."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from producer.errors import InvalidRequest, NotFinished, NotFound
from producer.gateway.exports import EXPORT_ERRORS, page_overlay
from producer.gateway.jobs import JobIdInPath
from producer.gateway.problems import responses
from producer.gateway.state import TheGateway

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/pages/{page}/overlay.png",
    summary="See a page's lines",
    response_class=Response,
    responses={
        200: {
            "description": "The page with the quads of its lines, numbered in reading order.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **responses(InvalidRequest, NotFound, NotFinished, *EXPORT_ERRORS),
    },
)
async def overlay(
    gateway: TheGateway,
    job_id: JobIdInPath,
    page: Annotated[int, Path(ge=1, le=10_000_000, description="The page's number, from 1 on.")],
) -> Response:
    """Draws the page in the size that it was read in. A page that failed answers its error."""
    return await page_overlay(gateway, job_id, page)
