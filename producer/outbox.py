"""Webhooks on their way: the ledger's outbox, which outlives whoever sends them.

A job that ends puts its webhook there in the same script. Whoever sends takes one for a while and writes how it went;
what somebody took who died then comes up again under the same id. So a webhook is sent at least once, and a receiver
that keeps the ids of those it has seen handles each once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict

from producer.errors import NotFound
from producer.job import ErrorDetail, JobState, Tenant
from producer.ledger import Ledger
from producer.records import fields_of
from producer.scripts import reachable

#: Time that a try has, and after which one that was not settled comes up again.
TIMEOUT_S = 15.0
LEASE_S = 2 * TIMEOUT_S
#: Webhooks that one look for a due one passes by at most.
TAKE_LOOKS = 200


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    #: Given up: every try failed, or the endpoint wants no more.
    DEAD = "dead"


class Standing(StrEnum):
    """What is known of an origin."""

    #: It has lately taken a webhook in time, and has not taken long since.
    GOOD = "good"
    #: It is new, or has only failed, and at once.
    UNKNOWN = "unknown"
    #: The last try took long.
    SLOW = "slow"


class Delivery(BaseModel):
    """A job's webhook."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    url: str
    state: DeliveryState
    #: Tries that came to an end.
    attempts: int
    #: How the last of them went.
    outcome: str
    #: The job as it ended: seconds since the epoch, state, counts, error, the document's name.
    ended_at: float
    job_state: JobState
    pages_total: int | None
    pages_done: int
    pages_failed: int
    error: ErrorDetail | None
    name: str
    #: Whose job it is.
    tenant: Tenant = ""

    @classmethod
    def of(cls, job_id: str, found: Mapping[bytes, bytes]) -> Self:
        record = {name.decode(): value.decode() for name, value in found.items()}
        fields: dict[str, Any] = {**record, "ended_at": int(record["ended"]) / 1000, "job_id": job_id}
        fields["pages_total"] = record["pages_total"] or None
        fields["error"] = ErrorDetail.model_validate_json(record["error"]) if record["error"] else None
        return cls.model_validate(fields)

    @property
    def id(self) -> str:
        """One a job, whatever is sent twice."""
        return f"msg_{self.job_id.removeprefix('job_')}"

    def event(self, public_url: str) -> dict[str, Any]:
        """What the receiver is told, the same at each try. Links begin with `public_url`."""
        path = f"{public_url.rstrip('/')}/v1/jobs/{self.job_id}"
        return {
            "type": f"job.{self.job_state.value}",
            "timestamp": datetime.fromtimestamp(self.ended_at, UTC).isoformat(timespec="milliseconds"),
            "data": {
                "id": self.job_id,
                "name": self.name,
                "state": self.job_state.value,
                "pages_total": self.pages_total,
                "pages_done": self.pages_done,
                "pages_failed": self.pages_failed,
                "error": self.error.model_dump() if self.error else None,
                "links": {"self": path, "result": f"{path}/result"},
            },
        }


@dataclass(frozen=True)
class Taken:
    """A webhook that is this sender's for `LEASE_S`."""

    delivery: Delivery
    #: Scheme, host and port, as the ledger calls them for this tenant: what is slow there is slow together.
    origin: str
    #: That of the origin when it was taken.
    standing: Standing
    #: By which it is settled: that of the latest sender counts.
    fence: int

    @property
    def row(self) -> str:
        """That in which the origin stood."""
        return f"{self.standing}:{self.delivery.tenant}"


@dataclass(frozen=True)
class Verdict:
    """How a try went, in one sentence, and what follows."""

    state: DeliveryState
    outcome: str
    #: Until the next try of one that is pending still.
    delay_s: float = 0
    #: The origin took so long that others have to wait for it.
    slow: bool = False
    #: The endpoint wants no more webhooks.
    disabled: bool = False


class Outbox:
    """The webhooks of one pool. Each method raises `Unavailable`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._scripts = ledger.scripts

    def take(self, busy: Collection[str] = (), chance: float = 0) -> Taken | None:
        """A webhook that is due, unless its origin, its standing or its row is `busy`. By chance, in [0, 1), it is that
        of one row or another, and the one that has waited longest there or the last that came."""
        told = (round(LEASE_S * 1000), TAKE_LOOKS, json.dumps(list(busy)), int(chance * 1_000_000))
        found = self._scripts.run("take_delivery", *told)
        if not found:
            return None
        job_id, origin, standing, fence, *record = found
        delivery = Delivery.of(job_id.decode(), fields_of(record))
        return Taken(delivery, origin.decode(), Standing(standing.decode()), fence)

    def settle(self, taken: Taken, verdict: Verdict) -> bool:
        """Write how the try went. False if another has taken or settled the webhook meanwhile."""
        word = "again" if verdict.state is DeliveryState.PENDING else verdict.state.value
        told = (taken.delivery.job_id, taken.fence, word, round(verdict.delay_s * 1000), verdict.outcome)
        flags = ["1" if flag else "0" for flag in (verdict.slow, verdict.disabled)]
        return bool(self._scripts.run("settle_delivery", *told, *flags) == b"settled")

    def all(self) -> list[Delivery]:
        """Those that wait, and the last 10,000; the newest first."""
        namespace, redis = self._ledger.namespace, self._ledger.redis
        with reachable():
            known = cast(list[bytes], redis.zrange(f"{namespace}:deliveries", 0, -1))
        found = self._read(dict.fromkeys([*(job_id.decode() for job_id in known), *self.waiting()]))
        return sorted(found, key=lambda delivery: -delivery.ended_at)

    def waiting(self) -> list[str]:
        """The jobs whose webhooks are to be sent."""
        with reachable(), self._ledger.redis.pipeline(transaction=False) as pipe:
            for queue in self._ledger.outboxes():
                pipe.zrange(queue, 0, -1)
            return [job_id.decode() for jobs in pipe.execute() for job_id in jobs]

    def _read(self, job_ids: Iterable[str]) -> list[Delivery]:
        jobs = list(job_ids)
        with reachable(), self._ledger.redis.pipeline(transaction=False) as pipe:
            for job_id in jobs:
                pipe.hgetall(f"{self._ledger.namespace}:delivery:{job_id}")
            records = pipe.execute()
        return [Delivery.of(job_id, record) for job_id, record in zip(jobs, records, strict=True) if record]

    def get(self, job_id: str) -> Delivery:
        """Raises `NotFound`."""
        for delivery in self._read([job_id]):
            return delivery
        raise _missing(job_id)

    def replay(self, job_id: str) -> None:
        """Send the job's webhook anew, with all its tries, under its id. Raises `NotFound`."""
        if self._scripts.run("replay_delivery", job_id) != b"replayed":
            raise _missing(job_id)


def _missing(job_id: str) -> NotFound:
    return NotFound(f"There is no webhook of {job_id}; `ocrpool webhooks list` shows those there are.")
