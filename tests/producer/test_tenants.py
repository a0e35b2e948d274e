"""Who shares a pool: what each may have, whose turn it is, and that nobody sees another's."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from producer import Producer
from producer.dead import DeadLetters
from producer.errors import NotFound, OcrpoolError, QueueFull, QuotaExceeded, TooLarge
from producer.job import PREPARE, Job, Lane, Span
from producer.ledger import Claim, Ledger, Refusal
from producer.limits import Limits
from producer.settings import Settings
from producer.tenants import Tenants
from tests.conftest import assert_every_key_is_owned
from tests.documents import png
from tests.producer.test_ledger import lapse, make_job, page_failed, page_read


def of(tenant: str, **changed: Any) -> Job:
    return make_job().model_copy(update={"tenant": tenant, **changed})


def next_claim(ledger: Ledger, lane: Lane = Lane.INTERACTIVE) -> Claim | Refusal:
    """What a worker is given for a message whose own unit is gone."""
    return ledger.claim(make_job().id, PREPARE, "gpu0", turn=lane)


def turns(ledger: Ledger) -> list[str]:
    """The tenants of all that waits, in the order in which it is handed out."""
    order = []
    while isinstance(claim := next_claim(ledger), Claim):
        order.append(claim.job.tenant)
    assert claim is Refusal.GONE
    return order


# Turns


def test_a_few_units_do_not_wait_behind_many(ledger: Ledger) -> None:
    for _ in range(20):
        ledger.accept(of("flood"), 1)
    assert [next_claim(ledger).job.tenant for _ in range(5)] == ["flood"] * 5  # type: ignore[union-attr]
    for _ in range(3):
        ledger.accept(of("small"), 1)
    assert Counter(turns(ledger)[:6]) == {"small": 3, "flood": 3}


def test_turns_are_counted_in_pages(ledger: Ledger) -> None:
    for _ in range(4):
        ledger.accept(of("long"), 8)
    for _ in range(32):
        ledger.accept(of("short"), 1)
    order = turns(ledger)
    ahead = [order[:n].count("long") * 8 - order[:n].count("short") for n in range(1, 34)]
    assert max(map(abs, ahead)) <= 8


def test_who_comes_back_has_saved_no_turns_and_owes_none(ledger: Ledger) -> None:
    ledger.accept(of("early"), 1)
    next_claim(ledger)
    for _ in range(10):
        ledger.accept(of("steady"), 1)
    for _ in range(5):
        next_claim(ledger)
    for _ in range(5):
        ledger.accept(of("early"), 1)
    assert Counter(turns(ledger)[:4]) == {"early": 2, "steady": 2}


def test_cancelled_work_has_taken_no_turns(ledger: Ledger) -> None:
    flood = [of("flood") for _ in range(50)]
    for job in flood:
        ledger.accept(job, 1)
        ledger.cancel(job.id)
    for _ in range(4):
        ledger.accept(of("steady"), 1)
        ledger.accept(of("flood"), 1)
    assert Counter(turns(ledger)[:4]) == {"flood": 2, "steady": 2}


def test_a_tenant_is_served_in_order(ledger: Ledger) -> None:
    jobs = [of("acme") for _ in range(3)]
    for number, job in enumerate(jobs):
        ledger.accept(job, 1)
        ledger.redis.zadd(f"{ledger.namespace}:waiting:interactive:acme", {f"{job.id} 1+1": number})
    claims = [next_claim(ledger) for _ in jobs]
    assert [claim.job for claim in claims if isinstance(claim, Claim)] == jobs


def test_a_claim_whose_answer_was_lost_is_told_again(ledger: Ledger) -> None:
    for tenant in ("one", "two", "three"):
        ledger.accept(of(tenant), 2)
    first, again = (ledger.claim(make_job().id, PREPARE, "gpu0", "a token", turn=Lane.INTERACTIVE) for _ in range(2))
    assert isinstance(first, Claim)
    assert isinstance(again, Claim)
    assert (again.job, again.unit, again.fence) == (first.job, first.unit, first.fence)
    assert ledger.backlog()["leased"] == 1


def test_lanes_keep_to_themselves_and_lost_messages_of_every_tenant_are_found(ledger: Ledger) -> None:
    ledger.settings = ledger.settings.model_copy(update={"unclaimed_after_s": 0.0})
    job = of("acme")
    ledger.accept(job, 1)
    assert next_claim(ledger, Lane.BULK) is Refusal.GONE
    assert ledger.backlog()["waiting_interactive"] == 1
    assert ledger.sweep("q.").publish == ((job.id, "1+1", "interactive"),)


# Limits


def test_each_limit_is_the_tenants_own(ledger: Ledger) -> None:
    tenants = Tenants(ledger)
    tenants.set_limits("few", Limits(max_unfinished_jobs=1))
    tenants.set_limits("small", Limits(max_document_bytes=8))
    tenants.set_limits("pages", Limits(max_queued_pages=10))
    tenants.set_limits("slow", Limits(max_requests_per_s=0.001))
    refused: dict[str, type[OcrpoolError]] = {"few": QuotaExceeded, "pages": QuotaExceeded, "slow": QuotaExceeded}
    for tenant, error in refused.items():
        ledger.accept(of(tenant), 6)
        with pytest.raises(error):
            ledger.accept(of(tenant), 6)
    with pytest.raises(TooLarge, match="max_document_bytes"):
        ledger.accept(of("small"), 1)
    ledger.accept(of("pages"), 4)
    ledger.accept(of("nobody"), 1000)
    assert {usage.tenant: (usage.unfinished_jobs, usage.queued_pages) for usage in tenants.all()} == {
        "few": (1, 6),
        "nobody": (1, 1000),
        "pages": (2, 10),
        "slow": (1, 6),
        "small": (0, 0),
    }


def test_what_is_read_makes_room(ledger: Ledger) -> None:
    Tenants(ledger).set_limits("acme", Limits(max_queued_pages=2))
    job = of("acme")
    ledger.accept(job, 2)
    claim = ledger.claim(job.id, "1+2", "gpu0")
    assert isinstance(claim, Claim)
    with pytest.raises(QuotaExceeded):
        ledger.accept(of("acme"), 1)
    ledger.finish_page(claim, page_read(1))
    ledger.accept(of("acme"), 1)


def test_the_settings_limit_whoever_has_no_limit_of_its_own(settings: Settings) -> None:
    ledger = Ledger(settings.model_copy(update={"tenant_max_unfinished_jobs": 1}))
    Tenants(ledger).set_limits("free", Limits(max_unfinished_jobs=0))
    for tenant in ("", "acme", "free"):
        ledger.accept(of(tenant), 1)
    ledger.accept(of("free"), 1)
    for tenant in ("", "acme"):
        with pytest.raises(QuotaExceeded, match="1 unfinished jobs"):
            ledger.accept(of(tenant), 1)
    Tenants(ledger).set_limits("free", Limits())
    with pytest.raises(QuotaExceeded):
        ledger.accept(of("free"), 1)
    ledger.close()


@pytest.mark.parametrize(
    ("mine", "others", "limits", "seconds"),
    [
        # 10 pages a second, of which half are this tenant's: a page more than it may have, or a job of 20 pages.
        (20, 50, Limits(max_queued_pages=20), 1),
        (60, 50, Limits(max_queued_pages=1), 12),
        (20, 50, Limits(max_unfinished_jobs=1), 4),
        (20, 0, Limits(max_unfinished_jobs=1), 2),
    ],
)
def test_how_long_to_wait_follows_from_the_backlog_and_the_pace(
    ledger: Ledger, mine: int, others: int, limits: Limits, seconds: int
) -> None:
    ledger.redis.hset(f"{ledger.namespace}:pace", "rate", 10_000)
    ledger.accept(of("mine"), mine)
    if others:
        ledger.accept(of("other"), others)
    Tenants(ledger).set_limits("mine", limits)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.accept(of("mine"), 1)
    assert caught.value.retry_after_s == seconds


def test_a_full_pool_says_when_its_next_job_will_have_ended(settings: Settings) -> None:
    ledger = Ledger(settings.model_copy(update={"max_queued_jobs": 2}))
    ledger.redis.hset(f"{ledger.namespace}:pace", "rate", 10_000)
    for pages in (40, 60):
        ledger.accept(of("acme"), pages)
    with pytest.raises(QueueFull) as caught:
        ledger.accept(of("other"), 1)
    assert caught.value.retry_after_s == 5
    ledger.close()


def test_the_pace_is_that_of_a_pool_with_work(ledger: Ledger) -> None:
    pace = f"{ledger.namespace}:pace"

    def a_sweep_later(seconds: int, pages: int) -> int | None:
        ledger.redis.hincrby(f"{ledger.namespace}:totals", "pages_succeeded", pages)
        if ledger.redis.hexists(pace, "at"):
            ledger.redis.hincrby(pace, "at", -1000 * seconds)
        ledger.sweep("q.")
        rate = ledger.redis.hget(pace, "rate")
        return round(int(rate) / 1000) if isinstance(rate, bytes) else None

    assert a_sweep_later(5, 100) is None
    assert a_sweep_later(5, 100) is None, "there was nothing to read"
    job = of("acme")
    ledger.accept(job, 1)
    a_sweep_later(5, 0)
    assert a_sweep_later(5, 100) == 20
    assert 20 < (a_sweep_later(5, 200) or 0) < 40
    ledger.cancel(job.id)
    for _ in range(9):
        a_sweep_later(100, 0)
    assert (a_sweep_later(5, 0) or 0) > 20, "an idle pool is not a slow one"


class Accounts(RuleBasedStateMachine):
    """Jobs of two tenants, in any order of what may become of them. What is counted is what is unfinished."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.claims: list[Claim] = []
        self.accepted = 0

    @rule(tenant=st.sampled_from(["", "acme"]), pages=st.one_of(st.none(), st.integers(1, 5)))
    def accept(self, tenant: str, pages: int | None) -> None:
        # In order, so that of units that came within a millisecond the same is always the first.
        self.accepted += 1
        job = of(tenant, id=f"job_{self.accepted:032x}")
        with suppress(QuotaExceeded):
            self.ledger.accept(job, pages)
            self.jobs[job.id] = job

    @rule()
    def claim(self) -> None:
        claim = next_claim(self.ledger)
        if isinstance(claim, Claim):
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), pages=st.integers(1, 5), fails=st.booleans())
    def work(self, data: st.DataObject, pages: int, fails: bool) -> None:
        """Any claim, also a stale one, and again."""
        claim = data.draw(st.sampled_from(self.claims))
        if claim.unit != PREPARE:
            page = data.draw(st.sampled_from(claim.pages))
            self.ledger.finish_page(claim, page_failed(page) if fails else page_read(page))
        elif fails:
            self.ledger.fail(claim, page_failed(1).error)
        else:
            self.ledger.plan(claim, [Span(first=1, count=pages)])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), how=st.sampled_from(["cancelled", "expired", "lost"]))
    def end(self, data: st.DataObject, how: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        if how == "cancelled":
            self.ledger.cancel(job_id)
            return
        if how == "lost":
            self.ledger.redis.delete(f"{self.ledger.namespace}:job:{job_id}", f"{self.ledger.namespace}:spans:{job_id}")
            del self.jobs[job_id]
        self.ledger.redis.zadd(f"{self.ledger.namespace}:active", {job_id: 1}, xx=True)
        self.ledger.sweep("q.")

    @rule()
    def workers_die(self) -> None:
        lapse(self.ledger)
        self.ledger.sweep("q.")

    @invariant()
    def what_is_counted_is_what_is_unfinished(self) -> None:
        expected: dict[str, tuple[int, int]] = {}
        for job in self.jobs.values():
            status = self.ledger.status(job.id)
            if not status.final:
                jobs, pages = expected.get(job.tenant, (0, 0))
                left = (status.pages_total or 1) - status.pages_done - status.pages_failed
                expected[job.tenant] = jobs + 1, pages + left
        counted = {usage.tenant: (usage.unfinished_jobs, usage.queued_pages) for usage in Tenants(self.ledger).all()}
        assert counted == expected
        assert all(jobs <= 6 for jobs, _ in expected.values())

    def teardown(self) -> None:
        assert_every_key_is_owned(self.ledger.redis, self.ledger.namespace)
        self.ledger.close()


def test_counters_never_drift(settings: Settings) -> None:
    class Machine(Accounts):
        def __init__(self) -> None:
            super().__init__()
            namespace = f"t{uuid.uuid4().hex[:12]}"
            self.ledger = Ledger(
                settings.model_copy(update={"namespace": namespace, "span_pages": 2, "tenant_max_unfinished_jobs": 6})
            )

    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# Who sees what


def test_a_tenants_producer_knows_its_own_jobs_alone(settings: Settings) -> None:
    with Producer(settings) as all_of_them, Producer(settings, tenant="acme") as acme:
        other = all_of_them.of_tenant("other")
        job = acme.submit(png("a page"), idempotency_key="a-17")
        for look in (other.status, other.result, other.cancel, other.wait, other.of_tenant("").status):
            with pytest.raises(NotFound) as caught:
                look(job.id)
            assert str(caught.value) == f"There is no job {job.id}, or it is gone."
        assert all_of_them.status(job.id) == acme.status(job.id)
        assert acme.ledger.job(job.id, "acme").tenant == "acme"
        with pytest.raises(NotFound):
            acme.ledger.job(job.id, "other")
        assert other.submit(png("another page"), idempotency_key="a-17").id != job.id
        assert acme.submit(png("a page"), idempotency_key="a-17") == job


def test_what_is_replayed_stays_its_tenants(settings: Settings) -> None:
    with Producer(settings) as producer:
        job = producer.of_tenant("acme").submit(png("a page"))
        letter = {"kind": "page", "job_id": job.id, "unit": "1+1", "code": "poison_document", "reason": "It kills."}
        producer.ledger.bury(letter)
        again = DeadLetters(producer.ledger).replay("1", producer)
        assert producer.ledger.job(again.id).tenant == "acme"
