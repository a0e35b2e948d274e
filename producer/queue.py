"""What travels through Celery: references to spans, in one queue a lane. The broker's settings live here, once."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import redis
import structlog

from producer import redis_url
from producer.bulk_messages import Template
from producer.job import PREPARE, Lane, PrepareMessage, Span, SpanMessage, Unit, to_json
from producer.settings import Settings

PREPARE_TASK = "ocrpool.prepare"
READ_SPAN_TASK = "ocrpool.read_span"

log = structlog.get_logger()


#: Of connections to the broker. Shorter than the ledger's: a message that comes twice, because its answer did not, is
#: claimed once.
_TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 5}


def queue_prefix(settings: Settings) -> str:
    return f"{settings.namespace}."


def broker_settings(settings: Settings) -> dict[str, Any]:
    """Celery settings that producers and workers share."""
    from kombu.entity import Exchange, Queue

    prefix = queue_prefix(settings)
    exchange = Exchange(settings.namespace, "direct")
    url, how_to_find_the_master = redis_url.broker(settings.redis_url)
    return {
        "broker_url": url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            # Unacknowledged messages are counted in the worker alone, not copied in Redis: a message is a hint, and the
            # sweeper publishes again what a dead worker took along.
            "ack_emulation": False,
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
            **_TIMEOUTS,
            **how_to_find_the_master,
        },
        # A bare Queue("x") would inherit the default exchange and routing key.
        "task_queues": [Queue(prefix + lane, exchange, routing_key=prefix + lane) for lane in Lane],
        "task_default_queue": prefix + Lane.INTERACTIVE,
        "task_default_exchange": settings.namespace,
        "task_default_routing_key": prefix + Lane.INTERACTIVE,
        "task_create_missing_queues": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_serializer": "json",
        "accept_content": ["json"],
    }


class Messages:
    """Makes Celery's messages, without Celery but for the first of a kind. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = queue_prefix(settings)
        self._lock = threading.Lock()
        self._templates: dict[tuple[str, str], Template] = {}

    def of(self, unit: Unit) -> str:
        """The unit's message, as it lies in the queue of its lane."""
        job_id, name, lane = unit
        task, message = _message(job_id, name)
        return self._template(task, self._prefix + lane).filled(message)

    def _template(self, task: str, queue: str) -> Template:
        with self._lock:
            if (task, queue) not in self._templates:
                self._templates[task, queue] = Template(broker_settings(self._settings), task, queue)
            return self._templates[task, queue]


class Publisher:
    """Publishes units of work. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._messages = Messages(settings)
        #: Makes the message for a unit.
        self.message = self._messages.of
        self._prefix = queue_prefix(settings)
        # Kombu makes a client anew for every message.
        self._redis = redis_url.open_client(settings.redis_url, **_TIMEOUTS)

    def publish(self, units: Collection[Unit]) -> None:
        """Send one message for each `(job id, unit, lane)`.

        A broker that cannot be reached is logged and not raised: the units stand in the ledger, and the sweeper
        publishes what nobody claims.
        """
        by_queue: dict[str, list[str]] = defaultdict(list)
        for unit in units:
            by_queue[self._prefix + unit[2]].append(self._messages.of(unit))
        try:
            for queue, messages in by_queue.items():
                self._redis.lpush(queue, *messages)
        except redis.exceptions.RedisError as error:
            log.warning("queue.publish_failed", error=repr(error))

    def close(self) -> None:
        self._redis.close()


def _message(job_id: str, unit: str) -> tuple[str, dict[str, Any]]:
    if unit == PREPARE:
        return PREPARE_TASK, to_json(PrepareMessage(job_id=job_id))
    return READ_SPAN_TASK, to_json(SpanMessage(job_id=job_id, span=Span.parse(unit)))
