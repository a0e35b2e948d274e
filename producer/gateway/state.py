"""What the routes of one gateway share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from producer.blobs import Probe
from producer.gateway.async_producer import AsyncProducer
from producer.gateway.callers import Caller, Callers
from producer.gateway.metrics import Metrics
from producer.gateway.waiting import Watcher
from producer.job import JobStatus
from producer.settings import Settings


@dataclass(frozen=True)
class Gateway:
    """One gateway's parts, from its lifespan to its routes, which have it as their caller's tenant may see it."""

    settings: Settings
    producer: AsyncProducer
    watcher: Watcher
    metrics: Metrics
    blobs: Probe
    callers: Callers

    def seen_by(self, caller: Caller) -> Gateway:
        """The gateway whose producer knows this tenant's jobs alone, with the settings that hold for it."""
        return replace(self, settings=caller.settings, producer=self.producer.of_tenant(caller.tenant))

    async def wait(self, job_id: str, timeout_s: float) -> JobStatus:
        """The job's status once it is final, at most `timeout_s` or the longest wait of the settings later."""
        timeout_s = min(timeout_s, self.settings.max_wait_s)
        with self.metrics.long_polls.track_inprogress():
            return await self.watcher.wait(job_id, lambda: self.producer.status(job_id), timeout_s)


_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="A key of `ocrpool keys create`, where the gateway asks for one.",
)


# Coroutines, as every dependency here: FastAPI would run a plain function in a thread of its own pool.
async def _gateway(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


#: A route's parameter, where nobody has to say who they are.
OpenGateway = Annotated[Gateway, Depends(_gateway)]


async def _callers_gateway(
    request: Request, gateway: OpenGateway, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Gateway:
    address = request.client.host if request.client else ""
    return gateway.seen_by(await gateway.callers.identify(bearer.credentials if bearer else None, address))


#: A route's parameter: asks for the caller's API key, and shows the jobs of the caller's tenant alone.
TheGateway = Annotated[Gateway, Depends(_callers_gateway)]
