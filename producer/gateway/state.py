"""What the routes of one gateway share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from producer.blobs import Probe
from producer.gateway.async_producer import AsyncProducer
from producer.gateway.metrics import Metrics
from producer.gateway.waiting import Watcher
from producer.job import JobStatus
from producer.settings import Settings


@dataclass(frozen=True)
class Gateway:
    """One gateway's parts, from its lifespan to its routes."""

    settings: Settings
    producer: AsyncProducer
    watcher: Watcher
    metrics: Metrics
    blobs: Probe

    async def wait(self, job_id: str, timeout_s: float) -> JobStatus:
        """The job's status once it is final, at most `timeout_s` or the longest wait of the settings later."""
        timeout_s = min(timeout_s, self.settings.max_wait_s)
        with self.metrics.long_polls.track_inprogress():
            return await self.watcher.wait(job_id, lambda: self.producer.status(job_id), timeout_s)


# A coroutine, as every dependency here: FastAPI would run a plain function in a thread of its own pool.
async def _gateway(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


#: A route's parameter.
TheGateway = Annotated[Gateway, Depends(_gateway)]
