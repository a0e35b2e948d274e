"""What the stages of one worker share: the device that runs their batches, and how much it has to do."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Device:
    """Counts the batches that all stages have on one device. Safe to share between threads.

    While it has fewer than `batches`, one more leaves before its window closes, because the device would idle.
    Otherwise a batch may as well gather company: it would wait anyway. 2 for a card: one that runs, and one on its way
    there; the number of cores where each batch has one of its own. `tests/worker/test_window.py` shows why.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._running = 0
        self._watchers: list[Callable[[], None]] = []

    def watch(self, freed: Callable[[], None]) -> None:
        """Have `freed` called, without a lock held, whenever a batch leaves the device with room for another."""
        self._watchers.append(freed)

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
        if self.has_room:
            for freed in self._watchers:
                freed()
