"""Chapter 2: jobs are followed, cancelled, and picked up again by their id."""

from __future__ import annotations

import pytest

from producer import JobState, Producer, ReadOptions
from producer.errors import NotFinished, NotFound
from tests.documents import png, tiff


def test_progress_comes_page_by_page(pool: Producer) -> None:
    job = pool.submit(tiff(["first", "second", "third"]))

    seen = list(job.watch(timeout_s=60))

    assert seen[-1].state is JobState.SUCCEEDED
    done = [status.pages_done for status in seen]
    assert done == sorted(done)
    assert seen[-1].pages_done == seen[-1].pages_total == 3


def test_any_process_can_pick_a_job_up_by_its_id(pool: Producer) -> None:
    job_id = pool.submit(png("hello"), name="greeting.png").id

    with Producer(pool.settings) as another:
        job = another.job(job_id)
        job.wait(timeout_s=60)

        assert job.result().text == "hello"
        assert job.result().name == "greeting.png"


def test_a_result_is_there_once_the_job_is_final(idle_pool: Producer) -> None:
    job = idle_pool.submit(png("nobody reads this"))

    with pytest.raises(NotFinished):
        job.result()
    assert job.wait(timeout_s=0).state is JobState.QUEUED

    assert job.cancel().state is JobState.CANCELLED
    assert job.result().state is JobState.CANCELLED


def test_a_deadline_counts_the_time_in_the_queue(pool: Producer) -> None:
    job = pool.submit(tiff(["never"] * 50), ReadOptions(deadline_s=0.05))

    status = job.wait(timeout_s=60)

    assert status.state is JobState.EXPIRED
    assert status.error is not None
    assert status.error.code == "deadline_exceeded"


def test_an_unknown_job_is_an_error(pool: Producer) -> None:
    with pytest.raises(NotFound):
        pool.status("job_" + 32 * "0")
