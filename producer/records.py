"""A job's fields as the ledger keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from producer.errors import NotFinished, NotFound
from producer.job import ErrorDetail, JobState, JobStatus, Tenant

Returned = TypeVar("Returned")


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id}, or it is gone.")


def unfinished(state: JobState) -> NotFinished:
    return NotFinished(f"The job is {state.value}; its result is there once it has finished.")


def fields_of_job(job_id: str, flat: Sequence[bytes], tenant: Tenant | None) -> dict[bytes, bytes]:
    """A job's fields and values.

    Raises:
        NotFound: there are none, or the job is not the tenant's.
    """
    fields = fields_of(flat)
    if not fields or tenant not in (None, fields.get(b"tenant", b"").decode()):
        raise no_job(job_id)
    return fields


def status_of(job_id: str, job: Mapping[bytes, bytes]) -> JobStatus:
    """The status that a job's fields tell, as the scripts return them."""
    record = json.loads(job[b"record"])
    return JobStatus(
        id=job_id,
        name=record["name"],
        state=JobState(job[b"state"].decode()),
        pages_total=_number(job, b"pages_total", int),
        pages_done=int(job[b"pages_done"]),
        pages_failed=int(job[b"pages_failed"]),
        cached=b"cached" in job,
        created_at=int(job[b"created"]) / 1000,
        started_at=_number(job, b"started", _seconds),
        finished_at=_number(job, b"finished", _seconds),
        error=ErrorDetail.model_validate_json(job[b"error"]) if b"error" in job else None,
        queue_position=_number(job, b"position", int),
        estimated_wait_s=_number(job, b"wait_ms", _seconds),
        batch=record.get("batch"),
        retry_of=record.get("retry_of"),
        retried_by=_number(job, b"retried_by", bytes.decode),
    )


def at_its_end(before: JobStatus, event: Mapping[str, Any]) -> JobStatus | None:
    """Where a job stands of which an event tells that it has ended; `before` it had not.

    None where the event does not tell enough: an earlier version's did not.
    """
    try:
        return before.model_copy(
            update={
                "state": JobState(event["state"]),
                "pages_total": event["pages_total"],
                "pages_done": event["pages_done"],
                "pages_failed": event["pages_failed"],
                "cached": event["cached"],
                "started_at": None if event["started"] is None else _seconds(event["started"]),
                "finished_at": _seconds(event["finished"]),
                "error": None if event["error"] is None else ErrorDetail.model_validate_json(event["error"]),
                "queue_position": None,
                "estimated_wait_s": None,
            }
        )
    except KeyError:
        return None


def _seconds(ms: bytes | str) -> float:
    return int(ms) / 1000


def _number(job: Mapping[bytes, bytes], field: bytes, kind: Callable[[bytes], Returned]) -> Returned | None:
    return kind(job[field]) if field in job else None
