"""Follows jobs by the ledger's events: one subscription, however many jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator

from redis.client import PubSub

from producer.errors import Unavailable
from producer.job import JobStatus, Tenant
from producer.ledger import Ledger
from producer.scripts import reachable

#: How long a follower trusts the events before it reads the ledger again: one may be lost when a connection is.
REREAD_S = 2.0


#: An outage of Redis up to this is waited out.
PATIENCE_S = 30.0
_RECONNECT_S = 0.5


def follow(
    ledger: Ledger,
    job_ids: Iterable[str],
    *,
    tenant: Tenant | None = None,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[JobStatus]:
    """Yield each job's status now and whenever it has changed; end once all are final or the time is up.

    Raises:
        NotFound: one of the jobs does not exist, or is not the tenant's.
        Unavailable: Redis cannot be reached, at the start or for 30 s on end.
    """
    end = None if timeout_s is None else clock() + timeout_s
    seen: dict[str, JobStatus] = {}
    due = list(dict.fromkeys(job_ids))
    patient_until = 0.0
    while True:
        try:
            for status in _follow(ledger, due, seen, end, clock, tenant=tenant):
                patient_until = 0.0
                yield status
            return
        except Unavailable:
            patient_until = patient_until or clock() + PATIENCE_S
            if not seen or clock() > patient_until or (end is not None and clock() > end):
                raise
            time.sleep(_RECONNECT_S)


def _follow(
    ledger: Ledger,
    job_ids: list[str],
    seen: dict[str, JobStatus],
    end: float | None,
    clock: Callable[[], float],
    *,
    tenant: Tenant | None,
) -> Iterator[JobStatus]:
    """`follow` for as long as the connection lasts. Subscribes before it reads, so that nothing is missed between."""
    with ledger.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        with reachable():
            pubsub.subscribe(f"{ledger.namespace}:events")
        due = [job_id for job_id in job_ids if job_id not in seen or not seen[job_id].final]
        while True:
            for job_id in due:
                status = ledger.status(job_id, tenant)
                if seen.get(job_id) != status:
                    seen[job_id] = status
                    yield status
            pending = {job_id for job_id in job_ids if not seen[job_id].final}
            wait_s = REREAD_S if end is None else min(REREAD_S, end - clock())
            if not pending or wait_s <= 0:
                return
            event = _next_event(pubsub, pending, wait_s, clock)
            due = [event] if event else sorted(pending)


def _next_event(pubsub: PubSub, pending: set[str], wait_s: float, clock: Callable[[], float]) -> str | None:
    """The pending job that something happened to; None when nothing did within `wait_s` seconds."""
    end = clock() + wait_s
    while (left := end - clock()) > 0:
        with reachable():
            message = pubsub.get_message(timeout=left)
        if message is not None and (job_id := str(json.loads(message["data"])["job_id"])) in pending:
            return job_id
    return None
