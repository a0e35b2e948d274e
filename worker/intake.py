"""Whether a worker still receives the messages that wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from producer.errors import Unavailable
from worker.device import Trouble
from worker.periodic import Periodic

#: Looks in one timeout.
LOOKS = 10


class Intake(Periodic):
    """Looks now and then whether the consumer of this process has stalled.

    Args:
        waiting: How many messages are in the queues that it reads. May raise `Unavailable`.
        busy: Whether it holds any unit: then it may have no hand free.
        timeout_s: So long may messages wait while it holds nothing and receives none.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        busy: Callable[[], bool],
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("intake", timeout_s / LOOKS, self.look)
        self._waiting = waiting
        self._busy = busy
        self._timeout_s = timeout_s
        self._clock = clock
        self._well_at = clock()
        self._trouble: Trouble | None = None

    def start(self) -> None:
        self.received()  # Loading the models may have taken minutes.
        super().start()

    def received(self) -> None:
        """A message has come."""
        self._well_at = self._clock()

    def look(self) -> None:
        """Look once.

        Raises:
            Unavailable: the queues cannot be read, and so no worker could be blamed.
        """
        if self._busy():
            self.received()
            return
        try:
            waiting = self._waiting()
        except Unavailable:
            self.received()
            raise
        if not waiting:
            self.received()
        elif (idle_s := self._clock() - self._well_at) > self._timeout_s:
            self._trouble = Trouble(f"{waiting} messages wait, and none has come for {idle_s:.0f} s")

    def trouble(self) -> Trouble | None:
        """What the looks have found. Does not block."""
        return self._trouble
