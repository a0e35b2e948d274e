"""Pages with the same pixels are read once; where that has no result, one of those that wait for it is the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from producer.caching import page_digest
from producer.errors import Cancelled, DeadlineExceeded, Internal, JobEnded, OcrpoolError, Unavailable
from producer.job import Job, JobState, Lane, PageResult, ReadOptions
from producer.ledger import Ledger
from producer.settings import Settings
from producer.timeline import BatchShare
from tests.producer.gateway.serving import page_read, wait_until
from tests.producer.test_ledger import claimed, make_job
from worker.page_cache import PageCache, Read, manner

READER = "1a"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"cache_ttl_s": 300.0})


class Raster:
    """A page of one grey."""

    def __init__(self, grey: int = 0, *, height: int = 4, width: int = 4, angle: int = 0) -> None:
        self.pixels = np.full((height, width, 3), grey, np.uint8)
        self.height, self.width, self.angle = height, width, angle


class Passage:
    """Counts how often it reads; `meanwhile` is called before it does."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.reads = 0
        self.shares: dict[str, list[BatchShare]] = {}
        self.aside = threading.Event()
        self.begun = threading.Event()
        self._meanwhile = meanwhile

    def step_aside(self) -> None:
        self.aside.set()

    def read(self, page: int, raster: Any, rasterise_ms: float) -> PageResult:
        self.reads += 1
        self.begun.set()
        self._meanwhile()
        return page_read(page)


def read(
    cache: PageCache,
    raster: Raster,
    passage: Passage,
    *,
    job: Job | None = None,
    page: int = 1,
    patience_s: float = 60,
    cancelled: Callable[[], bool] = lambda: False,
) -> Read:
    deadline = time.monotonic() + patience_s
    return cache.read(job or make_job(), page, raster, passage, 1.0, deadline=deadline, cancelled=cancelled)


def record(ledger: Ledger, found: Read) -> None:
    """What a worker does with it."""
    job = make_job()
    ledger.accept(job, document_pages=1)
    page = found.result.model_copy(update={"page": 1})
    verdict = ledger.finish_page(claimed(ledger, job, "1+1"), page, reader=READER, pixels=found.pixels)
    assert verdict is JobState.SUCCEEDED


def test_pixels_that_were_read_are_read_no_more(ledger: Ledger, settings: Settings) -> None:
    cache, passage = PageCache(ledger, settings, READER), Passage()
    record(ledger, read(cache, Raster(), passage))
    found = read(cache, Raster(angle=90), passage, page=7)
    assert passage.reads == 1
    assert (found.result.cached, found.result.page, found.result.angle) == (True, 7, 90)
    assert (found.result.text, found.pixels) == (page_read(1).text, "")
    assert found.result.timings.recognise_ms == 0


@pytest.mark.parametrize(
    ("raster", "reader", "options"),
    [
        (Raster(1), READER, {}),
        (Raster(height=2, width=8), READER, {}),
        (Raster(), "2b", {}),
        (Raster(), READER, {"orientation": True}),
        (Raster(), READER, {"min_score": 0.1}),
        (Raster(), READER, {"cache": False}),
    ],
    ids=["pixels", "shape", "reader", "orientation", "min_score", "cache"],
)
def test_what_differs_is_read(
    ledger: Ledger, settings: Settings, raster: Raster, reader: str, options: dict[str, Any]
) -> None:
    passage = Passage()
    record(ledger, read(PageCache(ledger, settings, READER), Raster(), passage))
    found = read(PageCache(ledger, settings, reader), raster, passage, job=make_job(**options))
    assert (passage.reads, found.result.cached) == (2, False)
    assert found.pixels, "what is read anew is known anew"


def test_tenants_share_no_page() -> None:
    pixels, size = "a digest", (4, 4)
    digests = {page_digest(pixels, size, ReadOptions(), tenant, READER) for tenant in ("", "a", "b")}
    assert len(digests) == 3


def test_what_is_not_kept_is_read_again(ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    passage = Passage()
    small = PageCache(ledger, settings.model_copy(update={"cache_max_bytes": 10}), READER)
    off = PageCache(ledger, settings.model_copy(update={"cache_ttl_s": 0.0}), READER)
    on_card = Raster()
    on_card.pixels = object()  # type: ignore[assignment]  # anything but an array
    cache = PageCache(ledger, settings, READER)
    assert [found.pixels for found in (read(small, Raster(), passage), read(off, Raster(), passage))] == ["", ""]
    assert (read(cache, on_card, passage).pixels, off.reader, small.reader) == ("", "", READER)
    monkeypatch.setattr(ledger.redis, "info", lambda section: {"maxmemory": 100, "used_memory": 76})
    full = PageCache(ledger, settings, READER)
    assert (read(full, Raster(), passage).pixels, full.reader) == ("", "")


def test_a_page_is_read_although_the_ledger_cannot_be_asked(ledger: Ledger, settings: Settings) -> None:
    def away(*_: object) -> Any:
        raise Unavailable("The pool's Redis cannot be reached.")

    cache = PageCache(SimpleNamespace(recall_page=away, redis=ledger.redis), settings, READER)  # type: ignore[arg-type]
    assert not read(cache, Raster(), Passage()).result.cached


@pytest.fixture
def leader_and_follower(ledger: Ledger, settings: Settings) -> Any:
    """Two jobs' pages with the same pixels: the first is being read until `go` is set, the second waits for it."""
    cache, go = PageCache(ledger, settings, READER), threading.Event()
    outcome: list[Exception] = []

    def meanwhile() -> None:
        assert go.wait(30)
        for error in outcome:
            raise error

    leading, following = Passage(meanwhile), Passage()
    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(read, cache, Raster(), leading)
        assert leading.begun.wait(30)

        def follow(**named: Any) -> Future[Read]:
            follower = threads.submit(read, cache, Raster(), following, **named)
            assert following.aside.wait(30)
            return follower

        yield SimpleNamespace(leader=leader, follow=follow, following=following, go=go, outcome=outcome, cache=cache)
        go.set()


def test_the_second_of_two_waits_and_no_batch_does(leader_and_follower: Any) -> None:
    follower = leader_and_follower.follow()
    leader_and_follower.go.set()
    assert (leader_and_follower.leader.result().result.cached, follower.result().result.cached) == (False, True)
    assert leader_and_follower.following.reads == 0
    assert leader_and_follower.cache._flights == {}


@pytest.mark.parametrize(
    "error", [Internal(), Unavailable(), JobEnded(), MemoryError()], ids=lambda e: type(e).__name__
)
def test_the_second_reads_by_itself_where_the_first_fails(leader_and_follower: Any, error: Exception) -> None:
    follower = leader_and_follower.follow()
    leader_and_follower.outcome.append(error)
    leader_and_follower.go.set()
    assert not follower.result().result.cached
    assert leader_and_follower.following.reads == 1
    assert type(leader_and_follower.leader.exception()) is type(error)


@pytest.mark.parametrize("error", [Cancelled(), Internal()], ids=lambda e: type(e).__name__)
def test_of_those_that_wait_one_at_a_time_reads_until_one_has_a_result(
    ledger: Ledger, settings: Settings, error: OcrpoolError
) -> None:
    # Given a page in eight jobs, three of which end before it is read
    cache, verdicts = PageCache(ledger, settings, READER), [error, error, error]
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def meanwhile() -> None:
        begun.release()
        assert go.acquire(timeout=30)
        if verdicts:
            raise verdicts.pop()

    def counted() -> list[float]:
        named = [("ocrpool_worker_cache_pages_total", {"outcome": name}) for name in ("hit", "joined", "missed")]
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in named]

    before, passages = counted(), [Passage(meanwhile) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(read, cache, Raster(), passage) for passage in passages]
        wait_until(lambda: sum(passage.aside.is_set() for passage in passages) == 7)
        for nth in range(1, 5):
            # When one after the other fails, the next begins, and nobody else
            assert begun.acquire(timeout=30)
            assert sum(passage.reads for passage in passages) == nth
            go.release()
        wait(reads, timeout=30)

    # Then the others have what the fourth has read
    results = [future.result().result.cached for future in reads if not future.exception()]
    assert sorted(results) == [False, True, True, True, True]
    assert sum(passage.reads for passage in passages) == 4
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [0, 4, 1]
    assert cache._flights == {}


def test_the_second_waits_no_longer_than_its_job(leader_and_follower: Any) -> None:
    ended = threading.Event()
    follower = leader_and_follower.follow(cancelled=ended.is_set)
    ended.set()
    with pytest.raises(JobEnded):
        follower.result(30)


def test_nor_than_its_deadline(leader_and_follower: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        leader_and_follower.follow(patience_s=0.05).result(30)


def test_a_page_of_another_lane_does_not_wait(leader_and_follower: Any) -> None:
    passage = Passage()
    assert not read(leader_and_follower.cache, Raster(), passage, job=make_job(lane=Lane.BULK)).result.cached
    assert not passage.aside.is_set()


def test_what_decides_how_a_page_is_read_is_in_its_digest(settings: Settings) -> None:
    engine: Any = SimpleNamespace(name="pp-ocr", model="PP-OCRv6_small cpu")
    plain = manner(engine, settings)
    assert plain == manner(engine, settings.model_copy(update={"pages_in_flight": 3}))
    other: Any = SimpleNamespace(name="pp-ocr", model="PP-OCRv6_small cuda")
    assert plain != manner(other, settings)
    assert plain != manner(engine, settings.model_copy(update={"pdf_dpi": 200}))
    assert plain != manner(engine, settings.model_copy(update={"detector_sizes": ((96, 96),)}))
