"""What must hold after every fault, and what was counted on the way."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice

import psutil

from producer.errors import NotFinished, NotFound
from producer.job import JobResult, JobState, JobStatus, PageFailure
from tests.chaos.pool import ROW, Pool
from tests.conftest import assert_every_key_is_owned


@dataclass
class Report:
    """A row of the table: seconds are the longest time to recover from one fault."""

    fault: str
    seed: int
    faults: int = 0
    seconds: float = 0.0
    jobs: int = 0
    pages: int = 0
    lost: int = 0
    duplicates: int = 0
    #: Pages that were read once more, because the first reader's lease had lapsed or its process had died.
    read_again: int = 0
    #: Submissions that were refused, and tried again.
    refused: int = 0
    dead_letters: int = 0
    #: Workers that ended although the test did not kill them, with another status than 0.
    ended: int = 0
    states: dict[str, int] = field(default_factory=dict)

    def recovered(self, seconds: float) -> None:
        self.faults += 1
        self.seconds = max(self.seconds, round(seconds, 1))


def judge(pool: Pool, report: Report, *, but: int = 0, ends: int = 0) -> None:
    """Stop the workers, look at all that is left, and keep the report."""
    try:
        pool.is_whole()  # One that is not up yet ends by the signal itself.
        pool.stop_workers()
        look(pool, report, but=but, ends=ends)
    finally:
        pool.rows.append((ROW, asdict(report)))


def look(pool: Pool, report: Report, *, but: int = 0, ends: int = 0) -> None:
    """Each job succeeded, `but` so many that ended otherwise; each of its pages has exactly one outcome, of which the
    witness knows; the counts agree; no unit, lease, key, file or process is left; all but `ends` workers at most have
    drained to status 0, where nobody killed them."""
    pool.witness.catch_up()
    ledger = pool.ledger
    results, gone = all_results(pool)
    states = Counter(result.state.value for result in results.values())
    outcomes = {(job_id, page.page) for job_id, result in results.items() for page in result.pages}
    totals = ledger.totals()

    report.jobs, report.pages = len(results), len(outcomes)
    report.lost = sum(pages_without_outcome(pool, result) for result in results.values())
    report.lost += sum(pool.submitted.get(job_id, 1) for job_id in gone)
    report.duplicates, report.read_again = pool.witness.duplicates, pool.witness.read_again
    report.refused, report.states = pool.withheld, dict(states)
    report.dead_letters = totals.get("dead_letters", 0)
    report.ended = len(pool.ended)

    assert (report.lost, report.duplicates) == (0, 0)
    assert report.ended <= ends, pool.ended
    assert pool.witness.recorded == outcomes or pool.server.lives > 1
    assert len(results) - states[JobState.SUCCEEDED.value] == but, states
    assert not any(
        isinstance(page, PageFailure)
        for result in results.values()
        for page in result.pages
        if result.state is JobState.SUCCEEDED
    )
    assert totals["jobs_accepted"] == sum(totals.get(f"jobs_{state.value}", 0) for state in JobState if state.final)
    assert totals["jobs_accepted"] == len(results)
    assert totals.get("pages_succeeded", 0) + totals.get("pages_failed", 0) == len(outcomes)
    backlog = ledger.backlog()
    assert not any(count for name, count in backlog.items() if not name.startswith("queue_")), backlog
    assert_every_key_is_owned(pool.client, pool.settings.namespace)
    assert_nothing_is_left(pool)


def all_results(pool: Pool) -> tuple[dict[str, JobResult], set[str]]:
    """The result of each job, whether its answer came to the client or was lost on its way; and the jobs that have
    none."""
    prefix = b"chaos:job:"
    found = {key.removeprefix(prefix).decode() for key in pool.client.scan_iter(match=prefix + b"*", count=1000)}
    results, ids = {}, iter(found)
    while some := list(islice(ids, 1000)):
        for status in pool.ledger.statuses(some):
            with suppress(NotFound, NotFinished):
                results[status.id] = result_of(pool, status)
    return results, (found | set(pool.submitted)) - set(results)


def result_of(pool: Pool, status: JobStatus) -> JobResult:
    """The job's result. Of jobs without an outcome there may be a hundred thousand."""
    if status.pages_done + status.pages_failed or not status.final:
        return pool.ledger.result(status.id)
    return JobResult(id=status.id, name=status.name, state=status.state, pages=(), error=status.error)


def pages_without_outcome(pool: Pool, result: JobResult) -> int:
    """A job that was cancelled or expired owes no outcome, nor one whose pages could not be counted."""
    if result.state in (JobState.CANCELLED, JobState.EXPIRED):
        return 0
    known = pool.ledger.status(result.id).pages_total or 0
    wanted = pool.submitted.get(result.id, known) if result.state is JobState.SUCCEEDED else known
    return len(set(range(1, wanted + 1)) - {page.page for page in result.pages})


def assert_nothing_is_left(pool: Pool) -> None:
    """No process of the pool's (what it shares goes with it, for its memory has no name), and no file of no job."""
    assert not processes(pool)
    blobs = [path.name for path in pool.settings.blob_dir.rglob("*") if path.is_file()]
    assert not [name for name in blobs if name.startswith(".")]
    owners = set(pool.members("garbage"))
    assert {name.partition(".")[0] for name in blobs} <= owners


def processes(pool: Pool) -> list[psutil.Process]:
    """Workers and decoders of this pool that live, whoever their parents are now: a decoder is told its worker's
    process id. The kernel gives an id that became free to others, such as the workers of the pools beside this one."""
    alive = {pid for pid, process in pool.processes.items() if process.popen.poll() is None}
    orphaned = {str(pid) for pid in pool.processes if pid not in alive}
    return [
        process
        for process in psutil.process_iter(["pid", "ppid", "cmdline"])
        if process.pid in alive
        or process.info["ppid"] in alive
        or orphaned.intersection(_told(process.info["cmdline"] or [])) - {str(process.info["ppid"])}
    ]


def _told(command: list[str]) -> list[str]:
    return command[-2:] if any("worker.decoding" in word for word in command) else []
