"""What a service keeps busy, and the memory that it takes: the card's by NVML, the machine's by its processes."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import cache
from types import TracebackType
from typing import Self

import psutil

from producer.cards import Card, find_cards, nvml
from worker.bench.figures import Figures

#: Samples a second of the card's utilisation (NVML averages over 1/6 to 1 s itself) and of the memory.
SAMPLES_PER_S = 8

GIB = 1 << 30


class Usage(Figures):
    """What was used while the meter ran."""

    #: `card`: NVML's utilisation, averaged. `cpu`: CPU time of all processes by that of all cores.
    device: str
    busy: float
    #: Of the device: memory of the cards beyond that of others, or resident memory of all processes.
    peak_memory_bytes: int


def on_card(model: str) -> bool:
    """Whether a model runs on a card, as the name of its runtime has it."""
    return any(word in model.lower() for word in ("cuda", "tensorrt", "gpu"))


@cache
def cards() -> tuple[Card, ...]:
    """The cards that this process may use."""
    return find_cards().cards


def card_memory_bytes() -> int:
    """The memory in use on all cards, whoever uses it."""
    if not cards():
        return 0
    with nvml() as driver:
        return sum(driver.load(card).used_bytes for card in cards())


def process_tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The living processes among them, and all below them."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes and all below them."""
    return _resident_bytes(process_tree(pids))


def _resident_bytes(processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    spent = {}
    for process in process_tree(pids):
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent[process.pid] = times.user + times.system
    return spent


class Meter:
    """Measures while its context is open; `usage` says what was seen.

    Args:
        pids: The roots of the service's processes.
        on_card: Whether the service's models run on the cards.
        own_card_bytes: Memory of the cards that the service took when it was loaded.
    """

    def __init__(self, pids: Iterable[int], *, on_card: bool, own_card_bytes: int, clock: Callable[[], float]) -> None:
        self._pids = list(pids)
        self._on_card = on_card and bool(cards())
        self._own_card_bytes = own_card_bytes
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="meter", daemon=True)
        self._utilisations: list[float] = []
        self._peak = 0
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """Known once the context is left."""
        if self._usage is None:
            raise ValueError("the meter still runs")
        return self._usage

    def __enter__(self) -> Self:
        self._others_bytes = card_memory_bytes() - self._own_card_bytes
        self._started = self._clock()
        self._cpu_before = _cpu_seconds(self._pids)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        seconds = self._clock() - self._started
        spent = sum(after - self._cpu_before.get(pid, 0.0) for pid, after in _cpu_seconds(self._pids).items())
        cores = len(os.sched_getaffinity(0))
        busy = statistics.fmean(self._utilisations) if self._on_card else spent / (cores * seconds)
        self._usage = Usage(device="card" if self._on_card else "cpu", busy=busy, peak_memory_bytes=self._peak)

    def _sample(self) -> None:
        with nvml() if self._on_card else nullcontext() as driver:
            processes = process_tree(self._pids)  # once: looking for them reads every process of the machine
            while True:
                if driver is None:
                    memory = _resident_bytes(processes)
                else:
                    loads = [driver.load(card) for card in cards()]
                    self._utilisations.append(statistics.fmean(load.busy for load in loads))
                    memory = sum(load.used_bytes for load in loads) - self._others_bytes
                self._peak = max(self._peak, memory)
                if self._stop.wait(1 / SAMPLES_PER_S):
                    return
