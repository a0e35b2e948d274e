"""The workers' channel to Redis where Redis is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue
from kombu.transport.redis import Transport

from tests.redis_server import Server
from worker.channel import HintChannel


def test_where_its_mailbox_cannot_be_deleted_a_channel_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "Channel", HintChannel)
    server = Server(tmp_path)
    connection = Connection(server.url)
    channel = connection.channel()
    Queue("mailbox", Exchange("pidbox", "fanout"), auto_delete=True, channel=channel).declare()
    server.close()
    connection.close()
    assert channel.closed
