"""Workers that are killed, stopped, frozen and replaced while documents come in."""

from __future__ import annotations

import os
import signal
import time

import pytest

from producer.job import JobState
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool


def test_workers_killed_at_random_moments(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("kill -9 of a worker", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(50 if full else 2):
            time.sleep(chaos.random.uniform(0, 1.0))
            chaos.is_whole()
            chaos.goes_on()
            report.recovered(chaos.kill(chaos.random.choice(chaos.worker_pids())))
    chaos.finish(120)
    judge(chaos, report)


@pytest.mark.chaos
def test_a_worker_killed_with_the_leases_that_are_the_default(pool: MakePool, seed: int) -> None:
    chaos = pool(lease_s=15.0, lease_renew_s=5.0, sweep_interval_s=3.0, unclaimed_after_s=10.0)
    report = Report("kill -9 of a worker, default leases", seed)
    chaos.start_workers(2)
    with chaos.load(pause_s=0.02):  # More than they read: both have something in hand.
        time.sleep(1)
        report.recovered(chaos.kill(chaos.worker_pids()[0]))
    chaos.finish(60)
    judge(chaos, report)


@pytest.mark.chaos
def test_workers_replaced_one_after_the_other(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("SIGTERM of each worker in turn", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(6 if full else 2):
            started, pid = time.monotonic(), chaos.random.choice(chaos.worker_pids())
            os.kill(pid, signal.SIGTERM)
            chaos.comes_back_without(pid)
            report.recovered(time.monotonic() - started)
    chaos.finish(60)
    judge(chaos, report)
    # A page that a leaving worker had begun was ended by it
    assert report.read_again == 0


def test_a_worker_that_was_frozen_past_its_leases_writes_nothing_late(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("SIGSTOP past the lease, then SIGCONT", seed)
    chaos.start_workers(2)
    for _ in range(5 if full else 1):
        report.recovered(chaos.freeze_a_worker(pause_s=0.02))
    chaos.finish(60)
    judge(chaos, report)


@pytest.mark.chaos
def test_every_message_twice(pool: MakePool, seed: int) -> None:
    chaos, report = pool(), Report("every message twice", seed)
    for _ in range(40):
        chaos.submit()
    queue = "chaos.interactive"
    for message in chaos.client.lrange(queue, 0, -1):
        chaos.client.lpush(queue, message)
        report.faults += 1
    chaos.start_workers(2)
    report.seconds = round(chaos.finish(60), 1)
    judge(chaos, report)


@pytest.mark.chaos
def test_documents_that_vanished(pool: MakePool, seed: int) -> None:
    chaos, report = pool(), Report("a document's bytes vanish before it is read", seed)
    jobs = [chaos.submit(pages=3) for _ in range(20)]
    gone = chaos.random.sample(jobs, 5)
    for job_id in gone:
        chaos.producer.blobs.delete(chaos.ledger.job(job_id).blob)
        report.faults += 1
    chaos.start_workers(2)
    report.seconds = round(chaos.finish(60), 1)
    for job_id in gone:
        error = chaos.ledger.status(job_id).error
        assert error is not None
        assert error.code == "fetch_failed"
    judge(chaos, report, but=len(gone))


@pytest.mark.chaos
def test_jobs_cancelled_in_the_middle(pool: MakePool, seed: int) -> None:
    chaos, report = pool(), Report("cancelled while they are read", seed)
    chaos.start_workers(2)
    jobs = [chaos.submit(pages=12) for _ in range(30)]
    for job_id in chaos.random.sample(jobs, 10):
        chaos.ledger.cancel(job_id)
        report.faults += 1
    report.seconds = round(chaos.finish(60), 1)
    states = [chaos.ledger.status(job_id).state for job_id in jobs]
    assert set(states) <= {JobState.SUCCEEDED, JobState.CANCELLED}
    judge(chaos, report, but=states.count(JobState.CANCELLED))
