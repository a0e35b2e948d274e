"""Another tenant's flood: it delays this tenant by what the workers have in hand, and not by what waits."""

from __future__ import annotations

import os
import statistics
import time

from producer.admission import Admission
from producer.cards import ON_CPU
from producer.errors import Cancelled
from producer.job import ErrorDetail, Job, JobState, MediaType, new_job_id
from producer.queue import Messages
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool, document

#: Messages are published so many at a time, and jobs followed so.
CHUNK = 1000
#: Documents of the flood at length: it takes a fifth of the time of `make chaos`.
FLOOD = int(os.environ.get("CHAOS_FLOOD", "100000"))
#: Pages until the decoders of both workers have started.
WARM_UP = 5


def flood(pool: Pool, documents: int) -> list[str]:
    """So many documents of one page, all of them the same file, of a tenant of their own."""
    page = document(1, 0, 0)
    blob = new_job_id()
    pool.producer.ledger.expect_blob(blob)
    pool.producer.blobs.put(blob, page)
    message = Messages(pool.settings).of
    jobs = [
        Job(id=new_job_id(), blob=blob, media_type=MediaType.TIFF, size_bytes=len(page), tenant="flood")
        for _ in range(documents)
    ]
    for first in range(0, documents, CHUNK):
        pool.ledger.accept_all(
            [Admission(job, 1, pool.settings, message=message) for job in jobs[first : first + CHUNK]]
        )
    pool.submitted |= {job.id: 1 for job in jobs}
    return [job.id for job in jobs]


def cancel_all(pool: Pool, jobs: list[str]) -> None:
    told, ttl_s = ErrorDetail.of(Cancelled("The job was cancelled.")).model_dump_json(), int(pool.settings.result_ttl_s)
    for first in range(0, len(jobs), CHUNK):
        some = [(job_id, JobState.CANCELLED.value, told, ttl_s, "", "") for job_id in jobs[first : first + CHUNK]]
        pool.ledger.scripts.run_each("finish_job", some)


def read_one(pool: Pool) -> tuple[float, int]:
    """Hand in a page as another tenant: how long it took, in seconds and in pages of all tenants that were read."""
    before, started = pool.pages_read(), time.monotonic()
    job = pool.producer.of_tenant("small").submit(document(1, 0, 0))
    pool.submitted[job.id] = 1
    assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    return time.monotonic() - started, pool.pages_read() - before


def p95(values: list[float] | list[int]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def test_a_flood_of_another_tenant(pool: MakePool, seed: int, full: bool) -> None:
    documents, mine = (FLOOD, 100) if full else (1500, 20)
    chaos, report = pool(max_queued_jobs=200_000), Report(f"another tenant's flood of {documents:,} documents", seed)
    chaos.start_workers(2)
    for _ in range(WARM_UP):
        read_one(chaos)
    alone = [read_one(chaos)[0] for _ in range(mine)]
    jobs = flood(chaos, documents)
    chaos.goes_on()

    taken = [read_one(chaos) for _ in range(mine)]

    waiting = chaos.ledger.backlog()["waiting_interactive"]
    seconds, pages = p95([s for s, _ in taken]), p95([n for _, n in taken])
    print(f"p95 alone {p95(alone):.3f} s, beside the flood {seconds:.3f} s and {pages:.0f} pages; {waiting:,} waited")
    report.recovered(seconds)
    # What both workers have in hand, and what takes turns with it meanwhile
    assert pages <= 4 * 2 * ON_CPU.pages
    assert waiting > documents / 10, "the flood was over"
    chaos.stop_workers()
    cancel_all(chaos, jobs)
    ended_otherwise = documents + WARM_UP + 2 * mine - chaos.ledger.totals()["jobs_succeeded"]
    judge(chaos, report, but=ended_otherwise)
