"""What must hold after every fault, and what was counted on the way."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from producer.job import JobState, PageFailure
from tests.chaos.pool import Pool
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
    refused: int = 0
    states: dict[str, int] = field(default_factory=dict)

    def recovered(self, seconds: float) -> None:
        self.faults += 1
        self.seconds = max(self.seconds, round(seconds, 1))

    def write(self) -> None:
        """Append to the file that `OCRPOOL_CHAOS_REPORT` named, and print."""
        line = json.dumps(asdict(self))
        print(line)
        if REPORT:
            with Path(REPORT).open("a") as file:
                file.write(line + "\n")


REPORT = os.environ.get("CHAOS_REPORT", "")


def judge(pool: Pool, report: Report, *, expected: JobState = JobState.SUCCEEDED, but: int = 0) -> None:
    """Stop the workers and look at all that is left: each job ended as expected, `but` so many that did not.

    Each page of each job has exactly one outcome; the counts agree; no unit, lease, key, file or process is left.
    """
    pool.stop_workers()
    ledger = pool.producer.ledger
    states: Counter[str] = Counter()
    for job_id, pages in pool.submitted.items():
        result = ledger.result(job_id)
        states[result.state.value] += 1
        numbers = [page.page for page in result.pages]
        report.lost += len(set(range(1, pages + 1)) - set(numbers)) if result.state is JobState.SUCCEEDED else 0
        report.duplicates += len(numbers) - len(set(numbers))
        if result.state is JobState.SUCCEEDED:
            assert not any(isinstance(page, PageFailure) for page in result.pages)
    report.jobs, report.pages = len(pool.submitted), sum(pool.submitted.values())
    report.refused, report.states = pool.withheld, dict(states)
    report.write()

    assert (report.lost, report.duplicates) == (0, 0)
    assert sum(states.values()) - states[expected.value] == but, states
    totals = ledger.totals()
    assert totals["jobs_accepted"] == sum(totals.get(f"jobs_{state.value}", 0) for state in JobState if state.final)
    if not but:
        assert totals["pages_succeeded"] + totals.get("pages_failed", 0) == report.pages
    backlog = ledger.backlog()
    assert not any(count for name, count in backlog.items() if not name.startswith("queue_")), backlog
    assert_every_key_is_owned(pool.client, pool.settings.namespace)
    assert_nothing_is_left(pool)


def assert_nothing_is_left(pool: Pool) -> None:
    """No process of the pool's, and no file that belongs to no job."""
    mine = f"OCRPOOL_DATA_DIR={pool.settings.data_dir}"
    assert not [process.cmdline() for process in psutil.process_iter() if mine in _environment(process)]
    blobs = [path.name for path in (pool.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert not [name for name in blobs if name.startswith(".")]
    owners = set(pool.members("garbage"))
    assert {name.partition(".")[0] for name in blobs} <= owners


def _environment(process: psutil.Process) -> str:
    try:
        return " ".join(f"{name}={value}" for name, value in process.environ().items())
    except psutil.Error:
        return ""
