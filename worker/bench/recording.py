"""The sections that need the engine's own tensors and lines: the predictors' ceiling; texts alone and in batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from producer.plan import plan_for_this_machine
from worker.bench.corpus import accuracy
from worker.bench.document import Ceiling, Lines, Texts
from worker.bench.figures import paired_ratio
from worker.bench.plan import Plan
from worker.bench.pool import pool_service
from worker.bench.rates import rate, warm_up
from worker.bench.services import Child
from worker.bench.telling import Teller


class Recording:
    """The pages once read alone and once all together, in a process for each of the pool's workers that keeps what its
    predictors were fed."""

    def __init__(self, plan: Plan, teller: Teller, children: Sequence[Child]) -> None:
        for child in children:
            child.await_ready()
        self._plan, self._children = plan, children
        paths = json.dumps([str(path) for path in plan.paths])
        teller.doing("reading each page alone")
        self._alone: list[list[str]] = children[0].ask("alone", paths).result()
        teller.doing("reading all pages together")
        self._together: list[list[str]] = self._ask_all("together", paths)[0]

    def _ask_all(self, method: str, argument: str) -> list[Any]:
        """Every child's answer; they work at the same time."""
        answers = [child.ask(method, argument) for child in self._children]
        return [answer.result() for answer in answers]

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
                ceilings.append(sum(map(float, self._ask_all("replay", str(effort.least_s)))))
                teller.doing("pool")
                run = rate(service, plan.paths, least_s=effort.least_s, most_s=effort.most_s)
                rates.append(run.documents_per_s)
                teller.say(f"round {number + 1}: predictors alone {ceilings[-1]:.2f} pages/s, pool {rates[-1]:.2f}")
        lines = self._children[0].ask("lines", "").result()
        return Ceiling(
            processes=len(self._children),
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
    with ExitStack() as stack:
        children = []
        for worker in plan_for_this_machine(plan.settings, plan.workers).workers:
            child = Child("recorder", plan.settings, worker.environment())
            stack.callback(child.stop)
            children.append(child)
        yield Recording(plan, teller, children)
