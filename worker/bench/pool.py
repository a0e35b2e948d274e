"""The whole pool under measurement: Redis, Celery, ledger, sandboxed decoders, and what its workers' metrics say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from producer import Producer
from producer.embedded import pool_of_its_own
from producer.plan import plan_for_this_machine
from producer.settings import Settings
from worker.bench.meter import card_memory_bytes, resident_bytes
from worker.bench.services import READY_S, Child, ChildService

#: Samples by name and by their one label, over all workers.
Samples = Counter[tuple[str, str]]

PREFIX = "ocrpool_worker_"


@dataclass(frozen=True)
class MeasuredPool:
    """A warm pool."""

    producer: Producer
    settings: Settings
    worker_pids: tuple[int, ...]
    #: Pages that all workers read at a time.
    width: int
    #: Of every part of the pool.
    pids: tuple[int, ...]
    #: Names the models and the runtime.
    model: str

    def rss_bytes(self) -> int:
        """Resident memory of the workers and their decoders."""
        return resident_bytes(self.worker_pids)

    def metrics(self) -> Samples:
        """The workers' samples, added up."""
        samples: Samples = Counter()
        for worker in self.producer.ledger.workers().values():
            with urlopen(f"http://{worker['metrics']}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name.startswith(PREFIX) and "le" not in sample.labels:
                        labels = ",".join(sample.labels.values())
                        samples[sample.name.removeprefix(PREFIX), labels] += sample.value  # type: ignore[assignment]
        return samples


@contextmanager
def measured_pool(settings: Settings, *, workers: int | None = None) -> Iterator[MeasuredPool]:
    """A pool of its own, warm, that reads every document as often as it comes.

    Raises:
        Unavailable: a part did not start; the message says why.
    """
    with pool_of_its_own(settings.model_copy(update={"cache_ttl_s": 0})) as (parts, own):
        parts.start_redis()
        started = parts.start_workers(plan_for_this_machine(own, workers).workers, ready_timeout_s=READY_S)
        with Producer(own) as producer:
            warm = producer.ledger.workers().values()
            yield MeasuredPool(
                producer,
                own,
                worker_pids=tuple(worker.popen.pid for worker in started),
                pids=tuple(part.popen.pid for part in (*parts.processes, *started)),
                width=sum(int(str(worker["pages"])) for worker in warm),
                model=", ".join(sorted({str(worker["model"]) for worker in warm})),
            )


@contextmanager
def pool_service(
    name: str, settings: Settings, *, workers: int | None, clients: int
) -> Iterator[tuple[ChildService, MeasuredPool]]:
    """The pool as its users meet it, with `clients` processes that hand in documents and fetch results."""
    before = card_memory_bytes()
    with measured_pool(settings, workers=workers) as pool, ExitStack() as stack:
        children = []
        for _ in range(clients):
            child = Child("client", pool.settings)
            stack.callback(child.stop)
            children.append(child)
        for child in children:
            child.await_ready()
        service = ChildService(
            name,
            children,
            model=pool.model,
            width=pool.width,
            pids=pool.pids,
            own_card_bytes=card_memory_bytes() - before,
        )
        yield service, pool


def mean(samples: Samples, before: Samples, name: str, label: str) -> float:
    """The mean of a histogram since `before`; 0 where nothing was counted."""
    total, count = (samples[f"{name}_{part}", label] - before[f"{name}_{part}", label] for part in ("sum", "count"))
    return total / count if count else 0.0
