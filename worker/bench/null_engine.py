"""The pool without a model's time: what the queue costs a page, and what many pages leave in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from producer.errors import Unavailable
from producer.job import JobState, PageResult
from worker.bench.document import Memory, QueueCost
from worker.bench.drawings import blank_document, mixed_documents
from worker.bench.figures import Spread
from worker.bench.meter import card_memory_bytes, cards
from worker.bench.plan import Plan
from worker.bench.pool import MeasuredPool, measured_pool
from worker.bench.telling import Teller

#: Jobs that are in the pool at a time.
_JOBS = 64
#: The soak's memory is read at the start and after each of this many parts.
_PARTS = 10


def queue_cost(plan: Plan, teller: Teller) -> QueueCost:
    """One-page jobs one after the other, then many at once."""
    effort = plan.effort
    with measured_pool(plan.changed(predictor="fake", model=""), workers=plan.workers) as pool:
        document = blank_document()
        teller.doing(f"{effort.queue_jobs} pages, one after the other")
        _page_cost_s(pool, document)
        costs = [_page_cost_s(pool, document) for _ in range(effort.queue_jobs)]
        teller.doing(f"{effort.queue_pages} pages at once")
        started = time.perf_counter()
        pages = sum(_read_all(pool, iter([(document, 1)] * effort.queue_pages)))
        seconds = time.perf_counter() - started
    cost = QueueCost(cost=Spread.of(costs), pages=pages, pages_per_s=pages / seconds)
    teller.say(
        f"median {cost.cost.p50_ms:.1f} ms a page, p99 {cost.cost.p99_ms:.1f} ms; {cost.pages_per_s:.0f} pages/s"
    )
    return cost


def _page_cost_s(pool: MeasuredPool, document: bytes) -> float:
    """From `submit` to the result in hand, without the time that the page itself took."""
    started = time.perf_counter()
    job = pool.producer.submit(document)
    job.wait(timeout_s=60)
    (page,) = job.result().pages
    seconds = time.perf_counter() - started
    if not isinstance(page, PageResult):
        raise Unavailable(f"the pool failed on a page: {page.error.message}")
    own = page.timings
    return seconds - (own.rasterise_ms + own.detect_ms + own.recognise_ms) / 1000


def _read_all(pool: MeasuredPool, documents: Iterator[tuple[bytes, int]]) -> Iterator[int]:
    """Read all documents, a fixed number at a time, and yield each group's pages."""
    while group := list(islice(documents, _JOBS)):
        ids = [pool.producer.submit(document).id for document, _ in group]
        for status in pool.producer.follow(ids, timeout_s=600):
            if status.final and status.state is not JobState.SUCCEEDED:
                raise Unavailable(f"a document was not read: {status.error or status.state.value}")
        yield sum(pages for _, pages in group)


def memory(plan: Plan, teller: Teller) -> Memory:
    """Mixed documents, `effort.soak_pages` pages of them; with the models where there is a card, without elsewhere."""
    predictor = "auto" if cards() else "fake"
    before = card_memory_bytes()
    settings = plan.settings if cards() else plan.changed(predictor="fake", model="")
    with measured_pool(settings, workers=plan.workers) as pool:
        rss, card = [pool.rss_bytes()], [card_memory_bytes() - before]
        part, read = plan.effort.soak_pages / _PARTS, 0
        for pages in _read_all(pool, mixed_documents(plan.seed)):
            read += pages
            if read >= part * len(rss):
                rss.append(pool.rss_bytes())
                card.append(card_memory_bytes() - before)
                teller.doing(f"{read} of {plan.effort.soak_pages} pages, {rss[-1] / 1e6:.0f} MB")
            if read >= plan.effort.soak_pages:
                break
    warm = min(_PARTS // 5, len(rss) - 1)
    found = Memory(
        predictor=predictor,
        pages=read,
        rss_bytes=tuple(rss),
        card_bytes=tuple(card),
        growth_bytes=rss[-1] - rss[warm],
        card_growth_bytes=card[-1] - card[warm],
    )
    teller.say(f"{read} pages: {found.growth_bytes / 1e6:+.0f} MB since the first fifth, {rss[-1] / 1e6:.0f} MB now")
    return found
