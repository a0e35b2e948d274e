"""The threads of a batcher: each prepares, then takes one batch after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import structlog

log = structlog.get_logger(__name__)


class Crew:
    """One thread for each of `prepare`, which it calls first.

    Args:
        work: Called by each thread with its number, again and again, until it is false: nothing is left to do.
        ended: Called by each thread as it ends, with True by the last.
    """

    def __init__(
        self,
        name: str,
        prepare: Sequence[Callable[[], None]],
        work: Callable[[int], bool],
        ended: Callable[[bool], None],
    ) -> None:
        self._name = name
        self._work = work
        self._ended = ended
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(len(prepare))
        ]
        self._preparing = [(one, Future[None]()) for one in prepare]
        #: How many have not ended.
        self.alive = len(prepare)
        #: What ended one that should have gone on, in one line.
        self.broken_by = ""

    def start(self) -> None:
        """Start one after the other, each once the one before it is prepared.

        Raises:
            Exception: what a preparation raised.
        """
        for thread, (_, prepared) in zip(self._threads, self._preparing, strict=True):
            thread.start()
            prepared.result()

    @property
    def works(self) -> bool:
        """Whether a thread is there."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all have ended; False when that takes too long."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is None:
                continue  # never started, or one before it could not prepare
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not self.works

    def end(self, broken_by: str = "") -> None:
        """One has ended."""
        with self._lock:
            self.broken_by = self.broken_by or broken_by
            self.alive -= 1
            last = self.alive == 0
        self._ended(last)

    def _serve(self, number: int) -> None:
        prepare, prepared = self._preparing[number]
        try:
            prepare()
        except BaseException as error:
            try:
                self.end()
            finally:
                prepared.set_exception(error)
            return
        prepared.set_result(None)
        try:
            while self._work(number):
                pass
        except BaseException as error:
            self.end(f"a runner ended with {type(error).__name__}")
            log.exception("runner ended", batcher=self._name, runner=number)
        else:
            self.end()
