"""Whether the gateway lives, whether the pool is ready, and what both have counted."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import RedirectResponse

from producer.errors import Unavailable
from producer.gateway.problems import responses
from producer.gateway.state import OpenGateway

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready"] = "ready"
    workers: int


@router.get("/healthz", summary="Whether this process lives", response_model=Health)
async def healthz() -> Health:
    """Answers as long as the process does; says nothing about the pool."""
    return Health()


@router.get("/readyz", summary="Whether the pool is ready", response_model=Readiness, responses=responses(Unavailable))
async def readyz(gateway: OpenGateway) -> Readiness:
    """Ready when Redis and the blob store answer and at least one worker has warmed up."""
    if gateway.watcher.released:
        raise Unavailable("The gateway is stopping.")
    workers = await gateway.producer.call(gateway.producer.producer.workers)
    if not workers:
        raise Unavailable("No worker is ready.")
    if trouble := await gateway.producer.call(gateway.blobs.trouble):
        raise Unavailable(trouble)
    return Readiness(workers=len(workers))


class Targets(BaseModel):
    targets: list[str]


@router.get(
    "/metrics/workers",
    summary="Where Prometheus finds the workers' metrics",
    response_model=list[Targets],
    responses=responses(Unavailable),
)
async def metrics_of_workers(gateway: OpenGateway) -> list[Targets]:
    """The ready workers' addresses, in the form of Prometheus' HTTP service discovery."""
    workers = await gateway.producer.call(gateway.producer.producer.ledger.workers)
    return [Targets(targets=sorted(_scraped_at(worker) for worker in workers.values() if "metrics" in worker))]


def _scraped_at(worker: dict[str, Any]) -> str:
    """A worker that listens on every address is found by its host's name."""
    address, _, port = str(worker["metrics"]).rpartition(":")
    return f"{worker['host'] if address in ('', '0.0.0.0', '::', '[::]') else address}:{port}"


@router.get(
    "/metrics",
    summary="Counts and times for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(gateway: OpenGateway) -> Response:
    text = await gateway.producer.call(gateway.metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    return RedirectResponse("/docs")
