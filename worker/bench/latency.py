"""Latency of the pool while documents arrive by themselves, and where a page's time goes."""

from __future__ import annotations

import math

from worker.bench.document import Latency, LoadPoint
from worker.bench.figures import Spread
from worker.bench.load import closed_loop, open_loop, poisson_arrivals
from worker.bench.plan import Plan
from worker.bench.pool import MeasuredPool, Samples, mean, pool_service
from worker.bench.rates import rate, warm_up
from worker.bench.services import ChildService
from worker.bench.telling import Teller

PAGE_STAGES = ("rasterise", "detect", "recognise")
BATCH_STAGES = ("detector", "recogniser")


def latency(plan: Plan, teller: Teller) -> Latency:
    """Idle, never without work, and at parts of that."""
    teller.doing("loading")
    with pool_service("ocrpool", plan.settings, workers=plan.workers, clients=plan.clients) as (service, pool):
        warm_up(service, plan.paths)
        teller.doing("idle")
        first = pool.metrics()
        idle = closed_loop(service, plan.paths, users=1, documents=plan.effort.idle_documents)
        before = pool.metrics()
        teller.doing("never without work")
        full = rate(service, plan.paths, least_s=plan.effort.least_s, most_s=plan.effort.most_s)
        figures = _stages(pool, before)
        saturation = full.documents_per_s
        teller.say(f"never without work: {saturation:.2f} documents/s; idle p50 {_ms(idle.latencies_s):.0f} ms")
        points = tuple(
            _point(plan, service, teller, load=load, least=least, saturation=saturation)
            for load, least in plan.effort.loads
        )
    return Latency(
        saturation_per_s=saturation,
        seed=plan.seed,
        idle=Spread.of(idle.latencies_s),
        points=points,
        idle_stage_ms={stage: 1000 * mean(before, first, "stage_seconds", stage) for stage in PAGE_STAGES},
        **figures,
    )


def _ms(latencies_s: list[float]) -> float:
    return Spread.of(latencies_s).p50_ms


def _point(
    plan: Plan, service: ChildService, teller: Teller, *, load: float, least: int, saturation: float
) -> LoadPoint:
    offered = load * saturation
    documents = max(least, math.ceil(offered * plan.effort.least_s))
    teller.doing(f"{load:.0%} of that: {documents} documents, {offered:.2f} a second")
    run = open_loop(service, plan.paths, poisson_arrivals(offered, documents, plan.seed))
    spread = Spread.of(run.latencies_s)
    teller.say(
        f"{load:.0%}: p50 {spread.p50_ms:.0f} ms, p95 {spread.p95_ms:.0f} ms, p99 {spread.p99_ms:.0f} ms"
        f" of {documents} documents"
    )
    return LoadPoint(load=load, offered_per_s=offered, documents_per_s=run.documents_per_s, latency=spread)


def _stages(pool: MeasuredPool, before: Samples) -> dict[str, dict[str, float]]:
    now = pool.metrics()

    def means(name: str, labels: tuple[str, ...], factor: float = 1.0) -> dict[str, float]:
        return {label: factor * mean(now, before, name, label) for label in labels}

    return {
        "stage_ms": means("stage_seconds", PAGE_STAGES, 1000),
        "batch_run_ms": means("batch_run_seconds", BATCH_STAGES, 1000),
        "batch_wait_ms": means("batch_wait_seconds", BATCH_STAGES, 1000),
        "mean_batch": means("batch_size", BATCH_STAGES),
        "batch_fill": means("batch_fill_ratio", BATCH_STAGES),
    }
