"""The sections that need the engine's own tensors and lines: the predictors' ceiling; texts alone and in batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from worker.bench.corpus import accuracy
from worker.bench.document import Ceiling, Lines, Texts
from worker.bench.figures import paired_ratio
from worker.bench.plan import Plan
from worker.bench.pool import pool_service
from worker.bench.rates import rate, warm_up
from worker.bench.services import Child
from worker.bench.telling import Teller


class Recording:
    """The pages once read alone and once all together, in a process that keeps what its predictors were fed."""

    def __init__(self, plan: Plan, teller: Teller, child: Child) -> None:
        child.await_ready()
        self._plan, self._child = plan, child
        paths = json.dumps([str(path) for path in plan.paths])
        teller.doing("reading each page alone")
        self._alone: list[list[str]] = child.ask("alone", paths).result()
        teller.doing("reading all pages together")
        self._together: list[list[str]] = child.ask("together", paths).result()

    def texts(self) -> Texts:
        """Lines are compared as they were found, page by page: what the detector finds does not depend on others."""
        pages = list(zip(self._alone, self._together, strict=True))
        return Texts(
            accuracy=accuracy(self._plan.corpus.pages, ["\n".join(lines) for lines in self._together]),
            lines=sum(max(len(alone), len(together)) for alone, together in pages),
            lines_identical=sum((Counter(alone) & Counter(together)).total() for alone, together in pages),
        )

    def ceiling(self, teller: Teller) -> Ceiling:
        """Replay and pool in turn: only one works at a time."""
        plan, effort = self._plan, self._plan.effort
        ceilings, rates = [], []
        teller.doing("pool: loading")
        with pool_service("ocrpool", plan.settings, workers=plan.workers, clients=plan.clients) as (service, _):
            warm_up(service, plan.paths)
            for number in range(effort.rounds):
                teller.doing("predictors alone")
                ceilings.append(float(self._child.ask("replay", str(effort.least_s)).result()))
                teller.doing("pool")
                run = rate(service, plan.paths, least_s=effort.least_s, most_s=effort.most_s)
                rates.append(run.documents_per_s)
                teller.say(f"round {number + 1}: predictors alone {ceilings[-1]:.2f} pages/s, pool {rates[-1]:.2f}")
        lines = self._child.ask("lines", "").result()
        return Ceiling(
            runners=lines["runners"],
            ceiling_per_s=tuple(ceilings),
            pool_per_s=tuple(rates),
            pool_by_ceiling=paired_ratio(ours=ceilings, theirs=rates),
            lines=Lines(
                lines=lines["lines"],
                batches=lines["batches"],
                shapes=lines["shapes"],
                width_padding=lines["width"],
                empty_slots=lines["empty"],
                paddlex_padding=lines["paddlex"],
            ),
        )


@contextmanager
def recording(plan: Plan, teller: Teller) -> Iterator[Recording]:
    """The recording, made.

    Raises:
        Unavailable: the engine cannot run here, or failed.
    """
    teller.doing("loading")
    child = Child("recorder", plan.settings)
    try:
        yield Recording(plan, teller, child)
    finally:
        child.stop()
