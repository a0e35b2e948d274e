"""With OCRPOOL_DURABLE=1 an accepted job is on the server's disk. A real server of its own, killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import JobState, Producer
from producer.errors import Unavailable
from producer.settings import Settings
from tests.documents import png
from tests.redis_server import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def durable(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"redis_url": server.url, "durable": True, "durable_timeout_s": 5.0})


def test_every_job_that_was_accepted_survives_the_server(server: Server, durable: Settings) -> None:
    with Producer(durable) as producer:
        jobs = [producer.submit(png(f"page {number}")) for number in range(3)]
        waits = server.client.info("commandstats")["cmdstat_waitaof"]["calls"]
        assert producer.ledger.backlog()["queue_interactive"] == len(jobs)
        server.kill()
        server.start()
        assert waits == len(jobs)
        assert [job.status().state for job in jobs] == [JobState.QUEUED] * len(jobs)


@pytest.mark.parametrize(
    ("options", "replicas", "told"),
    [
        ({"appendonly": "no"}, 0, "needs Redis 7.2 with `appendonly yes`"),
        ({"appendfsync": "no"}, 0, "to its disk in time"),
        ({}, 1, "Too few replicas"),
    ],
)
def test_a_job_that_does_not_reach_the_disk_is_refused(
    options: dict[str, str], replicas: int, told: str, server: Server, durable: Settings
) -> None:
    impatient = durable.model_copy(update={"durable_timeout_s": 0.2, "durable_replicas": replicas})
    with Producer(impatient) as producer:
        for name, value in options.items():
            server.client.config_set(name, value)
        with pytest.raises(Unavailable, match=told):
            producer.submit(png("page"))

        # Then nothing is left to be read
        assert producer.ledger.backlog()["unfinished"] == 0
        assert producer.ledger.backlog()["queue_interactive"] == 0
        assert producer.ledger.totals()["jobs_cancelled"] == 1
