"""The stages added one by one, from a model behind one lock to the whole pool, with five figures each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from producer.errors import OcrpoolError
from producer.settings import Settings
from worker.bench.document import Ablation, NotRun, Rung
from worker.bench.load import closed_loop
from worker.bench.meter import GIB, Usage, cards
from worker.bench.plan import Plan
from worker.bench.pool import pool_service
from worker.bench.rates import rate, users_held, warm_up
from worker.bench.services import ChildService, reading
from worker.bench.telling import Teller

ONE_AT_A_TIME = "one page at a time"
FIXED_SHAPES = "+ runtime and memory options"
BATCHING = "+ batching"
INTAKE = "+ asynchronous intake"
CARD_PREPROCESSING = "+ GPU preprocessing"

#: Documents for each user of the mean latency.
_TURNS = 4

Start = Callable[[], AbstractContextManager[ChildService]]


def ablation(plan: Plan, teller: Teller) -> Ablation:
    """Load every rung, then measure each in turn; one that cannot run says why."""
    rungs: dict[str, Rung | NotRun] = {}
    services: list[ChildService] = []
    with ExitStack() as stack:
        for name, start in _rungs(plan).items():
            teller.doing(f"{name}: loading")
            try:
                service = stack.enter_context(start())
                warm_up(service, plan.paths)
                services.append(service)
            except OcrpoolError as error:
                rungs[name] = NotRun(name=name, not_run=str(error))
                teller.say(f"{name}: not run: {error}")
        full = _rates(plan, services, teller)
        for service in services:
            rungs[service.name] = _measure(plan, service, full[service.name], teller)
    return Ablation(
        bound_s=plan.bound_s,
        users=plan.users,
        rounds=plan.effort.rounds,
        rungs=tuple(rungs[name] for name in _rungs(plan)),
    )


@dataclass
class _Full:
    """One rung's rounds without a pause."""

    rates: list[float]
    usages: list[Usage]
    documents: int = 0


def _rates(plan: Plan, services: list[ChildService], teller: Teller) -> dict[str, _Full]:
    """Each rung in each round: a machine's speed drifts, and every rung shall meet all of it."""
    found = {service.name: _Full([], []) for service in services}
    for number in range(plan.effort.rounds):
        for service in services:
            teller.doing(f"round {number + 1}: {service.name}")
            with service.meter() as meter:
                run = rate(service, plan.paths, least_s=plan.effort.least_s, most_s=plan.effort.most_s)
            full = found[service.name]
            full.rates.append(run.documents_per_s)
            full.usages.append(meter.usage)
            full.documents += len(run.served)
            teller.say(
                f"round {number + 1}: {service.name}: {run.documents_per_s:.2f} documents/s, "
                f"{meter.usage.device} {meter.usage.busy:.0%} busy"
            )
    return found


def _rungs(plan: Plan) -> dict[str, Start]:
    def child(name: str, kind: str) -> Start:
        return lambda: reading(name, kind, plan.host_settings)

    return {
        ONE_AT_A_TIME: child(ONE_AT_A_TIME, "one-at-a-time"),
        FIXED_SHAPES: child(FIXED_SHAPES, "fixed-shapes"),
        BATCHING: child(BATCHING, "batched"),
        INTAKE: lambda: _pool(plan, INTAKE, plan.host_settings),
        CARD_PREPROCESSING: lambda: _card_pool(plan),
    }


@contextmanager
def _pool(plan: Plan, name: str, settings: Settings) -> Iterator[ChildService]:
    with pool_service(name, settings, workers=plan.workers, clients=plan.clients) as (service, _):
        yield service


@contextmanager
def _card_pool(plan: Plan) -> Iterator[ChildService]:
    if not cards():
        raise _CannotRun("no card")
    if find_spec("cupy") is None:
        raise _CannotRun("the package cupy is not installed")
    with _pool(plan, CARD_PREPROCESSING, plan.changed(preprocess="auto")) as service:
        yield service


class _CannotRun(OcrpoolError):
    """A rung that this machine does not have."""


def _measure(plan: Plan, service: ChildService, full: _Full, teller: Teller) -> Rung:
    """The rung's latency and users, and with them its five figures."""
    effort, pages, per_s = plan.effort, plan.paths, statistics.median(full.rates)
    teller.doing(f"{service.name}: latency of {plan.users} users")
    documents = _TURNS * plan.users
    waiting = closed_loop(service, pages, users=plan.users, documents=documents, limit_s=effort.search_s)
    teller.doing(f"{service.name}: users held within {plan.bound_s:g} s")
    held, trials = users_held(service, pages, bound_s=plan.bound_s, documents_per_s=per_s, budget_s=effort.search_s)
    mean_s = statistics.fmean(waiting.latencies_s)
    teller.say(f"{service.name}: {mean_s:.2f} s for each of {plan.users} users; {held.largest} held")
    peak = max(usage.peak_memory_bytes for usage in full.usages)
    return Rung(
        name=service.name,
        model=service.model,
        documents=full.documents,
        documents_per_s=per_s,
        usage=Usage(
            device=full.usages[0].device,
            busy=statistics.median(usage.busy for usage in full.usages),
            peak_memory_bytes=peak,
        ),
        mean_latency_ms=1000 * mean_s,
        users_held=held.largest,
        users_settled=held.settled,
        pages_per_s_per_gib=per_s / max(peak / GIB, 1e-3),
        trials=trials,
    )
