"""Outcomes that are too large for Redis: in the blob store, owned by the ledger."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import cast

import pytest

from producer.blobs import BlobStore, FolderStore, open_store
from producer.errors import NotFound, Unavailable
from producer.job import JobState, PageResult
from producer.ledger import Ledger, Refusal
from producer.outcomes import StoredOutcome
from producer.queue import Publisher
from producer.settings import Settings
from tests.conftest import assert_every_key_is_owned
from tests.producer.test_ledger import claimed, lapse, make_job, page_read
from worker.sweeper import Sweeper

LIMIT_BYTES = 2000


@pytest.fixture(params=["folder", "s3"])
def ledger(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Ledger]:
    url = ""
    if request.param == "s3":
        request.getfixturevalue("s3")
        url = f"s3://scans/{uuid.uuid4().hex}"
    ledger = Ledger(settings.model_copy(update={"result_inline_bytes": LIMIT_BYTES, "blob_url": url}))
    yield ledger
    assert_every_key_is_owned(ledger.redis, settings.namespace)
    ledger.close()


def large(page: int, text: str = "many words ") -> PageResult:
    return page_read(page).model_copy(update={"text": text * LIMIT_BYTES})


def raw(ledger: Ledger, job_id: str, page: int) -> bytes:
    found = ledger.redis.hget(f"{ledger.namespace}:pages:{job_id}", str(page))
    assert isinstance(found, bytes)
    return found


def stored(ledger: Ledger, job_id: str, page: int) -> StoredOutcome:
    return StoredOutcome.model_validate_json(raw(ledger, job_id, page))


def garbage(ledger: Ledger) -> dict[str, float]:
    found = ledger.redis.zrange(f"{ledger.namespace}:garbage", 0, -1, withscores=True)
    rows = cast(list[tuple[bytes, float]], found)
    return {name.decode(): score for name, score in rows}


def test_a_large_outcome_lies_in_the_blob_store_and_comes_back_in_its_place(ledger: Ledger) -> None:
    # Given a job of three pages, two of them large
    job = make_job()
    ledger.accept(job, document_pages=3)
    claim = claimed(ledger, job, "1+3")
    pages = [large(1), page_read(2), large(3)]
    # When they are read
    states = [ledger.finish_page(claim, page) for page in pages]
    # Then Redis has the small one and references, and the result has all
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED]
    assert raw(ledger, job.id, 2).decode() == page_read(2).model_dump_json()
    assert all(len(raw(ledger, job.id, page)) < 300 for page in (1, 3))
    assert ledger.blobs.get(stored(ledger, job.id, 1).blob).decode() == pages[0].model_dump_json()
    assert ledger.result(job.id).pages == tuple(pages)


def test_its_blob_goes_with_the_job(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=2)
    claim = claimed(ledger, job, "1+2")
    ledger.finish_page(claim, large(1))
    blob = stored(ledger, job.id, 1).blob
    # While the job is unfinished both are kept for as long as it may take, then for as long as the result
    before = garbage(ledger)
    assert abs(before[blob] - before[job.blob]) < 2000
    ledger.finish_page(claim, page_read(2))
    after = garbage(ledger)
    assert after[blob] == after[job.blob] < before[job.blob]
    # And the sweep that is due removes it
    publisher = Publisher(ledger.settings)
    ledger.redis.zadd(f"{ledger.namespace}:garbage", {blob: 1, job.blob: 1})
    Sweeper(ledger, publisher, ledger.blobs, interval_s=3600).sweep()
    with pytest.raises(NotFound):
        ledger.blobs.get(blob)
    assert garbage(ledger) == {}
    with pytest.raises(NotFound, match="gone from the blob store"):
        ledger.result(job.id)
    publisher.close()


def test_two_writers_of_one_page_leave_one_outcome_and_garbage(ledger: Ledger) -> None:
    # Given a worker that has stored its outcome and dies before it says so
    job = make_job()
    ledger.accept(job, document_pages=1)
    slow = claimed(ledger, job, "1+1")
    write, ledger.scripts._scripts["finish_page"] = ledger.scripts._scripts["finish_page"], died
    with pytest.raises(Died):
        ledger.finish_page(slow, large(1, "slow "))
    ledger.scripts._scripts["finish_page"] = write
    (orphan,) = set(garbage(ledger)) - {job.blob}
    # When another one reads the page, and the first comes back
    lapse(ledger)
    ledger.sweep("q.")
    assert ledger.finish_page(claimed(ledger, job, "1+1"), large(1, "quick ")) is JobState.SUCCEEDED
    assert ledger.finish_page(slow, large(1, "late ")) is Refusal.FINAL
    # Then the second outcome stands, the first is owned by the garbage, and the late one was never stored
    assert ledger.result(job.id).pages == (large(1, "quick "),)
    assert set(garbage(ledger)) == {job.blob, stored(ledger, job.id, 1).blob, orphan}
    assert garbage(ledger)[orphan] < garbage(ledger)[job.blob]
    assert ledger.blobs.get(orphan)


class Died(Exception):
    """The worker is gone."""


def died(**_: object) -> None:
    raise Died


@pytest.mark.parametrize("again", ["a lost answer", "another worker"])
def test_an_outcome_that_is_written_twice_is_one(ledger: Ledger, again: str) -> None:
    job = make_job()
    ledger.accept(job, document_pages=2)
    claim = claimed(ledger, job, "1+2")
    ledger.finish_page(claim, large(1))
    kept_until = garbage(ledger)
    if again == "another worker":
        lapse(ledger)
        ledger.sweep("q.")
        assert claimed(ledger, job, "1+2").pages == (2,)
    assert ledger.finish_page(claim, large(1)) in (Refusal.DUPLICATE, Refusal.FENCED)
    assert garbage(ledger) == kept_until


def test_a_blob_that_was_changed_is_no_result(ledger: Ledger) -> None:
    job = make_job()
    ledger.accept(job, document_pages=1)
    ledger.finish_page(claimed(ledger, job, "1+1"), large(1))
    ledger.blobs.put(stored(ledger, job.id, 1).blob, b"{}")
    with pytest.raises(Unavailable, match="another outcome"):
        ledger.result(job.id)


def test_while_the_store_takes_nothing_the_page_waits(settings: Settings) -> None:
    # Given a blob store that cannot be written
    (settings.data_dir / "blobs").write_text("a file where the folder should be")
    ledger = Ledger(settings.model_copy(update={"result_inline_bytes": LIMIT_BYTES}))
    job = make_job()
    ledger.accept(job, document_pages=1)
    claim = claimed(ledger, job, "1+1")
    # When a large outcome comes, then it is not recorded
    with pytest.raises(Unavailable):
        ledger.finish_page(claim, large(1))
    assert ledger.status(job.id).pages_done == 0
    # And it is once the store is back
    (settings.data_dir / "blobs").unlink()
    assert ledger.finish_page(claim, large(1)) is JobState.SUCCEEDED
    ledger.close()


def test_every_part_finds_the_same_store(settings: Settings) -> None:
    store: BlobStore = open_store(settings)
    assert isinstance(store, FolderStore)
    assert store.folder == settings.blob_dir
