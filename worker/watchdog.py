"""Ends a worker that cannot go on, so that whatever started it starts another in its place.

A device that failed, a batch that hangs or a consumer that stalls is seen by looking. A call that hangs and keeps every
other thread from running is ended by a timer of the interpreter, which each look sets anew.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Sequence

import structlog

from worker.device import Trouble
from worker.periodic import Periodic

log = structlog.get_logger(__name__)

#: The status of a process that ends itself: EX_SOFTWARE of sysexits.h.
STATUS = 70
#: Pause between two looks.
LOOK_S = 0.5
#: Time to hand back what the worker holds. What is not handed back by then, the sweeper finds.
HAND_BACK_S = 1.0


class Watchdog(Periodic):
    """Looks for trouble, and ends the process at the first sight of it.

    Args:
        troubles: Each tells of one kind, and does not block.
        hand_back: Gives back what the worker holds. May hang.
        longest_s: So long may a look fail to come before the timer ends the process.
        end: Ends the process with a status.
    """

    def __init__(
        self,
        troubles: Sequence[Callable[[], Trouble | None]],
        hand_back: Callable[[Trouble], None],
        longest_s: float,
        *,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        super().__init__("watchdog", LOOK_S, self.look)
        self._troubles = troubles
        self._hand_back = hand_back
        self._longest_s = longest_s
        self._end = end

    def start(self) -> None:
        self._set_timer()
        super().start()

    def look(self) -> None:
        """Look once."""
        self._set_timer()
        for trouble in self._troubles:
            if found := trouble():
                self._give_up(found)
                return

    def join(self) -> None:
        super().join()
        faulthandler.cancel_dump_traceback_later()

    def _set_timer(self) -> None:
        faulthandler.dump_traceback_later(self._longest_s, exit=True)

    def _give_up(self, trouble: Trouble) -> None:
        log.critical("worker.gives_up", because=trouble.reason)
        handing = threading.Thread(target=self._hand_back, args=(trouble,), name="hand-back", daemon=True)
        handing.start()
        handing.join(HAND_BACK_S)
        sys.stderr.flush()
        self._end(STATUS)
