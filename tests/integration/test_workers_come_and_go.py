"""Workers are killed, stopped and started while jobs run. Real processes, real models."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import JobState, PageResult, Producer
from producer.embedded import Embedded
from producer.errors import Unavailable
from producer.settings import Settings
from tests.documents import tiff
from tests.redis_server import Server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Leases that lapse soon, so that a death is found within the test's patience."""
    soon = {"lease_s": 1.5, "lease_renew_s": 0.3, "sweep_interval_s": 0.2, "unclaimed_after_s": 1.0}
    return settings.model_copy(update={**soon, "span_pages": 4})


@pytest.fixture
def parts(settings: Settings) -> Iterator[Embedded]:
    with Embedded(settings) as parts:
        yield parts


TEXTS = [f"page number {number}" for number in range(1, 21)]


def test_kill_9_in_the_middle_of_a_job_loses_no_page_and_doubles_none(parts: Embedded, idle_pool: Producer) -> None:
    # Given a 20-page job that a worker is in the middle of
    (doomed,) = parts.start_workers(1)
    job = idle_pool.submit(tiff(TEXTS))
    next(status for status in job.watch(timeout_s=60) if status.pages_done >= 3)

    # When the worker is killed, and another one starts
    doomed.popen.kill()
    doomed.popen.wait()
    assert not job.status().final
    parts.start_workers(1)

    # Then every page has been read, once
    assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    pages = [page for page in job.result().pages if isinstance(page, PageResult)]
    assert [page.text for page in pages] == TEXTS
    assert idle_pool.ledger.totals()["pages_succeeded"] == 20


def test_sigterm_finishes_the_pages_at_hand_and_leaves_the_rest_to_others(parts: Embedded, idle_pool: Producer) -> None:
    # Given a worker in the middle of many jobs
    (leaving,) = parts.start_workers(1)
    jobs = [idle_pool.submit(tiff(TEXTS)) for _ in range(4)]
    next(status for status in jobs[0].watch(timeout_s=60) if status.pages_done >= 1)

    # When it is asked to go, and another one comes
    leaving.popen.send_signal(signal.SIGTERM)
    assert leaving.popen.wait(timeout=60) == 0
    assert idle_pool.workers() == []
    parts.start_workers(1)

    # Then all is read, and no page twice
    for job in jobs:
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    assert idle_pool.ledger.totals()["pages_succeeded"] == 80
    assert "page.failed" not in leaving.log()


def test_killing_redis_loses_nothing_and_the_worker_goes_on(settings: Settings, tmp_path: Path) -> None:
    # Given a Redis of its own, a worker, and a job in the middle
    server = Server(tmp_path)
    own = settings.model_copy(update={"redis_url": server.url})
    try:
        with Embedded(own) as parts, Producer(own) as producer:
            (worker,) = parts.start_workers(1)
            job = producer.submit(tiff(TEXTS))
            statuses = job.watch(timeout_s=60)
            next(status for status in statuses if status.pages_done >= 2)

            # When Redis is killed, stays away for a while, and comes back with what it had written
            server.kill()
            worker.wait_until(lambda: "Connection to broker lost" in worker.log(), timeout_s=30)
            server.start()

            # Then the job that was followed all the while ends, and the same worker reads the next one
            *_, last = statuses
            assert last.state is JobState.SUCCEEDED
            assert len(job.result().pages) == 20
            assert producer.submit(tiff(["and on"])).wait(timeout_s=60).state is JobState.SUCCEEDED
            assert worker.popen.poll() is None
    finally:
        server.close()


def test_a_worker_without_its_models_says_so_and_takes_no_work(settings: Settings) -> None:
    lost = Embedded(settings.model_copy(update={"model": "PP-OCRv9_giant"}))
    with lost, pytest.raises(Unavailable, match="PP-OCRv6_small"):
        lost.start_workers(1)
