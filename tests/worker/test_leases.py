"""Leases are kept alive while they are held, and their holder hears when they are lost."""

from __future__ import annotations

import threading
import time

import pytest

from producer.blobs import MemoryStore
from producer.errors import Unavailable
from producer.ledger import Ledger
from producer.queue import Publisher
from producer.settings import Settings
from tests.producer.test_ledger import claimed, lapse, make_job
from worker.leases import LeaseKeeper
from worker.periodic import Periodic
from worker.sweeper import Sweeper


def test_a_held_lease_is_renewed_and_a_lost_one_told(ledger: Ledger) -> None:
    # Given two jobs whose leases a worker holds, and one of which is cancelled
    kept, lost = make_job(), make_job()
    keeper = LeaseKeeper(ledger, renew_s=3600)
    for job in (kept, lost):
        ledger.accept(job, document_pages=1)
    with (
        keeper.hold(claimed(ledger, kept, "1+1")) as kept_lease,
        keeper.hold(claimed(ledger, lost, "1+1")) as lost_lease,
    ):
        ledger.cancel(lost.id)
        lapse(ledger)

        # When they are renewed
        keeper.renew()

    # Then one lives, and the holder of the other knows
    assert not kept_lease.lost.is_set()
    assert lost_lease.lost.is_set()
    assert ledger.sweep("q.").deaths == 0


def test_what_ends_a_worker_that_knows_it_counts_a_death_at_once(ledger: Ledger, settings: Settings) -> None:
    # Given a worker that hangs with one unit, and another that it held before
    job = make_job()
    ledger.accept(job, document_pages=2 * settings.span_pages)
    first, second = f"1+{settings.span_pages}", f"{settings.span_pages + 1}+{settings.span_pages}"
    stale = claimed(ledger, job, second)
    ledger.release(stale, again=True)
    ledger.let_lapse([claimed(ledger, job, first), stale])

    # Then a sweep needs no patience to find what it held, and that alone
    deadline = time.monotonic() + 10
    while not (swept := ledger.sweep("q.")).deaths:
        assert time.monotonic() < deadline
    assert swept.deaths == 1
    assert (job.id, first, "interactive") in swept.publish


def test_one_sweeper_of_many_publishes_what_a_dead_worker_held_and_deletes_blobs(
    ledger: Ledger, settings: Settings
) -> None:
    publisher, blobs = Publisher(settings), MemoryStore()
    first, second = (Sweeper(ledger, publisher, blobs, interval_s=3600) for _ in range(2))
    held, over = make_job(), make_job()
    for job in (held, over):
        blobs.put(job.blob, b"document")
        ledger.accept(job, document_pages=1)
    claimed(ledger, held, "1+1")
    ledger.cancel(over.id)
    ledger.redis.zadd(f"{settings.namespace}:garbage", {over.blob: 1})
    lapse(ledger)

    swept = first.sweep()

    assert swept is not None
    assert (swept.deaths, swept.blobs) == (1, (over.blob,))
    assert second.sweep() is None
    assert ledger.backlog()["queue_interactive"] == 1
    assert ledger.redis.zscore(f"{settings.namespace}:garbage", over.blob) is None
    assert blobs.get(held.blob) == b"document"
    ledger.redis.delete(f"{settings.namespace}.interactive")
    publisher.close()


def test_a_sweep_takes_all_blobs_that_are_due_and_no_blob_keeps_another_from_it(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more blobs than one sweep takes, the first of which cannot be deleted
    publisher, blobs = Publisher(settings), MemoryStore()
    garbage = f"{settings.namespace}:garbage"
    names = [f"job_{number:032x}" for number in range(450)]
    for name in names:
        blobs.put(name, b"document")
    ledger.redis.zadd(garbage, {name: 1 + number for number, name in enumerate(names)})
    delete = blobs.delete

    def refuse_the_first(key: str) -> None:
        if key == names[0]:
            raise PermissionError(key)
        delete(key)

    monkeypatch.setattr(blobs, "delete", refuse_the_first)
    Sweeper(ledger, publisher, blobs, interval_s=3600).sweep()

    # Then the others are gone, and it is due again later
    assert [name for name in names if name in blobs._blobs] == [names[0]]
    assert ledger.redis.zrange(garbage, 0, -1) == [names[0].encode()]
    assert ledger.sweep("q.").blobs == ()
    ledger.redis.delete(garbage)
    publisher.close()


def test_a_periodic_thread_outlives_what_it_does() -> None:
    calls, third = [Unavailable("away"), ValueError("a bug")], threading.Event()

    def act() -> None:
        if calls:
            raise calls.pop()
        third.set()

    periodic = Periodic("test", 0.001, act)
    periodic.start()
    assert third.wait(timeout=10)
    periodic.stop()
    periodic.join()


def test_a_store_that_is_away_does_not_hold_up_the_sweep(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given blobs that are due, in a store that cannot be reached
    publisher, blobs, asked = Publisher(settings), MemoryStore(), []

    def away(blob: str) -> None:
        asked.append(blob)
        raise Unavailable("It cannot be reached.")

    names = {f"job_{number}": 1 for number in range(50)}
    ledger.redis.zadd(f"{settings.namespace}:garbage", names)
    monkeypatch.setattr(blobs, "delete", away)
    # When they are swept, then it is asked once, and all of them are due again later
    Sweeper(ledger, publisher, blobs, interval_s=3600).sweep()
    assert len(asked) == 1
    assert ledger.sweep("q.").blobs == ()
    assert ledger.redis.zcard(f"{settings.namespace}:garbage") == 50
    publisher.close()
