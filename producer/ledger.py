"""The durable record of jobs. The ledger, not the broker, is the truth.

Keys, below the namespace:

    job:<id>     hash    the job's record, state, counts and times       TTL
    pages:<id>   hash    page number -> outcome (JSON)                   TTL
    outcomes:<id> set    blobs that hold outcomes too large for Redis,   TTL
                         or were made of the result
    order:<id>   list    pages in the order of their outcomes            TTL
    timeline:<id> list   who held which unit, and what came of it        TTL
    batch:<t.>:<b.> list the jobs of that batch of that tenant's         TTL, of the job that lives longest
    spans:<id>   hash    unit -> fence, lane, deaths, failures, worker   TTL, deleted when the job ends
    key:<digest> hash    an idempotency key -> its job and request       TTL, that of the job
    request:<d.> string  such a key of many documents -> their request   TTL, that of a job
    known:<d.>:<r.> string  a document, read in that manner -> its job   TTL
    pixels:<dig.> string a page's pixels -> the job and page of them     TTL
    leader:<d.>:<l.> string a document -> the job that is being read     TTL, that of the job, deleted when it ends
    followers:<id> set   jobs that wait for that one's pages             TTL, deleted when that job ends
    readers      hash    worker -> until when, and how it reads          TTL
    busy:<dig.>  string  a request under that key is coming in           TTL
    worker:<n>   string  a live worker's own description                 TTL
    sweeping     string  somebody sweeps in this interval                TTL
    quarantined  string  the one quarantined unit that is being read     TTL
    active       zset    unfinished jobs by deadline                     a member leaves when its job ends
    running      set     jobs of which a unit was claimed                a member leaves when its job ends
    waiting:<l>  zset    a lane's units published and not claimed; with  a member leaves when claimed or its job ends
                         `:<tenant>`, that tenant's
    turns:<l>    zset    the lane's tenants by the pages they have had   a member leaves when its turn finds nothing
    given:<tok.> string  the unit that a claim was given                 TTL
    load         hash    each tenant's unfinished jobs and their pages   fields leave with the tenant's last job
    shares       hash    unfinished job -> its part of the load          a field leaves when its job ends
    bucket:<t.>  string  when a tenant may hand in without haste again   TTL
    tenants      hash    limits of tenants                               kept until they are set back
    apikeys      hash    API keys by id                                  kept until revoked
    apikeys_used hash    when each was used last                         kept until revoked
    index:<s>    zset    jobs in that state by their number; with        the sweeper removes those whose record is gone
                         `:<tenant>`, that tenant's
    flow         hash    how fast each lane's queue moves                kept for ever, of fixed size
    leases       zset    claimed units by the end of their lease         a member leaves when done or its job ends
    garbage      zset    blobs by the time they go                       the sweeper removes members with their blobs
    pace         hash    how fast pages were read of late                kept for ever, of fixed size
    sweeps       hash    when the sweeper looked last                    kept for ever, of fixed size
    outbox       zset    tenants' origins by their next webhook's time   a member leaves with the last of them
    outbox:<sha> zset    an origin's webhooks by their next try          TTL; a member leaves when delivered or given up
    row:<s>:<t>  zset    the same of a tenant's origins of one standing  a member leaves with its last webhook
    rows         zset    those rows by the time of their next webhook    a member leaves with the last of its origins
    deliveries   zset    webhooks by their job's end                     kept for ever, the last 10,000
    delivery:<i> hash    a job's webhook, and how its tries went         TTL
    standing:<s> hash    how a tenant's origin answers, and its rest     TTL
    disabled:<s> string  an endpoint that wants no more of a tenant's    TTL
    dead         hash    dead letters by number                          kept until dropped, the last 1,000
    signing_key  string  signs addresses, the same for all gateways      kept for ever, of fixed size
    totals       hash    counters since the namespace began              kept for ever, of fixed size

A unit is what one message asks for: a span of pages (`1+8`) or `prepare` (count the pages). Each change is one Lua
script that runs whole or not at all and reads the server's clock.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Any, cast

import redis
from pydantic import TypeAdapter

from producer.admission import Accepted, AcceptedBefore, Admission, Known, Lapsed
from producer.blobs import BlobStore, open_store
from producer.errors import (
    Cancelled,
    DeadlineExceeded,
    IdempotencyMismatch,
    NotFound,
    OcrpoolError,
    PoisonDocument,
    RequestInProgress,
    Unavailable,
)
from producer.idempotency import IdempotencyKey
from producer.job import (
    ErrorDetail,
    Job,
    JobResult,
    JobState,
    JobStatus,
    Lane,
    PageFailure,
    PageOutcome,
    PageResult,
    Span,
    Tenant,
    Unit,
)
from producer.outcomes import StoredOutcome, inlined
from producer.page_ranges import numbers
from producer.records import fields_of, fields_of_job, no_job, status_of, unfinished
from producer.redis_url import open_client
from producer.room import Room
from producer.scripts import Scripts, reachable
from producer.settings import Settings

OUTCOME: TypeAdapter[PageResult | PageFailure] = TypeAdapter(PageOutcome)
_EXPIRED = ErrorDetail.of(DeadlineExceeded("The job's deadline passed before all of its pages were read."))
_CANCELLED = ErrorDetail.of(Cancelled("The job was cancelled."))
_POISON = ErrorDetail.of(PoisonDocument("The workers that took this page died, three in a row; it is not tried again."))

#: A blob without a job, and one that was not written to its end, goes after this many seconds. Longer than any upload
#: takes from its `put` to its job.
ORPHAN_S = 3600

#: A key is taken for one that is being used for this many seconds at most: whoever died with it holds it no longer.
BUSY_S = 30

#: Outcomes that are read in one go: Redis answers nobody else meanwhile.
RESULT_PAGES = 100


class Refusal(StrEnum):
    """Why a claim or a write did not take place. None of them is an error: somebody else has seen to it."""

    GONE = "gone"
    FINAL = "final"
    HELD = "held"
    DONE = "done"
    FENCED = "fenced"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a unit."""

    job: Job
    unit: str
    #: Where the unit travelled: quarantined units come one at a time, so one that ends brings the next.
    lane: Lane
    fence: int
    #: Pages of the unit without an outcome; empty for `prepare`.
    pages: tuple[int, ...]
    #: Time that was left to the job when it was claimed.
    deadline_in_s: float


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    publish: tuple[Unit, ...]
    blobs: tuple[str, ...]
    deaths: int
    #: Whether there was as much as one sweep takes, so that the next one may be due at once.
    more: bool = False

    def __add__(self, later: Swept) -> Swept:
        return Swept(self.publish + later.publish, self.blobs + later.blobs, self.deaths + later.deaths, later.more)


class Ledger:
    """The ledger on one Redis server, or on the master that Sentinels name, which has `timeout_s` seconds to answer.

    Outcomes too large for it lie in `blobs`. Safe to share between threads.
    """

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis | None = None,
        *,
        blobs: BlobStore | None = None,
        timeout_s: float = 15,
    ) -> None:
        self.settings = settings
        self.blobs: BlobStore = blobs or open_store(settings)
        self.redis = client or open_client(
            settings.redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(5, timeout_s),
            socket_keepalive=True,
            health_check_interval=5,
            max_connections=256,
        )
        self._room = Room(self.redis, settings.redis_reserve_percent)
        self.scripts = Scripts(self.redis, settings.namespace)

    @property
    def namespace(self) -> str:
        return self.scripts.namespace

    def close(self) -> None:
        self.redis.close()

    def ping(self) -> None:
        """Raises `Unavailable` when the server does not answer."""
        with reachable():
            self.redis.ping()

    # Jobs

    def expect_blob(self, blob: str) -> None:
        """Say that the blob is about to be stored: it goes after `ORPHAN_S` unless a job is accepted that owns it.

        Raises:
            Unavailable: Redis cannot be reached, or is full.
        """
        self.scripts.run("expect_blob", blob, _ms(ORPHAN_S))

    def recall(self, document: str, blob: str) -> Known | None:
        """The job whose pages a document with this digest is given, if the pool's workers would read it alike;
        otherwise, and without a digest, `expect_blob`."""
        return self.recall_all([(document, blob)])[0]

    def recall_all(self, sought: Sequence[tuple[str, str]]) -> list[Known | None]:
        """`recall` for some hundreds in one go, each a digest and a blob."""
        if not sought:
            return []
        return [_known(one) for one in self.scripts.run("recall", _ms(ORPHAN_S), *chain.from_iterable(sought))]

    def recall_page(self, pixels: str) -> bytes | None:
        """The outcome (JSON) of a page with this digest of its pixels."""
        return cast("bytes | None", self.scripts.run("recall_page", pixels))

    def expect_derived(self, job_id: str, blob: str) -> tuple[float, bool]:
        """Say that the blob is about to be made of a final job's result, as `expect_blob` does.

        Returns how long the job is kept yet, in seconds, and whether the blob is there already.

        Raises:
            NotFound: there is no such job, or it has not ended.
        """
        return self._derive(job_id, blob, str(_ms(ORPHAN_S)))

    def keep_derived(self, job_id: str, blob: str) -> None:
        """Say that this blob is stored: it goes when the job's result does. Raises `NotFound`."""
        self._derive(job_id, blob, "")

    def _derive(self, job_id: str, blob: str, orphan_ms: str) -> tuple[float, bool]:
        found = self.scripts.run("derive", job_id, blob, orphan_ms)
        if not found:
            raise no_job(job_id)
        return found[0] / 1000, bool(found[1])

    def accept(
        self,
        job: Job,
        document_pages: int | None,
        key: IdempotencyKey | None = None,
        *,
        document: str = "",
        known: Known | None = None,
        message: Callable[[Unit], str] | None = None,
    ) -> Accepted:
        """Record the job and, with a `message` maker for its units, publish them, unless it has to be on the disk
        before. A key is known for as long as its job is.

        With the digest of its `document` (`producer.caching`) its pages may be given to later jobs. It follows one that
        is being read, unless its options say otherwise, and is final at once with the pages of a `known` one.

        Raises:
            InvalidRequest: the document has none of the pages that were asked for.
            AcceptedBefore: the key has brought a job for this very request, or the job that is tried again has been
                before.
            NotFound, NotFinished: the job that is tried again is gone, or has not ended.
            IdempotencyMismatch: it has brought one for another.
            QueueFull: `max_queued_jobs` jobs are unfinished.
            QuotaExceeded, TooLarge: the job's tenant has used up what it may have, or may have no document so large.
            Unavailable: Redis cannot be reached, is full but for its reserve, or does not get the job to its disk
                (`durable`).
        """
        with reachable():
            self._room.check()
        admission = Admission(job, document_pages, self.settings, key, document, known, message)
        [verdict], lost = self._ask([admission.request()])
        return self._admitted(admission, verdict, lost)

    def accept_all(self, admissions: Sequence[Admission]) -> list[Accepted | AcceptedBefore | Lapsed | OcrpoolError]:
        """`accept` for many jobs in one go: what it returns or raises for each.

        Raises:
            Unavailable: Redis cannot be reached, or is full but for its reserve; some may have been accepted.
        """
        with reachable():
            self._room.check()
        answers: dict[str, Accepted | AcceptedBefore | Lapsed | OcrpoolError] = {}
        asked: dict[str, tuple[Admission, str]] = {}
        for admission in admissions:
            try:
                asked[admission.job.id] = admission, admission.request()
            except OcrpoolError as refusal:
                answers[admission.job.id] = refusal
        verdicts, lost = self._ask([request for _, request in asked.values()])
        for (admission, _), verdict in zip(asked.values(), verdicts, strict=True):
            try:
                answers[admission.job.id] = self._admitted(admission, verdict, lost)
            except (AcceptedBefore, Lapsed, OcrpoolError) as other:
                answers[admission.job.id] = other
        return [answers[admission.job.id] for admission in admissions]

    def _ask(self, requests: Sequence[str]) -> tuple[list[Any], str]:
        """The answer to each, and in one sentence what kept them from the disk, where they have to be on it."""
        settings = self.settings
        if requests and settings.durable:
            return self.scripts.run_durably("accept", requests, settings.durable_replicas, settings.durable_timeout_s)
        if len(requests) == 1:  # without a pipeline, which costs as much again
            return [self.scripts.run("accept", *requests)], ""
        return self.scripts.run_each("accept", [(request,) for request in requests]), ""

    def _admitted(self, admission: Admission, verdict: Any, lost: str) -> Accepted:
        """What came of it. A job that the disk has lost is taken back."""
        if lost:
            if admission.recorded(verdict):
                self._end(admission.job.id, JobState.CANCELLED, _CANCELLED)
                self._forget(admission.key)
            raise Unavailable(lost)
        return admission.outcome(verdict)

    def _forget(self, key: IdempotencyKey | None) -> None:
        if key:
            with reachable():
                self.redis.delete(f"{self.namespace}:key:{key.name}")

    @contextmanager
    def sole_use(self, name: str) -> Iterator[None]:
        """Keep others from sending a request under the idempotency key of that name meanwhile.

        Whatever they do, `accept` brings one job: this spares the second one its upload.

        Raises:
            RequestInProgress: another one is doing so.
        """
        note = f"busy:{name}"
        if not self.scripts.run("note", note, "1", _ms(BUSY_S), "1"):
            raise RequestInProgress("Another request with this idempotency key is being answered.")
        try:
            yield
        finally:
            with suppress(redis.exceptions.RedisError):  # it goes by itself
                self.redis.delete(f"{self.namespace}:{note}")

    def use_for(self, name: str, fingerprint: str) -> None:
        """Say what the idempotency key of that name is used for, where that is more than one job.

        Raises:
            IdempotencyMismatch: it was used for something else.
        """
        key, ttl_s = f"{self.namespace}:request:{name}", int(self.settings.deadline_s + self.settings.result_ttl_s)
        with reachable():
            self.redis.set(key, fingerprint, nx=True, ex=max(1, ttl_s))
            if self.redis.get(key) not in (None, fingerprint.encode()):
                raise IdempotencyMismatch("The idempotency key was used with other documents, names or options.")

    def plan(self, claim: Claim, spans: Sequence[Span]) -> list[Unit]:
        """Replace the claimed `prepare` by the job's spans, and return the units to publish: none if it came late."""
        units, lane = [str(span) for span in spans], claim.job.options.lane.value
        pages_total = sum(span.count for span in spans)
        verdict = self.scripts.run("plan", claim.job.id, claim.fence, pages_total, lane, *units)
        return [(claim.job.id, unit, lane) for unit in units] if verdict == b"planned" else []

    def fail(self, claim: Claim, error: ErrorDetail) -> bool:
        """Fail a job whose pages cannot be counted. False if the claim is no longer this worker's."""
        return self._end(claim.job.id, JobState.FAILED, error, str(claim.fence)) == b"ended"

    # Whoever asks as a tenant is told of another's job what is told where there is none.

    def cancel(self, job_id: str, tenant: Tenant | None = None) -> None:
        """Cancel the job; one that has ended stays as it is.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
        """
        if self._end(job_id, JobState.CANCELLED, _CANCELLED, tenant=tenant) == b"gone":
            raise no_job(job_id)

    def _end(
        self, job_id: str, state: JobState, error: ErrorDetail, fence: str = "", tenant: Tenant | None = None
    ) -> bytes:
        ttl_s, owner = int(self.settings.result_ttl_s), "" if tenant is None else f"={tenant}"
        told = error.model_dump_json()
        return cast(bytes, self.scripts.run("finish_job", job_id, state.value, told, ttl_s, fence, owner))

    def status(self, job_id: str, tenant: Tenant | None = None) -> JobStatus:
        """Where the job stands.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
        """
        return status_of(job_id, self._fields(job_id, tenant))

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Where those jobs stand that are still there, in one go, whosever they are."""
        found = self.scripts.run_each("status", [(job_id,) for job_id in job_ids])
        return [status_of(job_id, fields_of(flat)) for job_id, flat in zip(job_ids, found, strict=True) if flat]

    def _fields(self, job_id: str, tenant: Tenant | None) -> dict[bytes, bytes]:
        return fields_of_job(job_id, self.scripts.run("status", job_id), tenant)

    def result(self, job_id: str, tenant: Tenant | None = None) -> JobResult:
        """The final job with its pages.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
            NotFinished: the job is queued or running.
            Unavailable: Redis cannot be reached, or the blob store, where one of its pages lies there.
        """
        flat, *few = self.scripts.run("result", job_id, RESULT_PAGES)
        fields = fields_of_job(job_id, flat, tenant)
        status = status_of(job_id, fields)
        if not status.final:
            raise unfinished(status.state)
        pages = islice(numbers(json.loads(fields[b"record"])["options"]["pages"]), status.pages_total or 0)
        found = self._few_outcomes(fields_of(few[0]), pages) if few else self._outcomes(job_id, pages)
        outcomes = tuple(OUTCOME.validate_json(outcome) for outcome in found)
        if len(outcomes) < status.pages_done + status.pages_failed:
            raise NotFound(f"The job {job_id} is gone.")
        return JobResult(
            id=job_id,
            name=status.name,
            state=status.state,
            pages=outcomes,
            pages_total=status.pages_total,
            error=status.error,
        )

    def _few_outcomes(self, found: Mapping[bytes, bytes], pages: Iterator[int]) -> Iterator[bytes]:
        each = (found.get(str(page).encode()) for page in pages)
        return inlined(filter(None, each), self.blobs)

    def _outcomes(self, job_id: str, pages: Iterator[int]) -> Iterator[bytes]:
        """A final job's outcomes of these pages. They change no more, so nobody has to wait until all are read."""
        while some := [str(page) for page in islice(pages, RESULT_PAGES)]:
            with reachable():
                found = cast(list[bytes | None], self.redis.hmget(f"{self.namespace}:pages:{job_id}", some))
            yield from inlined(filter(None, found), self.blobs)

    def job(self, job_id: str, tenant: Tenant | None = None) -> Job:
        """The job's record.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
        """
        with reachable():
            record = cast("bytes | None", self.redis.hget(f"{self.namespace}:job:{job_id}", "record"))
        job = Job.model_validate_json(record) if record else None
        if job is None or tenant not in (None, job.tenant):
            raise no_job(job_id)
        return job

    def bury(self, letter: Mapping[str, str]) -> None:
        """Keep a dead letter; see `producer.dead`."""
        self.scripts.run("bury", json.dumps(dict(letter)))

    # Units of work

    def claim(self, job_id: str, unit: str, worker: str, token: str = "", turn: Lane | None = None) -> Claim | Refusal:
        """Take a unit for `lease_s`: every older holder's writes are refused from now on.

        With `turn`, take the unit whose turn it is in that lane, and this one only if none waits there.

        Whoever cannot know whether a claim took place asks again with its `token`, and is given the claim that stands.
        """
        reply = self.scripts.run(
            "claim",
            job_id,
            unit,
            turn or "",
            worker,
            _ms(self.settings.lease_s),
            int(self.settings.result_ttl_s),
            _EXPIRED.model_dump_json(),
            token or uuid.uuid4().hex,
        )
        if reply[0] != b"claimed":
            return Refusal(reply[0].decode())
        return Claim(
            job=Job.model_validate_json(reply[2]),
            unit=reply[5].decode(),
            lane=Lane(reply[4].decode()),
            fence=int(reply[1]),
            pages=tuple(int(page) for page in reply[6:]),
            deadline_in_s=int(reply[3]) / 1000,
        )

    def renew(self, claims: Sequence[Claim]) -> list[bool]:
        """Prolong the claims by `lease_s`; False for each that no longer stands: its job is final, or it was taken."""
        return self._prolong(claims, _ms(self.settings.lease_s))

    def let_lapse(self, claims: Sequence[Claim]) -> None:
        """Let the claims run out now: the next sweep counts a death for each, as if this worker had died with it."""
        self._prolong(claims, 1)

    def _prolong(self, claims: Sequence[Claim], lease_ms: int) -> list[bool]:
        if not claims:
            return []
        rows = [field for claim in claims for field in (claim.job.id, claim.unit, claim.fence)]
        return [bool(stands) for stands in self.scripts.run("renew", lease_ms, *rows)]

    def release(self, claim: Claim, *, again: bool, unforeseen: ErrorDetail | None = None) -> list[Unit]:
        """Give the claim back, to be done `again` or not. Returns the units to publish.

        What was `unforeseen` is counted: the third time it is the outcome of what is left of the unit.
        """
        failed = (unforeseen.model_dump_json(), int(self.settings.result_ttl_s)) if unforeseen else ()
        return _units(
            self.scripts.run("release", claim.job.id, claim.unit, claim.fence, "1" if again else "0", *failed)
        )

    def finish_page(
        self,
        claim: Claim,
        outcome: PageResult | PageFailure,
        trace: str = "",
        *,
        reader: str = "",
        pixels: str = "",
    ) -> JobState | Refusal:
        """Write one page's outcome, once; the job's last page makes the job final. Returns the job's state.

        `trace` tells in JSON where its time went; see `producer.timeline`. Later jobs may be given the outcome if it is
        said how it was read (`announce`), and one with the same `pixels`, their digest, this page.

        Raises:
            Unavailable: Redis cannot be reached, or the blob store, where the outcome is larger than
                `result_inline_bytes`.
        """
        error = outcome.error.model_dump_json() if isinstance(outcome, PageFailure) else ""
        record, blob = outcome.model_dump_json(), ""
        content = record.encode()
        if len(content) > self.settings.result_inline_bytes:
            stored = StoredOutcome.of(claim.job.id, outcome.page, content)
            record, blob = stored.model_dump_json(), stored.blob
            refused = self.scripts.run(
                "expect_outcome", claim.job.id, claim.unit, claim.fence, outcome.page, blob, _ms(ORPHAN_S)
            ).decode()
            if refused in tuple(Refusal):
                return Refusal(refused)
            self.blobs.put_new(blob, content)
        verdict = self.scripts.run(
            "finish_page",
            claim.job.id,
            claim.unit,
            claim.fence,
            outcome.page,
            record,
            error,
            int(self.settings.result_ttl_s),
            blob,
            trace,
            reader,
            pixels,
            max(1, int(self.settings.cache_ttl_s)),
        ).decode()
        return Refusal(verdict) if verdict in tuple(Refusal) else JobState(verdict)

    def sweep(self, queue_prefix: str, limit: int = 200) -> Swept:
        """Expire jobs past their deadline, and find units that nobody holds and blobs that nobody needs."""
        publish, blobs, deaths = self.scripts.run(
            "sweep",
            limit,
            _ms(self.settings.unclaimed_after_s),
            int(self.settings.result_ttl_s),
            _EXPIRED.model_dump_json(),
            _POISON.model_dump_json(),
            queue_prefix,
            _ms(self.settings.lease_s),
        )
        return Swept(
            publish=tuple(_units(publish)),
            blobs=tuple(blob.decode() for blob in blobs),
            deaths=deaths,
            more=max(len(publish), len(blobs)) >= limit,
        )

    def take_turn(self, interval_s: float) -> bool:
        """Whether nobody else has begun to sweep within this time."""
        return bool(self.scripts.run("note", "sweeping", "1", _ms(interval_s), "1"))

    def forget_blobs(self, blobs: Sequence[str]) -> None:
        """Say that the swept blobs are deleted."""
        if blobs:
            with reachable():
                self.redis.zrem(f"{self.namespace}:garbage", *blobs)

    def postpone_blobs(self, blobs: Sequence[str], delay_s: float) -> None:
        """Say that the swept blobs could not be deleted: they are due again after the delay."""
        if blobs:
            with reachable():
                seconds, _ = self.redis.time()
                due = 1000 * seconds + _ms(delay_s)
                self.redis.zadd(f"{self.namespace}:garbage", dict.fromkeys(blobs, due), xx=True)

    def forget_jobs(self, limit: int = 1000) -> int:
        """Take jobs whose records are gone out of the lists of jobs, and return how many."""
        return int(self.scripts.run("forget_jobs", limit))

    # The pool as a whole

    def signing_key(self) -> bytes:
        """The random key that signs addresses: the same for whoever asks."""
        name = f"{self.namespace}:signing_key"
        with reachable():
            self.redis.set(name, secrets.token_bytes(32), nx=True)
            return cast(bytes, self.redis.get(name))

    def totals(self) -> dict[str, int]:
        """Counters since the namespace began: `jobs_<state>`, `jobs_accepted`, `pages_succeeded`, `pages_failed`,
        `dead_letters`, `webhooks_delivered`, `webhooks_failed`, and of the cache
        `documents_hit`, `_missed`, `_joined`, `_parted` and `cached_bytes`."""
        with reachable():
            found = cast(dict[bytes, bytes], self.redis.hgetall(f"{self.namespace}:totals"))
        return {name.decode(): int(count) for name, count in found.items()}

    def backlog(self) -> dict[str, int]:
        """Jobs `unfinished` and `running`, units `leased`, each lane's units `waiting_<l>` and messages `queue_<l>`;
        `webhooks` to be sent."""
        counts = self.scripts.run("backlog", f"{self.namespace}.")
        backlog = {name.decode(): count for name, count in zip(counts[::2], counts[1::2], strict=True)}
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for queue in self.outboxes():
                pipe.zcard(queue)
            return {**backlog, "webhooks": sum(pipe.execute())}

    def outboxes(self) -> list[str]:
        """The keys below which webhooks wait, one an origin."""
        origins = cast(list[bytes], self.redis.zrange(f"{self.namespace}:outbox", 0, -1))
        return [f"{self.namespace}:outbox:{origin.decode()}" for origin in origins]

    def messages(self, queues: Collection[str]) -> int:
        """How many messages wait in these queues."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(queue)
            return sum(pipe.execute())

    def announce(self, worker: str, description: Mapping[str, object], reader: str = "") -> None:
        """Say that the worker lives and is ready; forgotten after three missed renewals.

        `reader` is the same for workers that read every page alike: a hexadecimal digest of how.
        """
        ttl_ms = _ms(3 * self.settings.lease_renew_s)
        self.scripts.run("reader", worker, reader, ttl_ms)
        self.scripts.run("note", f"worker:{worker}", json.dumps(dict(description)), ttl_ms, "0")

    def withdraw(self, worker: str) -> None:
        """Say that the worker is leaving."""
        self.scripts.run("reader", worker, "", 1)
        with reachable():
            self.redis.delete(f"{self.namespace}:worker:{worker}")

    def is_ready(self, worker: str) -> bool:
        """Whether the worker has said so, and lives."""
        with reachable():
            return bool(self.redis.exists(f"{self.namespace}:worker:{worker}"))

    def workers(self) -> dict[str, dict[str, Any]]:
        """The live, ready workers by name, with their descriptions."""
        prefix = f"{self.namespace}:worker:"
        with reachable():
            keys = sorted(self.redis.scan_iter(match=f"{prefix}*", count=1000))
            values = cast(list[bytes | None], self.redis.mget(keys)) if keys else []
        return {
            key.decode().removeprefix(prefix): json.loads(value)
            for key, value in zip(keys, values, strict=True)
            if value is not None
        }


def _known(found: Sequence[bytes]) -> Known | None:
    return Known(*(field.decode() for field in found)) if found else None


def _units(rows: Sequence[Sequence[bytes]]) -> list[Unit]:
    return [(job_id.decode(), unit.decode(), lane.decode()) for job_id, unit, lane in rows]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
