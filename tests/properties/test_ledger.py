"""The ledger as a state machine: whatever workers, the sweeper and users do in any order, the promises hold."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from producer.admission import AcceptedBefore
from producer.errors import InvalidRequest
from producer.job import PREPARE, Job, JobState, PageFailure, PageResult
from producer.ledger import Claim, Ledger, Refusal
from producer.listing import list_jobs
from producer.pages import read_pages
from producer.retries import again
from producer.settings import Settings
from tests.conftest import assert_every_key_is_owned
from tests.producer.test_ledger import lapse, make_job, page_failed, page_read

WORKERS = st.sampled_from(["gpu0", "gpu1", "gpu2"])


class LedgerMachine(RuleBasedStateMachine):
    """One job with a few pages. The model remembers only what was promised: the outcome that each page got."""

    ledger: Ledger

    @initialize(pages=st.integers(1, 6), counted=st.booleans())
    def accept(self, pages: int, counted: bool) -> None:
        self.pages = pages
        #: The pages that this job is to read.
        self.wanted = list(range(1, pages + 1))
        self.job = make_job()
        self.units = [
            unit for _, unit, _ in self.ledger.accept(self.job, document_pages=pages if counted else None).units
        ]
        self.claims: list[Claim] = []
        #: Each unit's last claim, and whether its lease can still be alive.
        self.holders: dict[str, Claim] = {}
        self.leased: set[str] = set()
        self.outcomes: dict[int, str] = {}
        self.final: JobState | None = None
        self.writes = 0
        #: Jobs that were tried again: what was read of them, and how they ended.
        self.before: list[tuple[Job, dict[int, str], JobState]] = []

    @rule(data=st.data(), worker=WORKERS)
    def claim(self, data: st.DataObject, worker: str) -> None:
        unit = data.draw(st.sampled_from(self.units))
        claim = self.ledger.claim(self.job.id, unit, worker)
        if isinstance(claim, Claim):
            assert self.final is None
            assert unit not in self.leased, "two workers hold one unit"
            self.holders[unit] = claim
            self.leased.add(unit)
            assert not set(claim.pages) & set(self.outcomes), "a page with an outcome is handed out again"
            self.claims.append(claim)
        else:
            assert (claim is Refusal.FINAL) == (self.final is not None)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        """Any claim, also a stale one, writes any of its pages, also a second time; `prepare` plans."""
        claim = data.draw(st.sampled_from(self.claims))
        if claim.unit == PREPARE:
            planned = [
                unit
                for _, unit, _ in self.ledger.plan(
                    claim, claim.job.options.spans(self.pages, self.ledger.settings.span_pages)
                )
            ]
            assert not planned or self.holders[PREPARE] is claim, "a stale claim planned"
            self.units += planned
            return
        page = data.draw(st.sampled_from(claim.pages))
        self.writes += 1
        mark = f"write {self.writes}"
        outcome = page_failed(page) if fails else page_read(page, mark)
        verdict = self.ledger.finish_page(claim, outcome)
        if isinstance(verdict, JobState):
            assert page not in self.outcomes, "a page got two outcomes"
            assert self.final is None, "a final job changed"
            assert self.holders.get(claim.unit) is claim, "a stale claim wrote"
            self.outcomes[page] = "failed" if fails else mark
            self.final = verdict if verdict.final else None

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), again=st.booleans())
    def release(self, data: st.DataObject, again: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.ledger.release(claim, again=again)
        if self.holders.get(claim.unit) is claim:
            self.leased.discard(claim.unit)
            if again:
                del self.holders[claim.unit]

    @precondition(lambda self: self.claims)
    @rule()
    def renew(self) -> None:
        for claim, stands in zip(self.claims, self.ledger.renew(self.claims), strict=True):
            assert not (stands and self.final), f"{claim.unit} of a final job was renewed"
            assert not stands or self.holders.get(claim.unit) is claim, "a stale claim was renewed"
            if stands:
                self.leased.add(claim.unit)

    @precondition(lambda self: self.leased)
    @rule()
    def workers_die(self) -> None:
        """Every lease lapses, and the sweeper looks."""
        lapse(self.ledger)
        self.leased.clear()
        for _, unit, _ in self.ledger.sweep("q.").publish:
            self.units.append(unit)
        self._learn_of_the_end()

    @precondition(lambda self: self.writes >= 4)
    @rule()
    def cancel(self) -> None:
        self.ledger.cancel(self.job.id)
        if self.final is None:
            self.final = JobState.CANCELLED

    @precondition(lambda self: self.final and len(self.before) < 3)
    @rule()
    def retry(self) -> None:
        """What was not read becomes a job of its own, from which the machine goes on; the old one stays as it is."""
        read = {page for page, mark in self.outcomes.items() if mark != "failed"}
        old = self.job
        try:
            job, document_pages = again(self.ledger, old.id)
        except InvalidRequest:
            assert self.final is JobState.SUCCEEDED
            return
        units = [unit for _, unit, _ in self.ledger.accept(job, document_pages).units]
        with pytest.raises(AcceptedBefore, match=job.id):
            self.ledger.accept(again(self.ledger, old.id)[0], document_pages)
        assert self.final is not None
        self.before.append((old, dict(self.outcomes), self.final))
        self.wanted = [page for page in self.wanted if page not in read]
        self.job, self.units = job, units
        self.claims, self.holders, self.leased, self.outcomes, self.final = [], {}, set(), {}, None

    @invariant()
    def final_is_final(self) -> None:
        """Jobs that were tried again have what they had; and every accepted job is in the index of its state alone."""
        if not hasattr(self, "job"):
            return
        for job, outcomes, state in self.before:
            status = self.ledger.status(job.id)
            assert status.state is state
            assert status.pages_done == sum(mark != "failed" for mark in outcomes.values())
        listed = list_jobs(self.ledger).jobs
        assert [job.id for job in listed] == [self.job.id, *(job.id for job, _, _ in self.before[::-1])]
        totals = self.ledger.totals()
        ended = sum(totals.get(f"jobs_{state.value}", 0) for state in JobState if state.final)
        assert totals["jobs_accepted"] == ended + (self.final is None)
        assert totals.get("pages_succeeded", 0) + totals.get("pages_failed", 0) == sum(
            status.pages_done + status.pages_failed for status in listed
        )

    @invariant()
    def pages_are_told_once_in_the_order_of_their_outcomes(self) -> None:
        if not hasattr(self, "job"):
            return
        told = read_pages(self.ledger, self.job.id)
        pages = [page.page for page in told.pages]
        assert len(set(pages)) == len(pages) == told.next
        assert set(self.outcomes) <= set(pages)
        assert told.more == (self.final is None)

    def _learn_of_the_end(self) -> None:
        """The sweeper may give a page `poison_document`, which may end the job."""
        status = self.ledger.status(self.job.id)
        if status.final and self.final is None:
            self.final = status.state
        if status.final:
            for page in self.ledger.result(self.job.id).pages:
                if isinstance(page, PageFailure) and page.error.code == "poison_document":
                    self.outcomes.setdefault(page.page, "failed")

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "job"):
            return
        status = self.ledger.status(self.job.id)
        assert status.state.final == (self.final is not None)
        assert status.pages_done == sum(outcome != "failed" for outcome in self.outcomes.values())
        if self.final is not None:
            assert status.state is self.final
            backlog = self.ledger.backlog()
            assert not any(count for name, count in backlog.items() if name != "queue"), backlog

    def teardown(self) -> None:
        """However it went, workers that stay alive finish the job, with the outcomes that it was given first."""
        if not hasattr(self, "job"):
            return
        for _ in range(4 * (self.pages + 2)):
            if self.ledger.status(self.job.id).final:
                break
            lapse(self.ledger)
            swept = [unit for _, unit, _ in self.ledger.sweep("q.").publish]
            for unit in dict.fromkeys([*self.units, *swept]):
                claim = self.ledger.claim(self.job.id, unit, "last")
                if not isinstance(claim, Claim):
                    continue
                if claim.unit == PREPARE:
                    self.units += [
                        unit
                        for _, unit, _ in self.ledger.plan(
                            claim, claim.job.options.spans(self.pages, self.ledger.settings.span_pages)
                        )
                    ]
                for page in claim.pages:
                    self.ledger.finish_page(claim, page_read(page, "last"))
            self.units += swept
        result = self.ledger.result(self.job.id)
        texts = {page.page: page.text for page in result.pages if isinstance(page, PageResult)}
        for page, mark in self.outcomes.items():
            assert mark == "failed" or texts[page] == mark
        if result.state in (JobState.SUCCEEDED, JobState.PARTIAL):
            assert [page.page for page in result.pages] == self.wanted
        assert_every_key_is_owned(self.ledger.redis, self.ledger.namespace)


def test_the_ledger_keeps_its_promises_in_any_order(settings: Settings) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__()
            namespace = f"t{uuid.uuid4().hex[:12]}"
            self.ledger = Ledger(settings.model_copy(update={"namespace": namespace, "span_pages": 2}))

        def teardown(self) -> None:
            super().teardown()
            self.ledger.close()

    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=100,
            stateful_step_count=30,
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
