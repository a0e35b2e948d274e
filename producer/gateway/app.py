"""The gateway: the producer's library behind HTTP, as one FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from producer.blobs import Probe
from producer.gateway import (
    batches,
    events,
    health,
    jobs,
    links,
    listing,
    ocr,
    openapi,
    overlays,
    paddleocr_api,
    problems,
    progress,
)
from producer.gateway.async_producer import AsyncProducer
from producer.gateway.callers import Callers
from producer.gateway.metrics import Metrics, MetricsMiddleware
from producer.gateway.paddle_options import ServedModels
from producer.gateway.signing import SignedUrls
from producer.gateway.state import Gateway
from producer.gateway.waiting import Watcher
from producer.producer import Producer
from producer.settings import Settings
from producer.webhooks import delivering

_TAGS = [
    {"name": "jobs", "description": "Hand in documents, follow them, fetch their pages."},
    {"name": "ocr", "description": "One request, one answer."},
    {"name": "paddleocr", "description": "The job API of PaddleOCR's own client."},
    {"name": "operations", "description": "For load balancers and monitoring."},
]


def create_app(settings: Settings, producer: Producer | None = None) -> FastAPI:
    """The application. It makes and closes a producer of its own unless it is given one."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        blocking = producer or Producer(settings, tenant="")
        shared = AsyncProducer(blocking)
        metrics.watch_pool(blocking.ledger)
        watcher = Watcher(settings.redis_url, f"{settings.namespace}:events")
        app.state.gateway = Gateway(
            settings,
            shared,
            watcher,
            metrics,
            Probe(blocking.blobs),
            Callers(settings, shared),
            ServedModels(settings, blocking.ledger),
            SignedUrls(settings, blocking.ledger),
        )
        await watcher.start()
        try:
            # At its end this waits for the webhooks under way; by then nobody else is served.
            with delivering(settings, blocking.ledger):
                yield
        finally:
            await watcher.stop()
            if producer is None:
                blocking.close()

    app = FastAPI(
        title="ocrpool",
        version=version("ocrpool"),
        summary="Documents in, text out: the HTTP face of an OCR worker pool.",
        openapi_tags=_TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    problems.install(app)
    for part in (jobs, links, listing, progress, overlays, events, batches, ocr, paddleocr_api, health):
        app.include_router(part.router)
    openapi.describe_problems(app)
    return app
