"""The ledger's promises: one outcome a page, one holder a unit, final is final."""

from __future__ import annotations

import time
from typing import Any

import pytest

from producer.dead import DeadLetters
from producer.errors import Cancelled, NotFinished, NotFound, QueueFull
from producer.job import (
    PREPARE,
    ErrorDetail,
    Job,
    JobState,
    Lane,
    MediaType,
    PageFailure,
    PageResult,
    ReadOptions,
    Timings,
    new_job_id,
)
from producer.ledger import RESULT_PAGES, Claim, Ledger, Refusal
from producer.settings import Settings


def make_job(**options: Any) -> Job:
    job_id = new_job_id()
    return Job(id=job_id, blob=job_id, media_type=MediaType.PDF, size_bytes=9, options=ReadOptions(**options))


def page_read(page: int, text: str = "text") -> PageResult:
    timings = Timings(rasterise_ms=1, detect_ms=2, recognise_ms=3)
    return PageResult(
        page=page, width=10, height=10, lines=(), text=text, engine="pp-ocr", model="fake", timings=timings
    )


def page_failed(page: int) -> PageFailure:
    return PageFailure(page=page, error=ErrorDetail(code="corrupt_document", message="The page is damaged."))


def claimed(ledger: Ledger, job: Job, unit: str, worker: str = "gpu0") -> Claim:
    claim = ledger.claim(job.id, unit, worker)
    assert isinstance(claim, Claim)
    return claim


def test_a_job_goes_from_accepted_to_succeeded(ledger: Ledger) -> None:
    # Given a document whose pages are not counted
    job = make_job()
    assert ledger.accept(job, document_pages=None).units == [(job.id, PREPARE, "interactive")]
    assert ledger.status(job.id).state is JobState.QUEUED

    # When a worker counts twelve pages, and two spans are read
    planned = ledger.plan(claimed(ledger, job, PREPARE), job.options.spans(12, 8))
    assert planned == [(job.id, "1+8", "interactive"), (job.id, "9+4", "interactive")]
    for unit in ("9+4", "1+8"):
        claim = claimed(ledger, job, unit)
        for page in claim.pages:
            ledger.finish_page(claim, page_read(page, f"page {page}"))
        ledger.release(claim, again=False)

    # Then the job has succeeded, with every page in order
    status = ledger.status(job.id)
    assert (status.state, status.pages_done, status.pages_failed) == (JobState.SUCCEEDED, 12, 0)
    assert [page.page for page in ledger.result(job.id).pages] == list(range(1, 13))
    assert ledger.backlog()["unfinished"] == 0
    assert ledger.totals() == {"jobs_accepted": 1, "jobs_succeeded": 1, "pages_succeeded": 12}


@pytest.mark.parametrize(
    ("failing", "state"), [((), "succeeded"), ((2,), "partial"), ((1, 2, 3), "failed")], ids=["none", "one", "all"]
)
def test_failed_pages_decide_the_final_state(ledger: Ledger, failing: tuple[int, ...], state: str) -> None:
    job = make_job()
    ledger.accept(job, document_pages=3)
    claim = claimed(ledger, job, "1+3")
    for page in claim.pages:
        ledger.finish_page(claim, page_failed(page) if page in failing else page_read(page))

    result = ledger.result(job.id)
    assert result.state == state
    assert [page.page for page in result.pages if isinstance(page, PageFailure)] == list(failing)
    assert (result.error is not None) == (state == "failed")


def test_a_live_lease_keeps_others_away(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claimed(ledger, job, "1+1", "gpu0")
    assert ledger.claim(job.id, "1+1", "gpu1") is Refusal.HELD


def test_a_lapsed_lease_keeps_others_away_until_its_death_is_counted(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claimed(ledger, job, "1+1", "gpu0")
    lapse(ledger)
    assert ledger.claim(job.id, "1+1", "gpu1") is Refusal.HELD
    assert ledger.sweep("q.").deaths == 1
    claimed(ledger, job, "1+1", "gpu1")


def test_a_worker_that_lost_its_lease_writes_nothing(ledger: Ledger, settings: Settings) -> None:
    # Given a worker whose lease ran out, and another that took the span
    job = make_job()
    ledger.accept(job, document_pages=2)
    late = claimed(ledger, job, "1+2", "gpu0")
    lapse(ledger)
    assert ledger.sweep("q.").publish == ((job.id, "1+2", "interactive"),)
    current = claimed(ledger, job, "1+2", "gpu1")

    # When both write, and both renew
    refused = ledger.finish_page(late, page_read(1, "late"))
    ledger.finish_page(current, page_read(1, "current"))

    # Then the first is refused, and told so
    assert refused is Refusal.FENCED
    assert ledger.renew([late, current]) == [False, True]
    assert ledger.finish_page(current, page_read(1, "twice")) is Refusal.DUPLICATE
    ledger.finish_page(current, page_read(2))
    assert [page.text for page in ledger.result(job.id).pages if isinstance(page, PageResult)] == ["current", "text"]


def test_a_second_try_gets_the_missing_pages_only(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=4)
    first = claimed(ledger, job, "1+4")
    ledger.finish_page(first, page_read(3))
    lapse(ledger)
    ledger.sweep("q.")
    assert claimed(ledger, job, "1+4").pages == (1, 2, 4)
    ledger.cancel(job.id)


def test_cancel_is_final(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=2)
    claim = claimed(ledger, job, "1+2")
    ledger.finish_page(claim, page_read(1))

    ledger.cancel(job.id)

    assert ledger.finish_page(claim, page_read(2)) is Refusal.FINAL
    assert ledger.renew([claim]) == [False]
    assert ledger.claim(job.id, "1+2", "gpu1") is Refusal.FINAL
    result = ledger.result(job.id)
    assert result.state is JobState.CANCELLED
    assert len(result.pages) == 1
    assert result.error is not None
    assert isinstance(result.error.exception(), Cancelled)
    ledger.cancel(job.id)
    assert ledger.totals()["jobs_cancelled"] == 1


def test_a_job_expires_at_its_deadline_by_the_servers_clock(ledger: Ledger) -> None:
    swept, claimed_late = make_job(deadline_s=100), make_job(deadline_s=100)
    for job in (swept, claimed_late):
        ledger.accept(job, document_pages=1)
        ledger.redis.hset(f"{ledger.namespace}:job:{job.id}", "deadline", 1)
    assert ledger.claim(claimed_late.id, "1+1", "gpu0") is Refusal.FINAL
    ledger.redis.zadd(f"{ledger.namespace}:active", {swept.id: 1})
    ledger.sweep("q.")
    for job in (swept, claimed_late):
        status = ledger.status(job.id)
        assert status.state is JobState.EXPIRED
        assert status.error is not None
        assert status.error.code == "deadline_exceeded"


def test_pages_of_workers_that_die_go_to_quarantine_one_by_one(ledger: Ledger) -> None:
    # Given a span of three pages whose second page kills every worker, and two workers that died with it
    job = make_job()
    ledger.accept(job, document_pages=3)
    for _ in range(2):
        claimed(ledger, job, "1+3")
        lapse(ledger)
        published = ledger.sweep("q.").publish

    # When one page after the other is read, alone in the whole pool
    deaths = 0
    while published:
        ((_, unit, lane),) = published
        assert lane == "quarantine"
        others = {f"{page}+1" for page in (1, 2, 3)} - {unit}
        claim = claimed(ledger, job, unit)
        assert claim.lane is Lane.QUARANTINE
        assert {ledger.claim(job.id, other, "gpu1") for other in others} <= {Refusal.HELD, Refusal.DONE, Refusal.GONE}
        if claim.pages == (2,):
            deaths += 1
            lapse(ledger)
            published = ledger.sweep("q.").publish
        else:
            ledger.finish_page(claim, page_read(claim.pages[0]))
            published = tuple(ledger.release(claim, again=False))

    # Then only that page has failed, with its third worker
    result = ledger.result(job.id)
    assert deaths == 1
    assert result.state is JobState.PARTIAL
    assert [page.page for page in result.pages if isinstance(page, PageFailure)] == [2]
    assert [page.error.code for page in result.pages if isinstance(page, PageFailure)] == ["poison_document"]


def test_a_slow_holder_that_renews_again_has_not_died(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claim = claimed(ledger, job, "1+1")
    for _ in range(5):
        lapse(ledger)
        assert ledger.sweep("q.").deaths == 1
        assert ledger.renew([claim]) == [True]
    ledger.finish_page(claim, page_read(1))
    assert ledger.status(job.id).state is JobState.SUCCEEDED


def test_the_dead_are_found_by_sweeps_that_are_further_apart_than_a_lease(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claimed(ledger, job, "1+1")
    lapse(ledger)
    deaths = 0
    for _ in range(3):
        deaths += ledger.sweep("q.").deaths
        sweeps = f"{ledger.namespace}:sweeps"
        for field in ledger.redis.hkeys(sweeps):  # as if the next one came two leases later
            ledger.redis.hincrby(sweeps, field, -round(2000 * ledger.settings.lease_s))
    assert deaths == 1


def test_what_was_written_before_the_clock_stepped_back_is_found(ledger: Ledger) -> None:
    # Given a held unit and a waiting one, both of an hour that is yet to come
    held, waits = make_job(), make_job()
    for job in (held, waits):
        ledger.accept(job, document_pages=1)
    claimed(ledger, held, "1+1")
    hour_ms = 3_600_000
    ledger.redis.zincrby(f"{ledger.namespace}:leases", hour_ms, f"{held.id} 1+1")
    ledger.redis.zincrby(f"{ledger.namespace}:waiting:interactive", hour_ms, f"{waits.id} 1+1")

    # Then a sweep brings both back to now: nothing is republished out of time, and the lease ends in time
    ledger.redis.lpush("q.interactive", "a message")
    assert ledger.sweep("q.").publish == ()
    lapse(ledger)
    assert ledger.sweep("q.").deaths == 1
    ledger.redis.delete("q.interactive")


def test_a_turn_to_sweep_from_before_the_clock_stepped_back_is_over(ledger: Ledger) -> None:
    assert [ledger.take_turn(5) for _ in range(2)] == [True, False]
    ledger.redis.pexpire(f"{ledger.namespace}:sweeping", 3_600_000)
    assert [ledger.take_turn(5) for _ in range(2)] == [True, False]


def test_members_that_no_script_wrote_leave_the_sweep_in_peace(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claimed(ledger, job, "1+1")
    lapse(ledger)
    for key in ("leases", "waiting:interactive", "waiting:bulk"):
        ledger.redis.zadd(f"{ledger.namespace}:{key}", {"junk": 1, "": 1, "a b c": 2})
    swept = ledger.sweep("q.")
    assert (swept.deaths, swept.publish) == (1, ((job.id, "1+1", "interactive"),))


def test_a_renewal_that_comes_after_the_release_brings_no_lease_back(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=2)
    claim = claimed(ledger, job, "1+2")
    ledger.finish_page(claim, page_read(1))
    ledger.release(claim, again=False)
    assert ledger.renew([claim]) == [False]
    assert ledger.backlog()["leased"] == 0


def test_no_fence_is_given_twice_though_the_server_forgets_its_last_second(ledger: Ledger) -> None:
    # Given a claim that a crash of the server takes along
    job = make_job()
    ledger.accept(job, document_pages=1)
    before = {key: ledger.redis.dump(key) for key in ledger.redis.scan_iter(f"{ledger.namespace}:*")}
    lost = claimed(ledger, job, "1+1", "gpu0")
    for key in ledger.redis.scan_iter(f"{ledger.namespace}:*"):
        ledger.redis.delete(key)
    for key, value in before.items():
        ledger.redis.restore(key, 60_000, value or b"")

    # Then the next claim's fence is another one
    time.sleep(0.002)  # the clock of fences counts milliseconds
    claim = claimed(ledger, job, "1+1", "gpu1")
    assert claim.fence > lost.fence
    assert ledger.finish_page(lost, page_read(1)) is Refusal.FENCED


def test_after_an_outage_live_holders_have_time_to_renew(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claimed(ledger, job, "1+1")
    ledger.sweep("q.")
    lapse(ledger)
    ledger.redis.hset(f"{ledger.namespace}:sweeps", "last", 1)
    assert ledger.sweep("q.").deaths == 0
    ledger.redis.hset(f"{ledger.namespace}:sweeps", "patient_until", 1)
    assert ledger.sweep("q.").deaths == 1


def test_a_fence_never_comes_twice_even_where_a_unit_of_the_same_name_does(ledger: Ledger) -> None:
    # Given a one-page span whose first holder only seemed dead, and whose quarantine span has the same name
    job = make_job()
    ledger.accept(job, document_pages=1)
    zombie = claimed(ledger, job, "1+1", "gpu0")
    for _ in range(2):
        lapse(ledger)
        ledger.sweep("q.")
        current = ledger.claim(job.id, "1+1", "gpu1")

    assert isinstance(current, Claim)
    assert ledger.finish_page(zombie, page_read(1, "late")) is Refusal.FENCED
    ledger.finish_page(current, page_read(1))


def test_a_message_that_the_broker_lost_is_published_again_once_its_queue_is_empty(ledger: Ledger) -> None:
    job = make_job(lane=Lane.BULK)
    ledger.accept(job, document_pages=1)
    published_at(ledger, job, "1+1", 1)
    prefix = f"{ledger.namespace}."

    ledger.redis.rpush(f"{prefix}bulk", "a message of another job")
    assert ledger.sweep(prefix).publish == ()
    ledger.redis.delete(f"{prefix}bulk")
    assert ledger.sweep(prefix).publish == ((job.id, "1+1", "bulk"),)
    assert ledger.sweep(prefix).publish == ()


def test_or_once_the_queue_has_long_had_fewer_messages_than_units(ledger: Ledger) -> None:
    # Given a queue that is never empty, and three units for one message
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        ledger.accept(job, 1)
    prefix = f"{ledger.namespace}."
    ledger.redis.rpush(f"{prefix}interactive", "the message of one of them")
    assert ledger.sweep(prefix).publish == ()

    ledger.redis.hincrby(f"{ledger.namespace}:sweeps", "short:interactive", -round(1000 * ledger.settings.lease_s))

    assert len(ledger.sweep(prefix).publish) == 2
    assert ledger.sweep(prefix).publish == ()
    ledger.redis.delete(f"{prefix}interactive")


def test_a_message_that_is_lost_costs_no_unit_its_place(ledger: Ledger) -> None:
    lost, later = make_job(), make_job()
    for job in (lost, later):
        ledger.accept(job, 1)
        published_at(ledger, job, "1+1", 1 if job is lost else 2)
    claim = ledger.claim(later.id, "1+1", "gpu0", turn=Lane.INTERACTIVE)
    assert isinstance(claim, Claim)
    assert claim.job == lost


def test_a_released_unit_goes_back_without_a_death(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    claim = claimed(ledger, job, "1+1")
    assert ledger.release(claim, again=True) == [(job.id, "1+1", "interactive")]
    assert ledger.finish_page(claim, page_read(1)) is Refusal.FENCED
    assert ledger.redis.hget(f"{ledger.namespace}:spans:{job.id}", "1+1:deaths") == b"0"
    claimed(ledger, job, "1+1")


def test_a_unit_that_fails_in_ways_that_nobody_foresaw_comes_to_an_end(ledger: Ledger) -> None:
    # Given a span of which one page was read
    job, internal = make_job(), ErrorDetail(code="internal", message="It failed.")
    ledger.accept(job, document_pages=3)
    claim = claimed(ledger, job, "1+3")
    ledger.finish_page(claim, page_read(2))
    ledger.release(claim, again=True)
    assert ledger.release(claim, again=True, unforeseen=internal) == []  # It is this worker's no longer.

    # When it fails three times, then its other pages fail, it is a dead letter, and nobody was taken for dead
    for _ in range(2):
        claim = claimed(ledger, job, "1+3")
        assert ledger.release(claim, again=True, unforeseen=internal) == [(job.id, "1+3", "interactive")]
        assert ledger.redis.hget(f"{ledger.namespace}:spans:{job.id}", "1+3:deaths") == b"0"
    assert ledger.release(claimed(ledger, job, "1+3"), again=True, unforeseen=internal) == []
    result = ledger.result(job.id)
    assert (result.state, [page.kind for page in result.pages]) == (JobState.PARTIAL, ["failure", "page", "failure"])
    (letter,) = DeadLetters(ledger).all()
    assert (letter.job_id, letter.unit, letter.code) == (job.id, "1+3", "internal")
    assert ledger.backlog()["leased"] == 0


def test_a_document_whose_pages_cannot_be_counted_for_reasons_that_nobody_foresaw_fails(ledger: Ledger) -> None:
    job, internal = make_job(), ErrorDetail(code="internal", message="It failed.")
    ledger.accept(job, document_pages=None)
    for _ in range(3):
        assert not ledger.status(job.id).final
        ledger.release(claimed(ledger, job, PREPARE), again=True, unforeseen=internal)
    assert (ledger.status(job.id).state, ledger.status(job.id).error) == (JobState.FAILED, internal)


def test_a_unit_is_done_again_of_which_the_server_has_lost_an_outcome(ledger: Ledger) -> None:
    # Given a unit whose outcomes were all written, to a server that had no time to keep the last of them
    job = make_job()
    ledger.accept(job, document_pages=9)
    claim = claimed(ledger, job, "1+8")
    for page in range(1, 8):
        ledger.finish_page(claim, page_read(page))

    # When its worker says that it is done, then it is published anew, for that page alone
    assert ledger.release(claim, again=False) == [(job.id, "1+8", "interactive")]
    again = claimed(ledger, job, "1+8")
    assert again.pages == (8,)
    ledger.finish_page(again, page_read(8))
    assert ledger.release(again, again=False) == []


def test_the_blob_of_a_finished_job_is_garbage_when_its_result_is(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    garbage = f"{ledger.namespace}:garbage"
    while_unfinished = ledger.redis.zscore(garbage, job.blob) or 0
    ledger.cancel(job.id)
    assert 0 < (ledger.redis.zscore(garbage, job.blob) or 0) < while_unfinished
    assert ledger.sweep("q.").blobs == ()
    ledger.redis.zadd(garbage, {job.blob: 1})
    assert ledger.sweep("q.").blobs == (job.blob,)
    ledger.forget_blobs([job.blob])
    assert ledger.sweep("q.").blobs == ()


def test_a_full_pool_refuses_more(settings: Settings) -> None:
    ledger = Ledger(settings.model_copy(update={"max_queued_jobs": 1}))
    first = make_job()
    ledger.accept(first, document_pages=1)
    with pytest.raises(QueueFull, match="1 unfinished jobs"):
        ledger.accept(make_job(), document_pages=1)
    ledger.cancel(first.id)
    ledger.accept(make_job(), document_pages=1)
    ledger.close()


def test_asking_too_early_or_for_nothing(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    with pytest.raises(NotFinished):
        ledger.result(job.id)
    with pytest.raises(NotFound):
        ledger.status(new_job_id())
    with pytest.raises(NotFound):
        ledger.cancel(new_job_id())
    assert ledger.claim(new_job_id(), "1+1", "gpu0") is Refusal.GONE


def lapse(ledger: Ledger) -> None:
    """Let every lease run out, without waiting for it."""
    for member in ledger.redis.zrange(f"{ledger.namespace}:leases", 0, -1):
        assert isinstance(member, bytes)
        ledger.redis.zadd(f"{ledger.namespace}:leases", {member: 1})


def published_at(ledger: Ledger, job: Job, unit: str, ms: int) -> None:
    ledger.redis.zadd(f"{ledger.namespace}:waiting:{job.options.lane.value}", {f"{job.id} {unit}": ms})


@pytest.mark.parametrize("pages", [RESULT_PAGES - 1, RESULT_PAGES, 2 * RESULT_PAGES + 1])
def test_a_long_result_is_read_in_parts_and_comes_whole_and_in_order(ledger: Ledger, pages: int) -> None:
    job = make_job()
    ledger.accept(job, document_pages=pages)
    for first in range(1, pages + 1, 8):
        claim = claimed(ledger, job, f"{first}+{min(8, pages + 1 - first)}")
        for page in claim.pages:
            ledger.finish_page(claim, page_failed(page) if page % 7 == 0 else page_read(page))
    assert [outcome.page for outcome in ledger.result(job.id).pages] == list(range(1, pages + 1))

    # One that loses pages while it is read is gone, never a result with holes
    ledger.redis.delete(f"{ledger.namespace}:pages:{job.id}")
    with pytest.raises(NotFound):
        ledger.result(job.id)
