"""The pool's jobs, the last accepted first."""

from __future__ import annotations

import re

from producer.errors import InvalidRequest
from producer.job import JobList, JobState, Tenant
from producer.ledger import Ledger
from producer.records import fields_of, status_of

#: Jobs that are told in one go.
MOST_JOBS = 100
#: A job's number, behind which the list goes on. Numbers only grow: whatever comes meanwhile, no job is told twice.
_CURSOR = re.compile(r"[0-9]{1,15}")


def list_jobs(
    ledger: Ledger,
    state: JobState | None = None,
    limit: int = MOST_JOBS,
    cursor: str = "",
    tenant: Tenant | None = None,
) -> JobList:
    """The tenant's jobs, or everybody's, of a state, or all, behind the cursor: at most `limit` (1 to 100).

    Raises:
        InvalidRequest: the cursor is not one that a list gave.
    """
    if cursor and not _CURSOR.fullmatch(cursor):
        raise InvalidRequest("cursor: not one that a list of jobs gave.")
    rows = ledger.scripts.run("list", state or "", cursor, limit, "" if tenant is None else f"={tenant}")
    jobs = tuple(status_of(job_id.decode(), fields_of(flat)) for _, job_id, flat in rows if flat)
    return JobList(jobs=jobs, cursor=str(rows[-1][0]) if len(rows) == limit else None)
