"""A pool with one worker under measurement, and what its metrics say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from producer import Producer
from producer.embedded import pool_of_its_own
from producer.plan import one_worker
from producer.settings import Settings

Samples = dict[tuple[str, str], float]


@dataclass(frozen=True)
class MeasuredPool:
    """A warm pool with one worker."""

    producer: Producer
    worker_pid: int
    name: str = "ocrpool"

    def read(self, paths: Sequence[Path]) -> tuple[float, list[str]]:
        """Seconds from the first submission to the last result, and the pages' texts."""
        started = time.perf_counter()
        jobs = [self.producer.submit(path) for path in paths]
        for _ in self.producer.follow([job.id for job in jobs], timeout_s=3600):
            pass
        texts = [job.result().text for job in jobs]
        return time.perf_counter() - started, texts

    def rss_bytes(self) -> int:
        """Resident memory of the worker and its decoders."""
        worker = psutil.Process(self.worker_pid)
        return sum(process.memory_info().rss for process in (worker, *worker.children(recursive=True)))

    def metrics(self) -> Samples:
        """The worker's samples by name and by their one label."""
        (worker,) = self.producer.ledger.workers().values()
        text = httpx.get(f"http://{worker['metrics']}/metrics").text
        return {
            (sample.name.removeprefix("ocrpool_worker_"), ",".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("ocrpool_worker_")
        }


@contextmanager
def measured_pool(**changes: object) -> Iterator[MeasuredPool]:
    """A pool of its own with one worker; `changes` are settings."""
    chosen = Settings().model_copy(update=changes)
    with pool_of_its_own(chosen) as (parts, own):
        parts.start_redis()
        (worker,) = parts.start_workers(one_worker(own))
        with Producer(own) as producer:
            yield MeasuredPool(producer, worker.popen.pid)


def mean(samples: Samples, before: Samples, name: str, label: str) -> float:
    """The mean of a histogram since `before`."""
    total, count = (
        samples.get((f"{name}_{part}", label), 0.0) - before.get((f"{name}_{part}", label), 0.0)
        for part in ("sum", "count")
    )
    return total / count if count else 0.0
