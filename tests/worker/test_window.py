"""What the rules of the window are worth, in a simulation: no threads, no sleeping, the same numbers each time.

Pages are decoded, found by a detector, and read line by line. Detector and recogniser share a card that runs one batch
at a time: a fixed cost and one for each item, fitted to an H200 (424 to 817 pages/s from batch 1 to 32, 613 to 12,455
lines/s from batch 1 to 64). Or they share two cores, where only the items cost.

Found with 600 pages, for windows that always count and for a device with room for two batches that both stages know of:

- mean latency at 10, 40, 80 and 110 pages/s: 91 -> 74, 141 -> 97, 171 -> 131, 178 -> 157 ms;
- saturated by 16, 64 and 128 pages in flight: 106 -> 113, 183 -> 183, 193 -> 193 pages/s;
- with a device for each stage, a stage's small batches take the card from the other: 186 pages/s with room for one
  batch, 179 with room for two;
- with one runner a stage, whose host work (1 ms a batch) then leaves the card idle, 171 pages/s of 193; a third adds
  nothing;
- three workers on one card, pages of four sizes: 168 pages/s and 1.7 pages a batch when the detector's windows close as
  usual; 180 and 7.1 when they stay open while the recogniser has full batches waiting;
- on cores, pages of six lines at one a second: 488 -> 453 ms. Longer pages fill the small batches anyway.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from worker.backlog import Backlog, Batch
from worker.batcher import BATCHES_AHEAD
from worker.device import Device
from worker.groups import Group

WINDOW_S = 0.05
WIDTHS = 35


@dataclass(frozen=True)
class Costs:
    """Seconds of one batch on its device: a fixed part, one for each item, and the host's, beside the device."""

    batch_s: float
    item_s: float
    host_s: float
    max_batch: int


@dataclass(frozen=True)
class Machine:
    detector: Costs
    recogniser: Costs
    decode_s: float
    decoders: int
    runners: int
    #: Batches that run at once: 1 for a card, more for cores.
    devices: int


CARD = Machine(Costs(0.0012, 0.0012, 0.001, 8), Costs(0.00157, 0.000055, 0.001, 64), 0.03, 14, 2, 1)
CORES = Machine(Costs(0.0, 0.33, 0.0, 1), Costs(0.001, 0.018, 0.0, 4), 0.02, 2, 2, 2)


@dataclass
class Stage:
    """A backlog and its runners, as the batcher has them."""

    costs: Costs
    device: Device
    backlog: Backlog[int, int, int] = field(init=False)
    downstream: Stage | None = None
    coming: int = 0
    busy: int = 0
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backlog = Backlog(lambda bucket: self.costs.max_batch, WINDOW_S)

    def take(self, now: float) -> Batch[int, int, int] | None:
        return self.backlog.take(now, self.window_s())

    def window_s(self) -> float:
        """As the batcher has it."""
        if self.downstream is not None and self.downstream.backlog.full >= BATCHES_AHEAD:
            return self.backlog.starved_s
        return 0.0 if self.device.has_room or self.coming <= 0 else WINDOW_S


@dataclass(frozen=True)
class Figures:
    pages_per_s: float
    mean_latency_s: float
    mean_lines: float
    mean_pages: float


def look_again() -> None:
    """An event after which the stages are asked again."""


class Simulation:
    """Runs pages through a machine: `in_flight` of them at a time, or `rate` a second while no more than that."""

    def __init__(
        self,
        machine: Machine,
        devices: tuple[Device, Device],
        *,
        in_flight: int = 128,
        pages: int = 300,
        rate: float = 0.0,
        lines: int = 46,
        sizes: int = 1,
        patient: bool = True,
    ) -> None:
        self.random = random.Random(1)
        self.machine = machine
        self.lines = lines
        self.sizes = sizes
        self.recognising = Stage(machine.recogniser, devices[1])
        self.detecting = Stage(machine.detector, devices[0], self.recognising if patient else None)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.free_at = [0.0] * machine.devices
        self.idle_decoders = machine.decoders
        self.undecoded: list[int] = []
        arrivals = itertools.accumulate(self.random.expovariate(rate) for _ in range(pages)) if rate else [0.0] * pages
        self.outside = list(enumerate(arrivals))
        self.room = in_flight
        self.came: dict[int, float] = {}
        self.lines_left: dict[int, int] = {}
        self.latencies: list[float] = []

    def run(self) -> Figures:
        self.begin()
        while self.events:
            self.step()
        return self.figures()

    def begin(self) -> None:
        for _, at_s in self.outside:
            self.at(at_s, look_again)

    def step(self) -> None:
        self.now, _, event = heapq.heappop(self.events)
        event()
        self.admit()
        for stage, then in ((self.recognising, self.read), (self.detecting, self.detected)):
            self.dispatch(stage, then)

    def figures(self) -> Figures:
        lines, pages = (statistics.mean(stage.sizes) for stage in (self.recognising, self.detecting))
        return Figures(len(self.latencies) / self.now, statistics.mean(self.latencies), lines, pages)

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time_s, next(self.numbers), event))

    def admit(self) -> None:
        while self.room and self.outside and self.outside[0][1] <= self.now:
            page, self.came[page] = self.outside.pop(0)
            self.room -= 1
            self.detecting.coming += 1
            self.recognising.coming += 1
            self.undecoded.append(page)
        while self.undecoded and self.idle_decoders:
            self.idle_decoders -= 1
            page = self.undecoded.pop(0)
            decode_s = self.machine.decode_s * self.random.uniform(0.7, 1.3)
            self.at(self.now + decode_s, partial(self.decoded, page))

    def decoded(self, page: int) -> None:
        self.idle_decoders += 1
        self.detecting.coming -= 1
        self.detecting.backlog.add(Group(1), [page], [page % self.sizes], self.now)

    def detected(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.recognising.coming -= 1
            self.lines_left[page] = self.lines
            widths = [min(WIDTHS - 1, int(self.random.expovariate(0.1))) for _ in range(self.lines)]
            self.recognising.backlog.add(Group(self.lines), [page] * self.lines, widths, self.now)

    def read(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.lines_left[page] -= 1
            if not self.lines_left[page]:
                self.latencies.append(self.now - self.came[page])
                self.room += 1

    def dispatch(self, stage: Stage, then: Callable[[Sequence[int]], None]) -> None:
        while stage.busy < self.machine.runners and (batch := stage.take(self.now)):
            pages = [page for _, _, page in batch.entries]
            stage.busy += 1
            stage.device.begin()
            stage.sizes.append(len(pages))
            device = self.free_at.index(min(self.free_at))
            start_s = max(self.now + stage.costs.host_s, self.free_at[device])
            self.free_at[device] = start_s + stage.costs.batch_s + stage.costs.item_s * len(pages)
            self.at(self.free_at[device], partial(self.finish, stage, then, pages))
        due_s = stage.backlog.due_s(self.now, stage.window_s())
        if due_s:
            self.at(max(self.now + due_s, math.nextafter(self.now, math.inf)), look_again)

    @staticmethod
    def finish(stage: Stage, then: Callable[[Sequence[int]], None], pages: Sequence[int]) -> None:
        stage.busy -= 1
        stage.device.end()
        then(pages)


def shared(batches: int) -> tuple[Device, Device]:
    """One device, known to both stages. Room for no batch: windows always count."""
    device = Device(batches)
    return device, device


def workers_on_one_card(workers: int, *, patient: bool) -> list[Figures]:
    """Several workers, each with its own stages, whose batches one card runs."""
    several = [Simulation(CARD, shared(2), in_flight=64, pages=400, sizes=4, patient=patient) for _ in range(workers)]
    for number, worker in enumerate(several):
        worker.random.seed(number)
        worker.free_at = several[0].free_at
        worker.begin()
    while running := [worker for worker in several if worker.events]:
        min(running, key=lambda worker: worker.events[0][0]).step()
    return [worker.figures() for worker in several]


def test_a_page_waits_for_no_window_while_the_card_has_nothing_to_do() -> None:
    for rate, share in ((10.0, 0.85), (40.0, 0.75), (80.0, 0.85)):
        windows = Simulation(CARD, shared(0), rate=rate).run()
        ours = Simulation(CARD, shared(2), rate=rate).run()
        assert ours.mean_latency_s < share * windows.mean_latency_s


@pytest.mark.parametrize(("in_flight", "gain"), [(16, 1.04), (64, 0.99), (128, 0.99)])
def test_a_saturated_card_reads_no_less(in_flight: int, gain: float) -> None:
    windows = Simulation(CARD, shared(0), in_flight=in_flight, pages=600).run()
    ours = Simulation(CARD, shared(2), in_flight=in_flight, pages=600).run()
    assert ours.pages_per_s >= gain * windows.pages_per_s
    assert ours.mean_lines >= 0.7 * windows.mean_lines


def test_a_saturated_card_reads_less_when_its_stages_do_not_know_of_each_other() -> None:
    ours = Simulation(CARD, shared(2), pages=600, patient=False).run()
    apart = Simulation(CARD, (Device(2), Device(2)), pages=600, patient=False).run()
    assert apart.pages_per_s < 0.96 * ours.pages_per_s


def test_workers_that_share_a_card_fill_their_detectors_batches() -> None:
    hasty, patient = (workers_on_one_card(3, patient=patient) for patient in (False, True))
    assert statistics.mean(one.mean_pages for one in patient) >= 4
    assert sum(one.pages_per_s for one in patient) >= 1.02 * sum(one.pages_per_s for one in hasty)


def test_small_batches_side_by_side_beat_one_that_waits_on_cores() -> None:
    windows = Simulation(CORES, shared(0), rate=1.0, lines=6, pages=60).run()
    ours = Simulation(CORES, shared(2), rate=1.0, lines=6, pages=60).run()
    assert ours.mean_latency_s < 0.95 * windows.mean_latency_s
