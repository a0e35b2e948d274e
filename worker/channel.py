"""A Redis channel for workers whose messages are only hints: what a lost connection takes along, the ledger knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str

#: Gets a message that is not of this pool's contract, its queue, and what is wrong with it.
Refuse = Callable[[bytes, str, str], None]


class HintChannel(redis.Channel):
    """Neither restores messages when it closes nor acknowledges any after that.

    Stock kombu 5.7 puts unacknowledged messages back when a connection is lost, so that each of them runs twice, and
    ends the worker with an AttributeError where Redis stays away or a task of the lost connection is done after it.
    Here, such a message is forgotten: its span is done, or the sweeper publishes it again.
    """

    do_restore = False
    refuse: Refuse
    #: Whether events are dropped: the worker is to end, and Redis does not answer.
    silent = False

    def _brpop_read(self, **options: Any) -> bool:
        """As kombu has it, except that bytes of a stranger do not end the worker."""
        try:
            try:
                found = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not found:
                raise Empty
            queue, message = bytes_to_str(found[0]).rsplit(self.sep, 1)[0], found[1]
            self._queue_cycle.rotate(queue)
            self._deliver_or_refuse(message, queue)
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]

    def _deliver_or_refuse(self, raw: bytes, queue: str) -> None:
        message: Any = None
        try:
            message = json.loads(raw)
            if message["headers"].get("eta"):
                raise ValueError("it asks to be kept for later")
            self.connection._deliver(message, queue)
        except Exception as error:
            # kombu counts KeyErrors as errors of the connection, and would connect anew.
            if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                raise
            self._let_go(message)
            type(self).refuse(raw, queue, f"{type(error).__name__}: {error}")

    def _let_go(self, message: Any) -> None:
        """Free the place that the message may have taken among those in flight."""
        try:
            tag = message["properties"]["delivery_tag"]
            taken = tag in self.qos._delivered
        except (KeyError, TypeError):  # Not there, or nothing that could be a key.
            return
        if taken:
            self.basic_ack(tag)

    def _put_fanout(self, *args: Any, **kwargs: Any) -> None:
        """Events for Flower; not to a server that hangs, for which the drain would wait minutes."""
        if not self.silent:
            super()._put_fanout(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """A mailbox is subscribed to, and no more: nobody looks for it in kombu's table, and nobody would take a worker
        that was killed out of there."""
        if self.typeof(exchange).type != "fanout":  # type: ignore[no-untyped-call]
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]
            return
        self._fanout_queues[queue] = exchange, routing_key.replace("#", "*")
        self._expires.pop(queue, None)  # kombu refreshes what expires, and would put it there all the same.

    def close(self) -> None:
        """Without waiting for the reply that kombu wants to read first: a server that hangs never sends it."""
        if self._in_poll:
            self._in_poll.disconnect()
            self._in_poll = None
        self.auto_delete_queues.clear()  # Mailboxes, of which Redis knows nothing; and it may be away.
        super().close()  # type: ignore[no-untyped-call]

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if not self.closed:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self.closed:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class SentinelHintChannel(HintChannel, redis.SentinelChannel):
    """The same to the master that Sentinels name."""


def install(refuse: Refuse) -> None:
    """Let every Redis connection of this process open such channels."""
    HintChannel.refuse = staticmethod(refuse)
    for transport, channel in ((redis.Transport, HintChannel), (redis.SentinelTransport, SentinelHintChannel)):
        transport.Channel = channel
