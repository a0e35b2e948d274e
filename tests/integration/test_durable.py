"""With OCRPOOL_DURABLE=1 an accepted job is on the server's disk. A real server of its own, killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import JobState, Producer
from producer.embedded import answers, redis_command
from producer.errors import Unavailable
from producer.processes import Process, free_port
from producer.settings import Settings
from tests.documents import png


class Server:
    """One that can be killed and comes back with what is on its disk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        self.process = Process("redis", redis_command(self._folder, self.port), self._folder / "redis.log")
        self.process.wait_until(lambda: answers(self.url), timeout_s=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.process.stop(grace_s=5)


@pytest.fixture
def durable(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"redis_url": server.url, "durable": True, "durable_timeout_s": 5.0})


def test_every_job_that_was_accepted_survives_the_server(server: Server, durable: Settings) -> None:
    with Producer(durable) as producer, redis.Redis.from_url(server.url) as client:
        jobs = [producer.submit(png(f"page {number}")) for number in range(3)]
        waits = client.info("commandstats")["cmdstat_waitaof"]["calls"]
        server.process.kill()
        server.start()
        assert waits == len(jobs)
        assert [job.status().state for job in jobs] == [JobState.QUEUED] * len(jobs)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"appendonly": "no"}, "needs Redis 7.2 with `appendonly yes`"), ({"appendfsync": "no"}, "to its disk in time")],
)
def test_a_job_that_does_not_reach_the_disk_is_refused(
    options: dict[str, str], told: str, server: Server, durable: Settings
) -> None:
    impatient = durable.model_copy(update={"durable_timeout_s": 0.2})
    with Producer(impatient) as producer, redis.Redis.from_url(server.url) as client:
        for name, value in options.items():
            client.config_set(name, value)
        with pytest.raises(Unavailable, match=told):
            producer.submit(png("page"))

        # Then nothing is left to be read
        assert producer.ledger.backlog()["unfinished"] == 0
        assert producer.ledger.backlog()["queue_interactive"] == 0
        assert producer.ledger.totals()["jobs_cancelled"] == 1
