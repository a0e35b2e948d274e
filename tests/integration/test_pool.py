"""`ocrpool pool`: real workers on the CPU, with the fake predictor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from producer import JobState, Producer
from producer.cards import Card
from producer.plan import WorkerPlan, plan_workers
from producer.processes import Process, free_port
from producer.settings import Settings, as_environment
from producer.workers import Workers
from tests.documents import tiff

OCRPOOL = [sys.executable, "-m", "producer.cli"]
PAGES = [f"page number {number}" for number in range(1, 21)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Leases that lapse soon, so that a death is found within the test's patience."""
    soon = {"lease_s": 1.5, "lease_renew_s": 0.3, "sweep_interval_s": 0.2, "unclaimed_after_s": 1.0}
    return settings.model_copy(update={**soon, "span_pages": 4, "predictor": "fake"})


@pytest.fixture
def pool(settings: Settings, tmp_path: Path) -> Iterator[Process]:
    """Two workers under `ocrpool pool`; its lines and theirs are in one log."""
    command = [*OCRPOOL, "pool", "--workers", "2"]
    process = Process("pool", command, tmp_path / "logs/pool.log", as_environment(settings))
    yield process
    process.stop(grace_s=30)


def ready(producer: Producer, workers: int) -> Callable[[], bool]:
    return lambda: len(producer.workers()) == workers


def by_name(producer: Producer) -> dict[str, dict[str, Any]]:
    """The ready workers' descriptions by their names in the plan."""
    return {node.rpartition("-")[0]: worker for node, worker in producer.ledger.workers().items()}


def test_each_worker_keeps_to_its_own_cpus(pool: Process, idle_pool: Producer, settings: Settings) -> None:
    pool.wait_until(ready(idle_pool, 2), timeout_s=60)

    workers = by_name(idle_pool)
    cpus = {name: os.sched_getaffinity(worker["pid"]) for name, worker in workers.items()}

    assert sorted(cpus) == ["worker-1", "worker-2"]
    available = os.sched_getaffinity(0)
    assert cpus["worker-1"] | cpus["worker-2"] == available
    if len(available) > 1:
        assert not cpus["worker-1"] & cpus["worker-2"]
    for name, worker in workers.items():
        decoders = psutil.Process(worker["pid"]).children()
        assert len(decoders) == len(cpus[name])
        assert all(os.sched_getaffinity(decoder.pid) == cpus[name] for decoder in decoders)


def test_a_killed_worker_comes_back_and_no_page_is_lost(pool: Process, idle_pool: Producer) -> None:
    # Given jobs that two workers are in the middle of
    pool.wait_until(ready(idle_pool, 2), timeout_s=60)
    doomed = by_name(idle_pool)["worker-2"]["pid"]
    jobs = [idle_pool.submit(tiff(PAGES)) for _ in range(6)]
    next(status for status in jobs[0].watch(timeout_s=60) if status.pages_done >= 1)

    # When one of them is killed
    os.kill(doomed, signal.SIGKILL)

    # Then the pool says so and starts another one in its place, and every page is read once
    pool.wait_until(lambda: "worker.ended" in pool.log(), timeout_s=30)
    (line,) = [line for line in pool.log().splitlines() if "worker.ended" in line]
    assert re.search(r"again_in_s=0\.\d+ by=SIGKILL name=worker-2", line)
    for job in jobs:
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    assert idle_pool.ledger.totals()["pages_succeeded"] == len(jobs) * len(PAGES)
    pool.wait_until(lambda: by_name(idle_pool).get("worker-2", {}).get("pid", doomed) != doomed, timeout_s=60)
    assert idle_pool.submit(tiff(PAGES)).wait(timeout_s=60).state is JobState.SUCCEEDED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_worker(
    number: signal.Signals, pool: Process, idle_pool: Producer, settings: Settings
) -> None:
    # Given a pool in the middle of jobs
    pool.wait_until(ready(idle_pool, 2), timeout_s=60)
    pids = [worker["pid"] for worker in by_name(idle_pool).values()]
    jobs = [idle_pool.submit(tiff(PAGES)) for _ in range(10)]
    next(status for status in jobs[0].watch(timeout_s=60) if status.pages_done >= 1)

    # When it is asked to stop
    pool.popen.send_signal(number)
    assert pool.popen.wait(timeout=60) == 0

    # Then its workers are gone without a page failed, and others read what they left
    assert not any(map(psutil.pid_exists, pids))
    assert idle_pool.workers() == []
    assert "page.failed" not in pool.log()
    assert "worker.ended" not in pool.log()
    successors = Workers(settings, plan_workers(settings, [frozenset(os.sched_getaffinity(0))]))
    successors.start()
    try:
        for job in jobs:
            assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    finally:
        successors.stop()
    assert idle_pool.ledger.totals()["pages_succeeded"] == len(jobs) * len(PAGES)


def test_a_worker_that_hangs_is_killed_once_the_time_to_drain_is_over(
    idle_pool: Producer, settings: Settings, tmp_path: Path
) -> None:
    impatient = settings.model_copy(update={"drain_timeout_s": 0.2})
    workers = Workers(impatient, planned(2), log_dir=tmp_path)
    workers.start()
    workers.wait_until_ready(timeout_s=60)
    processes = workers.processes
    for process in processes:
        process.popen.send_signal(signal.SIGSTOP)

    workers.stop()

    assert [process.popen.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGKILL]


def planned(workers: int, card: Card | None = None) -> list[WorkerPlan]:
    cpus = frozenset(os.sched_getaffinity(0))
    return [WorkerPlan(number, cpus, 1, 1, metrics_port=0, card=card) for number in range(1, workers + 1)]


def test_a_worker_sees_the_card_that_it_was_given(idle_pool: Producer, settings: Settings, tmp_path: Path) -> None:
    workers = Workers(settings, planned(1, Card("GPU-of-a-test", "NVIDIA H100", 80 << 30)), log_dir=tmp_path)
    workers.start()
    try:
        workers.wait_until_ready(timeout_s=60)
        (process,) = workers.processes
        assert psutil.Process(process.popen.pid).environ()["CUDA_VISIBLE_DEVICES"] == "GPU-of-a-test"
    finally:
        workers.stop()
    assert "worker.starts" in process.log()
    assert "cards=" in process.log()


def test_workers_that_never_start_end_the_pool_with_their_reason(settings: Settings) -> None:
    lost = {**os.environ, **as_environment(settings), "OCRPOOL_PREDICTOR": "auto", "OCRPOOL_MODEL": "PP-OCRv9_giant"}
    command = [*OCRPOOL, "pool", "--workers", "2"]
    ran = subprocess.run(command, env=lost, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "PP-OCRv6_small" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: No worker could start")


def test_a_pool_needs_a_redis(settings: Settings) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    nowhere = {**os.environ, **as_environment(settings), "OCRPOOL_REDIS_URL": url}
    ran = subprocess.run([*OCRPOOL, "pool"], env=nowhere, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert f"No Redis answers at {url}" in ran.stderr


def test_the_plan_can_be_seen_without_starting_anything(settings: Settings) -> None:
    own = {**os.environ, **as_environment(settings), "OCRPOOL_WORKER_METRICS_PORT": "9108"}
    command = [*OCRPOOL, "pool", "--workers", "2", "--dry-run"]
    ran = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60, check=True)
    heading, *workers, reason = ran.stdout.splitlines()
    assert re.split(r"\s{2,}", heading) == ["worker", "card", "CPUs", "threads", "decoders", "metrics port"]
    assert [re.split(r"\s{2,}", line)[0::5] for line in workers] == [["worker-1", "9108"], ["worker-2", "9109"]]
    assert "--workers" in reason
