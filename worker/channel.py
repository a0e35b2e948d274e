"""A Redis channel for workers whose messages are only hints: what a lost connection takes along, the ledger knows."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class HintChannel(redis.Channel):
    """Neither restores messages when it closes nor acknowledges any after that.

    Stock kombu 5.7 puts unacknowledged messages back when a connection is lost, so that each of them runs twice, and
    ends the worker with an AttributeError where Redis stays away or a task of the lost connection is done after it.
    Here, such a message is forgotten: its span is done, or the sweeper publishes it again.
    """

    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if not self.closed:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self.closed:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


def install() -> None:
    """Let every Redis connection of this process open such channels."""
    transport: Any = redis.Transport
    transport.Channel = HintChannel
