"""Workers that cannot go on end themselves, others read what they held, and the pool starts them again. Real processes,
with the fake predictor."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from producer import JobState, PageFailure, Producer
from producer.plan import WorkerPlan
from producer.processes import PYTHON, ended_by
from producer.settings import Settings
from producer.workers import Workers
from tests.documents import tiff
from worker.streak import MOST_FAILURES

WORKER = Path(__file__).parents[1] / "faulty_worker.py"
PAGES = [f"page number {number}" for number in range(1, 9)]
BLACK_PAGE = 3


class RecordedWorkers(Workers):
    """Workers whose ends are kept: `status 70`, or the name of a signal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ends: list[str] = []

    def _note_end(self, seat: Any, process: Any) -> None:
        self.ends.append(ended_by(process.popen.returncode))
        super()._note_end(seat, process)


@dataclass
class Pool:
    """Workers with a fault; see `tests/faulty_worker.py`."""

    settings: Settings
    log_dir: Path
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, fault: str, file: Path | str = "", *, workers: int = 2) -> RecordedWorkers:
        cpus = frozenset(os.sched_getaffinity(0))
        plans = [WorkerPlan(number, cpus, 1, 1, metrics_port=0) for number in range(1, workers + 1)]
        command = [*PYTHON, str(WORKER), fault, str(file)]
        recorded = RecordedWorkers(self.settings, plans, log_dir=self.log_dir, command=command)
        self.threads.append(threading.Thread(target=recorded.run, args=(self.stop,)))
        self.threads[-1].start()
        return recorded

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.log_dir.glob("worker-*.log"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """What is hung, stalled or dead is found within the test's patience."""
    soon = {"lease_s": 1.5, "lease_renew_s": 0.3, "sweep_interval_s": 0.2, "unclaimed_after_s": 1.0}
    own = {"span_pages": 4, "predictor": "fake", "batch_timeout_s": 3.0, "intake_timeout_s": 2.0}
    return settings.model_copy(update={**soon, **own})


@pytest.fixture
def pool(settings: Settings, tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(settings, tmp_path / "logs")
    yield pool
    pool.stop.set()
    for thread in pool.threads:
        thread.join()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("hang", "status 70", "running for 3 s"),
        ("hang-alone", "status 1", "most recent call first"),
        ("device", "status 70", "CUDA failure 700"),
    ],
)
def test_a_page_that_ends_every_worker_is_found_and_costs_no_other_page(
    fault: str, status: str, told: str, pool: Pool, idle_pool: Producer
) -> None:
    # Given a page that brings a fault to every worker that reads it, among others
    workers = pool.start(fault)
    jobs = [idle_pool.submit(tiff(PAGES)) for _ in range(3)]
    guilty = idle_pool.submit(tiff(PAGES, black=BLACK_PAGE))
    jobs += [idle_pool.submit(tiff(PAGES)) for _ in range(3)]

    # Then three workers have ended for it, and told why; it is given up, and all else is read once
    assert guilty.wait(timeout_s=120).state is JobState.PARTIAL
    (failure,) = [page for page in guilty.result().pages if isinstance(page, PageFailure)]
    assert (failure.page, failure.error.code) == (BLACK_PAGE, "poison_document")
    for job in jobs:
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    assert idle_pool.ledger.totals()["pages_succeeded"] == 7 * len(PAGES) - 1
    until(lambda: workers.ends == [status] * 3)
    assert pool.logs().count(told) >= 3


def test_a_worker_whose_device_failed_loses_no_page(pool: Pool, idle_pool: Producer, tmp_path: Path) -> None:
    # Given one worker whose device fails at some page, which is not the cause
    workers = pool.start("device", tmp_path / "struck")
    jobs = [idle_pool.submit(tiff(PAGES, black=BLACK_PAGE)) for _ in range(6)]

    # Then it ends, and every page is read
    for job in jobs:
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    until(lambda: workers.ends == ["status 70"])


def test_a_worker_that_fails_on_everything_stops_taking_pages(pool: Pool, idle_pool: Producer, tmp_path: Path) -> None:
    # Given one worker that from some page on fails on each, with an error like any other
    workers = pool.start("model", tmp_path / "struck")
    jobs = [idle_pool.submit(tiff(PAGES, black=BLACK_PAGE)) for _ in range(12)]

    # Then it soon ends, instead of failing all that comes: each of its two stages fails on a few items
    for job in jobs:
        job.wait(timeout_s=60)
    until(lambda: workers.ends == ["status 70"])
    failed = idle_pool.ledger.totals()["pages_failed"]
    assert MOST_FAILURES <= failed < 3 * MOST_FAILURES
    assert idle_pool.ledger.totals()["pages_succeeded"] == len(jobs) * len(PAGES) - failed
    assert "one item after the other fails, now with ValueError: no kernel" in pool.logs()


def test_a_worker_that_receives_nothing_ends(pool: Pool, idle_pool: Producer, tmp_path: Path) -> None:
    # Given a worker whose consumer has stalled, and a job in its queue
    workers = pool.start("deaf", tmp_path / "struck", workers=1)
    job = idle_pool.submit(tiff(PAGES))

    # Then another one takes its place, and the job
    assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    until(lambda: workers.ends == ["status 70"])
    assert "messages wait, and none has come for" in pool.logs()
