"""A master of Redis that dies, or hands over, while documents come in. Sentinels promote its replica, the pool goes on
by itself, and what the replica had not heard of is handed in again by its clients."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from producer.errors import NotFound
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool, document, until
from tests.redis_server import Watched


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "watched")  # Its pool closes it.


def accepts(chaos: Pool, more: int) -> None:
    """Wait until so many submissions more than now are accepted."""
    accepted = len(chaos.submitted)
    until(lambda: len(chaos.submitted) >= accepted + more, 30)


def hand_in_again(chaos: Pool) -> int:
    """Do what a client does whose job is gone. Returns how many were."""
    gone = [job_id for job_id in chaos.submitted if is_gone(chaos, job_id)]
    for job_id in gone:
        chaos.submit(chaos.submitted.pop(job_id))
    return len(gone)


def is_gone(chaos: Pool, job_id: str) -> bool:
    try:
        chaos.producer.status(job_id)
    except NotFound:
        return True
    return False


def drop_documents_without_a_job(chaos: Pool) -> int:
    """The ledger has lost these as well. Returns how many there were."""
    blobs = {path.name for path in (chaos.settings.data_dir / "blobs").glob("??/[!.]*")}
    orphans = blobs - set(chaos.members("garbage"))
    for blob in orphans:
        chaos.producer.blobs.delete(blob)
    return len(orphans)


def order(chaos: Pool, key: str) -> str:
    """Hand in the document of that key."""
    job = chaos.producer.submit(document(2, 0, 0), idempotency_key=key)
    chaos.submitted[job.id] = 2
    return job.id


def test_a_master_killed_whose_replica_lags(pool: MakePool, watched: Watched, seed: int, full: bool) -> None:
    chaos, report = pool(watched, redis_url=watched.url), Report("kill -9 of the master, replica behind", seed)
    chaos.start_workers(2)
    workers = chaos.worker_pids()
    watched.lose_a_sentinel()
    for again in range(3 if full else 1):
        with chaos.load():
            if again:
                watched.start()
            # Given a job that the replica has, and jobs and pages of which it knows nothing
            known = order(chaos, f"known-{again}")
            until(partial(watched.replica.client.exists, f"chaos:job:{known}"), 10)
            watched.cut_off_the_replica()
            unknown = order(chaos, f"unknown-{again}")
            accepts(chaos, 6)  # The first may have been on its way before.
            chaos.goes_on()
            # When the master is killed
            started = time.monotonic()
            watched.kill()
            chaos.goes_on(20)  # Whoever connects asks the Sentinel that is away first, and must not linger there.
            report.recovered(time.monotonic() - started)
        chaos.finish(60)
        # Then what is handed in again under its key is the job that is there, or one in the place of that which is gone
        assert not is_gone(chaos, known)
        assert order(chaos, f"known-{again}") == known
        assert is_gone(chaos, unknown)
        del chaos.submitted[unknown]
        restored = order(chaos, f"unknown-{again}")
        assert order(chaos, f"unknown-{again}") == restored
        lost = hand_in_again(chaos)
        assert lost >= 5
        report.fault += f", {lost + 1} jobs handed in again"
        chaos.finish(60)
        assert drop_documents_without_a_job(chaos) >= lost  # The replica may have heard that one would come.
    assert chaos.worker_pids() == workers
    judge(chaos, report)


@pytest.mark.chaos
def test_a_master_killed_whose_replica_has_every_accepted_job(
    pool: MakePool, watched: Watched, seed: int, full: bool
) -> None:
    report = Report("kill -9 of the master, OCRPOOL_DURABLE_REPLICAS=1", seed)
    chaos = pool(watched, redis_url=watched.url, durable=True, durable_replicas=1, durable_timeout_s=2)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(3 if full else 1):
            accepts(chaos, 5)  # Each waits until both servers have flushed, which they do once a second.
            watched.cut_off_the_replica()
            chaos.refuses()
            started = time.monotonic()
            watched.kill()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
            watched.start()
            accepts(chaos, 1)
    chaos.finish(60)
    drop_documents_without_a_job(chaos)
    judge(chaos, report, but=chaos.producer.ledger.totals().get("jobs_cancelled", 0))


@pytest.mark.chaos
@pytest.mark.parametrize(("change", "loses"), [("hand_over", False), ("stop", False), ("depose", True)])
def test_a_master_that_is_replaced(pool: MakePool, watched: Watched, seed: int, change: str, loses: bool) -> None:
    chaos, report = pool(watched, redis_url=watched.url), Report(f"the master is replaced: {change}", seed)
    chaos.start_workers(2)
    workers = chaos.worker_pids()
    with chaos.load():
        accepts(chaos, 20)
        started = time.monotonic()
        getattr(watched, change)()
        chaos.goes_on()
        report.recovered(time.monotonic() - started)
    watched.start()
    chaos.finish(60)
    again = hand_in_again(chaos)
    report.fault += f", {again} jobs handed in again"
    assert loses or not again
    chaos.finish(60)
    assert chaos.worker_pids() == workers
    drop_documents_without_a_job(chaos)
    judge(chaos, report)
