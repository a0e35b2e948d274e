"""The document of one run: every figure, with the machine and the settings that it was measured with."""

from __future__ import annotations

from typing import Literal

from worker.bench.corpus import Accuracy
from worker.bench.figures import Figures, Spread
from worker.bench.meter import Usage

#: Of sections that `--only` leaves out.
NOT_ASKED_FOR = "not asked for"


class NotRun(Figures):
    """A part that was not measured, and why."""

    name: str = ""
    not_run: str


class Machine(Figures):
    """Where it was measured."""

    cores: int
    processor: str
    memory_bytes: int
    cards: tuple[str, ...]
    python: str
    #: Versions of the packages that matter.
    packages: dict[str, str]


class Trial(Figures):
    """One closed loop: how many users, and what they met."""

    users: int
    documents: int
    documents_per_s: float
    p50_ms: float
    p95_ms: float


class Rung(Figures):
    """One stage of the ablation with its five figures."""

    name: str
    model: str
    documents: int
    documents_per_s: float
    usage: Usage
    mean_latency_ms: float
    users_held: int
    #: Whether one more (within the search's precision) was seen to fail; else the search's time was up.
    users_settled: bool
    #: Pages a second for each GiB of memory at its peak.
    pages_per_s_per_gib: float
    trials: tuple[Trial, ...]


class Ablation(Figures):
    """The stages, added one by one."""

    #: Users held: the most, each waiting for its document before handing in the next, whose p95 stays within this.
    bound_s: float
    #: Users of the mean latency.
    users: int
    #: Of documents/s and device busy, each the median.
    rounds: int
    rungs: tuple[Rung | NotRun, ...]


class Entrant(Figures):
    """One reader of a comparison, measured in each round in turn."""

    name: str
    model: str
    documents_per_s: tuple[float, ...]
    #: The pool's rate by this one's, the median over the rounds.
    pool_is_faster_by: float
    accuracy: Accuracy | None


class Comparison(Figures):
    """The pool, the last entrant, against its peers."""

    title: str
    rounds: int
    entrants: tuple[Entrant, ...]
    missing: tuple[NotRun, ...]


class LoadPoint(Figures):
    """The pool under documents that arrive by themselves."""

    #: Part of what the pool reads when it is never without work.
    load: float
    offered_per_s: float
    documents_per_s: float
    latency: Spread


class Latency(Figures):
    """Latency under Poisson arrivals, and where a page's time goes."""

    saturation_per_s: float
    seed: int
    idle: Spread
    points: tuple[LoadPoint, ...]
    #: Per page and stage, waits included: while idle, and while never without work.
    idle_stage_ms: dict[str, float]
    stage_ms: dict[str, float]
    #: Per batch of a stage, while never without work.
    batch_run_ms: dict[str, float]
    batch_wait_ms: dict[str, float]
    mean_batch: dict[str, float]
    batch_fill: dict[str, float]


class Lines(Figures):
    """How lines filled the recogniser's tensors: parts of all their pixels."""

    lines: int
    batches: int
    shapes: int
    #: Beside lines that are narrower than their bucket.
    width_padding: float
    #: In slots that no line filled.
    empty_slots: float
    #: If PaddleX batched the same lines.
    paddlex_padding: float

    @property
    def padding(self) -> float:
        return self.width_padding + self.empty_slots


class Ceiling(Figures):
    """The predictors alone on what the engine fed them, against the whole pool, in turn."""

    processes: int
    #: Threads of each process, by stage.
    runners: dict[str, int]
    ceiling_per_s: tuple[float, ...]
    pool_per_s: tuple[float, ...]
    pool_by_ceiling: float
    lines: Lines


class Texts(Figures):
    """What was read: against the truth, and alone against in batches."""

    accuracy: Accuracy | None
    lines: int
    lines_identical: int

    @property
    def identical(self) -> float:
        return self.lines_identical / max(1, self.lines)


class QueueCost(Figures):
    """What a page costs beside its models: with a predictor that answers at once."""

    cost: Spread
    pages: int
    pages_per_s: float


class Memory(Figures):
    """Memory of the workers and their decoders over many mixed pages, after the start and each tenth of them."""

    predictor: str
    pages: int
    rss_bytes: tuple[int, ...]
    card_bytes: tuple[int, ...]
    #: From the end of the first fifth, when every path has been taken once, to the end.
    growth_bytes: int
    card_growth_bytes: int


class Goal(Figures):
    """What was wanted, and what was measured; `met` is None where nothing was."""

    name: str
    wanted: str
    measured: str
    met: bool | None


class Report(Figures):
    """The whole document."""

    version: Literal[1] = 1
    ocrpool: str
    started_at: str
    seconds: float
    machine: Machine
    corpus: str
    quick: bool
    #: The variables that are not at their defaults.
    settings: dict[str, str]
    ablation: Ablation | NotRun
    peers: tuple[Comparison, ...] | NotRun
    latency: Latency | NotRun
    ceiling: Ceiling | NotRun
    accuracy: Texts | NotRun
    queue: QueueCost | NotRun
    memory: Memory | NotRun
    goals: tuple[Goal, ...] = ()
