"""What was wanted, against what a run measured."""

from __future__ import annotations

from collections.abc import Iterator

from worker.bench.ablation import CARD_PREPROCESSING, FIXED_SHAPES, INTAKE
from worker.bench.comparison import NAIVE_CELERY, POOL, RAPIDOCR_PADDLE, RAPIDOCR_UPRIGHT
from worker.bench.document import Ablation, Entrant, Goal, NotRun, Report, Rung
from worker.bench.meter import on_card

NOT_MEASURED = "not measured"


def _at_least(name: str, wanted: float, measured: float | None, form: str = ".2f") -> Goal:
    if measured is None:
        return Goal(name=name, wanted=f">= {wanted:{form}}", measured=NOT_MEASURED, met=None)
    return Goal(name=name, wanted=f">= {wanted:{form}}", measured=f"{measured:{form}}", met=measured >= wanted)


def _at_most(name: str, wanted: float, measured: float | None, form: str = ".2f") -> Goal:
    if measured is None:
        return Goal(name=name, wanted=f"<= {wanted:{form}}", measured=NOT_MEASURED, met=None)
    return Goal(name=name, wanted=f"<= {wanted:{form}}", measured=f"{measured:{form}}", met=measured <= wanted)


def goals(report: Report) -> tuple[Goal, ...]:
    """Every goal that this machine is for, in the order of the tables."""
    return tuple((*_of_rates(report), *_of_batches(report), *_of_texts(report), *_of_the_queue(report)))


def _entrant(report: Report, name: str, comparison: int = 0) -> Entrant | None:
    if isinstance(report.peers, NotRun) or comparison >= len(report.peers):
        return None
    return next((one for one in report.peers[comparison].entrants if one.name == name), None)


def _faster(report: Report, name: str, comparison: int = 0) -> float | None:
    entrant = _entrant(report, name, comparison)
    return entrant.pool_is_faster_by if entrant else None


def _rungs(report: Report) -> dict[str, Rung]:
    if not isinstance(report.ablation, Ablation):
        return {}
    return {rung.name: rung for rung in report.ablation.rungs if isinstance(rung, Rung)}


def runs_on_card(report: Report) -> bool:
    """Whether the pool's models ran on a card, by whatever section measured it."""
    rungs = list(_rungs(report).values())
    entrant = _entrant(report, POOL)
    models = [rung.model for rung in rungs] + ([entrant.model] if entrant else [])
    return bool(report.machine.cards) and (any(map(on_card, models)) or not models)


def _of_rates(report: Report) -> Iterator[Goal]:
    rungs = _rungs(report)
    pool = rungs.get(CARD_PREPROCESSING) or rungs.get(INTAKE)
    fixed = rungs.get(FIXED_SHAPES)
    if runs_on_card(report):
        yield _at_least("pool, documents/s", 268, pool.documents_per_s if pool else None, ".0f")
        yield _at_least("pool, device busy", 0.89, pool.usage.busy if pool else None, ".0%")
        ratio = pool.documents_per_s / fixed.documents_per_s if pool and fixed else None
        yield _at_least("pool / one page at a time, fixed shapes", 12, ratio, ".1f")
        yield _at_least(f"pool / {RAPIDOCR_UPRIGHT}", 100, _faster(report, RAPIDOCR_UPRIGHT), ".0f")
    else:
        yield _at_least(f"pool / {RAPIDOCR_UPRIGHT}", 2, _faster(report, RAPIDOCR_UPRIGHT))
        yield _at_least(f"pool / {RAPIDOCR_PADDLE}, both on Paddle", 2.5, _faster(report, RAPIDOCR_PADDLE, 1))
        yield _at_least(f"pool / {NAIVE_CELERY}", 2.5, _faster(report, NAIVE_CELERY))
    measured = None if isinstance(report.ceiling, NotRun) else report.ceiling.pool_by_ceiling
    yield _at_least("pool / predictors alone", 0.8, measured)


def _of_batches(report: Report) -> Iterator[Goal]:
    if runs_on_card(report):
        batch = {} if isinstance(report.latency, NotRun) else report.latency.mean_batch
        yield _at_least("mean batch under load, pages", 4, batch.get("detector"), ".1f")
        yield _at_least("mean batch under load, lines", 32, batch.get("recogniser"), ".1f")
    lines = None if isinstance(report.ceiling, NotRun) else report.ceiling.lines
    yield _at_most("recogniser padding", 0.1, lines.padding if lines else None, ".1%")
    by_paddlex = lines.padding / lines.paddlex_padding if lines and lines.paddlex_padding else None
    yield _at_most("recogniser padding / that of PaddleX's policy", 0.5, by_paddlex)


def _of_texts(report: Report) -> Iterator[Goal]:
    texts = None if isinstance(report.accuracy, NotRun) else report.accuracy
    yield _at_least("lines identical alone and in batches", 0.999, texts.identical if texts else None, ".2%")
    pool, peer = _entrant(report, POOL), _entrant(report, RAPIDOCR_UPRIGHT)
    name = f"character F1 / {RAPIDOCR_UPRIGHT}"
    if pool and pool.accuracy and peer and peer.accuracy:
        ours, theirs = round(pool.accuracy.character_f1, 3), round(peer.accuracy.character_f1, 3)
        yield Goal(name=name, wanted="not below", measured=f"{ours:.3f} / {theirs:.3f}", met=ours >= theirs)
    else:
        yield Goal(name=name, wanted="not below", measured=NOT_MEASURED, met=None)


def _of_the_queue(report: Report) -> Iterator[Goal]:
    ratio = None
    if not isinstance(report.latency, NotRun):
        high = next((point for point in report.latency.points if point.load == 0.8), None)
        ratio = high.latency.p99_ms / report.latency.idle.p50_ms if high else None
    yield _at_most("p99 at 80% load / idle p50", 3, ratio)
    cost = None if isinstance(report.queue, NotRun) else report.queue.cost
    yield _at_most("queue's own cost a page, median, ms", 5, cost.p50_ms if cost else None, ".1f")
    yield _at_most("queue's own cost a page, p99, ms", 20, cost.p99_ms if cost else None, ".1f")
    memory = None if isinstance(report.memory, NotRun) else report.memory
    pages = f" over {memory.pages:,} pages" if memory else ""
    yield _at_most(f"growth of resident memory{pages}, MB", 50, memory.growth_bytes / 1e6 if memory else None, ".0f")
    if runs_on_card(report):
        yield _at_most(
            f"growth of device memory{pages}, MB", 50, memory.card_growth_bytes / 1e6 if memory else None, ".0f"
        )
