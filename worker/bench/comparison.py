"""The pool and its peers: all loaded, each in turn, round after round."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from producer.errors import OcrpoolError
from worker.bench.corpus import accuracy
from worker.bench.document import Comparison, Entrant, NotRun
from worker.bench.figures import paired_ratio
from worker.bench.load import Run
from worker.bench.plan import Plan
from worker.bench.pool import pool_service
from worker.bench.rates import rate, warm_up
from worker.bench.services import ChildService, reading
from worker.bench.telling import Teller

POOL = "ocrpool"
RAPIDOCR = "RapidOCR, in a loop"
RAPIDOCR_UPRIGHT = "RapidOCR, orientation off"
RAPIDOCR_THREADS = "RapidOCR, a thread a core"
NAIVE_CELERY = "Celery task an image"
PADDLEOCR = "PaddleOCR's pipeline"
RAPIDOCR_PADDLE = "RapidOCR on Paddle"

#: Each reader's kind and, for the pool, the settings that it runs with.
PEERS = {
    RAPIDOCR: "rapidocr",
    RAPIDOCR_UPRIGHT: "rapidocr-upright",
    RAPIDOCR_THREADS: "rapidocr-threads",
    NAIVE_CELERY: "naive-celery",
    PADDLEOCR: "paddleocr",
}
PADDLE_PEERS = {RAPIDOCR_PADDLE: "rapidocr-paddle"}


def comparisons(plan: Plan, teller: Teller) -> tuple[Comparison, ...]:
    """The pool as it is set up here; with `plan.paddle`, Paddle on both sides, too."""
    found = [_compare(plan, teller, "the pool's model and runtime", PEERS, {})]
    if plan.paddle:
        changes = {"predictor": "paddle", "model": "PP-OCRv4_mobile"}
        found.append(_compare(plan, teller, "PP-OCRv4 mobile on Paddle", PADDLE_PEERS, changes))
    return tuple(found)


def _compare(plan: Plan, teller: Teller, title: str, kinds: dict[str, str], changes: Mapping[str, str]) -> Comparison:
    settings = plan.changed(**changes)
    missing: list[NotRun] = []
    with ExitStack() as stack:
        services: list[ChildService] = []
        for name, kind in kinds.items():
            teller.doing(f"{name}: loading")
            try:
                services.append(stack.enter_context(reading(name, kind, settings)))
            except OcrpoolError as error:
                missing.append(NotRun(name=name, not_run=str(error)))
                teller.say(f"{name}: not run: {error}")
        teller.doing(f"{POOL}: loading")
        pool, _ = stack.enter_context(pool_service(POOL, settings, workers=plan.workers, clients=plan.clients))
        services.append(pool)
        for service in services:
            warm_up(service, plan.paths)
        rounds = [_round(plan, services, teller, number) for number in range(plan.effort.rounds)]
    return Comparison(
        title=title,
        rounds=len(rounds),
        entrants=tuple(_entrant(plan, service, rounds) for service in services),
        missing=tuple(missing),
    )


def _round(plan: Plan, services: list[ChildService], teller: Teller, number: int) -> dict[str, Run]:
    runs = {}
    for service in services:
        teller.doing(f"round {number + 1}: {service.name}")
        runs[service.name] = rate(service, plan.paths, least_s=plan.effort.least_s / 2, most_s=plan.effort.most_s)
        teller.say(f"round {number + 1}: {service.name}: {runs[service.name].documents_per_s:.2f} documents/s")
    return runs


def _entrant(plan: Plan, service: ChildService, rounds: list[dict[str, Run]]) -> Entrant:
    rates = [one[service.name].documents_per_s for one in rounds]
    pool_rates = [one[POOL].documents_per_s for one in rounds]
    texts = rounds[-1][service.name].texts[: len(plan.paths)]
    return Entrant(
        name=service.name,
        model=service.model,
        documents_per_s=tuple(rates),
        pool_is_faster_by=paired_ratio(ours=[1 / one for one in pool_rates], theirs=[1 / one for one in rates]),
        accuracy=accuracy(plan.corpus.pages[: len(texts)], texts),
    )
