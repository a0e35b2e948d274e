"""Celery's consumer on connections that come and go."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from celery import Celery
from kombu.asynchronous import Hub
from kombu.transport.redis import Transport

from producer.queue import broker_settings
from producer.settings import Settings
from worker.consumer import StrictConsumer


def test_a_connection_that_was_lost_leaves_nothing_in_the_event_loop(settings: Settings) -> None:
    app = Celery("consumer", set_as_current=False)
    app.conf.update(broker_settings(settings))
    hub = Hub()
    controller = SimpleNamespace(use_eventloop=True)
    consumer = StrictConsumer(lambda _: None, app=app, hub=hub, timer=hub.timer, controller=controller)
    transports = weakref.WeakSet[Transport]()
    for _ in range(3):
        connection = consumer.connect()
        transports.add(connection.transport)
        hub.timer.clear()  # As time does with the entries that Celery cancels.
        connection.close()
    del connection
    gc.collect()
    assert len(transports) <= 1
    hub.close()
