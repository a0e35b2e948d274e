"""Which workers a machine gets: a card, CPUs, threads, decoders and a metrics port for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from producer.cards import VISIBLE, Card, cards_for
from producer.cpus import Cpus, cores, split
from producer.settings import Settings

#: Where the settings say 0: most worker processes on one card, and what each of them needs. Measured on an H100 with 16
#: cores: one worker reads 82 pages/s, two 155, three 207, four 209, and each takes 22 GB with all shapes.
MOST_WORKERS_PER_CARD = 3
CARD_BYTES, CORES = 24_000_000_000, 4


@dataclass(frozen=True)
class WorkerPlan:
    """What one worker process gets."""

    #: From 1 on.
    number: int
    cpus: Cpus
    threads: int
    decoders: int
    #: 0: a free one.
    metrics_port: int
    card: Card | None = None
    #: Whether a worker without a card must not take one.
    hides_cards: bool = False

    @property
    def name(self) -> str:
        return f"worker-{self.number}"

    def environment(self) -> dict[str, str]:
        """What the worker's environment has beyond the settings."""
        own = {
            "OCRPOOL_PREDICTOR_THREADS": str(self.threads),
            "OCRPOOL_RASTERISE_PROCESSES": str(self.decoders),
            "OCRPOOL_WORKER_METRICS_PORT": str(self.metrics_port),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(self.threads),
        }
        if self.card is not None:
            own[VISIBLE] = self.card.uuid
        elif self.hides_cards:
            own |= {VISIBLE: "", "OCRPOOL_DEVICE": "cpu"}
        return own


@dataclass(frozen=True)
class PoolPlan:
    workers: tuple[WorkerPlan, ...]
    #: Why no worker has a card; empty where they have.
    reason: str = ""


def plan_workers(
    settings: Settings, of: Sequence[Cpus], cards: Sequence[Card] = (), workers: int | None = None
) -> tuple[WorkerPlan, ...]:
    """Share the cores `of` a machine out.

    With `workers`, that many work on the CPU alone. Otherwise each card gets its workers on the cores nearest to it,
    which cards with the same ones share evenly; without cards there is one worker.
    """
    seats: list[tuple[Card | None, Cpus]]
    if workers is None and cards:
        seats = list(_seats_beside_cards(of, cards, settings.workers_per_card or _suitable(of, cards)))
    else:
        seats = [(None, cpus) for cpus in split(of, workers or 1)]
    port = settings.worker_metrics_port
    return tuple(
        WorkerPlan(
            number=number,
            cpus=cpus,
            threads=settings.predictor_threads or len(cpus),
            decoders=settings.rasterise_processes or len(cpus),
            metrics_port=port + number - 1 if port else 0,
            card=card,
            hides_cards=workers is not None,
        )
        for number, (card, cpus) in enumerate(seats, start=1)
    )


def _suitable(of: Sequence[Cpus], cards: Sequence[Card]) -> int:
    """How many workers suit each of the cards."""
    memory = min(card.memory_bytes for card in cards) // CARD_BYTES
    return max(1, min(MOST_WORKERS_PER_CARD, memory, len(of) // (CORES * len(cards))))


def _seats_beside_cards(of: Sequence[Cpus], cards: Sequence[Card], per_card: int) -> list[tuple[Card, Cpus]]:
    everywhere = frozenset().union(*of)
    near = {card: (card.cpus & everywhere) or everywhere for card in cards}
    places: dict[Card, list[Cpus]] = {}
    for place in dict.fromkeys(near.values()):
        neighbours = [card for card in cards if near[card] == place]
        shares = split([core & place for core in of if core & place], len(neighbours) * per_card)
        for position, card in enumerate(neighbours):
            places[card] = shares[position * per_card : (position + 1) * per_card]
    return [(card, cpus) for card in cards for cpus in places[card]]


def plan_for_this_machine(settings: Settings, workers: int | None = None) -> PoolPlan:
    """The plan for the cards and CPUs that this process may use; see `plan_workers`."""
    of = cores(os.sched_getaffinity(0))
    if workers is not None:
        return PoolPlan(plan_workers(settings, of, workers=workers), "--workers asks for the CPU alone")
    found = cards_for(settings)
    return PoolPlan(plan_workers(settings, of, found.cards), found.reason)


def one_worker(settings: Settings) -> tuple[WorkerPlan, ...]:
    """A plan of one worker, beside the first card if there is one, with all the cores that are near."""
    alone = settings.model_copy(update={"workers_per_card": 1})
    return plan_workers(alone, cores(os.sched_getaffinity(0)), cards_for(settings).cards[:1])
