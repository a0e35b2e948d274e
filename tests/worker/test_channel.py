"""The workers' channel to Redis: mailboxes, and a Redis that is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport.redis import Transport

from tests.redis_server import Server
from worker.channel import HintChannel


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setattr(Transport, "Channel", HintChannel)
    return Connection(server.url)


def test_broadcasts_reach_a_mailbox_of_which_redis_keeps_nothing(server: Server, connection: Connection) -> None:
    mailbox = Queue("mailbox", Exchange("broadcasts", "fanout"), auto_delete=True, expires=10)
    heard: list[object] = []
    with connection.Consumer([mailbox], no_ack=True, callbacks=[lambda body, _: heard.append(body)]):
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.2)  # It subscribes with the first look.
        with Connection(server.url) as other:
            other.Producer().publish("to all", exchange=mailbox.exchange, declare=[mailbox.exchange])
        connection.drain_events(timeout=5)
    assert heard == ["to all"]
    assert not server.client.keys("*")
    connection.close()


def test_where_redis_is_away_a_channel_with_a_mailbox_is_closed_all_the_same(
    server: Server, connection: Connection
) -> None:
    channel = connection.channel()
    Queue("mailbox", Exchange("broadcasts", "fanout"), auto_delete=True, channel=channel).declare()
    server.kill()
    connection.close()
    assert channel.closed
