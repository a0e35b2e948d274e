"""The stages added one by one, from a model behind one lock to the whole pool, with five figures each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

from producer.errors import OcrpoolError
from producer.settings import Settings
from worker.bench.document import Ablation, NotRun, Rung
from worker.bench.load import closed_loop
from worker.bench.meter import GIB, cards
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
    """Measure each rung by itself, in turn; one that cannot run says why."""
    rungs: list[Rung | NotRun] = []
    for name, start in _rungs(plan).items():
        teller.doing(f"{name}: loading")
        try:
            with start() as service:
                rung: Rung | NotRun = _measure(plan, service, teller)
        except OcrpoolError as error:
            rung = NotRun(name=name, not_run=str(error))
        teller.say(_line(rung))
        rungs.append(rung)
    return Ablation(bound_s=plan.bound_s, users=plan.users, rungs=tuple(rungs))


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
    if "preprocess" not in Settings.model_fields:
        raise _CannotRun("this version prepares pages on the processor alone")
    with _pool(plan, CARD_PREPROCESSING, plan.changed(preprocess="card")) as service:
        yield service


class _CannotRun(OcrpoolError):
    """A rung that this machine does not have."""


def _measure(plan: Plan, service: ChildService, teller: Teller) -> Rung:
    effort, pages = plan.effort, plan.paths
    warm_up(service, pages)
    teller.doing(f"{service.name}: documents/s")
    with service.meter() as meter:
        full = rate(service, pages, least_s=effort.least_s, most_s=effort.most_s)
    teller.doing(f"{service.name}: latency of {plan.users} users")
    waiting = closed_loop(
        service, pages, users=plan.users, documents=_TURNS * plan.users, limit_s=max(effort.search_s, effort.least_s)
    )
    teller.doing(f"{service.name}: users held within {plan.bound_s:g} s")
    held, trials = users_held(
        service, pages, bound_s=plan.bound_s, documents_per_s=full.documents_per_s, budget_s=effort.search_s
    )
    usage = meter.usage
    return Rung(
        name=service.name,
        model=service.model,
        documents=len(full.served),
        documents_per_s=full.documents_per_s,
        usage=usage,
        mean_latency_ms=1000 * statistics.fmean(waiting.latencies_s),
        users_held=held.largest,
        users_settled=held.settled,
        pages_per_s_per_gib=full.documents_per_s / max(usage.peak_memory_bytes / GIB, 1e-3),
        trials=trials,
    )


def _line(rung: Rung | NotRun) -> str:
    if isinstance(rung, NotRun):
        return f"{rung.name}: not run: {rung.not_run}"
    return f"{rung.name}: {rung.documents_per_s:.2f} documents/s, {rung.usage.busy:.0%} busy, {rung.users_held} users"
