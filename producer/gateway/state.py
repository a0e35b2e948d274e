"""What the routes of one gateway share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase

from producer.blobs import Probe
from producer.gateway.async_producer import AsyncProducer
from producer.gateway.callers import Caller, Callers
from producer.gateway.metrics import Metrics
from producer.gateway.paddle_options import ServedModels
from producer.gateway.signing import SignedUrls
from producer.gateway.waiting import Found, Watcher
from producer.job import JobStatus
from producer.records import at_its_end
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
    models: ServedModels
    urls: SignedUrls

    def seen_by(self, caller: Caller) -> Gateway:
        """The gateway whose producer knows this tenant's jobs alone, with the settings that hold for it."""
        return replace(self, settings=caller.settings, producer=self.producer.of_tenant(caller.tenant))

    async def wait(self, job_id: str, timeout_s: float, known: JobStatus | None = None) -> JobStatus:
        """The job's status once it is final, at most `timeout_s` or the longest wait of the settings later; `known` is
        that of a moment ago."""
        if known is not None and known.final:
            return known
        last = known

        async def final() -> JobStatus | None:
            nonlocal last
            told = self.watcher.told_of_end(job_id)
            # Whom an event tells all spares the pool a reading.
            last = (last and told and at_its_end(last, told)) or await self.producer.status(job_id)
            return last if last.final else None

        await self.read_at_end(job_id, final, timeout_s, is_known=known is not None)
        assert last is not None
        return last

    async def read_at_end(
        self, job_id: str, read: Callable[[], Awaitable[Found | None]], timeout_s: float, *, is_known: bool
    ) -> Found | None:
        """See `Watcher.wait`; the wait is counted, and cut to the longest of the settings."""
        with self.metrics.long_polls.track_inprogress():
            return await self.watcher.wait(job_id, read, min(timeout_s, self.settings.max_wait_s), is_known=is_known)


# A coroutine, as every dependency here: FastAPI would run a plain function in a thread of its own pool.
async def _open_gateway(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


class _CallersGateway(SecurityBase):
    """The gateway as the tenant may see it whose API key came with the request, where keys are asked for.

    A dependency without any of its own: FastAPI would solve them again for each route and parameter.
    """

    def __init__(self) -> None:
        self._bearer = HTTPBearer(
            auto_error=False,
            scheme_name="ApiKey",
            description="A key of `ocrpool keys create`, where the gateway asks for one.",
        )
        self.model, self.scheme_name = self._bearer.model, self._bearer.scheme_name

    async def __call__(self, request: Request) -> Gateway:
        gateway, bearer = await _open_gateway(request), await self._bearer(request)
        address = request.client.host if request.client else ""
        return gateway.seen_by(await gateway.callers.identify(bearer.credentials if bearer else None, address))


#: A route's parameter, where nobody has to say who they are.
OpenGateway = Annotated[Gateway, Depends(_open_gateway)]
#: A route's parameter: asks for the caller's API key, and shows the jobs of the caller's tenant alone.
TheGateway = Annotated[Gateway, Security(_CallersGateway())]
