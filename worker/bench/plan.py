"""What a run measures, and how much work it takes for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from producer.settings import Settings
from worker.bench.corpus import Corpus
from worker.bench.meter import cards


class Section(StrEnum):
    ABLATION = "ablation"
    PEERS = "peers"
    LATENCY = "latency"
    CEILING = "ceiling"
    ACCURACY = "accuracy"
    QUEUE = "queue"
    MEMORY = "memory"


@dataclass(frozen=True)
class Effort:
    """How much each figure is worth."""

    pages: int
    rounds: int
    #: A rate is measured over whole passes of the corpus for at least this long; none is handed in after the most.
    least_s: float
    most_s: float
    search_s: float
    #: Documents of an idle pool's latency, one after the other.
    idle_documents: int
    #: Part of saturation, and the documents that arrive there: at least so many, and for at least `least_s`.
    loads: tuple[tuple[float, int], ...]
    queue_jobs: int
    queue_pages: int
    soak_pages: int


FULL = Effort(
    pages=40,
    rounds=2,
    least_s=10,
    most_s=75,
    search_s=45,
    idle_documents=12,
    loads=((0.2, 30), (0.5, 60), (0.8, 100), (1.2, 40)),
    queue_jobs=200,
    queue_pages=2000,
    soak_pages=10_000,
)
QUICK = Effort(
    pages=6,
    rounds=1,
    least_s=3,
    most_s=15,
    search_s=10,
    idle_documents=5,
    loads=((0.5, 10), (0.8, 15)),
    queue_jobs=100,
    queue_pages=500,
    soak_pages=1000,
)


@dataclass(frozen=True)
class Plan:
    """One run."""

    corpus: Corpus
    settings: Settings
    effort: Effort
    #: Seconds that p95 must stay within for users to count as held.
    bound_s: float
    #: Users of the ablation's mean latency.
    users: int
    #: None: one beside each card as the settings have it, or one.
    workers: int | None
    #: Processes that hand in documents.
    clients: int
    paddle: bool
    seed: int

    def changed(self, **changes: object) -> Settings:
        """The settings with some changed."""
        return self.settings.model_copy(update=changes)

    @property
    def host_settings(self) -> Settings:
        """The settings with pages prepared on the processor: where a card does it, that is a rung of its own."""
        return self.changed(preprocess="host")

    @property
    def paths(self) -> list[Path]:
        return self.corpus.paths


def default_bound_s() -> float:
    return 1.0 if cards() else 5.0


def default_users() -> int:
    return 32 if cards() else 4


def default_clients() -> int:
    """One Python process hands in and fetches a few hundred documents a second."""
    return 4 if cards() else 1
