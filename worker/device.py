"""What the stages of one worker share: the device that runs their batches, how much it has to do, and whether it
still works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import structlog

from producer.errors import Unavailable

log = structlog.get_logger(__name__)


class DeviceFailed(Unavailable):
    """The device failed with this on it, and runs nothing more in this process.

    What was on it may be the cause. What comes to it later is refused with plain `Unavailable`.
    """


@dataclass(frozen=True)
class Trouble:
    """Why a worker cannot go on."""

    #: In one line.
    reason: str
    #: Whether something hangs: anything that the worker holds may be the cause.
    hangs: bool = False


class Device:
    """Counts the batches that all stages have on one device. Safe to share between threads.

    While it has fewer than `batches`, one more leaves before its window closes, because the device would idle.
    Otherwise a batch may as well gather company: it would wait anyway. 2 for a card: one that runs, and one on its way
    there; the number of cores where each batch has one of its own; 0 where windows always count.
    `tests/worker/test_window.py` shows why.
    """

    def __init__(self, batches: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._batches = batches
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._calls: dict[object, tuple[float, Callable[[], str]]] = {}
        self._watchers: list[tuple[Callable[[], None], Callable[[], None]]] = []
        #: Why it runs nothing more in this process; empty while it works.
        self.failure = ""

    def watch(self, freed: Callable[[], None], failed: Callable[[], None]) -> None:
        """Have one of two called, without a lock held: `freed` whenever a batch has left the device, `failed` once it
        has failed."""
        self._watchers.append((freed, failed))

    @property
    def has_room(self) -> bool:
        return self._running < self._batches

    def begin(self) -> None:
        """A batch is on its way."""
        with self._lock:
            self._running += 1

    def end(self) -> None:
        """A batch is done."""
        with self._lock:
            self._running -= 1
        for freed, _ in self._watchers:
            freed()

    def fail(self, why: str) -> None:
        """Give it up, with the reason in one line: whoever watches it refuses what it has not begun."""
        with self._lock:
            if self.failure:
                return
            self.failure = why
        with ExitStack() as rest:  # one that raises keeps it from no other
            rest.callback(log.error, "device.failed", because=why)
            for _, failed in self._watchers:
                rest.callback(failed)

    @contextmanager
    def call(self, describe: Callable[[], str]) -> Iterator[None]:
        """Note what this thread has the device do, so that `trouble` can tell if it never ends."""
        key = object()
        self._calls[key] = self._clock(), describe
        try:
            yield
        finally:
            del self._calls[key]

    def trouble(self, longest_s: float) -> Trouble | None:
        """That it has failed, or that a call takes longer than `longest_s`. Takes no lock: what hangs may hold it."""
        if self.failure:
            return Trouble(self.failure)
        started, describe = min(self._calls.copy().values(), key=lambda call: call[0], default=(self._clock(), str))
        if (taken_s := self._clock() - started) > longest_s:
            return Trouble(f"{describe()}: running for {taken_s:.0f} s", hangs=True)
        return None
