"""How much memory decoded pages may take together."""

from __future__ import annotations

import threading
from collections import deque

from producer.errors import Unavailable


class RasterBudget:
    """Bytes that are granted in the order in which they were asked for. Thread-safe.

    More than there are in all are granted while nothing else is: such a page is read alone.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._taken_bytes = 0
        self._queue: deque[object] = deque()
        self._closed = False
        # Re-entrant: a page's memory may be given back by a garbage collection in the middle of anything.
        self._changed = threading.Condition(threading.RLock())

    @property
    def taken_bytes(self) -> int:
        return self._taken_bytes

    def __len__(self) -> int:
        """How many wait for bytes."""
        return len(self._queue)

    def take(self, size_bytes: int) -> None:
        """Block until the bytes are granted; `give_back` returns them.

        Raises:
            Unavailable: the budget was closed.
        """
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                self._changed.wait_for(lambda: self._closed or (self._queue[0] is turn and self._has(size_bytes)))
                if self._closed:
                    raise Unavailable("The worker is stopping.")
                self._taken_bytes += size_bytes
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

    def give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._taken_bytes -= size_bytes
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits, or asks from now on, gets `Unavailable`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has(self, size_bytes: int) -> bool:
        return not self._taken_bytes or self._taken_bytes + size_bytes <= self._size_bytes
