"""What a run says while it goes: a status line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Teller:
    """Says what is being measured, and what was."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._started = clock()
        self._status: Status | None = None
        self._title = ""

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """What is said within the context is about this."""
        self._title = title
        self.console.rule(f"[bold]{title}", align="left", style="dim")
        try:
            if self.console.is_terminal:
                with self.console.status(title) as self._status:
                    yield
            else:
                yield
        finally:
            self._status = None

    def doing(self, what: str) -> None:
        """What is being measured now."""
        if self._status is not None:
            self._status.update(f"{self._title}: {what}  [dim]{self._clock() - self._started:.0f} s[/dim]")

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(f"  [dim]{self._clock() - self._started:4.0f} s[/dim]  {line}")
