"""The oracle would see what it is there for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.oracle import Report, look, processes
from tests.chaos.pool import MakePool, Pool

#: What a ledger without its one-outcome rule would do: count a page that has its outcome already.
COUNT_TWICE = """
redis.call('HSETNX', 'chaos:pages:' .. ARGV[1], '1', '{}')
redis.call('HINCRBY', 'chaos:job:' .. ARGV[1], 'pages_done', 1)
"""


def forget_a_page(pool: Pool, job_id: str) -> None:
    pool.client.hdel(f"chaos:pages:{job_id}", "2")


def record_a_page_twice(pool: Pool, job_id: str) -> None:
    pool.client.eval(COUNT_TWICE, 0, job_id)


def leave_a_key(pool: Pool, job_id: str) -> None:
    pool.client.persist(f"chaos:job:{job_id}")


def leave_a_lease(pool: Pool, job_id: str) -> None:
    pool.client.zadd("chaos:leases", {f"{job_id} 1+8": 2e12})


def leave_a_file(pool: Pool, job_id: str) -> None:
    (pool.settings.data_dir / "blobs" / ".unfinished").touch()


def lose_a_job(pool: Pool, job_id: str) -> None:
    pool.client.hincrby("chaos:totals", "jobs_accepted", 1)


#: The last one cannot be undone: the witness does not forget.
HARMS = [forget_a_page, leave_a_key, leave_a_lease, lose_a_job, leave_a_file, record_a_page_twice]


def test_the_oracle_sees_every_harm(pool: MakePool, seed: int) -> None:
    # Given a pool that has read in peace
    chaos = pool()
    chaos.start_workers(1)
    job_id = chaos.submit(3)
    chaos.finish(30)
    chaos.stop_workers()
    look(chaos, Report("none", seed))

    # Then each harm that is done to it is seen
    for harm in HARMS:
        with copy_of_the_ledger(chaos):
            harm(chaos, job_id)
            with pytest.raises(AssertionError):
                look(chaos, Report(harm.__name__, seed))


def test_the_oracle_sees_workers_that_end_by_themselves_and_decoders_that_stay(pool: MakePool, seed: int) -> None:
    chaos = pool()
    chaos.start_workers(1)
    chaos.submit()
    chaos.finish(30)
    (worker,) = chaos.worker_pids()
    assert len(processes(chaos)) == 2
    os.kill(worker, signal.SIGKILL)
    chaos.stop_workers()
    assert chaos.ended == {worker: "SIGKILL"}
    with pytest.raises(AssertionError):
        look(chaos, Report("none", seed))
    look(chaos, Report("none", seed), ends=1)


@contextmanager
def copy_of_the_ledger(pool: Pool) -> Iterator[None]:
    """What is done to the keys within the context is undone after it."""
    kept = {key: (pool.client.dump(key), pool.client.pttl(key)) for key in pool.client.scan_iter(match="chaos:*")}
    yield
    pool.client.flushall()
    for key, (value, ttl_ms) in kept.items():
        if value is not None:  # Some live for seconds, and may have gone between being listed and being kept.
            pool.client.restore(key, max(0, ttl_ms), value)
