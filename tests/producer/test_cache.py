"""What was read is given to the same document again, and to nothing else; who waits for another's pages loses none."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from producer.blobs import MemoryStore
from producer.caching import document_digest
from producer.documents import content_digest
from producer.errors import IdempotencyMismatch, InvalidRequest, NotFound, OcrpoolError, QueueFull
from producer.job import PREPARE, JobState, Lane, PageFailure, PageResult, ReadOptions, Span
from producer.ledger import Claim, Ledger
from producer.producer import JobHandle, Producer
from producer.settings import Settings
from tests.conftest import assert_every_key_is_owned
from tests.producer.gateway.serving import BROKEN, PDF, PNG, count_pages, page_read
from tests.producer.test_ledger import make_job

ONE, OTHER = "1a", "2b"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"cache_ttl_s": 300.0})


@pytest.fixture
def producer(settings: Settings, ledger: Ledger) -> Producer:
    return Producer(settings, ledger=ledger, blobs=MemoryStore())


def read(ledger: Ledger, job: JobHandle, *, reader: str = ONE, failing: bool = False, text: str = "") -> None:
    """Do what a worker does with a page."""
    claim = ledger.claim(job.id, "1+1", "gpu0")
    outcome: PageResult | PageFailure = PageFailure(page=1, error=BROKEN) if failing else page_read(1)
    if text and isinstance(outcome, PageResult):
        outcome = outcome.model_copy(update={"text": text})
    assert isinstance(ledger.finish_page(claim, outcome, reader=reader), JobState)  # type: ignore[arg-type]


def first(producer: Producer, options: ReadOptions | None = None, **named: Any) -> JobHandle:
    """A document that is read, by the one worker that there is."""
    producer.ledger.announce("gpu0", {}, ONE)
    job = producer.submit(PNG, options)
    read(producer.ledger, job, **named)
    return job


def is_hit(job: JobHandle) -> bool:
    return job.status().state is JobState.SUCCEEDED and job.status().cached


def test_the_same_document_is_final_as_it_is_handed_in(producer: Producer) -> None:
    earlier = first(producer, text='"cached":false')
    job = producer.submit(PNG, name="again.png")
    status, result = job.status(), job.result()
    assert job.id != earlier.id
    assert (status.state, status.pages_total, status.pages_done) == (JobState.SUCCEEDED, 1, 1)
    assert (status.cached, earlier.status().cached, status.name) == (True, False, "again.png")
    (page,), (original,) = result.pages, earlier.result().pages
    assert isinstance(page, PageResult)
    assert (page.cached, page.text) == (True, '"cached":false')
    assert page.model_copy(update={"cached": False}) == original
    assert producer.ledger.totals() == {
        "jobs_accepted": 2,
        "jobs_succeeded": 2,
        "pages_succeeded": 2,
        "documents_missed": 1,
        "documents_hit": 1,
        "cached_bytes": len(page.model_dump_json()),
    }
    assert producer.ledger.backlog() == dict.fromkeys(producer.ledger.backlog(), 0) | {"queue_interactive": 1}


def test_its_document_stays_for_as_long_as_the_later_job(producer: Producer) -> None:
    earlier = first(producer)
    due = producer.ledger.redis.zscore(f"{producer.ledger.namespace}:garbage", earlier.id)
    time.sleep(0.002)  # The server's clock counts milliseconds
    job = producer.submit(PNG)
    assert producer.blobs.get(producer.ledger.job(job.id).blob) == PNG
    assert producer.ledger.redis.zscore(f"{producer.ledger.namespace}:garbage", earlier.id) > due  # type: ignore[operator]


@pytest.mark.parametrize(
    "other",
    [
        ReadOptions(orientation=True),
        ReadOptions(min_score=0.4),
        ReadOptions(pages="1"),
        ReadOptions(cache=False),
    ],
    ids=lambda options: next(iter(options.model_fields_set)),
)
def test_other_options_are_another_reading(producer: Producer, other: ReadOptions) -> None:
    first(producer)
    assert not is_hit(producer.submit(PNG, other))
    assert is_hit(producer.submit(PNG))


def test_lane_and_deadline_make_no_difference(producer: Producer) -> None:
    first(producer)
    assert is_hit(producer.submit(PNG, ReadOptions(lane=Lane.BULK, deadline_s=60)))


def test_every_option_is_one_that_matters_or_one_that_does_not() -> None:
    """One that comes later is among the first, until somebody says otherwise here."""
    mattering: dict[str, Any] = {"orientation": True, "min_score": 0.1, "pages": "1", "pdf_text": "auto"}
    mattering |= {"detector_threshold": 0.2, "detector_box_threshold": 0.5, "detector_unclip_ratio": 2.0}
    mattering |= {"detector_side_px": 640, "detector_side": "min"}
    others = {"lane": Lane.BULK, "deadline_s": 1, "cache": False, "visualize": True}
    changed = {**mattering, **others, "webhook_url": "https://hooks.example.com"}
    assert changed.keys() == ReadOptions.model_fields.keys() - {"engine"}
    content = content_digest(PNG)
    plain = document_digest(content, ReadOptions(), "")
    differing = {
        name for name, value in changed.items() if document_digest(content, ReadOptions(**{name: value}), "") != plain
    }
    assert differing == mattering.keys()
    assert document_digest(content, ReadOptions(), "other tenant") != plain


def leaves(ledger: Ledger) -> None:
    ledger.withdraw("gpu0")


def is_joined_by_another(ledger: Ledger) -> None:
    ledger.announce("gpu1", {}, OTHER)


def is_replaced(ledger: Ledger) -> None:
    ledger.announce("gpu0", {}, OTHER)


def tells_nothing(ledger: Ledger) -> None:
    ledger.announce("gpu0", {})


@pytest.mark.parametrize("change", [leaves, is_joined_by_another, is_replaced, tells_nothing])
def test_nothing_is_known_unless_every_worker_reads_like_the_one_that_read_it(
    producer: Producer, change: Callable[[Ledger], None]
) -> None:
    first(producer)
    change(producer.ledger)
    assert not is_hit(producer.submit(PNG))
    producer.ledger.withdraw("gpu1")
    producer.ledger.announce("gpu0", {}, ONE)
    assert is_hit(producer.submit(PNG))


def test_a_worker_that_was_killed_counts_no_longer_than_it_would_be_taken_for_alive(
    producer: Producer, settings: Settings
) -> None:
    first(producer)
    dying = Ledger(settings.model_copy(update={"lease_renew_s": 0.01}), producer.ledger.redis)
    dying.announce("gpu1", {}, OTHER)
    end = time.monotonic() + 30
    while not is_hit(producer.submit(PNG)):
        assert time.monotonic() < end


def test_pages_by_several_readers_are_given_to_nobody(producer: Producer) -> None:
    producer.ledger.announce("gpu0", {}, ONE)
    job = producer.submit(PDF)
    count_pages(producer.ledger, job.id, 2)
    claim = producer.ledger.claim(job.id, "1+2", "gpu0")
    for page, reader in ((1, ONE), (2, OTHER)):
        producer.ledger.finish_page(claim, page_read(page), reader=reader)  # type: ignore[arg-type]
    assert job.status().state is JobState.SUCCEEDED
    assert not is_hit(producer.submit(PDF))


@pytest.mark.parametrize("named", [{"failing": True}, {"reader": ""}, {"text": "x" * 2000}])
def test_failures_what_nobody_noted_and_what_is_too_large_are_not_known(
    producer: Producer, settings: Settings, named: dict[str, Any]
) -> None:
    producer.ledger.settings = settings.model_copy(update={"cache_max_bytes": 2000})
    first(producer, **named)
    assert not is_hit(producer.submit(PNG))


@pytest.mark.parametrize("changed", [{"cache_ttl_s": 1.0}, {"result_ttl_s": 2.0}])
def test_it_is_forgotten(producer: Producer, settings: Settings, changed: dict[str, Any]) -> None:
    producer.settings = producer.ledger.settings = settings.model_copy(update=changed)
    first(producer)
    (key,) = producer.ledger.redis.scan_iter(f"{settings.namespace}:known:*")
    assert 0 < producer.ledger.redis.pttl(key) <= 1000
    producer.ledger.redis.delete(key)
    assert not is_hit(producer.submit(PNG))


def test_no_time_is_no_cache(producer: Producer, settings: Settings) -> None:
    producer.settings = producer.ledger.settings = settings.model_copy(update={"cache_ttl_s": 0.0})
    first(producer)
    assert not is_hit(producer.submit(PNG))
    assert "documents_missed" not in producer.ledger.totals()


def test_what_is_gone_between_two_looks_is_read(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = first(producer)
    known = producer.ledger.recall(document_digest(content_digest(PNG), ReadOptions(), ""), "blob")
    producer.ledger.redis.delete(f"{producer.ledger.namespace}:pages:{earlier.id}")
    monkeypatch.setattr(producer.ledger, "recall", lambda *_: known)
    job = producer.submit(PNG)
    assert job.status().state is JobState.QUEUED
    read(producer.ledger, job)
    assert not job.result().pages[0].cached  # type: ignore[union-attr]


def test_an_idempotency_key_brings_a_job_of_its_own_from_the_cache_too(producer: Producer) -> None:
    first(producer)
    one = producer.submit(PNG, idempotency_key="order-17")
    again = producer.submit(PNG, idempotency_key="order-17")
    fresh = producer.submit(PNG, ReadOptions(cache=False), idempotency_key="order-17")
    assert is_hit(one)
    assert one.id == again.id == fresh.id


def test_a_pool_that_is_full_still_gives_what_it_has(producer: Producer, settings: Settings) -> None:
    first(producer)
    producer.ledger.settings = settings.model_copy(update={"max_queued_jobs": 1})
    producer.submit(PDF)
    with pytest.raises(QueueFull):
        producer.submit(PDF + b"2")
    assert is_hit(producer.submit(PNG))


def test_a_page_that_an_image_has_not_is_refused_all_the_same(producer: Producer) -> None:
    with pytest.raises(InvalidRequest):
        producer.submit(PNG, ReadOptions(pages="2"))


def handles(found: list[JobHandle | OcrpoolError]) -> list[JobHandle]:
    assert all(isinstance(one, JobHandle) for one in found), found
    return [one for one in found if isinstance(one, JobHandle)]


def test_a_batch_has_of_its_documents_what_was_read(producer: Producer) -> None:
    # Given a document that was read
    earlier = first(producer)

    # When it comes twice in a batch, with another one
    jobs = handles(producer.submit_all([PNG, PNG + b"2", PNG], batch="nightly"))

    # Then it is final at once, beside the other one in their order, and is not stored again
    assert [is_hit(job) for job in jobs] == [True, False, True]
    assert [job.accepted and job.accepted.state.final for job in jobs] == [True, False, True]
    assert [status.id for status in producer.batch("nightly")] == [job.id for job in jobs]
    assert [producer.ledger.job(job.id).blob for job in jobs] == [earlier.id, jobs[1].id, earlier.id]
    with pytest.raises(NotFound):
        producer.blobs.get(jobs[0].id)
    totals = producer.ledger.totals()
    assert (totals["documents_hit"], totals["documents_missed"]) == (2, 2)
    assert producer.ledger.redis.zcard(f"{producer.ledger.namespace}:garbage") == 2


def test_a_batch_is_read_anew_where_that_is_asked_for(producer: Producer) -> None:
    first(producer)
    (job,) = handles(producer.submit_all([PNG], ReadOptions(cache=False)))
    assert not is_hit(job)
    read(producer.ledger, job)
    assert producer.blobs.get(job.id) == PNG


def test_duplicates_within_a_batch_are_read_once_and_known_afterwards(producer: Producer) -> None:
    producer.ledger.announce("gpu0", {}, ONE)
    jobs = handles(producer.submit_all([PNG] * 3))
    backlog = producer.ledger.backlog()
    assert (backlog["waiting_interactive"], backlog["queue_interactive"]) == (1, 1)
    read(producer.ledger, jobs[0])
    assert [job.status().cached for job in jobs] == [False, True, True]
    assert is_hit(producer.submit(PNG))


def test_what_is_gone_between_two_looks_is_read_in_a_batch_too(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = first(producer)
    known = producer.ledger.recall(document_digest(content_digest(PNG), ReadOptions(), ""), "blob")
    producer.ledger.redis.delete(f"{producer.ledger.namespace}:pages:{earlier.id}")
    monkeypatch.setattr(producer.ledger, "recall_all", lambda sought: [known, None, known])
    jobs = handles(producer.submit_all([PNG, PNG + b"2", PNG], batch="nightly"))
    assert [producer.blobs.get(job.id) for job in jobs] == [PNG, PNG + b"2", PNG]
    assert producer.blobs.get(earlier.id) == PNG
    assert {status.id for status in producer.batch("nightly")} == {job.id for job in jobs}
    for job in jobs[:2]:
        read(producer.ledger, job)
    assert [job.status().cached for job in jobs] == [False, False, True]


def test_a_known_document_that_a_batch_is_refused_stays_where_it_is(producer: Producer) -> None:
    earlier = first(producer)
    one, again = (handles(producer.submit_all([PNG], idempotency_key="nightly"))[0] for _ in range(2))
    assert (again.id, again.replayed) == (one.id, True)
    (refused,) = producer.submit_all([PNG], ReadOptions(min_score=0.4), idempotency_key="nightly")
    assert isinstance(refused, IdempotencyMismatch)
    assert producer.blobs.get(earlier.id) == PNG
    assert producer.ledger.redis.zrange(f"{producer.ledger.namespace}:garbage", 0, -1) == [earlier.id.encode()]


def test_simultaneous_duplicates_are_read_once(producer: Producer) -> None:
    # Given one document three times, before any of them is read
    jobs = [producer.submit(PNG) for _ in range(3)]
    assert producer.ledger.backlog()["waiting_interactive"] == 1
    assert {job.status().state for job in jobs} == {JobState.QUEUED}

    # When the first is
    read(producer.ledger, jobs[0])

    # Then all are
    assert [job.status().cached for job in jobs] == [False, True, True]
    assert {job.status().state for job in jobs} == {JobState.SUCCEEDED}
    assert producer.ledger.totals()["documents_joined"] == 2


def test_a_follower_may_be_cancelled_alone(producer: Producer) -> None:
    leader, follower = producer.submit(PNG), producer.submit(PNG)
    follower.cancel()
    read(producer.ledger, leader)
    assert (leader.status().state, follower.status().state) == (JobState.SUCCEEDED, JobState.CANCELLED)


def cancel(ledger: Ledger, job: JobHandle) -> None:
    job.cancel()


def fail(ledger: Ledger, job: JobHandle) -> None:
    read(ledger, job, failing=True)


def read_by_nobody_knows_whom(ledger: Ledger, job: JobHandle) -> None:
    read(ledger, job, reader="")


def expire(ledger: Ledger, job: JobHandle) -> None:
    ledger.redis.zadd(f"{ledger.namespace}:active", {job.id: 1})
    assert ledger.sweep(f"{ledger.namespace}.").publish == ()


def given(ledger: Ledger, lane: Lane = Lane.INTERACTIVE) -> Claim | None:
    """What a worker is given for the next message; nothing for one whose units have ended."""
    (_, message) = ledger.redis.brpop(f"{ledger.namespace}.{lane}", 1)  # type: ignore[misc]
    asked = json.loads(base64.b64decode(json.loads(message)["body"]))[1]["message"]
    span = asked.get("span")
    unit = PREPARE if span is None else str(Span.model_validate(span))
    claim = ledger.claim(asked["job_id"], unit, "gpu0", turn=lane)
    return claim if isinstance(claim, Claim) else None


@pytest.fixture(params=[False, True], ids=["", "durable"])
def any_producer(producer: Producer, settings: Settings, request: pytest.FixtureRequest) -> Iterator[Producer]:
    """One whose jobs are published with them, and one whose jobs are published once they are on the disk."""
    if not request.param:
        yield producer
        return
    durable = settings.model_copy(update={"durable": True})
    with Producer(durable, ledger=Ledger(durable, producer.ledger.redis), blobs=MemoryStore()) as other:
        yield other


@pytest.mark.parametrize("end", [cancel, fail, read_by_nobody_knows_whom, expire])
def test_followers_are_read_by_themselves_where_the_first_has_nothing_for_them(
    any_producer: Producer, end: Callable[[Ledger, JobHandle], None]
) -> None:
    ledger = any_producer.ledger
    leader, *followers = [any_producer.submit(PNG) for _ in range(3)]
    others = [any_producer.submit(PNG + number) for number in (b"1", b"2")]
    ledger.redis.rpop(f"{ledger.namespace}.interactive")  # A worker has the leader's message.
    end(ledger, leader)

    # Then each has a message at once, without which one would be read with that of another, and that one would wait
    assert ledger.backlog()["queue_interactive"] == ledger.backlog()["waiting_interactive"] == 4
    claims = [given(ledger) for _ in range(4)]
    assert {claim.job.id for claim in claims if claim} == {job.id for job in followers + others}
    for claim in claims:
        ledger.finish_page(claim, page_read(1), reader=ONE)  # type: ignore[arg-type]
    assert {job.status().state for job in followers + others} == {JobState.SUCCEEDED}
    assert not any(job.status().cached for job in followers)
    assert ledger.backlog()["unfinished"] == 0


def test_a_follower_that_is_read_by_itself_waits_where_it_came_in(producer: Producer) -> None:
    first = producer.submit(PNG + b"1")
    time.sleep(0.002)  # The server's clock counts milliseconds
    leader, follower = producer.submit(PNG), producer.submit(PNG)
    time.sleep(0.002)
    last = producer.submit(PNG + b"2")
    leader.cancel()
    assert [job.status().queue_position for job in (first, follower, last)] == [0, 1, 2]


def test_a_follower_without_messages_is_left_to_the_next_sweep(producer: Producer) -> None:
    ledger, digest = producer.ledger, document_digest(content_digest(PNG), ReadOptions(), "")
    leader, follower = make_job(), make_job()
    for job in (leader, follower):
        ledger.accept(job, 1, document=digest)
    ledger.cancel(leader.id)
    assert ledger.sweep(f"{ledger.namespace}.").publish == ((follower.id, "1+1", "interactive"),)


class Duplicates(RuleBasedStateMachine):
    """A few documents of two tenants, over and over, in any order of what may become of them."""

    producer: Producer

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[JobHandle] = []
        self.claims: list[Claim] = []
        self.producer.ledger.announce("gpu0", {}, ONE)

    @rule(tenant=st.sampled_from(["", "acme"]), document=st.sampled_from([PNG, PNG + b"2", PDF]), cache=st.booleans())
    def submit(self, tenant: str, document: bytes, cache: bool) -> None:
        self.jobs.append(self.producer.of_tenant(tenant).submit(document, ReadOptions(cache=cache)))

    @rule()
    def take(self) -> None:
        if self.producer.ledger.backlog()["queue_interactive"] and (claim := given(self.producer.ledger)):
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), fails=st.booleans())
    def work(self, data: st.DataObject, fails: bool) -> None:
        claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        ledger = self.producer.ledger
        if claim.unit == PREPARE and fails:
            ledger.fail(claim, BROKEN)
        elif claim.unit == PREPARE:
            self.producer._publisher.publish(ledger.plan(claim, [Span(first=1, count=2)]))
        for page in claim.pages:
            ledger.finish_page(claim, PageFailure(page=page, error=BROKEN) if fails else page_read(page), reader=ONE)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.producer.cancel(data.draw(st.sampled_from(self.jobs)).id)

    @invariant()
    def what_waits_has_a_message(self) -> None:
        backlog = self.producer.ledger.backlog()
        assert backlog["waiting_interactive"] <= backlog["queue_interactive"]

    def teardown(self) -> None:
        """Whatever has a message is read, without a sweep."""
        for _ in range(10 * (1 + len(self.jobs))):
            self.take()
            while self.claims:
                claim = self.claims[0]
                self.work(SimpleNamespace(draw=lambda _: 0), fails=False)
                assert claim not in self.claims
        assert all(job.status().final for job in self.jobs)
        assert_every_key_is_owned(self.producer.ledger.redis, self.producer.ledger.namespace)
        self.producer.close()


def test_no_duplicate_is_read_with_a_message_of_another(settings: Settings) -> None:
    class Machine(Duplicates):
        def __init__(self) -> None:
            own = settings.model_copy(update={"namespace": f"t{uuid.uuid4().hex[:12]}"})
            self.producer = Producer(own, blobs=MemoryStore())
            super().__init__()

    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_follower_whose_deadline_passes_expires(producer: Producer) -> None:
    leader = producer.submit(PNG)
    follower = producer.submit(PNG, ReadOptions(deadline_s=0.001))
    time.sleep(0.002)  # The server's clock counts milliseconds
    producer.ledger.sweep("q.")
    assert follower.status().state is JobState.EXPIRED
    read(producer.ledger, leader)
    assert follower.status().state is JobState.EXPIRED


@pytest.mark.parametrize("other", [ReadOptions(lane=Lane.BULK), ReadOptions(cache=False), ReadOptions(min_score=0)])
def test_nobody_follows_what_may_be_slower_or_would_be_read_otherwise(producer: Producer, other: ReadOptions) -> None:
    jobs = [producer.submit(PNG), producer.submit(PNG, other)]
    for job in jobs:
        read(producer.ledger, job)
    assert [job.status().cached for job in jobs] == [False, False]


def test_one_page_brings_so_many_followers_along_and_no_more(producer: Producer) -> None:
    for _ in range(34):
        producer.submit(PNG)
    assert producer.ledger.backlog()["waiting_interactive"] == 2
