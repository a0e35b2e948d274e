"""A worker's tasks while the ledger is away: they wait, and nobody is taken for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from producer.errors import Unavailable
from producer.job import JobState, Lane, PageResult, PrepareMessage, Span, SpanMessage, Unit, to_json
from producer.ledger import Claim, Ledger, Refusal
from producer.settings import Settings
from producer.timeline import BatchShare
from tests.producer.gateway.serving import wait_until
from tests.producer.test_ledger import claimed, make_job, page_read
from worker import tasks
from worker.company import Company
from worker.leases import Lease, LeaseKeeper
from worker.page_cache import Read
from worker.station import Station
from worker.turns import Turns


class Stopping(threading.Event):
    """Waits for nothing, and is set after so many waits."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.set()
        return self.is_set()


class Lost(threading.Event):
    """Is never set, and waits for nothing."""

    def wait(self, timeout: float | None = None) -> bool:
        return False


UNCACHED = SimpleNamespace(
    reader="", read=lambda job, page, raster, passage, ms, **_: Read(passage.read(page, raster, ms))
)


def station(ledger: Any, stopping: threading.Event, real: Ledger) -> Station:
    engine = SimpleNamespace(trouble=lambda: None)
    parts = {"ledger": ledger, "name": "gpu0", "settings": real.settings, "stopping": stopping, "engine": engine}
    return cast(Station, SimpleNamespace(**parts, page_cache=UNCACHED))


def away(times: int, act: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """`act` on a connection that breaks so many times, before it reached the server or `after` that."""
    left = [times]

    def call(*args: Any, **named: Any) -> Any:
        answer = act(*args, **named) if after or not left[0] else None
        if left[0]:
            left[0] -= 1
            raise Unavailable("The pool's Redis cannot be reached.")
        return answer

    return call


def test_an_outcome_is_written_however_long_the_ledger_is_away(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    lease = Lease(claimed(ledger, job, "1+1"), lost=Lost())
    flaky = SimpleNamespace(finish_page=away(50, ledger.finish_page))
    assert tasks._finish(station(flaky, threading.Event(), ledger), lease, page_read(1))
    assert ledger.status(job.id).state is JobState.SUCCEEDED


def test_a_worker_that_stops_gives_up_after_a_few_tries(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    stopping = threading.Event()
    stopping.set()
    flaky = SimpleNamespace(finish_page=away(50, ledger.finish_page))
    lease = Lease(claimed(ledger, job, "1+1"), lost=Lost())
    assert not tasks._finish(station(flaky, stopping, ledger), lease, page_read(1))


@pytest.mark.parametrize("after", [False, True], ids=["before the claim", "after the claim"])
def test_a_connection_that_breaks_costs_no_claim(ledger: Ledger, after: bool) -> None:
    job = make_job()
    ledger.accept(job, document_pages=2)
    flaky = SimpleNamespace(claim=away(7, ledger.claim, after=after))
    claim = tasks._claim(station(flaky, Stopping(after=100), ledger), job.id, "1+2", Lane.INTERACTIVE)
    assert isinstance(claim, Claim)
    assert claim.pages == (1, 2)
    assert isinstance(ledger.finish_page(claim, page_read(1)), JobState)
    assert ledger.claim(job.id, "1+2", "gpu0") is Refusal.HELD


def test_a_worker_that_stops_leaves_its_message_to_the_sweeper(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    flaky = SimpleNamespace(claim=away(1000, ledger.claim))
    assert tasks._claim(station(flaky, Stopping(after=9), ledger), job.id, "1+1", Lane.INTERACTIVE) is None
    assert ledger.backlog()["waiting_interactive"] == 1


class Reader:
    """An engine with one passage for all pages, which counts them and has something done at one of them."""

    def __init__(self, at: int, then: Callable[[], None]) -> None:
        self.read_pages: list[int] = []
        self.shares: dict[str, list[BatchShare]] = {}
        self._at = at
        self._then = then

    def trouble(self) -> None:
        return None

    @contextmanager
    def passage(self, *_: object) -> Iterator[Reader]:
        yield self

    def read(self, page: int, *_: object) -> PageResult:
        self.read_pages.append(page)
        if len(self.read_pages) == self._at:
            self._then()
        return page_read(page)


def test_a_cancelled_job_is_let_go_of_at_the_next_page(ledger: Ledger, settings: Settings) -> None:
    # Given a job of 100 pages, of which a worker holds every span, and which is cancelled while the fifth page is read
    job = make_job()
    units = ledger.accept(job, document_pages=100).units
    engine = Reader(at=5, then=lambda: ledger.cancel(job.id))
    turns, leases = Turns(1, for_interactive=0), LeaseKeeper(ledger, settings.lease_renew_s)
    worker = SimpleNamespace(
        **vars(station(ledger, threading.Event(), ledger)) | {"engine": engine},
        leases=leases,
        pages=turns,
        intake=SimpleNamespace(received=lambda: None),
        company=Company(),
        blobs=SimpleNamespace(local=lambda blob: nullcontext(Path())),
        rasters=SimpleNamespace(page=lambda *_: nullcontext()),
        publisher=SimpleNamespace(publish=lambda units: None),
    )
    spans = [SpanMessage(job_id=job.id, span=Span.parse(unit)) for _, unit, _ in units]
    threads = [
        threading.Thread(target=tasks.read_span, args=(worker, to_json(span)), kwargs={"lane": Lane.INTERACTIVE})
        for span in spans
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(leases.held) == len(spans) == 13)
    # When its pages are read one after the other
    turns.start()
    for thread in threads:
        thread.join()
    turns.stop()
    turns.join()
    # Then none is read after that one
    assert len(engine.read_pages) == 5
    status = ledger.status(job.id)
    assert (status.state, status.pages_done) == (JobState.CANCELLED, 4)


class Failing:
    """Blobs that fail so many times in a way that nobody foresaw."""

    def __init__(self, times: int) -> None:
        self.left = times

    @contextmanager
    def local(self, blob: str) -> Iterator[Path]:
        self.left -= 1
        if self.left >= 0:
            raise KeyError("ETag")
        yield Path()


@contextmanager
def working(real: Ledger, **parts: Any) -> Iterator[tuple[Station, list[Unit]]]:
    """A worker that waits for nothing, and the units that it publishes."""
    turns, published = Turns(2), list[Unit]()
    turns.start()
    engine = Reader(at=0, then=lambda: None)
    worker = SimpleNamespace(
        **vars(station(real, Stopping(after=1000), real)) | {"engine": engine} | parts,
        leases=LeaseKeeper(real, real.settings.lease_renew_s),
        pages=turns,
        intake=SimpleNamespace(received=lambda: None),
        company=Company(),
        rasters=SimpleNamespace(page=lambda *_: nullcontext()),
        publisher=SimpleNamespace(publish=published.extend),
    )
    yield cast(Station, worker), published
    turns.stop()
    turns.join()


def test_a_unit_that_fails_in_a_way_that_nobody_foresaw_is_given_back_and_no_death(ledger: Ledger) -> None:
    job = make_job()
    (span,) = ledger.accept(job, document_pages=2).units
    message = to_json(SpanMessage(job_id=job.id, span=Span.parse("1+2")))
    with working(ledger, blobs=Failing(2)) as (worker, published):
        for _ in range(2):
            tasks.read_span(worker, message, Lane.INTERACTIVE)
            assert published.pop() == span
            assert ledger.redis.zcard(f"{ledger.namespace}:leases") == 0
            assert ledger.redis.hget(f"{ledger.namespace}:spans:{job.id}", "1+2:deaths") == b"0"
        tasks.read_span(worker, message, Lane.INTERACTIVE)
    assert ledger.status(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("pages", [2, None], ids=["read", "counted"])
def test_a_unit_that_fails_so_again_and_again_is_internal_and_no_poison(ledger: Ledger, pages: int | None) -> None:
    job = make_job()
    ledger.accept(job, document_pages=pages)
    with working(ledger, blobs=Failing(1000)) as (worker, _):
        for _ in range(3):
            assert not ledger.status(job.id).final
            if pages is None:
                tasks.prepare(worker, to_json(PrepareMessage(job_id=job.id)), Lane.INTERACTIVE)
            else:
                message = to_json(SpanMessage(job_id=job.id, span=Span(first=1, count=pages)))
                tasks.read_span(worker, message, Lane.INTERACTIVE)
    status = ledger.status(job.id)
    assert status.error is not None
    assert (status.state, status.error.code) == (JobState.FAILED, "internal")
    assert status.pages_failed == (pages or 0)


def test_an_outcome_that_cannot_be_written_for_reasons_that_nobody_foresaw_is_read_again(ledger: Ledger) -> None:
    # Given a ledger that fails at one outcome of two, once
    job = make_job()
    ledger.accept(job, document_pages=2)
    left = [ValueError("not foreseen")]

    def finish_page(claim: Claim, outcome: Any, *args: Any, **named: Any) -> Any:
        if outcome.page == 1 and left:
            raise left.pop()
        return ledger.finish_page(claim, outcome, *args, **named)

    flaky = SimpleNamespace(claim=ledger.claim, release=ledger.release, finish_page=finish_page)
    message = to_json(SpanMessage(job_id=job.id, span=Span(first=1, count=2)))
    with working(ledger, ledger=flaky, blobs=Failing(0)) as (worker, published):
        tasks.read_span(worker, message, Lane.INTERACTIVE)
        assert published == [(job.id, "1+2", "interactive")]
        tasks.read_span(worker, message, Lane.INTERACTIVE)
    assert ledger.status(job.id).state is JobState.SUCCEEDED


def test_a_worker_whose_device_failed_dies_of_what_nobody_foresaw(ledger: Ledger) -> None:
    # Given a worker that is about to end, perhaps because of this page
    job = make_job()
    ledger.accept(job, document_pages=1)

    def local(blob: str) -> NoReturn:
        (lease,) = worker.leases.held
        lease.suspect.set()
        raise KeyError(blob)

    with working(ledger, blobs=SimpleNamespace(local=local)) as (worker, published):
        tasks.read_span(worker, to_json(SpanMessage(job_id=job.id, span=Span(first=1, count=1))), Lane.INTERACTIVE)
    # Then its death is counted
    assert published == []
    wait_until(lambda: ledger.sweep("q.").deaths == 1)
