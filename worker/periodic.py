"""A thread that does one thing again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from producer.errors import Unavailable

log = structlog.get_logger(__name__)


class Periodic:
    """Calls `action` every `interval_s` seconds, whatever it raises, until it is stopped."""

    def __init__(self, name: str, interval_s: float, action: Callable[[], object]) -> None:
        self._interval_s = interval_s
        self._action = action
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; `join` waits for the end."""
        self._stopping.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._action()
            except Unavailable as error:
                log.warning("periodic.skipped", thread=self._thread.name, error=str(error))
            except Exception:
                log.exception("periodic.failed", thread=self._thread.name)
