"""Which spans are read side by side in one worker: ordinary ones share it, a quarantined page has it to itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Company:
    """Many may be here in company, or one alone. Who wants to be alone comes before later company."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._company = 0
        self._alone = False
        self._want_to_be_alone = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be here beside others; blocks while one is alone or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._want_to_be_alone)
            self._company += 1
        try:
            yield
        finally:
            with self._changed:
                self._company -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be here with nobody else; blocks until all have left."""
        with self._changed:
            self._want_to_be_alone += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._company)
                self._alone = True
            finally:
                self._want_to_be_alone -= 1
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
