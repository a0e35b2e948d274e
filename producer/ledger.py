"""The durable record of jobs. The ledger, not the broker, is the truth.

Keys, below the namespace:

    job:<id>     hash    the job's record, state, counts and times       TTL
    pages:<id>   hash    page number -> outcome (JSON)                   TTL
    outcomes:<id> set    blobs that hold outcomes too large for Redis    TTL
    order:<id>   list    pages in the order of their outcomes            TTL
    timeline:<id> list   who held which unit, and what came of it        TTL
    batch:<t.>:<b.> list the jobs of that batch of that tenant's         TTL, of the job that lives longest
    spans:<id>   hash    unit -> fence, lane, deaths, worker             TTL, deleted when the job ends
    key:<digest> hash    an idempotency key -> its job and request       TTL, that of the job
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
    outbox       zset    origins by the time of their next webhook       a member leaves with the last of them
    outbox:<sha> zset    an origin's webhooks by their next try          TTL; a member leaves when delivered or given up
    deliveries   zset    webhooks by their job's end                     kept for ever, the last 10,000
    delivery:<i> hash    a job's webhook, and how its tries went         TTL
    slow:<sha>   hash    an origin that takes long, and its rest         TTL
    disabled:<s> string  an endpoint that wants no more webhooks         TTL
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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar, cast

import redis
from pydantic import TypeAdapter

from producer.blobs import BlobStore, open_store
from producer.errors import (
    Cancelled,
    DeadlineExceeded,
    IdempotencyMismatch,
    InvalidRequest,
    NotFinished,
    NotFound,
    OcrpoolError,
    PoisonDocument,
    QueueFull,
    QuotaExceeded,
    RequestInProgress,
    TooLarge,
    Unavailable,
)
from producer.idempotency import IdempotencyKey
from producer.job import (
    PREPARE,
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
from producer.limits import COUNTED, Limits
from producer.outcomes import StoredOutcome, inlined
from producer.page_ranges import numbers
from producer.redis_url import open_client
from producer.room import Room
from producer.settings import Settings

OUTCOME: TypeAdapter[PageResult | PageFailure] = TypeAdapter(PageOutcome)
_EXPIRED = ErrorDetail.of(DeadlineExceeded("The job's deadline passed before all of its pages were read."))
_CANCELLED = ErrorDetail.of(Cancelled("The job was cancelled."))
_POISON = ErrorDetail.of(PoisonDocument("The workers that took this page died, three in a row; it is not tried again."))

#: The server's errors that pass, by their first word, and what each says.
_TEMPORARY = {
    "MISCONF": "cannot write to its disk",
    "BUSY": "is busy with a script",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica that has lost its master",
    "NOREPLICAS": "has too few replicas",
    "TRYAGAIN": "is moving its keys",
}

#: A blob without a job, and one that was not written to its end, goes after this many seconds. Longer than any upload
#: takes from its `put` to its job.
ORPHAN_S = 3600

#: A key is taken for one that is being used for this many seconds at most: whoever died with it holds it no longer.
BUSY_S = 30

#: Jobs that a batch may have.
BATCH_JOBS = 10_000

#: Webhooks that one look for a due one passes by at most.
TAKE_LOOKS = 200

#: Outcomes that are read in one go: Redis answers nobody else meanwhile.
RESULT_PAGES = 100


class AcceptedBefore(Exception):
    """The idempotency key has brought a job for the same request."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class Lapsed(Exception):
    """The pages that were known are so no longer."""


@dataclass(frozen=True)
class Known:
    """A final job that has the pages of another's document, and where that lies."""

    job_id: str
    blob: str


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


Returned = TypeVar("Returned")


@contextmanager
def reachable() -> Iterator[None]:
    """Turn the client's connection errors into `Unavailable`."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise Unavailable("The pool's Redis is full.") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise Unavailable("The pool's Redis cannot be reached.") from error
    except redis.exceptions.ReadOnlyError as error:
        raise Unavailable("The pool's Redis is a replica that takes no writes.") from error
    except redis.exceptions.ResponseError as error:
        kind = str(error).partition(" ")[0]
        if kind not in _TEMPORARY:
            raise
        raise Unavailable(f"The pool's Redis {_TEMPORARY[kind]}.") from error


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
        self.namespace = settings.namespace
        self.redis = client or open_client(
            settings.redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(5, timeout_s),
            socket_keepalive=True,
            health_check_interval=5,
            max_connections=256,
        )
        self._room = Room(self.redis, settings.redis_reserve_percent)
        folder = files("producer") / "lua"
        prelude = (folder / "prelude.lua").read_text()
        self._scripts: dict[str, Callable[..., Any]] = {
            entry.name.removesuffix(".lua"): self.redis.register_script(_source(prelude, entry.read_text()))
            for entry in folder.iterdir()
            if entry.name.endswith(".lua") and entry.name != "prelude.lua"
        }

    def close(self) -> None:
        self.redis.close()

    def read(self, script: str, *args: object) -> Any:
        """What a script that only reads returns."""
        return self._run(script, *args)

    def _run(self, script: str, *args: object) -> Any:
        with reachable():
            return self._scripts[script](keys=[self.namespace], args=args)

    def _run_each(self, script: str, runs: Iterable[Sequence[object]]) -> list[Any]:
        """What the script returns for each of these arguments, in one go."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for args in runs:
                self._scripts[script](keys=[self.namespace], args=args, client=pipe)
            return list(pipe.execute())

    def _run_durably(self, script: str, *runs: str) -> tuple[list[Any], str]:
        """Run the script once for each argument; with `durable`, wait until its writes are on the disk.

        Returns what the runs returned, and in one sentence what kept their writes from the disk.
        """
        if not self.settings.durable and len(runs) == 1:
            return [self._run(script, *runs)], ""
        needed = self.settings.durable_replicas if self.settings.durable else 0
        written: Any = (1, 0)
        with reachable(), self.redis.pipeline(transaction=False) as pipe:  # on one connection, whose writes count
            for argument in runs:
                self._scripts[script](keys=[self.namespace], args=[argument], client=pipe)
            if self.settings.durable:
                pipe.execute_command("WAITAOF", 1, needed, _ms(self.settings.durable_timeout_s))
            verdicts = pipe.execute(raise_on_error=False)
            if self.settings.durable:
                written = verdicts.pop()
            for verdict in verdicts:
                if isinstance(verdict, Exception):
                    raise verdict
        if isinstance(written, redis.exceptions.ResponseError):
            return verdicts, f"OCRPOOL_DURABLE needs Redis 7.2 with `appendonly yes`, which says: {written}"
        local, replicas = written
        if not local:
            return verdicts, "The pool's Redis did not write the job to its disk in time; it is not accepted."
        if replicas < needed:
            return verdicts, "Too few replicas of the pool's Redis wrote the job to their disks; it is not accepted."
        return verdicts, ""

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
        self._run("expect_blob", blob, _ms(ORPHAN_S))

    def recall(self, document: str) -> Known | None:
        """The job whose pages a document with this digest is given, if the pool's workers would read it alike."""
        found = self._run("recall", document)
        return Known(*(field.decode() for field in found)) if found else None

    def recall_page(self, pixels: str) -> bytes | None:
        """The outcome (JSON) of a page with this digest of its pixels."""
        return cast("bytes | None", self._run("recall_page", pixels))

    def expect_blobs(self, blobs: Sequence[str]) -> None:
        """`expect_blob` for many, in one go."""
        self._run_each("expect_blob", [(blob, _ms(ORPHAN_S)) for blob in blobs])

    def accept(
        self,
        job: Job,
        document_pages: int | None,
        key: IdempotencyKey | None = None,
        *,
        document: str = "",
        known: Known | None = None,
    ) -> list[Unit]:
        """Record the job, and return the units to publish. A key is known for as long as its job is.

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
        admission, units = self._admission(job, document_pages, key, document, known)
        [verdict], lost = self._run_durably("accept", admission)
        return self._admitted(job, units, verdict, lost, key)

    def accept_all(self, jobs: Sequence[tuple[Job, int | None]]) -> list[list[Unit] | OcrpoolError]:
        """`accept` for many jobs with their documents' pages, in one go: each job's units, or why it is refused.

        Raises:
            Unavailable: Redis cannot be reached, or is full but for its reserve; some may have been accepted.
        """
        with reachable():
            self._room.check()
        answers: dict[str, list[Unit] | OcrpoolError] = {}
        asked: list[tuple[Job, list[Unit]]] = []
        admissions = []
        for job, document_pages in jobs:
            try:
                admission, units = self._admission(job, document_pages)
            except OcrpoolError as refusal:
                answers[job.id] = refusal
            else:
                asked.append((job, units))
                admissions.append(admission)
        verdicts, lost = self._run_durably("accept", *admissions) if admissions else ([], "")
        for (job, units), verdict in zip(asked, verdicts, strict=True):
            try:
                answers[job.id] = self._admitted(job, units, verdict, lost)
            except OcrpoolError as refusal:
                answers[job.id] = refusal
        return [answers[job.id] for job, _ in jobs]

    def _admission(
        self,
        job: Job,
        document_pages: int | None,
        key: IdempotencyKey | None = None,
        document: str = "",
        known: Known | None = None,
    ) -> tuple[str, list[Unit]]:
        """What `accept` is asked, and the units to publish once it has accepted.

        Raises:
            InvalidRequest: the document has none of the pages that were asked for.
        """
        spans = None if document_pages is None else job.options.spans(document_pages, self.settings.span_pages)
        units = [PREPARE] if spans is None else [str(span) for span in spans]
        deadline_s = job.options.deadline_s or self.settings.deadline_s
        admission = {
            "id": job.id,
            "record": job.model_dump_json(),
            "blob": job.blob,
            "max_unfinished": self.settings.max_queued_jobs,
            "deadline_ms": _ms(deadline_s),
            "ttl_s": int(deadline_s + self.settings.result_ttl_s),
            "lane": job.options.lane.value,
            "pages_total": None if spans is None else sum(span.count for span in spans),
            "key": key.name if key else "",
            "fingerprint": key.fingerprint if key else "",
            "webhook": job.options.webhook_url or "",
            "units": units,
            "document": document,
            "source": known.job_id if known else "",
            "follows": job.options.cache,
            "known_s": int(self.settings.cache_ttl_s),
            "known_bytes": self.settings.cache_max_bytes,
            "result_ttl_s": int(self.settings.result_ttl_s),
            "tenant": job.tenant,
            "size_bytes": job.size_bytes,
            "limits": Limits.of_all(self.settings).model_dump(),
        }
        if job.batch:
            admission |= {"batch": job.batch, "batch_most": BATCH_JOBS}
        if job.retry_of:
            admission["retry_of"] = job.retry_of
        return json.dumps(admission), [(job.id, unit, job.options.lane.value) for unit in units]

    def _admitted(
        self, job: Job, units: list[Unit], verdict: Any, lost: str, key: IdempotencyKey | None = None
    ) -> list[Unit]:
        """What came of an admission; see `accept`. One that the disk has lost is taken back."""
        if lost:
            if verdict[0] in (b"accepted", b"follows", b"final"):
                self._end(job.id, JobState.CANCELLED, _CANCELLED)
                self._forget(key)
            raise Unavailable(lost)
        match verdict:
            case [b"same", job_id]:
                raise AcceptedBefore(job_id.decode())
            case [b"mismatch"]:
                raise IdempotencyMismatch("The idempotency key was used with another document, name or options.")
            case [b"full", seconds]:
                most = self.settings.max_queued_jobs
                raise QueueFull(
                    f"The pool holds {most} unfinished jobs and takes no more now.", retry_after_s=seconds or None
                )
            case [b"quota", seconds, limit, most]:
                raise QuotaExceeded(
                    f"{limit.decode()}: a tenant may have {most.decode()} {COUNTED[limit.decode()]}, no more now.",
                    retry_after_s=seconds or None,
                )
            case [b"large", _, limit, most]:
                raise TooLarge(
                    f"{limit.decode()}: the document has {job.size_bytes:,} bytes; at most {int(most):,} are read."
                )
            case [b"lapsed"]:
                raise Lapsed
            case [b"exists" | b"final" | b"follows"]:
                return []
            case [b"batch full"]:
                raise InvalidRequest(f"batch: {job.batch} has {BATCH_JOBS} documents, the most of one batch.")
            case [b"gone"]:
                raise NotFound(f"There is no job {job.retry_of}, or it is gone.")
            case [b"not final"]:
                raise NotFinished(f"The job {job.retry_of} has not ended: its pages are not tried again yet.")
        return units

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
        if not self._run("note", note, "1", _ms(BUSY_S), "1"):
            raise RequestInProgress("Another request with this idempotency key is being answered.")
        try:
            yield
        finally:
            with suppress(redis.exceptions.RedisError):  # it goes by itself
                self.redis.delete(f"{self.namespace}:{note}")

    def plan(self, claim: Claim, spans: Sequence[Span]) -> list[Unit]:
        """Replace the claimed `prepare` by the job's spans, and return the units to publish: none if it came late."""
        units, lane = [str(span) for span in spans], claim.job.options.lane.value
        pages_total = sum(span.count for span in spans)
        verdict = self._run("plan", claim.job.id, claim.fence, pages_total, lane, *units)
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
            raise _no_job(job_id)

    def _end(
        self, job_id: str, state: JobState, error: ErrorDetail, fence: str = "", tenant: Tenant | None = None
    ) -> bytes:
        ttl_s, owner = int(self.settings.result_ttl_s), "" if tenant is None else f"={tenant}"
        return cast(bytes, self._run("finish_job", job_id, state.value, error.model_dump_json(), ttl_s, fence, owner))

    def status(self, job_id: str, tenant: Tenant | None = None) -> JobStatus:
        """Where the job stands.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
        """
        return status_of(job_id, self._fields(job_id, tenant))

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Where those jobs stand that are still there, in one go, whosever they are."""
        found = self._run_each("status", [(job_id,) for job_id in job_ids])
        return [status_of(job_id, fields_of(flat)) for job_id, flat in zip(job_ids, found, strict=True) if flat]

    def _fields(self, job_id: str, tenant: Tenant | None) -> dict[bytes, bytes]:
        return fields_of_job(job_id, self._run("status", job_id), tenant)

    def result(self, job_id: str, tenant: Tenant | None = None) -> JobResult:
        """The final job with its pages.

        Raises:
            NotFound: there is no such job, or it is not the tenant's.
            NotFinished: the job is queued or running.
            Unavailable: Redis cannot be reached, or the blob store, where one of its pages lies there.
        """
        fields = self._fields(job_id, tenant)
        status = status_of(job_id, fields)
        if not status.final:
            raise NotFinished(f"The job is {status.state.value}; its result is there once it has finished.")
        pages = islice(numbers(json.loads(fields[b"record"])["options"]["pages"]), status.pages_total or 0)
        outcomes = tuple(OUTCOME.validate_json(outcome) for outcome in self._outcomes(job_id, pages))
        if len(outcomes) < status.pages_done + status.pages_failed:
            raise NotFound(f"The job {job_id} is gone.")
        return JobResult(id=job_id, name=status.name, state=status.state, pages=outcomes, error=status.error)

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
            raise _no_job(job_id)
        return job

    def bury(self, letter: Mapping[str, str]) -> None:
        """Keep a dead letter; see `producer.dead`."""
        self._run("bury", json.dumps(dict(letter)))

    # Units of work

    def claim(self, job_id: str, unit: str, worker: str, token: str = "", turn: Lane | None = None) -> Claim | Refusal:
        """Take a unit for `lease_s`: every older holder's writes are refused from now on.

        With `turn`, take the unit whose turn it is in that lane, and this one only if none waits there.

        Whoever cannot know whether a claim took place asks again with its `token`, and is given the claim that stands.
        """
        reply = self._run(
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
        return [bool(stands) for stands in self._run("renew", lease_ms, *rows)]

    def release(self, claim: Claim, *, again: bool) -> list[Unit]:
        """Give the claim back, to be done `again` or not. Returns the units to publish."""
        return _units(self._run("release", claim.job.id, claim.unit, claim.fence, "1" if again else "0"))

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
            refused = self._run(
                "expect_outcome", claim.job.id, claim.unit, claim.fence, outcome.page, blob, _ms(ORPHAN_S)
            ).decode()
            if refused in tuple(Refusal):
                return Refusal(refused)
            self.blobs.put_new(blob, content)
        verdict = self._run(
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
        publish, blobs, deaths = self._run(
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
        return bool(self._run("note", "sweeping", "1", _ms(interval_s), "1"))

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
        return int(self._run("forget_jobs", limit))

    # Webhooks: see `producer.outbox`

    def outbox(self) -> list[str]:
        """The jobs whose webhooks are to be sent."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for queue in self._outboxes():
                pipe.zrange(queue, 0, -1)
            return [job_id.decode() for jobs in pipe.execute() for job_id in jobs]

    def _outboxes(self) -> list[str]:
        origins = cast(list[bytes], self.redis.zrange(f"{self.namespace}:outbox", 0, -1))
        return [f"{self.namespace}:outbox:{origin.decode()}" for origin in origins]

    def take_delivery(self, lease_s: float, busy: Collection[str]) -> tuple[str, str, int, dict[str, str]] | None:
        """A webhook that is due, for `lease_s`, unless its origin is `busy`: its job, its origin's name in the ledger,
        a fence and its record."""
        found = self._run("take_delivery", _ms(lease_s), TAKE_LOOKS, json.dumps(list(busy)))
        if not found:
            return None
        job_id, origin, fence, *record = found
        fields = {name.decode(): value.decode() for name, value in fields_of(record).items()}
        return job_id.decode(), origin.decode(), fence, fields

    def settle_delivery(
        self, job_id: str, fence: int, verdict: str, outcome: str, *, delay_s: float, slow: bool, disabled: bool
    ) -> str:
        """Write how a try went: `delivered`, `again` after `delay_s`, or `dead`."""
        flags = ["1" if flag else "0" for flag in (slow, disabled)]
        return cast(bytes, self._run("settle_delivery", job_id, fence, verdict, _ms(delay_s), outcome, *flags)).decode()

    def replay_delivery(self, job_id: str) -> bool:
        """Let the job's webhook be sent anew, and at once. False if there is none."""
        return bool(self._run("replay_delivery", job_id) == b"replayed")

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
        counts = self._run("backlog", f"{self.namespace}.")
        backlog = {name.decode(): count for name, count in zip(counts[::2], counts[1::2], strict=True)}
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for queue in self._outboxes():
                pipe.zcard(queue)
            return {**backlog, "webhooks": sum(pipe.execute())}

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
        self._run("reader", worker, reader, ttl_ms)
        self._run("note", f"worker:{worker}", json.dumps(dict(description)), ttl_ms, "0")

    def withdraw(self, worker: str) -> None:
        """Say that the worker is leaving."""
        self._run("reader", worker, "", 1)
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


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id}, or it is gone.")


def fields_of_job(job_id: str, flat: Sequence[bytes], tenant: Tenant | None) -> dict[bytes, bytes]:
    """A job's fields and values.

    Raises:
        NotFound: there are none, or the job is not the tenant's.
    """
    fields = fields_of(flat)
    if not fields or tenant not in (None, fields.get(b"tenant", b"").decode()):
        raise _no_job(job_id)
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


def _source(prelude: str, script: str) -> str:
    """The whole script. Its flags, if any, are for the server, which looks for them in the first line alone."""
    flags, _, rest = script.partition("\n")
    return f"{flags}\n{prelude}{rest}" if flags.startswith("#!") else prelude + script


def _units(rows: Sequence[Sequence[bytes]]) -> list[Unit]:
    return [(job_id.decode(), unit.decode(), lane.decode()) for job_id, unit, lane in rows]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: bytes) -> float:
    return int(ms) / 1000


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(job: Mapping[bytes, bytes], field: bytes, kind: Callable[[bytes], Returned]) -> Returned | None:
    return kind(job[field]) if field in job else None
