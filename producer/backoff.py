"""How long to wait before something that ended is started again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

#: The first wait; each further one is twice as long, up to the longest.
FIRST_S, LONGEST_S = 0.5, 30.0
#: What was ready for this long has proved itself: after it, the waits begin anew.
PROVEN_S = 60.0


class Backoff:
    """The waits of one worker. `chance()` is in [0, 1): it takes up to a quarter off each wait, so that workers
    that ended together do not all come back together."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._ready_at: float | None = None
        self._due_at = clock()

    @property
    def is_ready(self) -> bool:
        return self._ready_at is not None

    @property
    def is_due(self) -> bool:
        """Whether the wait is over."""
        return self._clock() >= self._due_at

    def ready(self) -> None:
        """It has started, and works."""
        if self._ready_at is None:
            self._ready_at = self._clock()

    def ended(self) -> float:
        """It has ended: start it again once `is_due`, in so many seconds."""
        now = self._clock()
        if self._ready_at is not None and now - self._ready_at >= PROVEN_S:
            self._failures = 0
        self._ready_at = None
        wait_s = min(FIRST_S * 2.0**self._failures, LONGEST_S) * (1 - self._chance() / 4)
        self._failures = min(self._failures + 1, 16)  # The longest wait comes well before it.
        self._due_at = now + wait_s
        return wait_s
