"""A job's events as they happen (server-sent events), read from the ledger whenever the watcher's bell rings.

One coroutine a stream, which also sends the heartbeats: hundreds cost a bell each while nothing happens.
"""

from __future__ import annotations

import json
import re
import time
from asyncio import sleep
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.responses import StreamingResponse

from producer.errors import InvalidRequest, NotFound, Unavailable
from producer.gateway.jobs import JobIdInPath
from producer.gateway.problems import responses
from producer.gateway.state import Gateway, TheGateway
from producer.job import JobStatus
from producer.pages import Progress, read_progress

router = APIRouter(tags=["jobs"])

#: A comment goes out after this silence, so that nobody between takes the stream for dead, and the server learns of
#: clients that have left.
HEARTBEAT_S = 15.0
#: A stream reads the ledger no more often than this.
LEAST_GAP_S = 0.2
#: An outage of Redis is waited out, looking this often.
LOOK_AGAIN_S = 2.0
#: The outcomes that were told so far, and whether the end was.
_EVENT_ID = re.compile(r"([0-9]{1,9})(-end)?")
_EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": _EVENT_ID.pattern},
        "event": {"enum": ["status", "page", "end"]},
        "data": {"type": "string", "description": "JSON: the job's status, or of a page its number and `kind`."},
    },
}
_EXAMPLE = """\
id: 6
event: status
data: {"id": "job_...", "state": "running", "pages_total": 20, "pages_done": 7, ...}

id: 7
event: page
data: {"page": 8, "kind": "page"}

id: 20-end
event: end
data: {"id": "job_...", "state": "succeeded", ...}
"""


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job by its events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A stream that ends with the job.",
            "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
        },
        204: {"description": "`Last-Event-ID` is that of the end: there is nothing more."},
        **responses(InvalidRequest, NotFound, Unavailable),
    },
)
async def events(
    gateway: TheGateway,
    job_id: JobIdInPath,
    last_event_id: Annotated[str | None, Header(description="Goes on behind this event.", examples=["7"])] = None,
) -> Response:
    """`status` whenever it has changed, `page` for each outcome (`kind` is `page` or `failure`; its content is at
    `/pages?after=` one less than the event's id), and `end`.

    A client that was cut off sends the id of its last event, as browsers do by themselves, and misses none: the events
    are read from the pool's records, by whichever gateway is asked.
    """
    found = _EVENT_ID.fullmatch(last_event_id or "0")
    if found is None:
        raise InvalidRequest("Last-Event-ID: not one that this stream gave.")
    if found[2]:
        return Response(status_code=204)
    first = await _read(gateway, job_id, int(found[1]))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _told(gateway, job_id, first, int(found[1])), headers=headers, media_type="text/event-stream"
    )


async def _read(gateway: Gateway, job_id: str, seen: int) -> Progress:
    producer = gateway.producer.producer
    return await gateway.producer.call(partial(read_progress, producer.ledger, job_id, seen, producer.tenant))


async def _told(gateway: Gateway, job_id: str, now: Progress, seen: int) -> AsyncIterator[str]:
    watcher = gateway.watcher
    told: JobStatus | None = None
    with watcher.following(job_id) as bell, gateway.metrics.event_streams.track_inprogress():
        # Something may have happened before the bell hung.
        bell.set()
        while True:
            read_at = time.monotonic()
            # A server that lost its last second has lost outcomes, too.
            seen = min(seen, now.outcomes)
            if now.status != told:
                told = now.status
                yield _event("status", str(seen), told.model_dump_json())
            for page, failed in now.pages:
                seen += 1
                yield _event("page", str(seen), json.dumps({"page": page, "kind": "failure" if failed else "page"}))
            if seen >= now.outcomes:
                if now.status.final:
                    yield _event("end", f"{seen}-end", now.status.model_dump_json())
                    return
                while not await watcher.heard(bell, HEARTBEAT_S):
                    yield ": waiting\n\n"
                if watcher.released:
                    return
                await sleep(max(0.0, LEAST_GAP_S - (time.monotonic() - read_at)))
            try:
                now = await _read(gateway, job_id, seen)
            except Unavailable:
                bell.set()
                await sleep(LOOK_AGAIN_S)
            except NotFound:
                return


def _event(kind: str, event_id: str, data: str) -> str:
    return f"id: {event_id}\nevent: {kind}\ndata: {data}\n\n"
