"""Documents handed to a service: by users who wait for their answer, or at times that nothing holds back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from producer.errors import Unavailable

#: A service that gives no answer for this long has hung. The slowest known takes 10 s for one page.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Answer:
    """What a service made of one document: its text, or the error that it gave instead."""

    number: int
    text: str = ""
    error: str = ""


class Service(Protocol):
    """Something that reads documents."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int:
        """How many documents it works on at a time."""
        ...

    def submit(self, number: int, path: Path) -> None:
        """Hand in a document and return at once. The number comes back with the answer."""
        ...

    def answered(self, timeout_s: float) -> Answer | None:
        """The next answer, or None when none comes in time."""
        ...


@dataclass(frozen=True)
class Served:
    """One document's way, in seconds on the clock of the run."""

    answer: Answer
    arrived_s: float
    answered_s: float

    @property
    def latency_s(self) -> float:
        return self.answered_s - self.arrived_s


@dataclass(frozen=True)
class Run:
    """What a service did under one load. Documents are in the order of their answers."""

    served: tuple[Served, ...]
    started_s: float

    @property
    def seconds(self) -> float:
        """From the first arrival to the last answer."""
        return max(one.answered_s for one in self.served) - self.started_s

    @property
    def documents_per_s(self) -> float:
        return len(self.served) / self.seconds

    @property
    def latencies_s(self) -> list[float]:
        return [one.latency_s for one in self.served]

    @property
    def texts(self) -> list[str]:
        """In the order in which the documents were handed in."""
        return [one.answer.text for one in sorted(self.served, key=lambda one: one.answer.number)]


class _Desk:
    """Hands in the corpus over and over, and notes when each document came and was answered."""

    def __init__(self, service: Service, pages: Sequence[Path], clock: Callable[[], float]) -> None:
        self._service, self._pages, self._clock = service, pages, clock
        self._pending: dict[int, float] = {}
        self.handed_in = 0
        self.served: list[Served] = []

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def hand_in(self, arrived_s: float) -> None:
        number, self.handed_in = self.handed_in, self.handed_in + 1
        self._pending[number] = arrived_s
        self._service.submit(number, self._pages[number % len(self._pages)])

    def take(self, timeout_s: float) -> Served | None:
        """The next answer, or None after `timeout_s`. An error ends the run: what failed was not measured."""
        answer = self._service.answered(timeout_s)
        if answer is None:
            return None
        if answer.error:
            raise Unavailable(f"{self._service.name} failed: {answer.error}")
        served = Served(answer, self._pending.pop(answer.number), self._clock())
        self.served.append(served)
        return served

    def take_or_raise(self) -> Served:
        served = self.take(PATIENCE_S)
        if served is None:
            raise Unavailable(f"{self._service.name} gave no answer for {PATIENCE_S:.0f} s.")
        return served


def closed_loop(
    service: Service,
    pages: Sequence[Path],
    *,
    users: int,
    documents: int,
    limit_s: float = float("inf"),
    hopeless: Callable[[Sequence[Served]], bool] = lambda served: False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Each of `users` hands in its next document when the last is answered, until `documents` were handed in.

    After `limit_s` seconds, or once `hopeless(served)`, no more are handed in; those that were are waited for.

    Raises:
        Unavailable: the service failed on a document, or hung.
    """
    started = clock()
    desk = _Desk(service, pages, clock)
    for _ in range(min(users, documents)):
        desk.hand_in(clock())
    while desk.waiting:
        served = desk.take_or_raise()
        over = served.answered_s - started > limit_s or hopeless(desk.served)
        if desk.handed_in < documents and not over:
            desk.hand_in(clock())
    return Run(tuple(desk.served), started)


def open_loop(
    service: Service,
    pages: Sequence[Path],
    arrivals_s: Sequence[float],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Hand in a document at each of the ascending `arrivals_s`, whether or not the service keeps up.

    A latency counts from when the document was due: what a slow service delays is its own delay.

    Raises:
        Unavailable: the service failed on a document, or hung.
    """
    started = clock()
    desk = _Desk(service, pages, clock)
    while desk.handed_in < len(arrivals_s):
        due = started + arrivals_s[desk.handed_in]
        wait_s = due - clock()
        if wait_s <= 0:
            desk.hand_in(due)
            wait_s = 0.0
        desk.take(wait_s)
    while desk.waiting:
        desk.take_or_raise()
    return Run(tuple(desk.served), started)


def poisson_arrivals(rate_per_s: float, documents: int, seed: int) -> list[float]:
    """When each document arrives, in seconds from the start: independent of each other, `rate_per_s` on average."""
    random_ = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(documents):
        now += random_.expovariate(rate_per_s)
        arrivals.append(now)
    return arrivals
