"""Addresses of results, at the store that they lie in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from producer.errors import InvalidRequest, NotFinished, NotFound
from producer.formats import Format
from producer.gateway.exports import EXPORT_ERRORS, AskedFormat, result_link
from producer.gateway.jobs import JobIdInPath, job_path
from producer.gateway.problems import responses
from producer.gateway.state import TheGateway
from producer.job import ResultLink

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/result/link",
    summary="Let others fetch a job's pages",
    response_model=ResultLink,
    responses={
        200: {"description": "The address, and until when it is good."},
        **responses(InvalidRequest, NotFound, NotFinished, *EXPORT_ERRORS),
    },
)
async def link(
    gateway: TheGateway,
    job_id: JobIdInPath,
    format: Annotated[AskedFormat, Query(description="As for the result itself.")] = "json",
    ttl_s: Annotated[
        float | None,
        Query(
            ge=1,
            allow_inf_nan=False,
            description="Seconds for which the address is good: at most, and without it, OCRPOOL_SIGNED_URL_TTL_S. "
            "None outlives the result.",
        ),
    ] = None,
) -> Response:
    """An address at which anybody may fetch the result without a key, straight from the S3 store: the result is made in
    that format and laid there when it is first asked for, and goes with the job.

    A pool whose documents lie in a folder has no such addresses, and answers `format_unavailable`.
    """
    made = await result_link(gateway, job_id, Format(format), ttl_s, job_path(job_id))
    # Whoever has the answer has the result.
    return Response(made.model_dump_json(), headers={"Cache-Control": "no-store"}, media_type="application/json")
