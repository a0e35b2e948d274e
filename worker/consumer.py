"""Celery's consumer, strict: what it cannot use goes back to the channel, which has the message as it came."""

from __future__ import annotations

from typing import Any, NoReturn

from celery.worker.consumer import Consumer


class ForeignMessage(Exception):
    """A message that is not of this pool's contract. No error of the connection, whatever its cause is."""


class StrictConsumer(Consumer):  # type: ignore[misc]  # Celery's classes are untyped
    """Raises where Celery logs and drops; `HintChannel` counts, keeps and acknowledges."""

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
