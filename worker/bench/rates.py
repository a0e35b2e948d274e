"""The rate of a service that is never without work, and its latency with users who wait."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from worker.bench.document import Trial
from worker.bench.figures import percentile
from worker.bench.load import Run, Served, Service, closed_loop
from worker.bench.search import Held, largest_held

#: Documents for each user of a trial, the first of which meet an empty service.
_TURNS = 3
_LEAST_DOCUMENTS = 8
#: Most users that are tried.
_MOST_USERS = 4096
_P95 = 0.05
#: Of the users whom the mean latency alone would allow.
_START = 0.75


def saturating(service: Service) -> int:
    """Users who keep the service busy: as many as it reads at a time, and as many who wait."""
    return 2 * service.width if service.width < 512 else 64


def warm_up(service: Service, pages: Sequence[Path]) -> None:
    """A few documents for each of the service's processes, before anything is measured."""
    documents = min(saturating(service), 2 * len(os.sched_getaffinity(0)))
    closed_loop(service, pages, users=documents, documents=documents)


def rate(
    service: Service,
    pages: Sequence[Path],
    *,
    least_s: float,
    most_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Whole passes of the pages for at least `least_s` seconds; after `most_s`, no more are handed in."""
    users, passes = saturating(service), 1
    while True:
        documents = passes * len(pages)
        run = closed_loop(service, pages, users=users, documents=documents, limit_s=most_s, clock=clock)
        if run.seconds >= least_s or run.seconds >= most_s:
            return run
        passes = max(passes + 1, math.ceil(passes * least_s / run.seconds))


def users_held(
    service: Service,
    pages: Sequence[Path],
    *,
    bound_s: float,
    documents_per_s: float,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Held, tuple[Trial, ...]]:
    """The most users whose p95 stays within the bound, and every trial that was made for it.

    N users of a service that is never without work wait for N documents each: the search starts somewhat below.
    """
    trials: list[Trial] = []
    until = clock() + budget_s

    def holds(users: int) -> bool:
        documents = max(_LEAST_DOCUMENTS, _TURNS * users)

        def hopeless(served: Sequence[Served]) -> bool:
            return sum(one.latency_s > bound_s for one in served) > _P95 * documents

        run = closed_loop(service, pages, users=users, documents=documents, hopeless=hopeless, clock=clock)
        trials.append(trial(users, run))
        return len(run.served) == documents and percentile(run.latencies_s, 95) <= bound_s

    held = largest_held(
        holds,
        start=max(1, int(_START * documents_per_s * bound_s)),
        limit=_MOST_USERS,
        expired=lambda: clock() > until,
    )
    return held, tuple(sorted(trials, key=lambda one: one.users))


def trial(users: int, run: Run) -> Trial:
    """A run's figures as those of a trial."""
    return Trial(
        users=users,
        documents=len(run.served),
        documents_per_s=run.documents_per_s,
        p50_ms=1000 * percentile(run.latencies_s, 50),
        p95_ms=1000 * percentile(run.latencies_s, 95),
    )
