"""The cache with real workers and the fake predictor: how many pages it sees."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest

from producer import JobState, PageResult, Producer, ReadOptions
from producer.embedded import Embedded
from producer.settings import Settings
from tests.documents import encoded, picture, png
from tests.producer.gateway.serving import Served

ANSWERED = re.compile(r'^ocrpool_worker_batch_items_total\{outcome="answered",stage="detector"\} (\S+)$', re.MULTILINE)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"predictor": "fake", "device": "cpu", "cache_ttl_s": 300.0})


@pytest.fixture
def parts(settings: Settings) -> Iterator[Embedded]:
    with Embedded(settings) as parts:
        yield parts


@pytest.fixture
def pages_seen(parts: Embedded, idle_pool: Producer) -> Callable[[], int]:
    """A worker; tells how many pages its predictor has seen."""
    parts.start_workers(1)

    def seen() -> int:
        (worker,) = idle_pool.ledger.workers().values()
        with urlopen(f"http://{worker['metrics']}/metrics", timeout=10) as answer:
            found = ANSWERED.search(answer.read().decode())
        return int(float(found[1])) if found else 0

    return seen


def pdf(texts: list[str]) -> bytes:
    first, *others = map(picture, texts)
    return encoded(first, "PDF", save_all=True, append_images=others)


def read(producer: Producer, document: bytes, options: ReadOptions | None = None) -> list[PageResult]:
    job = producer.submit(document, options)
    assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    return [page for page in job.result().pages if isinstance(page, PageResult)]


def test_of_a_revised_document_only_the_changed_pages_are_read(
    idle_pool: Producer, pages_seen: Callable[[], int]
) -> None:
    # Given a document of 300 pages that was read
    texts = [f"page number {number}" for number in range(300)]
    original = read(idle_pool, pdf(texts))
    before = pages_seen()

    # When it comes again with two pages changed and one put in
    texts[17], texts[230] = "an amendment", "another one"
    revised = read(idle_pool, pdf([*texts[:100], "put in", *texts[100:]]))

    # Then the predictor saw those alone, and each page is where it belongs
    assert pages_seen() == before + 3
    assert [page.page for page in revised if not page.cached] == [18, 101, 232]
    unchanged = [page.text for page in revised if page.cached]
    assert unchanged == [page.text for n, page in enumerate(original) if n not in (17, 230)]


def test_a_document_is_read_once_until_somebody_asks_for_more(
    idle_pool: Producer, pages_seen: Callable[[], int], settings: Settings
) -> None:
    document, before = png("one page"), pages_seen()

    def is_read(options: ReadOptions | None = None) -> bool:
        seen = pages_seen()
        (page,) = read(idle_pool, document, options)
        assert page.cached == (pages_seen() == seen)
        return not page.cached

    assert [is_read(), is_read()] == [True, False]
    assert is_read(ReadOptions(cache=False))
    assert is_read(ReadOptions(min_score=0.25))
    assert not is_read()
    assert pages_seen() == before + 3

    # Over HTTP, too
    with Served(settings) as served:
        form = {"files": {"file": ("page.png", document)}}
        hit = served.http.post("/ocr", **form)  # type: ignore[arg-type]
        fresh = served.http.post("/ocr", **form, headers={"Cache-Control": "no-cache"})  # type: ignore[arg-type]
        job = served.http.post("/v1/jobs", **form).json()  # type: ignore[arg-type]
        metrics = served.http.get("/metrics").text
    assert [answer.json()["result"]["pages"][0]["cached"] for answer in (hit, fresh)] == [True, False]
    assert (job["state"], job["cached"]) == ("succeeded", True)
    assert re.search(r'^ocrpool_cache_documents_total\{outcome="hit"\} [1-9]', metrics, re.MULTILINE)
    assert re.search(r"^ocrpool_cache_bytes_total [1-9]", metrics, re.MULTILINE)


def test_what_was_read_is_forgotten(parts: Embedded, idle_pool: Producer, settings: Settings) -> None:
    short = settings.model_copy(update={"cache_ttl_s": 1.0})
    with Embedded(short) as own, Producer(short) as producer:
        own.start_workers(1)
        assert not read(producer, png("one page"))[0].cached
        keys = [f"{settings.namespace}:{kind}:*" for kind in ("known", "pixels")]
        end = time.monotonic() + 30
        while any(list(producer.ledger.redis.scan_iter(key)) for key in keys):
            assert time.monotonic() < end
        assert not read(producer, png("one page"))[0].cached


def test_workers_that_read_otherwise_share_nothing(parts: Embedded, idle_pool: Producer, settings: Settings) -> None:
    parts.start_workers(1)
    document = pdf(["a page", "another"])
    read(idle_pool, document)
    assert all(page.cached for page in read(idle_pool, document))
    parts.stop()
    with Embedded(settings.model_copy(update={"pdf_dpi": 100})) as others:
        others.start_workers(1)
        assert not any(page.cached for page in read(idle_pool, document))
