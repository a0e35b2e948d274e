"""A document that is handed in twice under one key is one job."""

from __future__ import annotations

import io
import threading
from typing import IO

import pytest

from producer import JobState, Producer
from producer.errors import IdempotencyMismatch, InvalidRequest, QueueFull, RequestInProgress, Unavailable
from producer.idempotency import named
from producer.job import ReadOptions
from producer.ledger import Ledger
from producer.settings import Settings
from tests.documents import tiff

DOCUMENT = tiff(["a page"])


def blobs(producer: Producer) -> list[str]:
    return [path.name for path in producer.settings.blob_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", [DOCUMENT, io.BytesIO(DOCUMENT)], ids=["bytes", "file"])
def test_the_same_again_is_the_same_job_and_costs_nothing(
    source: bytes | IO[bytes], idle_pool: Producer, ledger: Ledger
) -> None:
    first = idle_pool.submit(DOCUMENT, name="a.tiff", idempotency_key="a-17")
    again = idle_pool.submit(source, name="a.tiff", idempotency_key='"a-17"')
    assert again == first
    assert (first.replayed, again.replayed) == (False, True)
    assert ledger.totals()["jobs_accepted"] == 1
    assert blobs(idle_pool) == [first.id]
    assert idle_pool.submit(DOCUMENT, name="a.tiff", idempotency_key="a-18") != first
    assert idle_pool.submit(DOCUMENT, name="a.tiff") != first


@pytest.mark.parametrize(
    ("document", "name", "options"),
    [
        (tiff(["another page"]), "a.tiff", ReadOptions()),
        (DOCUMENT, "b.tiff", ReadOptions()),
        (DOCUMENT, "a.tiff", ReadOptions(min_score=0.1)),
    ],
)
def test_a_key_is_not_used_for_anything_else(
    document: bytes, name: str, options: ReadOptions, idle_pool: Producer
) -> None:
    first = idle_pool.submit(DOCUMENT, name="a.tiff", idempotency_key="a-17")
    with pytest.raises(IdempotencyMismatch):
        idle_pool.submit(document, options, name=name, idempotency_key="a-17")
    assert blobs(idle_pool) == [first.id]


def test_a_key_is_known_as_long_as_its_job_and_no_longer(idle_pool: Producer, ledger: Ledger) -> None:
    first = idle_pool.submit(DOCUMENT, idempotency_key="a-17")
    job, key = f"{ledger.namespace}:job:{first.id}", f"{ledger.namespace}:key:{named('a-17')}"
    assert ledger.redis.ttl(key) == ledger.redis.ttl(job) > ledger.settings.result_ttl_s
    first.cancel()
    assert ledger.redis.ttl(key) == ledger.redis.ttl(job) <= ledger.settings.result_ttl_s
    assert idle_pool.submit(DOCUMENT, idempotency_key="a-17").status().state is JobState.CANCELLED
    ledger.redis.delete(key, job)
    assert idle_pool.submit(DOCUMENT, idempotency_key="a-17").status().state is JobState.QUEUED


def test_a_full_pool_still_knows_what_it_has_accepted(settings: Settings) -> None:
    with Producer(settings.model_copy(update={"max_queued_jobs": 1})) as producer:
        first = producer.submit(DOCUMENT, idempotency_key="a-17")
        assert producer.submit(DOCUMENT, idempotency_key="a-17") == first
        with pytest.raises(QueueFull):
            producer.submit(DOCUMENT, idempotency_key="a-18")


def test_what_the_disk_did_not_get_in_time_is_a_new_job_under_its_key(
    idle_pool: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Ledger._ask
    monkeypatch.setattr(Ledger, "_ask", lambda *args: (ask(*args)[0], "The disk is slow."))
    with pytest.raises(Unavailable):
        idle_pool.submit(DOCUMENT, idempotency_key="a-17")
    monkeypatch.undo()
    assert idle_pool.submit(DOCUMENT, idempotency_key="a-17").status().state is JobState.QUEUED


@pytest.mark.parametrize("key", ["", '""', "a" * 256, "two\nlines", "ä", 'a"b'])
def test_a_key_that_is_none_is_refused(key: str, idle_pool: Producer) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        idle_pool.submit(DOCUMENT, idempotency_key=key)
    assert blobs(idle_pool) == []


def test_of_many_at_once_one_is_accepted(idle_pool: Producer, ledger: Ledger) -> None:
    jobs: list[str] = []
    threads = [
        threading.Thread(target=lambda: jobs.append(idle_pool.submit(DOCUMENT, idempotency_key="a-17").id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 8
    assert len(set(jobs)) == ledger.totals()["jobs_accepted"] == 1
    assert blobs(idle_pool) == [jobs[0]]


def test_a_key_in_use_is_free_again_afterwards(ledger: Ledger) -> None:
    with ledger.sole_use(named("a-17")):
        with pytest.raises(RequestInProgress), ledger.sole_use(named("a-17")):
            pass
        with ledger.sole_use(named("a-18")):
            pass
    with ledger.sole_use(named("a-17")):
        pass
