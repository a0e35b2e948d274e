"""Blobs that vanish and a Redis that does not answer, under a real worker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import JobState, PageFailure, Producer
from producer.embedded import Embedded
from producer.settings import Settings
from tests.documents import png, tiff
from tests.redis_server import Server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"predictor": "fake", "device": "cpu", "span_pages": 2, "rasterise_processes": 1})


def test_a_document_that_vanished_fails_its_job_and_no_other(settings: Settings, idle_pool: Producer) -> None:
    # Given two documents whose blobs vanish before a worker sees them, and a third
    one_page = idle_pool.submit(png("gone"))
    uncounted = idle_pool.submit(tiff(["gone"] * 4))
    other = idle_pool.submit(png("here"))
    for job in (one_page, uncounted):
        idle_pool.blobs.delete(job.id)

    # When a worker comes
    with Embedded(settings) as parts:
        parts.start_workers(1)
        states = [job.wait(timeout_s=60).state for job in (one_page, uncounted, other)]

    # Then the two have failed, and say why, and the third is read
    assert states == [JobState.FAILED, JobState.FAILED, JobState.SUCCEEDED]
    for job in (one_page, uncounted):
        error = job.result().error
        assert error is not None
        assert error.code == "fetch_failed"


def test_a_document_that_vanishes_while_it_is_read_fails_the_pages_that_are_left(
    settings: Settings, idle_pool: Producer
) -> None:
    with Embedded(settings) as parts:
        parts.start_workers(1)
        job = idle_pool.submit(tiff([f"page {number}" for number in range(200)]))
        next(status for status in job.watch(timeout_s=60) if status.pages_done)
        idle_pool.blobs.delete(job.id)
        assert job.wait(timeout_s=60).final
    failed = [page for page in job.result().pages if isinstance(page, PageFailure)]
    assert {page.error.code for page in failed} <= {"fetch_failed"}
    assert len(job.result().pages) == 200


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may stop."""
    (folder := tmp_path / "redis").mkdir()
    server = Server(folder)
    yield server
    server.kill()
    server.client.close()


def test_a_worker_drains_although_redis_does_not_answer(settings: Settings, own_redis: Server) -> None:
    # Given an idle worker, whose Redis is there and silent
    settings = settings.model_copy(update={"redis_url": own_redis.url})
    with Embedded(settings) as parts, Producer(settings) as producer:
        (worker,) = parts.start_workers(1)
        producer.submit(png("page")).wait(timeout_s=60)
        own_redis.process.popen.send_signal(signal.SIGSTOP)

        # When it is asked to stop
        worker.popen.send_signal(signal.SIGTERM)

        # Then it does
        assert worker.popen.wait(timeout=40) == 0
        own_redis.process.popen.send_signal(signal.SIGCONT)
