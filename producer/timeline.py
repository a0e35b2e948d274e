"""What became of a job on its way: who held which unit, and where each page's time went.

The ledger notes it as it happens, up to 10,000 notes a job, and keeps it as long as the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import Field

from producer.job import PREPARE, Contract, JobId, JobState, JobStatus, Span, Tenant
from producer.ledger import Ledger
from producer.scripts import reachable

#: Notes that are kept of one job.
MOST_NOTES = 10_000


class Attempt(Contract):
    """A worker's hold on a unit: some pages (`1+8`: eight from page 1 on), or `prepare`, which counts them.

    Times are seconds since the epoch by the Redis server's clock.
    """

    unit: str
    worker: str
    #: The worker's card, or `cpu`; None where it was not known.
    device: str | None = None
    claimed_at: float
    ended_at: float | None = None
    #: `lapsed`: the worker died or was cut off; `given_back`: it stopped, or could not go on; `job_ended`: the job was
    #: over before. None while it holds the unit.
    ended: Literal["done", "given_back", "lapsed", "job_ended"] | None = None


class BatchShare(Contract):
    """What one batch had of a page."""

    #: Counts the batches of this stage in this worker.
    batch: int
    #: Items of this page in it (a page, or lines), all of its items, and these by those of a full batch.
    items: int
    size: int
    fill: float = Field(ge=0)
    #: How long the items waited for it, and how long it ran until they were answered.
    wait_ms: float
    compute_ms: float


class PageTrace(Contract):
    """One outcome, and where the page's time went."""

    page: int
    unit: str
    failed: bool
    at: float
    worker: str = ""
    #: From when the worker had its unit until a thread began with the page, and from then until its pixels were there.
    waited_ms: float | None = None
    rasterise_ms: float | None = None
    #: Its batches in each stage, the first few of them.
    stages: dict[str, tuple[BatchShare, ...]] = Field(default_factory=dict)


class Timeline(Contract):
    """A job's way. `complete` is false where there was more to note than is kept."""

    id: JobId
    state: JobState
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: tuple[Attempt, ...]
    pages: tuple[PageTrace, ...]
    complete: bool = True


def traced(waited_ms: float, rasterise_ms: float, stages: Mapping[str, Sequence[BatchShare]]) -> str:
    """Where a page's time went, as the ledger keeps it."""
    shares = {stage: [share.model_dump() for share in some] for stage, some in stages.items()}
    return json.dumps({"waited_ms": round(waited_ms, 1), "rasterise_ms": round(rasterise_ms, 1), "stages": shares})


def read_timeline(ledger: Ledger, job_id: str, tenant: Tenant | None = None) -> Timeline:
    """The way of the job so far.

    Raises:
        NotFound: there is no such job, or it is not the tenant's.
    """
    status = ledger.status(job_id, tenant)
    with reachable():
        notes = cast(list[bytes], ledger.redis.lrange(f"{ledger.namespace}:timeline:{job_id}", 0, -1))
    return _told(status, [json.loads(note) for note in notes])


def _told(status: JobStatus, notes: Sequence[dict[str, Any]]) -> Timeline:
    attempts: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    pages: list[PageTrace] = []
    for note in notes:
        unit, at = note["unit"], note["at_ms"] / 1000
        attempt = latest.get(unit)
        match note["what"]:
            case "claimed":
                latest[unit] = {"unit": unit, "worker": note["worker"], "device": note.get("device"), "claimed_at": at}
                attempts.append(latest[unit])
            case "page":
                trace = json.loads(note.get("trace", "{}"))
                pages.append(
                    PageTrace(
                        page=note["page"],
                        unit=unit,
                        failed=note["failed"],
                        at=at,
                        worker=attempt["worker"] if attempt else "",
                        **trace,
                    )
                )
            case ended if attempt is not None:
                attempt |= {"ended": ended, "ended_at": at}
    if status.final:
        # Whoever held a unit when the job ended does not come back to say so, nor whoever ended it by the last page.
        told_at = {page.page: page.at for page in pages}
        for attempt in attempts:
            own = () if attempt["unit"] == PREPARE else Span.parse(attempt["unit"]).pages
            done = latest[attempt["unit"]] is attempt and own and all(page in told_at for page in own)
            attempt.setdefault("ended", "done" if done else "job_ended")
            attempt.setdefault("ended_at", max(told_at[page] for page in own) if done else status.finished_at)
    return Timeline(
        id=status.id,
        state=status.state,
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        attempts=tuple(Attempt(**attempt) for attempt in attempts),
        pages=tuple(pages),
        complete=len(notes) < MOST_NOTES,
    )
