"""What safe decoding costs the whole pool: its page rate with it, and with parts of it left out.

python -m tests.benchmarks.sandbox [--predictor fake] [--rounds 20] [--documents 60]

Three pools stand beside each other, each with a worker of its own, and read the same documents in short turns, in
another order each round:

    sandbox      decoders in child processes, behind Landlock and seccomp
    no fence     the same with OCRPOOL_SANDBOX=off
    in process   no child processes: `tests/benchmarks/open_worker.py`

A shared machine's speed drifts, so what counts are the ratios within a round. Beside the rate stands the CPU time that
the worker and its decoders took for a page: what neighbours do hardly touches it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from producer import Producer
from producer.embedded import pool_of_its_own
from producer.job import JobState
from producer.plan import plan_for_this_machine
from producer.processes import PYTHON
from producer.settings import Settings
from producer.workers import Workers
from worker.bench.corpus import load_corpus
from worker.bench.meter import process_tree

WORKER = (*PYTHON, "-m", "worker")
OPEN_WORKER = (*PYTHON, str(Path(__file__).with_name("open_worker.py")))
READY_S = 300
CONFIDENCE = 0.95


@dataclass
class Mode:
    """One pool, and what was measured of it, a figure a round."""

    name: str
    producer: Producer
    worker_pid: int
    pages_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def read(self, documents: Sequence[bytes]) -> None:
        """One round: all are handed in at once."""
        cpu_s, began = self._cpu_s(), time.perf_counter()
        ids = [self.producer.submit(document).id for document in documents]
        for status in self.producer.follow(ids, timeout_s=READY_S):
            if status.final and status.state is not JobState.SUCCEEDED:
                raise SystemExit(f"{self.name}: a document was not read: {status.error}")
        self.pages_per_s.append(len(documents) / (time.perf_counter() - began))
        self.cpu_ms.append(1000 * (self._cpu_s() - cpu_s) / len(documents))

    def _cpu_s(self) -> float:
        """Of the worker, its decoders, and those that it has replaced."""
        worker, *decoders = process_tree([self.worker_pid])
        times = [worker.cpu_times(), *(decoder.cpu_times() for decoder in decoders)]
        reaped = times[0].children_user + times[0].children_system
        return float(reaped + sum(one.user + one.system for one in times))


@contextmanager
def standing(settings: Settings) -> Iterator[list[Mode]]:
    """The three pools, warm, on one Redis."""
    with pool_of_its_own(settings) as (parts, own), ExitStack() as stack:
        parts.start_redis()
        modes = []
        for name, sandbox, command in (
            ("sandbox", "on", WORKER),
            ("no fence", "off", WORKER),
            ("in process", "off", OPEN_WORKER),
        ):
            its = own.model_copy(update={"namespace": name.replace(" ", "-"), "sandbox": sandbox})
            workers = Workers(its, plan_for_this_machine(its, 1).workers, log_dir=own.data_dir / name, command=command)
            stack.callback(workers.stop)
            workers.start()
            workers.wait_until_ready(READY_S)
            modes.append(Mode(name, stack.enter_context(Producer(its)), workers.processes[0].popen.pid))
        yield modes


def median_within(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the interval that holds the median of endless rounds with 95% confidence.

    By ranks (the sign test turned around), so that nothing is taken for granted of how the values are spread.
    """
    ordered, rounds = sorted(values), len(values)
    outside, rank = 0.0, 0
    while rank < rounds // 2 and 2 * (outside + math.comb(rounds, rank) / 2**rounds) <= 1 - CONFIDENCE:
        outside += math.comb(rounds, rank) / 2**rounds
        rank += 1
    return median(ordered), ordered[max(0, rank - 1)], ordered[rounds - max(1, rank)]


def change(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """By how much ours are more than theirs, round by round."""
    middle, low, high = median_within([100 * (our / their - 1) for our, their in zip(ours, theirs, strict=True)])
    return f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What safe decoding costs the pool.")
    parser.add_argument("--predictor", default="fake", help="fake, onnxruntime or paddle")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--documents", type=int, default=60, help="that a pool reads in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = load_corpus(None, 40, Path(scratch))
        pages = [path.read_bytes() for path in corpus.paths]
    documents = (pages * (1 + options.documents // len(pages)))[: options.documents]
    with standing(Settings(predictor=options.predictor, device="cpu", cache_ttl_s=0)) as modes:
        for mode in modes:
            mode.read(documents)
            mode.pages_per_s.clear()  # They have warmed it.
            mode.cpu_ms.clear()
        for number in range(options.rounds):
            turned = [*modes[number % len(modes) :], *modes[: number % len(modes)]]
            for mode in turned if number % 2 else reversed(turned):
                mode.read(documents)
        print(f"{corpus.name}, predictor {options.predictor}, {options.rounds} rounds of {options.documents} documents")
        for mode in modes:
            print(f"{mode.name:12} {median(mode.pages_per_s):7.1f} pages/s {median(mode.cpu_ms):8.1f} ms CPU a page")
        ours, *others = modes
        for other in others:
            rate, cpu = change(ours.pages_per_s, other.pages_per_s), change(ours.cpu_ms, other.cpu_ms)
            print(f"sandbox against {other.name}: page rate {rate}, CPU time a page {cpu}")


if __name__ == "__main__":
    main()
