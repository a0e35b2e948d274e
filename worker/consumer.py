"""Celery's consumer, strict: what it cannot use goes back to the channel, which has the message as it came, and what it
has used up leaves the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from celery.worker.consumer import Consumer

#: Pauses before the queue is connected again: Celery's own grow to half a minute, in which a pool whose Redis is back
#: reads nothing.
FIRST_PAUSE_S, LONGER_S, LONGEST_PAUSE_S = 0.5, 0.5, 2.0


class ForeignMessage(Exception):
    """A message that is not of this pool's contract. No error of the connection, whatever its cause is."""


class StrictConsumer(Consumer):  # type: ignore[misc]  # Celery's classes are untyped
    """Raises where Celery logs and drops; `HintChannel` counts, keeps and acknowledges."""

    #: What the connection that is in use has the event loop call.
    _ticks: frozenset[Callable[[], None]] = frozenset()

    def connect(self) -> Any:
        """As Celery has it. kombu 5.7 leaves the calls of each connection that was lost in the loop, and with them its
        transport, its poller and its timers."""
        self.hub.on_tick -= self._ticks
        before = frozenset(self.hub.on_tick)
        connection = super().connect()
        self._ticks = frozenset(self.hub.on_tick) - before
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=FIRST_PAUSE_S,
            interval_step=LONGER_S,
            interval_max=LONGEST_PAUSE_S,
        )
        return super().ensure_connected(conn)

    def on_unknown_message(self, body: Any, message: Any) -> NoReturn:
        raise ForeignMessage("it names no task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> NoReturn:
        raise ForeignMessage(f"there is no task {exc}") from exc

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> NoReturn:
        raise ForeignMessage(str(exc)) from exc

    def on_decode_error(self, message: Any, exc: Exception) -> NoReturn:
        if isinstance(exc, ForeignMessage):  # kombu hands on what was raised here, once.
            raise exc
        raise ForeignMessage(f"{type(exc).__name__}: {exc}") from exc
