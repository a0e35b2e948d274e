"""Documents that come several times while workers are killed and those that others wait for are cancelled."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from producer.errors import OcrpoolError
from producer.job import JobState
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool, until

FAULTY_WORKER = str(Path(__file__).parents[1] / "faulty_worker.py")


def test_who_follows_a_document_whose_worker_dies_gets_its_pages(pool: MakePool, seed: int, tmp_path: Path) -> None:
    # Given a worker that dies of a page, in a document that comes twice
    chaos, report = pool(cache_ttl_s=300.0), Report("a followed document's worker dies", seed)
    chaos.start_workers(1, FAULTY_WORKER, "crash", str(tmp_path / "struck"))
    jobs = [chaos.submit(6, black=3) for _ in range(2)]

    # Then another one reads what is left of it, once, and both have all
    report.recovered(chaos.finish(60))
    assert [chaos.ledger.status(job).cached for job in jobs] == [False, True]
    assert chaos.ledger.totals()["documents_joined"] == 1
    judge(chaos, report, ends=1)


def cancel_one(pool: Pool) -> None:
    with suppress(OcrpoolError):
        pool.producer.cancel(pool.random.choice(pool.members("active") or [""]))


def has_parted(pool: Pool) -> bool:
    """Whether one was cancelled that others follow, which is chance; cancels another until then."""
    parted = pool.ledger.totals().get("documents_parted", 0) > 0
    if not parted:
        cancel_one(pool)
    return parted


def test_duplicates_under_kills_and_cancellations(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(cache_ttl_s=1.0), Report("kill -9, duplicates, cancelled leaders", seed)
    chaos.start_workers(2)
    with chaos.load(pause_s=0.05 if full else 0.02):  # A dozen documents, over and over
        for _ in range(20 if full else 3):
            end = time.monotonic() + chaos.random.uniform(0.5, 1.5)
            while time.monotonic() < end:
                cancel_one(chaos)
                time.sleep(0.05)
            chaos.is_whole()
            report.recovered(chaos.kill(chaos.random.choice(chaos.worker_pids())))
        until(lambda: has_parted(chaos), 60)  # A few kills may come to an end before.
    until(lambda: chaos.ledger.totals().get("documents_hit", 0) > 0, 1)
    chaos.finish(120)
    totals = chaos.ledger.totals()
    assert totals["documents_joined"] > 0
    assert totals["documents_parted"] > 0
    judge(chaos, report, but=totals.get(f"jobs_{JobState.CANCELLED.value}", 0))
